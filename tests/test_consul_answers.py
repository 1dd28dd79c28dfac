"""What every answer of Consul means, and silence: said by a server that says what it is told to."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from leases.contract import Outcome, Slot, Unknown, Verdict, absent
from leases.errors import StoreDenied, StoreUnavailable
from leases.testing._probes import TIMEOUT, Hints, a_claim, applied
from leases_backends import consul as backends
from leases_backends._consul_http import NotSent

Said = tuple[int, dict[str, str], bytes]  # status, headers, body
Script = Callable[[str, str], Said | None]  # by method and target; None: hang up without a word

HERE = {"X-Consul-Index": "7"}
COMMITTED = json.dumps({"Results": [{"KV": {"ModifyIndex": 8}}], "Errors": None}).encode()


class Speaker:
    """A server that answers by a script, and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[tuple[str, str]] = []
        speaker = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                speaker.asked.append((self.command, self.path))
                said = speaker.script(self.command, self.path)
                if said is None:
                    self.close_connection = True
                    return
                status, headers, body = said
                self.send_response(status)
                self.close_connection = headers.pop("hang up", "") == "silently"
                for header, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_GET

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as above
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    @property
    def url(self) -> str:
        return f"consul://127.0.0.1:{self._server.server_address[1]}/speaker"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def speaking(script: Script) -> Generator[tuple[Speaker, backends.Consul]]:
    with closing(Speaker(script)) as speaker, closing(backends.connect(speaker.url)) as backend:
        yield speaker, backend


def swap(backend: backends.Consul, timeout: float = TIMEOUT) -> Outcome:
    return backend.swap(absent("x"), a_claim(backend, absent("x")), timeout)


@pytest.mark.parametrize(
    ("said", "void"),
    [
        ((429, {}, b"Your IP is issuing too many concurrent connections"), True),
        ((503, {}, b"rate limit exceeded for operation that can only be performed by the leader"), True),
        ((500, {}, b"No cluster leader"), True),
        ((500, {}, b"rpc error making call: No cluster leader"), True),
        ((500, {}, b"No path to datacenter"), True),
        ((500, {}, b"raft apply failed: leadership lost while committing log"), False),
        ((500, {}, b"rpc error making call: EOF"), False),
        ((502, {}, b"Bad Gateway"), False),
        ((503, {}, b"Service Unavailable"), False),
        ((504, {}, b""), False),
        ((409, {}, b'{"Results":null,"Errors":[{"OpIndex":0,"What":"tx closed"}]}'), False),
        ((409, {}, b"not JSON"), False),
        ((200, {}, b'{"Results":[],"Errors":null}'), False),
        ((200, {}, b"<html>"), False),
        (None, False),
    ],
    ids=repr,
)
def test_a_swap_without_a_verdict_is_unknown_and_sent_once(said: Said | None, void: bool) -> None:
    """Void only where the server says that it did nothing; nothing underneath sends anything again."""
    with speaking(lambda method, target: said) as (speaker, backend):
        outcome = swap(backend)
        assert isinstance(outcome, Unknown) and outcome.void == void
        assert speaker.asked == [("PUT", "/v1/txn")]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((403, {}, b"ACL not found"), "does not know the token"),
        ((403, {}, b"Permission denied: lacks 'key:write'"), 'key_prefix "speaker/"'),
        ((403, {}, b"Endpoint is blocked by agent configuration"), "blocked"),
        ((409, {}, b'{"Errors":[{"OpIndex":0,"What":"Permission denied"}]}'), 'key_prefix "speaker/"'),
        ((400, {}, b"Client sent an HTTP request to an HTTPS server."), "write consuls:"),
        ((301, {"Location": "/elsewhere"}, b""), "answers 301"),
        ((404, {}, b"404 page not found"), "answers 404"),
        ((405, {}, b""), "answers 405"),
        ((413, {}, b"Request body too large"), "answers 413"),
    ],
    ids=repr,
)
def test_a_swap_that_will_never_do_is_refused(said: Said, words: str) -> None:
    """Trying again would not help, and the error ends in what would; a redirect is not followed."""
    with speaking(lambda method, target: said) as (speaker, backend):
        with pytest.raises(StoreDenied, match=words):
            swap(backend)
        assert len(speaker.asked) == 1


