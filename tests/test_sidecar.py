"""The sidecar's answers: who leads, as every path says it, to whoever asks."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import closing
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount

from leases.elector import Elector
from leases.errors import ConfigurationError
from leases.hub import Hub, shared_hub
from leases.metrics import install
from leases.sidecar import Candidate, app
from leases_command import PATIENCE, until
from sidecars import TTL, Beside, CutOff, Make, connection, events, url_of
from sidecars import calm as calm
from sidecars import leader as leader
from sidecars import left_by_others as left_by_others
from sidecars import make as make
from stores import Site
from stubborn import Stubborn, fresh_url

pytestmark = pytest.mark.usefixtures("left_by_others")


# ---- who leads -------------------------------------------------------------------------------------


def test_the_state_begins_with_the_name(calm: Beside) -> None:
    """Clients of the old leader-elector read the first key, some of them with no parser of JSON."""
    answer = calm.ask()
    assert answer.status == 200
    assert answer.body.startswith(b'{"name":"one","is_leader":true,"id":"one","token":1,')
    assert list(answer.json) == [
        "name", "is_leader", "id", "token", "since", "expires_in", "lock", "backend", "reachable",
    ]  # fmt: skip
    assert (answer.json["lock"], answer.json["reachable"]) == ("job", True)
    assert 0 < answer.json["expires_in"] < TTL
    assert abs(answer.json["since"] - time.time()) < 30


def test_a_standby_names_the_leader(leader: Beside, make: Make) -> None:
    """Its own id is another, and /leader is 404 there."""
    standby = make("two")
    until(lambda: standby.state()["name"] == "one")
    assert standby.state() | {"expires_in": 0, "since": 0, "backend": ""} == {
        "name": "one", "is_leader": False, "id": "two", "token": 1, "since": 0, "expires_in": 0,
        "lock": "job", "backend": "", "reachable": True,
    }  # fmt: skip
    assert 0 < standby.state()["expires_in"] <= TTL
    assert (leader.ask("/leader").status, standby.ask("/leader").status) == (200, 404)
    assert standby.ask("/leader").json["name"] == "one"
    assert (leader.ask("/isLeader").json, standby.ask("/isLeader").json) == (
        {"isLeader": True}, {"isLeader": False},
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/anything", "/a/b?c=d", "/leaders", "/?x=1&x=2", "//", "/index.html"])
def test_a_path_without_a_meaning_shows_the_state(calm: Beside, path: str) -> None:
    """As the old leader-elector did; what the query says is nobody's affair."""
    assert calm.ask(path).json["name"] == "one"


@pytest.mark.parametrize("path", ["/leader/", "/leader//", "//leader", "/leader?x=/"])
def test_a_slash_too_many_makes_no_other_path(make: Make, leader: Beside, path: str) -> None:
    """Else `curl -f …/leader/` would take every candidate for the leader."""
    assert make("two").ask(path).status == 404
    assert leader.ask(path).status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("GET http://host/leader", 200),
        ("GET HTTPS://[::1]:80//leader/?x=http://y/", 200),
        ("GET http://host", 200),
        ("GET http://host/resign", 405),
        ("HEAD http://[bad/leader", 200),
        ("GET ?x=1", 200),
        ("OPTIONS *", 405),
        ("CONNECT host:443", 405),
    ],
)
def test_a_target_may_be_more_or_less_than_a_path(calm: Beside, target: str, status: int) -> None:
    """Who asks as one asks a proxy gets the same answer, and what names no path asks for `/`."""
    seen, _, body = raw(calm, f"{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert seen.startswith(f"HTTP/1.1 {status} ")
    assert "content-type: application/json" in seen
    assert "cache-control: no-store" in seen
    if target.startswith("GET"):
        assert json.loads(body).get("is_leader", status == 405)


def test_the_path_of_a_whole_url_is_that_of_a_standby_too(make: Make, leader: Beside) -> None:
    """It is not one without a meaning, which is 200 on every replica."""
    seen, _, _ = raw(make("two"), "GET http://host/leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert seen.startswith("HTTP/1.1 404 ")
    assert "content-type: application/json" in seen


def test_what_is_no_http_is_answered_by_the_server(calm: Beside) -> None:
    """It never comes to us; a cache does not keep a 400 unasked."""
    seen, _, _ = raw(calm, "GARBAGE\r\n\r\n")
    assert seen.startswith("HTTP/1.1 400 ")
    assert "content-type: text/plain" in seen


def raw(sidecar: Beside, words: str) -> tuple[str, str, str]:
    """What comes back for them until the connection is closed: the head, nothing, the body."""
    with closing(connection(sidecar.url)) as line, line.makefile() as answer:
        line.sendall(words.encode())
        return answer.read().partition("\n\n")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", "GET, HEAD"),
        ("DELETE", "/leader", "GET, HEAD"),
        ("OPTIONS", "/anything", "GET, HEAD"),
        ("GET", "/resign", "POST"),
        ("HEAD", "/transfer?to=x", "POST"),
    ],
)
def test_other_methods_are_refused(calm: Beside, method: str, path: str, allowed: str) -> None:
    """With 405 and those that there are; nothing is resigned by a link that somebody follows."""
    answer = calm.ask(path, method)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert calm.leads()


