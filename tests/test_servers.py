"""What stands behind the real servers: processes and their end, ports, where programs come from."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from servers import build, containers, get, table
from servers.build import Missing
from servers.certificates import Authority
from servers.fixtures import _or_absent, _shared
from servers.given import given
from servers.process import Node, Ports, Server, Unready, listening
from servers.table import SERVERS, TABLE, TOOLS, Debian, Go, Maven, Wanted

TESTS = Path(__file__).parent
LIMIT_S = 20.0

LISTENS = """
import socket, sys, time
print("listening on", sys.argv[1], flush=True)
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listening.accept()[0].close()
"""


def answers(node: Node) -> bool:
    return listening("127.0.0.1", node.ports["client"])


def listener(folder: Path, ready: Callable[[Node], bool] = answers) -> Node:
    """A server of four lines."""
    ports = Ports("client")
    command = [sys.executable, "-I", "-S", "-c", LISTENS, str(ports["client"])]
    return Node("listener", command, folder=folder / "node", ports=ports, ready=ready, limit_s=LIMIT_S)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = listener(tmp_path)
    yield made
    made.close()


def state(pid: int) -> str:
    """The state of a process as the system tells it; empty for none."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return told.stdout.strip()[:1]


def gone(pid: int) -> bool:
    until = time.monotonic() + LIMIT_S
    while state(pid) not in ("", "Z"):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_a_node_that_has_started_is_ready(node: Node) -> None:
    """Its log is there, and its address answers."""
    node.start()
    assert answers(node) and node.running
    assert node.log() == f"listening on {node.ports['client']}\n"


def test_a_node_is_ended_by_either_signal_and_starts_again_on_its_port(node: Node) -> None:
    """By SIGTERM and by SIGKILL, frozen or not."""
    for frozen, end in itertools.product((False, True), (node.stop, node.kill)):
        pid = node.start().pid
        if frozen:
            node.freeze()
        end()
        assert gone(pid) and not node.running
        with pytest.raises(OSError, match="refused"):
            answers(node)
    node.start()
    node.restart()
    assert answers(node)


def test_a_frozen_node_stands_still_until_it_is_thawed(node: Node) -> None:
    """Connections are still accepted for it, by the kernel."""
    node.start()
    node.freeze()
    assert state(node.pid) == "T"
    assert answers(node)
    with socket.create_connection(("127.0.0.1", node.ports["client"]), timeout=LIMIT_S) as client:
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(LIMIT_S)
        node.thaw()
        assert client.recv(1) == b""


def test_a_node_that_ends_at_once_shows_why(tmp_path: Path) -> None:
    """The end of its log is in the error, and its exit code."""
    command = [sys.executable, "-I", "-S", "-c", "import sys; print('no such disk'); sys.exit(7)"]
    node = Node("broken", command, folder=tmp_path, ports=Ports("client"), ready=answers, limit_s=LIMIT_S)
    with pytest.raises(Unready, match=r"broken ended at once, with exit code 7\.\n.*\nno such disk"):
        node.start()
    node.close()


def test_a_node_that_does_not_answer_in_time_shows_what_it_said(tmp_path: Path) -> None:
    """And its process is still there, for whoever wants to look."""
    node = listener(tmp_path, ready=lambda _: False)
    node.limit_s = 0.5
    with pytest.raises(Unready, match=r"listener was not ready after 0\.5 s"):
        node.start()
    assert node.running
    node.close()


def test_a_server_of_which_one_node_fails_is_ended_whole(tmp_path: Path) -> None:
    """No process and no folder is left."""
    good, bad = listener(tmp_path / "a"), listener(tmp_path / "b", ready=lambda _: False)
    bad.limit_s = 0.5
    server = Server([good, bad], "1", tmp_path)
    with pytest.raises(Unready):
        server.up()
    assert not good.running and not bad.running and not tmp_path.exists()


def test_ports_are_given_to_nobody_else() -> None:
    """Neither by asking for any port, nor by asking for this one."""
    ports = Ports("client", "peer")
    assert len(set(ports.values())) == 2
    with socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", ports["client"]))
        others = [Ports("client") for _ in range(200)]
        assert not {each["client"] for each in others} & set(ports.values())
        for each in (ports, *others):
            each.close()
        other.bind(("127.0.0.1", ports["client"]))


