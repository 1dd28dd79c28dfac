"""`leases elector` as a process: its words, its signals, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import closing, suppress

import pytest

from leases.cli import main
from leases.cli.options import parse
from leases.sidecar import command
from leases.sidecar.command import go_duration
from leases.sidecar.port import Address, address, listen, place
from leases_command import PATIENCE, Shop, until
from sidecars import Sidecar, ask, connection, events

# ---- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_resigns_first(shop: Shop, number: signal.Signals) -> None:
    """The application hears of it, then the lock is free, then the process ends; no client holds it up."""
    one = Sidecar(shop, "--id", "one", "--drain", "0.3")
    until(one.leads)
    with events(one.url) as stream, closing(connection(one.url)) as idle:
        assert next(stream).data["is_leader"]
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        one.process.send_signal(number)
        told = next(stream).data
        assert (told["name"], told["is_leader"]) == ("", False)
        assert shop.holder() == "one", "the lock was free before the application was told"
        assert one.ask("/leader").status == 404
        assert one.ask("/readyz").status == 503
        assert list(stream) == []
        assert one.process.wait(PATIENCE) == 0
    assert shop.holder() is None
    assert [line["event"] for line in one.said] == ["serving", "elected", "lost", "released"]


def test_a_second_signal_waits_for_nothing(shop: Shop) -> None:
    """The lease is left to run out, and the code says which signal it was."""
    one = Sidecar(shop, "--id", "one", "--ttl", "60", "--drain", "10")
    until(one.leads)
    one.process.send_signal(signal.SIGTERM)
    until(lambda: not one.leads())
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(PATIENCE) == 128 + signal.SIGINT
    assert shop.holder() == "one"


@pytest.mark.waits
def test_a_store_that_hangs_does_not_keep_it_for_ever(shop: Shop) -> None:
    """It says that the release is not confirmed, and ends all the same."""
    one = Sidecar(shop, "--ttl", "3")
    until(one.leads)
    with shop.frozen():
        one.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        assert one.process.wait(PATIENCE) == 0
        assert time.monotonic() - begun < 15
    until(lambda: one.heard("unconfirmed"))
    assert not one.heard("released")


@pytest.mark.waits
def test_a_store_that_cannot_be_reached_is_waited_for(shop: Shop) -> None:
    """It serves meanwhile: alive, and nobody is known to lead."""
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        one = Sidecar(shop, "--backend", f"etcd://127.0.0.1:{nobody.getsockname()[1]}/x")
        assert one.ask("/healthz").status == 200
        assert (one.state()["name"], one.state()["reachable"]) == ("", False)
        until(lambda: one.heard("unreachable"))
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(PATIENCE) == 0


def test_a_store_that_refuses_ends_it(shop: Shop) -> None:
    """A sidecar that can never lead is no use; whoever restarts it sees one line and the code."""
    (shop.folder / "other.db").write_text("this is no database, but of the length of one" * 20)
    done = shop.run(
        "elector", "job", "--http", "127.0.0.1:0", "--backend", f"sqlite://{shop.folder}/other.db"
    )
    assert done.returncode == 77
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("leases: ")
    assert "is not a SQLite database; name another file" in done.stderr.splitlines()[-1]


# ---- the beginning ---------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_one_line(shop: Shop) -> None:
    """It names the port and what to pass; nothing was acquired."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = shop.run("elector", "job", "--http", f"127.0.0.1:{port}")
    assert done.returncode == 69
    assert done.stderr == (
        f"leases elector: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "pass another address, as in --http localhost:4041\n"
    )
    assert not shop.path.exists()


def test_a_beginning_that_fails_is_said(shop: Shop) -> None:
    """As where the system has no thread to spare: else it would end with success, and without a word."""
    script = """if True:
        from leases.cli import main
        from leases.sidecar.candidate import Candidate

        def begin(self):
            raise RuntimeError("no thread to spare")

        Candidate._begin = begin
        raise SystemExit(main(["elector", "job", "--http", "127.0.0.1:0"]))
    """
    done = shop.run(program=(sys.executable, "-c", script))
    assert done.returncode == 69
    assert done.stderr.splitlines()[-1] == "leases: no thread to spare"