@pytest.mark.parametrize(
    "path", ["/", "/leader", "/x", "/healthz", "/readyz", "/metrics", "/history", "/wait?token=0", "/events"]
)
def test_head_is_get_without_the_body(calm: Beside, path: str) -> None:
    """For probes that send nothing else; and no answer, to whatever question, is kept on the way."""
    answer = calm.ask(path, "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/wait"), ("GET", "/validate?holder=x&token=1"), ("POST", "/x"), ("POST", "/transfer")],
)
def test_refusals_are_not_kept_either(calm: Beside, method: str, path: str) -> None:
    """A cache that remembers a 404 of /leader would hide the next calm."""
    answer = calm.ask(path, method)
    assert answer.status >= 400
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


# ---- what is over ----------------------------------------------------------------------------------


def test_a_candidate_never_gives_its_own_name_without_a_lease(site: Site, make: Make) -> None:
    """An application compares the name with its own: a record of an earlier self is nobody's."""
    other = Elector("job", store=site.store(), holder="two", ttl=TTL).start()
    until(lambda: other.is_leader)
    twin = make("two")
    until(lambda: twin.state()["reachable"])
    assert (twin.state()["name"], twin.state()["is_leader"]) == ("", False)
    other.stop()
    until(twin.leads)


def test_a_leader_that_is_cut_off_says_so_before_another_can_lead(site: Site, make: Make) -> None:
    """It goes by the clock, and by nobody's message."""
    stubborn = site.stubborn()
    one = make("one", store=url_of(stubborn))
    until(one.leads)
    with events(one.url) as stream:
        assert next(stream).data["is_leader"]
        stubborn.down = True
        until(lambda: not one.leads())
        record = site.backend().read("job", 5).claim
        assert record is not None and record.sent is not None
        assert one.candidate.now() < record.sent + record.ttl
        seen = [event.data for event in (next(stream), next(stream))]
    assert [(data["name"], data["is_leader"], data["reachable"]) for data in seen] == [
        ("one", True, False), ("", False, False),
    ]  # fmt: skip
    assert one.state()["name"] == ""
    stubborn.down = False
    until(one.leads)


def test_what_a_leader_says_holds_for_as_long_as_it_says(make: Make) -> None:
    """Its last `drain` seconds it does not lead: who believed it so long would stop after the deadline."""
    one = make("one", drain=0.3)
    until(one.leads)
    state, lease = one.candidate.state(), one.candidate.elector.lease
    assert lease is not None and state.until is not None
    assert state.until <= lease.deadline - 0.3


def test_a_leader_whose_renewals_hang_says_so_first(site: Site, make: Make) -> None:
    """It leads in jeopardy: the store is out of reach, and the application may prepare to stop."""
    stubborn = CutOff(inner=site.backend())
    one = make("one", store=url_of(stubborn))
    until(one.leads)
    with events(one.url) as stream:
        assert next(stream).data["reachable"]
        stubborn.gate.clear()
        told = [next(stream).data for _ in range(2)]
    assert [(data["name"], data["reachable"]) for data in told] == [("one", False), ("", False)]
    stubborn.gate.set()


def test_a_standby_that_is_cut_off_forgets_the_leader(site: Site, leader: Beside, make: Make) -> None:
    """After the ttl of what it saw last it knows of nobody, although the leader goes on."""
    stubborn = CutOff(inner=site.backend())
    two = make("two", store=url_of(stubborn))
    until(lambda: two.state()["name"] == "one")
    stubborn.down = True
    cut = time.monotonic()
    with events(two.url) as stream:
        until(lambda: two.state()["name"] == "")
        assert time.monotonic() - cut < TTL + 1.0
        assert any(event.data["name"] == "" for event in stream)
    assert leader.leads()
    state = two.state()
    assert [state[key] for key in ("token", "since", "expires_in", "reachable")] == [None, None, None, False]
    stubborn.down = False
    until(lambda: two.state()["name"] == "one")


