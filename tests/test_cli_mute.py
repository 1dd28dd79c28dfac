"""Nobody reads what `leases` says: it stops the command, hears signals and ends all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leases.cli.voice import Voice
from leases_command import BEATING, LEASES, Shop, children, deadline, until
from terminals import Terminal

SOON = 10.0  # seconds within which a host that is busy does what takes one here


@pytest.fixture
def full() -> Iterator[int]:
    """The end of a pipe that nobody reads, and that takes no more."""
    read, write = os.pipe()
    fill(write)
    yield write
    os.close(read)
    os.close(write)


def fill(descriptor: int) -> None:
    """Write until nothing more fits."""
    os.set_blocking(descriptor, False)
    try:
        while os.write(descriptor, b"." * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(descriptor, True)


def ends_soon(process: subprocess.Popen[str], code: int) -> None:
    """It ends with this code while nobody reads."""
    assert process.wait(SOON) == code


# ---- a full pipe ---------------------------------------------------------------------------------


def test_the_command_is_stopped_in_time(shop: Shop, full: int) -> None:
    """A lease that cannot be renewed ends the command before its deadline though that cannot be said."""
    beating = (sys.executable, "-c", BEATING, str(shop.beats_file), "stubborn")
    process = shop.start("hold", "job", "--ttl", "2", "--json", "--", *beating, stderr=full)
    until(lambda: len(shop.beats()) > 5)
    shop.await_renewal()
    end = deadline(shop.slot().claim)
    with shop.frozen():
        assert shop.last_beat() < end
        ends_soon(process, 70)


@pytest.mark.parametrize("words", [("--", "true"), ("-c", "exit 0")])
def test_it_ends_though_nobody_reads(shop: Shop, full: int, words: tuple[str, ...]) -> None:
    """Its last words are given a second, and no more."""
    ends_soon(shop.start("hold", "job", "--json", *words, stderr=full), 0)
    assert not shop.slot().held


def test_signals_are_passed_on(shop: Shop, full: int) -> None:
    """What it has to say first does not keep a signal from the command."""
    process = shop.start("hold", "job", "--json", "--", "sleep", "60", stderr=full)
    until(lambda: shop.holder() is not None and running(process))
    process.terminate()
    ends_soon(process, 143)
    assert not shop.slot().held


def running(process: subprocess.Popen[str]) -> bool:
    """Whether the command has begun."""
    below = [child for guardian in children(process.pid) for child in children(guardian)]
    return bool(below) and Path(f"/proc/{below[0]}/cmdline").read_text().startswith("sleep")


def test_signals_while_it_waits(shop: Shop, full: int) -> None:
    """It hears SIGTERM although the line about its waiting is not read."""
    holder = shop.hold("--", "sleep", "60")
    process = shop.start("hold", "job", "--json", "--", "true", stderr=full)
    until(lambda: waits(process.pid))
    process.terminate()
    ends_soon(process, 143)
    holder.terminate()
    holder.wait()


def waits(process: int) -> bool:
    """Whether one of its threads waits for a pipe."""
    return any("pipe" in _where(thread) for thread in Path(f"/proc/{process}/task").iterdir())


def _where(thread: Path) -> str:
    try:
        return (thread / "wchan").read_text()
    except OSError:  # It has ended.
        return ""


def test_the_lease_that_is_printed(shop: Shop, full: int) -> None:
    """Without a command the lease is held, and released on a signal, though its line is not read."""
    process = shop.start("hold", "job", stdout=full)
    until(lambda: waits(process.pid))
    process.terminate()
    ends_soon(process, 0)
    assert not shop.slot().held


def test_the_guardian_ends_too(shop: Shop, full: int) -> None:
    """When `leases` is killed the guardian has a line to say, and does not stay for it."""
    process = shop.start("hold", "job", "--", "sleep", "60", stderr=full)
    until(lambda: shop.holder() is not None and running(process))
    (guardian,) = children(process.pid)
    process.kill()
    until(lambda: not os.path.exists(f"/proc/{guardian}"), SOON)


# ---- a stopped terminal --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_terminal(shop: Shop, number: int) -> None:
    """After Ctrl-S nothing can be written: a signal ends the command and `leases` all the same."""
    words = (*LEASES, "hold", "job", "--verbose", "--", "sh", "-c", "echo begun; exec sleep 60")
    terminal = Terminal(*words, env={"LEASES_URL": shop.url}, cwd=str(shop.folder))
    try:
        terminal.expect("begun")
        terminal.type("\x13")
        time.sleep(0.1)
        terminal.process.send_signal(number)
        assert terminal.process.wait(SOON) == 128 + number
        assert not shop.slot().held
    finally:
        terminal.close()


def test_a_stopped_terminal_and_a_loss(shop: Shop) -> None:
    """After Ctrl-S the command still ends when its lease does, and its terminal's modes are repaired."""
    line = "trap '' TERM; stty -echo; echo begun; while :; do sleep 1; done"
    words = (*LEASES, "hold", "job", "--ttl", "2", "-c", line)
    terminal = Terminal(*words, env={"LEASES_URL": shop.url}, cwd=str(shop.folder))
    try:
        terminal.expect("begun")
        terminal.type("\x13")
        shop.supersede(ttl=60)
        assert terminal.process.wait(SOON) == 70
    finally:
        terminal.close()


# ---- the thread that writes ----------------------------------------------------------------------


def test_the_order_is_kept() -> None:
    """What was said while nobody read is written in order when somebody does."""
    read, write = os.pipe()
    fill(write)
    with os.fdopen(write, "w") as stream:
        voice = Voice(stream)
        began = time.monotonic()
        for count in range(200):
            voice.say(f"[{count}]")
        assert time.monotonic() - began < SOON / 2  # It waits for the first of them only.
        assert not voice.finish(0.01)
        text = ""
        while not text.endswith("[199]"):
            text += os.read(read, 65536).decode()
        assert voice.finish(SOON)
    os.close(read)
    assert text.lstrip(".") == "".join(f"[{count}]" for count in range(200))


def test_a_reader_that_has_gone() -> None:
    """It is told once that nothing can be written, and what comes after goes nowhere."""
    read, write = os.pipe()
    os.close(read)
    told: list[str] = []
    with os.fdopen(write, "w") as stream:
        voice = Voice(stream, lambda: told.append("trouble"))
        voice.say("one")
        voice.say("two")
        assert voice.finish(SOON)
    assert isinstance(voice.trouble, BrokenPipeError) and told == ["trouble"]
