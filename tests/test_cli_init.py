"""`leases` as the first process of a container: signals arrive, orphans are buried, ends are told."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from leases_command import LEASES, Shop, children, until
from terminals import Terminal

# A process namespace, whose first process is the program; it ends with `unshare`.
FIRST: Final = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
AS_FIRST: Final = "from leases.cli.init import become_first\nassert os.getpid() == 1\nbecome_first()\n"


@functools.cache
def namespaces() -> bool:
    """Whether this host lets us have namespaces."""
    found = shutil.which(FIRST[0])
    return found is not None and subprocess.run([*FIRST, "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not namespaces(), reason="needs Linux, unshare(1) and user namespaces")


@pytest.fixture
def first(shop: Shop) -> Callable[[str], subprocess.Popen[str]]:
    """Runs a Python program that becomes the first process of a namespace."""

    def run(program: str) -> subprocess.Popen[str]:
        return shop.start(sys.executable, "-c", whole(program), program=FIRST)

    return run


def whole(program: str) -> str:
    return f"import os, signal, sys, time\n{AS_FIRST}{textwrap.dedent(program)}"


def test_an_orphan_is_buried(first: Callable[[str], subprocess.Popen[str]]) -> None:
    """A process whose parent has ended before it leaves no zombie behind."""
    process = first("""
        out, back = os.pipe()
        if os.fork() == 0:
            orphan = os.fork()
            if orphan:
                os.write(back, str(orphan).encode())
            os._exit(0)
        os.wait()
        orphan = os.read(out, 100).decode()
        end = time.monotonic() + 20
        while os.path.exists(f"/proc/{orphan}") and time.monotonic() < end:
            time.sleep(0.01)
        print(os.path.exists(f"/proc/{orphan}"), os.getpid() != 1, os.getppid() == 1)
    """)
    assert process.communicate(timeout=30)[0].split() == ["False", "True", "True"]
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_arrives(first: Callable[[str], subprocess.Popen[str]], number: signal.Signals) -> None:
    """What is sent to the first process reaches the program, though it has no handler for it."""
    process = first("print('ready', flush=True)\nsignal.pause()")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    inside = children(process.pid)
    assert len(inside) == 1
    subprocess.run(["kill", f"-{number.value}", str(inside[0])], check=True)
    assert process.wait(30) == 128 + number


def test_a_program_may_kill_itself(first: Callable[[str], subprocess.Popen[str]]) -> None:
    """SIGKILL from inside, which the first process of a namespace would not feel, ends the container."""
    assert first("os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)").wait(30) == 137


def test_a_code_is_handed_on(first: Callable[[str], subprocess.Popen[str]]) -> None:
    """The first process ends as the program did."""
    assert first("sys.exit(75)").wait(30) == 75


def test_hold_as_the_first_process_releases(shop: Shop) -> None:
    """SIGTERM ends the command, then frees the lock, and the exit code is the command's."""
    process = shop.start(*LEASES, "hold", "job", "--", "sleep", "60", program=FIRST)
    until(lambda: shop.holder() is not None)
    subprocess.run(["kill", "-TERM", str(children(process.pid)[0])], check=True)
    assert process.wait(30) == 143
    assert shop.holder() is None


def test_ctrl_c_is_felt_once(tmp_path: Path) -> None:
    """On a terminal the program is in the foreground, alone: nobody passes it on a second time."""
    program = """
        signal.signal(signal.SIGINT, lambda *_: os.write(1, b"felt\\n"))  # amid a print, too
        print("ready", os.tcgetpgrp(0) == os.getpgrp() == os.getpid(), flush=True)
        time.sleep(1)  # which goes on after a signal
        print("end", flush=True)
    """
    terminal = Terminal(*FIRST, sys.executable, "-c", whole(program), env={}, cwd=str(tmp_path))
    try:
        terminal.expect("ready True")
        terminal.type("\x03")
        between = terminal.expect("felt", "end")
        assert between.count("felt") == 1
        assert terminal.wait() == 0
    finally:
        terminal.close()


def test_ctrl_z_is_no_end(shop: Shop) -> None:
    """On the terminal of a container nobody could say `fg`: the command goes on, and hears Ctrl-C."""
    words = (*FIRST, *LEASES, "hold", "job", "--ttl", "60", "--", "cat")
    terminal = Terminal(*words, env={"LEASES_URL": shop.url}, cwd=str(shop.folder))
    try:
        until(lambda: shop.holder() is not None)
        terminal.type("one\n")
        terminal.expect("one", "one")
        terminal.type("\x1a")
        terminal.expect("suspended")
        terminal.type("two\n")
        terminal.expect("two", "two")
        terminal.type("\x03")
        assert terminal.wait() == 130
    finally:
        terminal.close()