@pytest.mark.parametrize(
    "said",
    [
        (200, HERE, b"<html>"),
        (200, HERE, b"{}"),
        (200, HERE, b"[]"),
        (200, HERE, b"[7]"),
        (200, HERE, b'[{"Key":"speaker/x"}]'),
        (200, HERE, b'[{"Key":"speaker/x","ModifyIndex":7,"Value":"_"}]'),
        (200, HERE, b'[{"Key":"speaker/x","ModifyIndex":null,"Value":""}]'),
        (404, {}, b""),
        (404, {"X-Consul-Index": "many"}, b""),
    ],
    ids=repr,
)
def test_an_answer_that_is_not_consul_s_is_no_absence(said: Said) -> None:
    """Whatever else lives at that address, a lock is not free because it knows nothing of locks."""
    with (
        speaking(lambda method, target: said) as (_, backend),
        pytest.raises((StoreDenied, StoreUnavailable)),
    ):
        backend.read("x", TIMEOUT)


def test_an_absence_is_as_new_as_the_server_says() -> None:
    """The index of its answer is the order of the slot and the floor of the next token."""
    with speaking(lambda method, target: (404, HERE, b"")) as (_, backend):
        assert backend.read("x", TIMEOUT) == Slot("x", None, None, 7, 7)


def test_a_lost_conflict_is_a_conflict_all_the_same() -> None:
    """What stands there instead is asked next; where that has no answer, it is not told."""
    stale = json.dumps({"Errors": [{"OpIndex": 0, "What": 'failed to set key "x", index is stale'}]})

    def script(method: str, target: str) -> Said | None:
        return (409, {}, stale.encode()) if method == "PUT" else None

    with speaking(script) as (speaker, backend):
        assert getattr(swap(backend), "slot", "") is None
        assert [method for method, _ in speaker.asked] == ["PUT", "GET"]


def test_nobody_there_is_void() -> None:
    """A connection that never came about carried nothing."""
    with closing(backends.connect("consul://127.0.0.1:9")) as backend:
        outcome = swap(backend)
        assert isinstance(outcome, Unknown) and outcome.void and isinstance(outcome.cause, NotSent)


def test_a_slow_answer_is_given_up() -> None:
    """After the call's own timeout; the connection is not used again, since the answer may yet come on it."""
    turns = iter((0.0, 0.5, 0.0))

    def script(method: str, target: str) -> Said:
        time.sleep(next(turns))
        return (200, {}, COMMITTED)

    with speaking(script) as (_, backend):
        applied(swap(backend))
        began = time.monotonic()
        outcome = swap(backend, 0.1)
        assert isinstance(outcome, Unknown) and not outcome.void
        assert time.monotonic() - began < 0.45
        assert applied(swap(backend)).version == 8


def test_a_connection_that_was_closed_while_idle_is_not_used() -> None:
    """The server hung up in between: the next swap is sent over a new connection, and is no unknown."""

    def script(method: str, target: str) -> Said:
        return (200, {"hang up": "silently"}, COMMITTED)

    with speaking(script) as (speaker, backend):
        for turn in range(1, 4):
            applied(swap(backend))
            assert len(speaker.asked) == turn
            time.sleep(0.05)  # for the end of the connection to arrive; there is nothing to wait on


def test_parameters_of_the_url_are_in_every_request() -> None:
    """Datacenter, namespace and partition decide which store it is."""
    with closing(Speaker(lambda method, target: (404, HERE, b""))) as speaker:
        url = f"{speaker.url}?dc=east&ns=team&partition=p"
        with closing(backends.connect(url)) as backend:
            backend.read("x", TIMEOUT)
            assert speaker.asked == [("GET", "/v1/kv/speaker/x?dc=east&ns=team&partition=p")]
            assert backend.identity.endswith("?dc=east&ns=team&partition=p")


# Questions that are held open.


def test_an_index_that_went_back_begins_at_nothing() -> None:
    """As after a restore: a question with the old index would be answered when that is passed again."""
    asked: list[str] = []
    enough = threading.Event()

    def script(method: str, target: str) -> Said:
        asked.append(target)
        if len(asked) == 4:
            enough.set()
            time.sleep(0.3)
        return (404, {"X-Consul-Index": ("9", "4", "5", "5")[min(len(asked), 4) - 1]}, b"")

    with speaking(script) as (_, backend):
        with closing(backend.watch(Slot("x", None, None, 8), Hints())):
            assert enough.wait(TIMEOUT)
        assert [target.partition("index=")[2].partition("&")[0] for target in asked[:4]] == [
            "8",
            "9",
            "",
            "5",
        ]


def test_a_question_is_held_for_minutes() -> None:
    """A lock on which nothing happens costs a request in five minutes."""

    def script(method: str, target: str) -> Said:
        time.sleep(0.3)
        return (404, HERE, b"")

    with speaking(script) as (speaker, backend):
        with closing(backend.watch(Slot("x", None, None, 7), Hints())):
            eventually(lambda: bool(speaker.asked))
        assert "wait=300s" in speaker.asked[0][1] and "index=7" in speaker.asked[0][1]


