"""What the sidecar is asked besides who leads: changes, whether a caller is current, to give it away."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest

from leases.sidecar import Access, Candidate
from leases.sidecar.board import BACKLOG, Board, Change, Listener
from leases.sidecar.events import EventStream
from leases_command import until
from sidecars import Beside, CutOff, Make, connection, events, url_of
from sidecars import calm as calm
from sidecars import leader as leader
from sidecars import left_by_others as left_by_others
from sidecars import make as make
from stores import Site
from stubborn import fresh_url

pytestmark = pytest.mark.usefixtures("left_by_others")


# ---- /events ---------------------------------------------------------------------------------------


def test_events_begin_with_what_is_so_and_tell_every_change(leader: Beside, make: Make) -> None:
    """Who connects again needs nothing of what it has missed: the state is the news."""
    two = make("two")
    until(lambda: two.state()["name"] == "one")
    with events(two.url) as stream:
        first = next(stream)
        assert (first.kind, first.data["name"], first.data["is_leader"]) == ("message", "one", False)
        leader.ask("/transfer?to=two", "POST")
        told = [first]
        while not told[-1].data["is_leader"]:
            told.append(next(stream))
    assert [event.data["name"] for event in told if event.data["name"]] == ["one", "two"]
    numbers = [(event.id or "").rpartition("-") for event in told]
    assert len({run for run, _, _ in numbers}) == 1
    counts = [int(count) for _, _, count in numbers]
    assert counts == list(range(counts[0], counts[0] + len(told))), (
        "a gap would mean a change that was missed"
    )
    with events(two.url, "/sse") as again:
        assert next(again).data["name"] == "two"


def test_a_quiet_line_shows_that_it_is_alive(calm: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a comment, or, for who counts down to the deadline, by the state again."""
    monkeypatch.setattr("leases.sidecar.events.HEARTBEAT", 0.05)
    with connection(calm.url) as line:
        line.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while got.count(b"\n:\n\n") < 2 and b":\n\n\r\n" not in got:
            got += line.recv(4096)
    with events(calm.url, "/events?beat=0.5") as stream:
        assert next(stream).kind == "message"
        beat = next(stream)
        assert (beat.kind, beat.id, beat.data["is_leader"]) == ("beat", None, True)


@pytest.mark.parametrize("beat", ["0", "0.1", "-1", "x", "1e9", "", "nan", "1&beat=2"])
def test_a_beat_that_cannot_be_is_refused(calm: Beside, beat: str) -> None:
    """Before the answer begins, with what to send instead."""
    answer = calm.ask(f"/events?beat={beat}")
    assert answer.status == 400
    assert "beat" in answer.json["error"]


def test_a_listener_that_leaves_is_forgotten(leader: Beside) -> None:
    """Whether it listened to events or waited, and although nothing changes."""
    board = leader.site.board
    for path in (b"/events", b"/wait?token=1&timeout=300"):
        lines = [connection(leader.url) for _ in range(3)]
        for line in lines:
            line.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: board.listening == 3)
        for line in lines:
            line.close()
        until(lambda: board.listening == 0)


def test_listeners_are_bounded(make: Make) -> None:
    """One more is told to come again, and everybody else is answered as ever."""
    one = make("one", listeners=2)
    until(one.leads)
    with events(one.url) as first, events(one.url) as second:
        assert next(first).data["is_leader"]
        assert next(second).data["is_leader"]
        for path in ("/events", "/wait?token=1"):
            refused = one.ask(path)
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert one.leads()
    until(lambda: one.site.board.listening == 0)
    assert one.ask("/wait?token=0").status == 200