def test_a_look_that_hangs_hides_nothing(site: Site, leader: Beside, make: Make) -> None:
    """Events tell by the clock alone that nobody was heard of, though no call to the store returns."""
    stubborn = CutOff(inner=site.backend())
    two = make("two", store=url_of(stubborn))
    until(lambda: two.state()["name"] == "one")
    with events(two.url) as stream:
        assert next(stream).data["name"] == "one"
        stubborn.gate.clear()
        assert next(stream).data["name"] == ""
    assert leader.leads()
    stubborn.gate.set()


def test_an_old_state_says_nothing_when_it_is_read_late(calm: Beside) -> None:
    """An event that waited for its reader is judged by the clock at the moment it is written."""
    state, now = calm.candidate.state(), calm.candidate.now()
    assert state.until is not None
    assert state.body(now)["is_leader"]
    late = state.body(state.until)
    assert (late["name"], late["is_leader"], late["token"], late["expires_in"]) == ("", False, None, None)


def test_a_candidate_that_stops_is_no_leader_while_it_still_holds(make: Make) -> None:
    """The application has the drain to stop in: /leader is 404 first, and the lock is free later."""
    leader = make("one", drain=0.15)
    until(leader.leads)
    standby = make("two")
    until(lambda: standby.state()["name"] == "one")
    resigning: list[int] = []
    with events(leader.url) as stream:
        assert next(stream).data["is_leader"]
        thread = threading.Thread(target=lambda: resigning.append(leader.ask("/resign", "POST").status))
        thread.start()
        told = next(stream).data
        assert (told["name"], told["is_leader"]) == ("", False)
        assert leader.candidate.elector.is_leader, "the lease was released before the application was told"
        thread.join()
    assert resigning == [200]
    until(standby.leads)


class Label:
    """What shows outside whether a candidate leads; it takes as long as it is given."""

    def __init__(self, site: Site) -> None:
        self._backend = site.backend()
        self.shown: list[tuple[bool, str | None]] = []  # and who held the lock then
        self.given: list[float] = []

    def show(self, leading: bool) -> None:
        claim = self._backend.read("job", 5).claim
        self.shown.append((leading, claim.holder if claim is not None and claim.held else None))

    def settle(self, timeout: float) -> bool:
        self.given.append(timeout)
        return False


def test_what_shows_outside_is_changed_while_the_lock_is_held(site: Site, make: Make) -> None:
    """The label of a pod: corrected at the start, put there with a lease, and gone before the release."""
    label = Label(site)
    one = make("one", drain=0.1, marks=[label])
    until(one.leads)
    until(lambda: len(label.shown) == 2)
    assert one.ask("/resign", "POST").status == 200
    assert label.shown[:3] == [(False, None), (True, "one"), (False, "one")]
    assert 0 < label.given[0] <= 0.1, "it may take the drain, and no longer"


# ---- probes and metrics ----------------------------------------------------------------------------


def test_health_is_about_the_process_and_readiness_about_the_leadership(make: Make, leader: Beside) -> None:
    """Every candidate is alive and ready, unless it is asked that only the leader be ready."""
    standby = make("two", ready_leader_only=True)
    assert (leader.ask("/healthz").status, standby.ask("/healthz").status) == (200, 200)
    assert leader.ask("/readyz").status == 200
    refused = standby.ask("/readyz")
    assert (refused.status, refused.json) == (503, {"ok": False, "reasons": ["it does not lead"]})


def test_a_store_out_of_reach_is_no_reason_to_restart(site: Site, make: Make) -> None:
    """A new process would not reach it either."""
    stubborn = site.stubborn()
    stubborn.down = True
    one = make("one", store=url_of(stubborn))
    assert (one.ask("/healthz").status, one.ask("/readyz").status) == (200, 200)
    assert (one.state()["name"], one.state()["reachable"]) == ("", False)
    stubborn.down = False
    until(one.leads)