def test_a_package_that_is_missing_is_named(shop: Shop) -> None:
    """With the command that installs it."""
    for package in ("starlette", "uvicorn", "prometheus_client"):
        folder = shop.folder / package
        folder.mkdir()
        missing = f'raise ModuleNotFoundError("No module named {package}", name="{package}")'
        (folder / f"{package}.py").write_text(missing)
        done = shop.run("elector", "job", env={"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])})
        assert done.returncode == 64
        assert done.stderr == (
            f"leases elector: the sidecar needs the package {package}; "
            'install it with: pip install "leases[sidecar]"\n'
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no name was given; write what is to be led: leases elector NAME"),
        (["a", "--election", "b"], 'both NAME "a" and --election "b" were given; leave one out'),
        (
            ["a", "--election-namespace", "x", "--backend", "sqlite:"],
            "both --election-namespace and --backend",
        ),
        (["a", "--http", "x:y"], 'argument --http: "x:y" is not HOST:PORT; write localhost:4040, or :4040'),
        (["a", "--http", "x:70000"], "is not HOST:PORT"),
        (["a", "--http", "no-such-host.invalid:1"], "cannot listen on no-such-host.invalid:1"),
        (["a", "--ttl", "10x"], '"10x" is not a duration'),
        (["a", "--ttl", "0"], "ttl"),
        (["a", "--ttl", "3", "--drain", "2"], "a drain of 2 s does not fit a ttl of 3 s"),
        (["a", "--backend", "nothing:"], 'no backend for "nothing:"'),
        (["a\nb"], "name"),
        (["a", "--id", ""], "holder"),
        (["a", "--pod-label"], "there is no pod to label"),
        (["a", "--priority", "x"], "invalid int value"),
        (["a", "--meta", "x"], "is not of the form KEY=VALUE"),
        (["a", "--bogus"], "--bogus"),
    ],
)
def test_words_that_make_no_sense_are_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that says what to write, before anything listens or is opened."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("LEASES_URL", "memory:never-opened")
    code = main(["elector", *words])
    out, err = capsys.readouterr()
    assert code == (69 if "no-such-host" in says else 64)
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


# ---- the old leader-elector's words --------------------------------------------------------------------


@pytest.mark.parametrize("dash", ["-", "--"])
@pytest.mark.parametrize("equals", [True, False])
def test_the_flags_of_the_old_leader_elector_are_taken(dash: str, equals: bool) -> None:
    """With one dash and with two, with an equals sign and without."""
    given = {"election": "job", "election-namespace": "jobs", "id": "pod-1", "ttl": "1m30s", "http": ":4040"}
    words: list[str] = []
    for key, value in given.items():
        words += [f"{dash}{key}={value}"] if equals else [f"{dash}{key}", value]
    args = parse("leases elector", "x", command, [*words, f"{dash}use-cluster-credentials=true"])
    assert (command._name(args), args.holder, args.ttl) == ("job", "pod-1", 90)
    assert args.http == Address("", 4040)
    assert command._store(args) == "kubernetes://jobs"


def test_an_old_command_line_runs(shop: Shop) -> None:
    """And answers as the old one did, with more after the name."""
    process = shop.start(
        "elector", "-election=job", "-id=pod-1", "-ttl=10s", "-http=127.0.0.1:0", "-use-cluster-credentials",
        "--json",
    )  # fmt: skip
    assert process.stderr is not None
    url = json.loads(process.stderr.readline())["http"][0]
    until(lambda: ask(url).body.startswith(b'{"name":"pod-1",'))
    process.terminate()
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("1h0m0.5s", 3600.5),
        ("250ms", 0.25),
        ("15", 15),
        ("2m", 120),
        ("1.5h", 5400),
    ],
)
def test_durations_are_ours_or_those_of_go(text: str, seconds: float) -> None:
    """The old one took Go's."""
    assert go_duration(text) == pytest.approx(seconds)


def test_in_a_pod_the_store_is_that_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in a container would make every replica a leader; and the name is the pod's own."""
    for name in ("LEASES_URL", "POD_NAME", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    args = parse("leases elector", "x", command, ["job"])
    assert command._store(args) is None
    assert command._default_id() == f"{socket.gethostname()}:{os.getpid()}"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert command._store(args) == "kubernetes://"
    assert command._default_id() == socket.gethostname()
    monkeypatch.setenv("POD_NAME", "scheduler-7")
    assert command._default_id() == "scheduler-7"
    monkeypatch.setenv("LEASES_URL", "etcd://e/app")
    assert command._store(args) is None


# ---- where it listens --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("localhost:4040", "localhost", 4040), (":4040", "", 4040), ("4040", "localhost", 4040),
     ("[::1]:80", "::1", 80), ("10.0.0.1:0", "10.0.0.1", 0), ("app.example:1", "app.example", 1)],
)  # fmt: skip
def test_addresses_are_as_everywhere(text: str, host: str, port: int) -> None:
    """No host is every address; no colon is this host alone, not every address."""
    assert address(text) == Address(host, port)


def test_localhost_is_all_that_it_means() -> None:
    """curl tries ::1 first where there is one; both have the same port."""
    sockets = listen(Address("localhost", 0))
    try:
        assert {one.getsockname()[0] for one in sockets} <= {"127.0.0.1", "::1"}
        assert len({one.getsockname()[1] for one in sockets}) == 1
        assert place(sockets[0]).startswith("http://127.0.0.1:")
    finally:
        for one in sockets:
            one.close()


def test_everywhere_is_ipv4_too() -> None:
    """A kubelet probes the pod's address, of whatever family it is."""
    (one,) = listen(Address("", 0))
    with closing(one), closing(socket.create_connection(("127.0.0.1", one.getsockname()[1]))) as line:
        assert line.getpeername()


@pytest.mark.waits
def test_a_thread_that_asks_does_not_outlive_it(shop: Shop) -> None:
    """A validation that hangs holds up neither the answers nor the end."""
    one = Sidecar(shop, "--ttl", "3")
    until(one.leads)
    with shop.frozen():
        threading.Thread(target=lambda: _try(one, "/validate?holder=x&token=1"), daemon=True).start()
        time.sleep(0.1)
        assert one.ask("/healthz").status == 200
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(PATIENCE) == 0


def _try(one: Sidecar, path: str) -> None:
    with suppress(OSError):
        one.ask(path)