def test_a_reader_that_is_too_slow_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream ends, and nothing is kept for it: neither changes without end, nor its place."""
    monkeypatch.setattr("leases.sidecar.events.WRITE_SECONDS", 0.02)

    async def story() -> None:
        board = Board(Candidate("job", store=fresh_url()))
        never = asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await never.wait()  # The buffers are full.

        async def receive() -> Any:
            await never.wait()

        await EventStream(board, "x")({"type": "http", "method": "GET"}, receive, send)
        assert board.listening == 0

    asyncio.run(story())


def test_changes_for_a_slow_reader_are_few() -> None:
    """After those comes the end, and no more."""

    async def story() -> None:
        listener = Listener()
        state = Candidate("job", store=fresh_url()).state()
        for number in range(3 * BACKLOG):
            listener.tell(Change(number, state))
        heard = [await listener.next() for _ in range(BACKLOG + 1)]
        assert [change.number for change in heard if change is not None] == list(range(BACKLOG))
        assert heard[-1] is None
        assert listener.over

    asyncio.run(story())


def test_events_end_with_the_sidecar(make: Make) -> None:
    """The last one says that nobody is known to lead; then the stream is closed, and nothing hangs on it."""
    one = make("one")
    until(one.leads)
    with events(one.url) as stream:
        assert next(stream).data["is_leader"]
        threading.Thread(target=one.stop, daemon=True).start()
        rest = list(stream)
    assert [event.data["is_leader"] for event in rest] == [False]
    one.stop()


def test_who_begins_to_listen_as_something_changes_hears_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the first event, and all others hear of it."""

    async def story() -> None:
        candidate = Candidate("job", store=fresh_url())
        board = Board(candidate)
        with board.listener() as early:
            assert await early.next() is not None
            changed = replace(candidate.state(), name="two", token=7)
            monkeypatch.setattr(candidate, "state", lambda: changed)
            with board.listener() as late:
                await board_looks(board)
                first, second = await early.next(), await late.next()
                assert first == second
                assert first is not None and first.number == 1
                assert late._changes.empty() and early._changes.empty()

    async def board_looks(board: Board) -> None:
        following = asyncio.create_task(board.follow())
        await asyncio.sleep(0)
        following.cancel()

    asyncio.run(story())


# ---- connections -----------------------------------------------------------------------------------