LEAVES = """
import os, signal, sys
from pathlib import Path
import test_servers
from servers.process import Server
node = test_servers.listener(Path(sys.argv[1]))
Server([node], "1", Path(sys.argv[1])).up()
print(node.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_no_server_behind(tmp_path: Path) -> None:
    """Nor its folder: whoever is killed cannot clean up, so somebody else does."""
    folder = tmp_path / "server"
    run = subprocess.run(
        [sys.executable, "-c", LEAVES, str(folder)],
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        stdout=subprocess.PIPE,
        timeout=LIMIT_S,
    )
    assert run.returncode == -signal.SIGKILL
    assert gone(int(run.stdout))
    until = time.monotonic() + LIMIT_S
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not folder.exists()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a PATH with nothing on it but what the test puts there."""
    monkeypatch.setenv("LEASES_SERVERS", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(build, "USUAL", ())
    for name in ("CI", "SERVERS", "LEASES_VERSIONS", *map(table.variable, SERVERS)):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(containers, "has", lambda image: False)
    for cached in (get.program, get.java):
        cached.cache_clear()
    yield tmp_path
    for cached in (get.program, get.java):
        cached.cache_clear()


# A Go that writes down what it is asked, and makes the program that it is asked for.
FAKE_GO = """#!/bin/sh
echo "$@" >>"{log}"
while [ "$1" != -o ]; do shift; done
/bin/sleep 0.2
echo program >"$2"
"""


def fake(folder: Path, name: str, script: str) -> Path:
    path = folder / "bin" / name
    path.write_text(script.format(log=folder / "log"))
    path.chmod(0o755)
    return path


@pytest.fixture
def line(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Wanted:
    """A server with a recipe of its own."""
    recipe = empty / "builds" / "thing-1.2.3"
    recipe.mkdir(parents=True)
    (recipe / "go.mod").write_text("module thing\n")
    monkeypatch.setattr(table, "BUILDS", empty / "builds")
    return Wanted(
        "thing", "1.2.3", "thing", Go("example.test/thing", "version=1.2.3"), "thing:1.2.3", "/thing"
    )


def test_a_server_is_built_once_by_its_recipe(line: Wanted, empty: Path) -> None:
    """However many ask at the same time; again when the recipe has changed."""
    fake(empty, "go", FAKE_GO)
    askers = [threading.Thread(target=build.build, args=(line,)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(LIMIT_S)
    assert build.built(line) == empty / "cache" / "thing-1.2.3" / "thing"
    asked = (empty / "log").read_text().splitlines()
    assert len(asked) == 1 and "-X version=1.2.3" in asked[0] and asked[0].endswith("example.test/thing")
    (line.recipe / "go.sum").write_text("changed\n")
    assert build.built(line) is None
    build.build(line)
    assert len((empty / "log").read_text().splitlines()) == 2
    left = {path.name for path in (empty / "cache").iterdir()}
    assert left == {"thing-1.2.3", ".thing-1.2.3.lock"}


def test_a_build_that_fails_says_what_the_tool_said_and_leaves_nothing(line: Wanted, empty: Path) -> None:
    """A half-built program is never found."""
    fake(
        empty, "go", "#!/bin/sh\nwhile [ $1 != -o ]; do shift; done\necho half >$2\necho no network; exit 1\n"
    )
    with pytest.raises(Missing, match=r"(?s)thing-1\.2\.3 cannot be had.*no network"):
        build.build(line)
    assert build.built(line) is None and [*(empty / "cache").iterdir()] == [
        empty / "cache" / ".thing-1.2.3.lock"
    ]


@pytest.mark.parametrize(
    ("source", "says"),
    [(Go("a"), r"install Go 1\.21 or newer"), (Maven(), "a JDK with Maven"), (Debian((), ()), "Debian 12")],
)
def test_a_missing_tool_is_named_with_what_to_install(line: Wanted, source: Go, says: str) -> None:
    """On a machine without Go, Maven or apt."""
    with pytest.raises(Missing, match=says):
        build.build(replace(line, source=source))


def test_a_program_that_is_not_here_is_not_built_by_a_test(empty: Path) -> None:
    """A test says what gets it."""
    with pytest.raises(Missing, match=r"etcd-3\.[\d.]+ is not here; run 'make servers'"):
        get.program("etcd")


def test_a_program_on_path_counts_in_the_wanted_version_alone(empty: Path) -> None:
    """Another version on PATH is left where it is."""
    fake(empty, "consul", "#!/bin/sh\necho Consul v1.20.9\n")
    with pytest.raises(Missing):
        get.program("consul")
    version = table.wanted("consul").version
    path = fake(empty, "consul", f"#!/bin/sh\n[ $1 = version ] && echo Consul v{version}\n")
    assert get.program("consul") == get.Program("consul", version, path)


def test_an_image_comes_before_a_program(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an engine has the image, its program and its Java are the ones inside."""
    line = table.wanted("zookeeper")
    monkeypatch.setattr(containers, "has", lambda image: image == line.image)
    found = get.program("zookeeper")
    assert (found.image, str(found.path)) == (line.image, f"/apache-zookeeper-{line.version}-bin/lib")
    assert get.java() == "java"
    with pytest.raises(Missing, match="run 'make servers'"):
        get.program("etcd")


def test_who_insists_on_containers_gets_no_process(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVERS=docker, and no engine or no image."""
    version = table.wanted("consul").version
    fake(empty, "consul", f"#!/bin/sh\necho Consul v{version}\n")
    monkeypatch.setenv("SERVERS", "docker")
    monkeypatch.setattr(containers, "has", lambda image: False)
    with pytest.raises(Missing, match=r"no engine answers that has or can pull hashicorp/consul"):
        get.program("consul")


def test_an_engine_that_does_not_listen_is_none(tmp_path: Path) -> None:
    """Of any kind of address that can be asked without its client."""
    path = tmp_path / "socket"
    assert not containers.listens(f"unix://{path}")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as engine:
        engine.bind(str(path))
        assert not containers.listens(f"unix://{path}")
        engine.listen()
        assert containers.listens(f"unix://{path}")
    ports = Ports("engine")
    assert not containers.listens(f"tcp://{ports.at('engine')}")
    ports.close()


def test_an_address_in_the_environment_comes_first(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, and nothing is ended."""
    assert given("etcd") is None
    monkeypatch.setenv("LEASES_TEST_ETCD", "etcd://store.test:2379/tests")
    with _shared("etcd") as server:
        assert server.url == "etcd://store.test:2379/tests"
        with pytest.raises(pytest.skip.Exception, match="LEASES_TEST_ETCD names another"):
            _ = server.nodes  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    assert given("consul") is None


def test_an_api_server_of_any_version_gets_the_newest_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started beneath the old one as well."""
    monkeypatch.setenv("LEASES_VERSIONS", "old")
    names = [line.name for line in get.lines(["kubernetes"])]
    assert names == [table.wanted("kubernetes", "old").name, table.wanted("etcd", "new").name]


def test_old_versions_are_asked_for_by_the_environment(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else may be asked for."""
    monkeypatch.setenv("LEASES_VERSIONS", "old")
    with pytest.raises(Missing, match=r"etcd-3\.4"):
        get.program("etcd")
    monkeypatch.setenv("LEASES_VERSIONS", "older")
    with pytest.raises(ValueError, match="set it to new or old"):
        get.program("consul")


def test_the_cache_is_found_in_an_empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME, the system's list of users tells whose cache it is; the environment may name another."""
    for name in ("HOME", "XDG_CACHE_HOME", "LEASES_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    assert build.cache() == build.home() / ".cache" / "leases" / "servers"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert build.cache() == Path("/xdg/leases/servers")
    monkeypatch.setenv("LEASES_SERVERS", "/own")
    assert build.cache() == Path("/own")


def test_a_missing_server_skips_a_test_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine's want is no failure of the library; where it must be there, it is one."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="run 'make servers'"), _or_absent():
        raise Missing("it is not here; run 'make servers'")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="run 'make servers'"), _or_absent():
        raise Missing("it is not here; run 'make servers'")


@pytest.mark.parametrize(
    "line", [line for lines in (*TABLE.values(), TOOLS) for line in lines], ids=lambda line: line.name
)
def test_a_recipe_builds_the_version_of_the_table(line: Wanted) -> None:
    """Where the two differed, tests would run against a server that they do not name."""
    match line.source:
        case Go(package, sets):
            module = next(
                iter(re.findall(r"^require (\S+) v(\S+)$", (line.recipe / "go.mod").read_text(), re.M))
            )
            assert package.startswith(module[0]) and module[1] == line.version
            assert f"{module[0]} v{line.version} h1:" in (line.recipe / "go.sum").read_text()
            assert not sets or sets.endswith(f"=v{line.version}")
        case Maven():
            assert f">{line.version}<" in (line.recipe / "pom.xml").read_text()
        case Debian(packages):
            assert packages[0].endswith(f"={line.version}*")
    assert not line.image or line.image.endswith(line.version)


def test_every_server_is_in_both_columns() -> None:
    """New and old."""
    assert {tuple(line.server for line in lines) for lines in TABLE.values()} == {SERVERS}


def test_private_keys_are_for_their_owner(tmp_path: Path) -> None:
    """A store's client may refuse a key that others can read."""
    pair = Authority(tmp_path).client("ann")
    assert {path.stat().st_mode & 0o777 for path in (pair.key, pair.both)} == {0o600}