def test_a_watch_goes_on_after_errors() -> None:
    """It asks again, more and more rarely, and tells what it learns then."""
    answers: list[Said | None] = [None, (500, {}, b"No cluster leader"), (403, {}, b"ACL not found")]
    record = b'[{"Key":"speaker/x","Value":null,"ModifyIndex":9}]'

    def script(method: str, target: str) -> Said | None:
        return answers.pop(0) if answers else (200, {"X-Consul-Index": "9"}, record)

    hints = Hints()
    with speaking(script) as (_, backend), closing(backend.watch(Slot("x", None, None, 7), hints)):
        assert hints.get(timeout=TIMEOUT) is None  # an empty record is none of ours
        assert not answers


def test_a_server_that_answers_at_once_is_not_flooded() -> None:
    """With an index that never settles, the pauses grow to a tenth of a second."""
    index = iter(range(10, 10_000))

    def script(method: str, target: str) -> Said:
        return (404, {"X-Consul-Index": str(next(index))}, b"")

    with speaking(script) as (speaker, backend), closing(backend.watch(Slot("x", None, None, 7), Hints())):
        time.sleep(1.0)  # what is counted is how much is asked in that time
        assert len(speaker.asked) < 25


def test_a_question_that_is_too_narrow_is_cut() -> None:
    """Who waits for a name in another folder does not wait for the answer to what was asked before."""
    over = threading.Event()

    def script(method: str, target: str) -> Said:
        if "index=" in target:
            over.wait(TIMEOUT)
        return (404, HERE, b"")

    with speaking(script) as (speaker, backend):

        def asked(folder: str) -> bool:
            return any(f"kv/speaker/{folder}?recurse=&index=" in target for _, target in speaker.asked)

        alone = [backend.watch(Slot(f"x{index}", None, None, 7), Hints()) for index in range(4)]
        with closing(backend.watch(Slot("a/b/1", None, None, 7), Hints())):
            eventually(lambda: asked("a/b/"))
            with closing(backend.watch(Slot("a/c/1", None, None, 7), Hints())):
                eventually(lambda: asked("a/"))
        for watch in alone:
            watch.close()
        over.set()


def test_a_host_that_stands_still_is_left_by_questions_too() -> None:
    """Its connections stay open and silent: the first call that it does not answer moves everybody on."""
    over = threading.Event()

    def stuck(method: str, target: str) -> Said | None:
        over.wait(TIMEOUT)
        return None

    def well(method: str, target: str) -> Said:
        if "index=" in target:
            over.wait(TIMEOUT)
        return (200, {}, COMMITTED) if method == "PUT" else (404, HERE, b"")

    with closing(Speaker(stuck)) as first, closing(Speaker(well)) as second:
        url = first.url.replace("/speaker", f",{second.url.partition('//')[2]}")
        with closing(backends.connect(url)) as backend:
            with closing(backend.watch(Slot("x", None, None, 7), Hints())):
                eventually(lambda: len(first.asked) == 1)
                outcome = swap(backend, 0.2)
                assert isinstance(outcome, Unknown) and not outcome.void
                eventually(lambda: any("index=7" in target for _, target in second.asked))
            assert applied(swap(backend)).version == 8
            over.set()


# Versions that an examination judges.


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("1.21.0", Verdict.GOOD),
        ("1.18.0+ent", Verdict.GOOD),
        ("2.0.0-rc1", Verdict.GOOD),
        ("1.9.17", Verdict.DOUBTFUL),
    ],
)
def test_a_version_older_than_the_tests_is_doubtful(version: str, verdict: Verdict) -> None:
    """Whatever edition it is of."""

    def script(method: str, target: str) -> Said:
        if target == "/v1/status/leader":
            return (200, {}, b'"127.0.0.1:8300"')
        if target == "/v1/agent/self":
            return (200, {}, json.dumps({"Config": {"Version": version}}).encode())
        return (404, HERE, b"")

    with speaking(script) as (_, backend):
        found = {finding.subject: finding for finding in backend.examine(TIMEOUT)}
        assert found["version"].verdict is verdict and version in found["version"].text


def test_servers_without_a_leader_are_bad() -> None:
    """They answer, and can do nothing; nothing else is asked of them."""
    with speaking(lambda method, target: (200, {}, b'""')) as (_, backend):
        (finding,) = backend.examine(TIMEOUT)
        assert finding.verdict is Verdict.BAD and "no leader" in finding.text


def eventually(fact: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + TIMEOUT
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.005)