def test_a_connection_on_which_nothing_is_asked_is_ended(
    calm: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a question is none; who waits for an answer stays."""
    monkeypatch.setattr("leases.sidecar.serving.ASKING_SECONDS", 0.1)
    asked = b"GET /wait?token=%d&timeout=0.6 HTTP/1.1\r\nHost: localhost\r\n\r\n" % (1 << 40)
    sent = (b"", b"GET /leader HTT", asked)
    with ExitStack() as stack:
        lines = [stack.enter_context(closing(connection(calm.url))) for _ in sent]
        for line, words in zip(lines, sent, strict=True):
            line.sendall(words)
        assert [ended(line) for line in lines[:2]] == [b"", b""]
        assert lines[2].recv(15) == b"HTTP/1.1 200 OK"


def test_connections_are_bounded(calm: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is ended at once, and one that has ended leaves its place."""
    monkeypatch.setattr("leases.sidecar.serving.CONNECTIONS", 3)
    until(lambda: not calm.connections)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(closing(connection(calm.url)))
        until(lambda: calm.connections == 3)
        with closing(connection(calm.url)) as line:
            assert ended(line) == b""
        assert calm.connections == 3, "the others stay"
    until(lambda: not calm.connections)
    assert calm.leads()


def ended(line: socket.socket) -> bytes:
    """What is read when there is nothing more to be read."""
    try:
        return line.recv(1)
    except ConnectionResetError:
        return b""


# ---- /wait -----------------------------------------------------------------------------------------


def test_wait_answers_at_once_to_who_is_behind(calm: Beside) -> None:
    """0 stands for nobody."""
    assert calm.ask("/wait?token=0&timeout=300").json["name"] == "one"


def test_wait_answers_when_the_leader_is_another_or_none(leader: Beside, make: Make) -> None:
    """Who asks again with the token of the last answer, or 0 for none, hears of every change."""
    two = make("two")
    until(lambda: two.state()["name"] == "one")
    seen: list[Any] = []

    def follow() -> None:
        token = 1
        while not seen or seen[-1]["name"] != "two":
            seen.append(two.ask(f"/wait?token={token}&timeout=60").json)
            token = seen[-1]["token"] or 0

    follower = threading.Thread(target=follow)
    follower.start()
    until(lambda: two.site.board.listening == 1)
    leader.ask("/transfer?to=two", "POST")
    follower.join(30)
    assert [state["name"] for state in seen if state["name"]] == ["two"]
    assert len(seen) <= 2


def test_wait_gives_the_same_state_when_its_time_is_over(calm: Beside) -> None:
    """A token that is higher than the present one is waited for as well: this candidate may be behind."""
    for token in (1, 99):
        begun = time.monotonic()
        answer = calm.ask(f"/wait?token={token}&timeout=200ms")
        assert time.monotonic() - begun >= 0.2
        assert (answer.status, answer.json["token"]) == (200, 1)


@pytest.mark.parametrize(
    "query",
    ["", "token=", "token=x", "token=-1", "token=1.5", "token=01", "token=1&token=2", f"token={10**40}",
     "token=%D9%A1", "token=1&timeout=x", "token=1&timeout=301", "token=1&timeout=-1"],
)  # fmt: skip
def test_wait_refuses_what_is_no_token(calm: Beside, query: str) -> None:
    """With 400 and what to send, and without a wait."""
    answer = calm.ask(f"/wait?{query}")
    assert answer.status == 400
    assert answer.json["error"].startswith(("the parameter token", "token=", "timeout"))


# ---- /validate -------------------------------------------------------------------------------------


def test_validate_asks_the_store(leader: Beside, make: Make) -> None:
    """Holder and token have to be those of the record; any candidate's sidecar can tell."""
    for one in (leader, make("two")):
        assert one.ask("/validate?holder=one&token=1").json == {"valid": True, "holder": "one", "token": 1}
        for wrong in ("holder=two&token=1", "holder=one&token=2", "holder=one&token=0"):
            answer = one.ask(f"/validate?{wrong}")
            assert (answer.status, answer.json["valid"]) == (409, False)


def test_validate_does_not_pass_when_nobody_knows(site: Site, make: Make) -> None:
    """A store that cannot be asked is 503: do not act."""
    stubborn = site.stubborn()
    one = make("one", store=url_of(stubborn))
    until(one.leads)
    assert one.ask("/validate?holder=one&token=1").status == 200
    stubborn.down = True
    answer = one.ask("/validate?holder=one&token=1")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    stubborn.down = False


def test_validate_may_use_a_yes_again(site: Site, make: Make) -> None:
    """For as long as it was told to, and no longer; by default it asks every time."""
    stubborn = site.stubborn()
    one = make("one", store=url_of(stubborn), validate_cache=60)
    until(one.leads)

    def reads() -> int:
        return sum(kind == "read" for kind, _, _ in stubborn.calls)

    assert one.ask("/validate?holder=one&token=1").status == 200
    stubborn.down = True
    assert one.ask("/validate?holder=one&token=1").status == 200
    stubborn.down = False
    assert reads() >= 1


def test_validations_are_bounded(site: Site, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs takes some threads and no more, and the state is answered as ever."""
    monkeypatch.setattr("leases.sidecar.http.VALIDATIONS", 2)
    stubborn = site.stubborn()
    one = make("one", store=url_of(stubborn))
    until(one.leads)
    stubborn.gate.clear()
    asking = [
        threading.Thread(target=one.ask, args=("/validate?holder=one&token=1",), daemon=True)
        for _ in range(2)
    ]
    for thread in asking:
        thread.start()
    until(lambda: one.site._validating == 2)
    assert one.ask("/validate?holder=one&token=1").status == 503
    assert one.ask("/").status == 200
    stubborn.gate.set()
    for thread in asking:
        thread.join(30)
    until(lambda: one.ask("/validate?holder=one&token=1").status != 503)


@pytest.mark.parametrize(
    "query", ["", "holder=one", "token=1", "holder=&token=1", "holder=one&token=x", "holder=a%00b&token=1"]
)
def test_validate_refuses_what_no_lease_has(calm: Beside, query: str) -> None:
    """It is the asker's fault, and no answer about anybody."""
    assert calm.ask(f"/validate?{query}").status == 400


# ---- /resign and /transfer ---------------------------------------------------------------------------


def test_only_a_leader_can_give_it_away(leader: Beside, make: Make) -> None:
    """A standby says who to ask; a successor has to be named, and not be the leader itself."""
    two = make("two")
    assert two.ask("/resign", "POST").status == 409
    assert two.ask("/transfer?to=one", "POST").status == 409
    assert leader.ask("/transfer", "POST").status == 400
    assert leader.ask("/transfer?to=one", "POST").status == 400
    assert leader.leads()
    assert leader.ask("/resign", "POST").json == {"resigned": True}
    until(lambda: two.leads() or leader.leads())


FOREIGN = [
    ({"X-Forwarded-For": "10.0.0.9"}, "came through a proxy"),
    ({"X-Forwarded-For": "127.0.0.1"}, "came through a proxy"),
    ({"Forwarded": "for=127.0.0.1"}, "came through a proxy"),
    ({"Via": "1.1 gate"}, "came through a proxy"),
    ({"X-Forwarded-Proto": "http"}, "came through a proxy"),
    ({"Host": "rebound.example:4040"}, "is not this one"),
    ({"Host": "localhost.rebound.example"}, "is not this one"),
    ({"Host": "10.0.0.9"}, "is not this one"),
    ({"Host": ""}, "is not this one"),
    ({"Origin": "http://elsewhere.example"}, "a page of http://elsewhere.example"),
    ({"Origin": "null"}, "a page of null"),
    ({"Origin": "http://["}, "a page of http://["),
    ({"Sec-Fetch-Site": "cross-site"}, "a page of another site"),
    ({"Sec-Fetch-Site": "same-site"}, "a page of another site"),
]


@pytest.mark.parametrize(("headers", "why"), FOREIGN)
def test_what_comes_from_elsewhere_changes_nothing(calm: Beside, headers: dict[str, str], why: str) -> None:
    """Through a proxy of this host, or from a page that a browser on this host shows, by whatever name."""
    for path in ("/resign", "/transfer?to=two"):
        answer = calm.ask(path, "POST", headers)
        assert answer.status == 403
        assert why in answer.json["error"]
    assert calm.leads()


@pytest.mark.parametrize(
    ("host", "port"), [("localhost", 4040), ("127.0.0.1", 80), ("127.8.8.8", 1), ("[::1]", 4040)]
)
def test_our_own_page_and_our_own_names_may(leader: Beside, host: str, port: int) -> None:
    """A request whose Origin is where it is sent to is the sidecar's own page."""
    headers = {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}", "Sec-Fetch-Site": "same-origin"}
    assert leader.ask("/resign", "POST", headers).status == 200


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("127.0.0.6", False),
     ("10.1.2.3", False), ("::ffff:10.1.2.3", False), ("fe80::1%eth0", False), ("testclient", False)],
)  # fmt: skip
def test_only_a_peer_on_this_host_may(address: str, allowed: bool) -> None:
    """The address is the connection's own; what a request says of itself counts for nothing."""
    from starlette.requests import Request

    def request(host: bytes) -> Request:
        headers = [(b"host", host)]
        return Request({"type": "http", "method": "POST", "headers": headers, "client": (address, 5)})

    assert (Access().refusal(request(b"localhost")) is None) is allowed
    assert Access(remote=True).refusal(request(b"pod-7:4040")) is None