def test_a_renewer_that_is_wedged_fails_health(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper of all leases stands still: then a new process would help."""
    one = make("one")
    until(one.leads)
    assert one.ask("/healthz").status == 200
    from leases.keeper import keeper

    monkeypatch.setattr(type(keeper), "late", property(lambda _: 7.0))
    answer = one.ask("/healthz")
    assert answer.status == 503
    assert "renews all leases" in answer.json["reasons"][0]


def test_metrics_are_those_of_the_library(calm: Beside) -> None:
    """In the format that the scraper asks for."""
    answer = calm.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert b'leases_is_leader{lock="job",' in answer.body
    opened = calm.ask("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text")


def test_history_tells_who_has_led(make: Make, leader: Beside) -> None:
    """Newest first; how long ago is relative, because the reader's clock is another."""
    standby = make("two")
    until(lambda: standby.state()["name"] == "one")
    assert leader.ask("/transfer?to=two", "POST").json == {"transferred": True}
    until(standby.leads)
    newest, oldest = standby.ask("/history").json["history"]
    assert (newest["name"], newest["was_here"], newest["over_ago"]) == ("two", True, None)
    assert newest["token"] == standby.state()["token"] > 1
    assert (oldest["name"], oldest["token"], oldest["was_here"]) == ("one", 1, False)
    assert 0 <= oldest["over_ago"] <= oldest["seen_ago"]


def test_it_can_be_mounted(site: Site) -> None:
    """In another application, under a path of that one's choice; paths and slashes are as ever."""
    registry = CollectorRegistry()
    inner = app(Candidate("job", store=url_of(site.backend()), ttl=TTL), registry=registry)
    outer = Starlette(routes=[Mount("/elector", app=inner)])

    async def get(path: str) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": b""}
        await outer(scope | {"headers": []}, receive, send)
        return int(sent[0]["status"])

    async def story() -> None:
        assert await get("/elector/healthz") == await get("/elector/readyz") == 503, "it takes no part yet"
        async with inner.router.lifespan_context(inner):
            while await get("/elector/leader/") != 200:
                await asyncio.sleep(0.01)
            assert await get("/elector/") == await get("/elector/x") == 200
            assert await get("/elector/resign/") == 405
            assert await get("/leader") == 404
            await inner.state.site.close()
            assert await get("/elector/leader") == 404
        install(registry).uninstall()

    asyncio.run(story())


def test_who_ends_it_again_waits_for_the_same_end(site: Site) -> None:
    """A server that ends the lifespan while its application resigns would else end the process first."""
    registry = CollectorRegistry()
    backend = site.backend()
    inner = app(Candidate("job", store=url_of(backend), ttl=TTL, drain=0.2), registry=registry)

    async def story() -> None:
        async with inner.router.lifespan_context(inner):
            while not backend.read("job", 1.0).held:
                await asyncio.sleep(0.01)
            closing = asyncio.create_task(inner.state.site.close())
            while not inner.state.site.candidate.stopping:
                await asyncio.sleep(0)
        assert closing.done()
        assert closing.result()
        assert not backend.read("job", 1.0).held
        install(registry).uninstall()

    asyncio.run(story())


# ---- what cannot work ------------------------------------------------------------------------------


def test_who_is_told_to_stop_does_not_begin(site: Site) -> None:
    """A signal may come while the server begins: what began later would be stopped by nobody."""
    candidate = Candidate("job", store=url_of(site.backend()))
    assert asyncio.run(candidate.stop())
    candidate.start()
    assert candidate._thread is None


def test_who_is_told_to_stop_while_it_claims() -> None:
    """What was committed meanwhile is free when it has stopped: else nobody would lead for a ttl."""
    url, claims = fresh_url(), threading.Event()
    hub = shared_hub(url, Hub.pin)
    backend = hub.backend = Stubborn(inner=hub.backend)
    candidate = Candidate("job", store=url)

    def before(kind: str, name: str) -> None:
        if kind == "swap" and not claims.is_set():
            claims.set()
            until(lambda: candidate.stopping)

    backend.before = before
    candidate.start()
    assert claims.wait(PATIENCE)
    assert asyncio.run(candidate.stop())
    candidate.close()
    assert [claim is None for kind, _, claim in backend.calls if kind == "swap"] == [False, True]
    assert not backend.inner.read("job", 1.0).held
    hub.close()


def test_a_drain_that_does_not_fit_is_refused() -> None:
    """A lease that is renewed in time would be stopped for it."""
    with pytest.raises(ConfigurationError, match="does not fit a ttl of 3 s: choose less than"):
        Candidate("job", store="memory:", ttl=3, drain=1)
    with pytest.raises(ConfigurationError, match="drain=-1 is not a number of seconds"):
        Candidate("job", store="memory:", drain=-1)
    assert Candidate("job", store="memory:", ttl=0.5).drain < 0.1
    assert Candidate("job", store="memory:").drain == 0.5