def test_remote_control_still_takes_nothing_from_a_page(make: Make) -> None:
    """What is opened to other hosts is not opened to every page that somebody's browser shows."""
    one = make("one", access=Access(remote=True))
    until(one.leads)
    for headers in ({"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert one.ask("/resign", "POST", headers).status == 403
    assert one.ask("/resign", "POST", {"X-Forwarded-For": "10.0.0.9", "Host": "pod-7"}).status == 200


def test_a_store_that_does_not_confirm_is_said(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is not renewed any more, and runs out; nothing says that the lock was freed."""
    monkeypatch.setattr("leases.sidecar.candidate.RELEASE_SECONDS", 0.2)
    stubborn = CutOff(inner=site.backend())
    one = make("one", store=url_of(stubborn))
    until(one.leads)
    stubborn.down = True
    answer = one.ask("/resign", "POST")
    assert answer.status == 503
    assert not one.leads()
    stubborn.down = False


def test_an_answer_that_fails_is_one_sentence(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours shows no insides to whoever asks."""
    one = make("one")
    monkeypatch.setattr(one.site.board, "history", lambda: 1 / 0)
    answer = one.ask("/history")
    assert answer.status == 500
    assert json.loads(answer.body) == {"error": "the sidecar has a fault here; its log says more"}
