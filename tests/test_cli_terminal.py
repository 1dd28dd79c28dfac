"""On a terminal: who is in the foreground, what Ctrl-C and Ctrl-Z do, and the line that tells of the wait."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator

import pytest

from leases_command import LEASES, Shop, alive, until
from terminals import Terminal

IN_FOREGROUND = "import os; print('foreground', os.tcgetpgrp(0) == os.getpgrp())"
TYPES_BACK = (
    "import sys; print('ready', flush=True)\nfor line in sys.stdin: print('got', line, end='', flush=True)"
)

Open = Callable[..., Terminal]


@pytest.fixture
def on_terminal(shop: Shop) -> Iterator[Open]:
    """Runs a program on a terminal of its own."""
    opened: list[Terminal] = []

    def run(*words: str) -> Terminal:
        opened.append(Terminal(*words, env={"LEASES_URL": shop.url}, cwd=str(shop.folder)))
        return opened[-1]

    yield run
    for terminal in opened:
        terminal.close()


def test_the_command_has_the_terminal(on_terminal: Open) -> None:
    """The command is in the foreground and reads what is typed."""
    terminal = on_terminal(
        *LEASES, "hold", "job", "--", sys.executable, "-c", f"{IN_FOREGROUND}\n{TYPES_BACK}"
    )
    terminal.expect("foreground True", "ready")
    terminal.type("words\n")
    terminal.expect("got words")
    terminal.type("\x04")
    assert terminal.wait() == 0


def test_the_terminal_is_given_back(on_terminal: Open) -> None:
    """When the command has ended, the group that called is in the foreground again."""
    line = f'{" ".join(LEASES)} hold job -- true; {sys.executable} -c "{IN_FOREGROUND}"'
    terminal = on_terminal("sh", "-c", line)
    terminal.expect("foreground True")
    assert terminal.wait() == 0


def test_without_stdin_the_terminal_stays(on_terminal: Open) -> None:
    """With --no-stdin the command is left in the background, so that others of a pipeline can have it."""
    program = IN_FOREGROUND.replace("(0)", "(1)")
    terminal = on_terminal(*LEASES, "hold", "job", "--no-stdin", "--", sys.executable, "-c", program)
    terminal.expect("foreground False")
    assert terminal.wait() == 0


# As `less` does, and `ssh` for a password, where stdin is something else.
ASKS = "read words < /dev/tty; echo got $words; exit 3"


def test_at_the_end_of_a_pipeline(on_terminal: Open) -> None:
    """A command whose stdin is a pipe has the terminal as soon as it asks for it, and gives it back."""
    line = f"echo | {' '.join(LEASES)} hold job -c '{ASKS}'; echo code $?; read more; echo and $more"
    terminal = on_terminal("sh", "-c", line)
    terminal.type("words\n")
    terminal.expect("got words", "code 3")
    terminal.type("more\n")
    terminal.expect("and more")
    assert terminal.wait() == 0


def test_asks_in_vain(shop: Shop, on_terminal: Open) -> None:
    """With --no-stdin it is not lent; that is said, and Ctrl-C ends who waits for it and stands still."""
    terminal = on_terminal(*LEASES, "hold", "job", "--no-stdin", "-c", ASKS)
    terminal.expect("waits for the terminal; --no-stdin keeps it off")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert shop.slot().claim is None


def test_modes_are_repaired(on_terminal: Open) -> None:
    """A command that was killed cannot undo what it did to the terminal: it is undone."""
    line = f"{' '.join(LEASES)} hold job -c 'stty raw -echo; kill -9 $$'; stty -a"
    terminal = on_terminal("sh", "-c", line)
    terminal.expect(" icanon", " echo ")
    terminal.wait()


def test_ctrl_c_is_the_commands(shop: Shop, on_terminal: Open) -> None:
    """Ctrl-C reaches the command alone, which may answer as it likes."""
    line = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    terminal = on_terminal(*LEASES, "hold", "job", "-c", line)
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("caught")
    assert terminal.wait() == 9
    assert shop.slot().claim is None


def test_ctrl_c_while_it_waits(shop: Shop, on_terminal: Open) -> None:
    """Who holds the lock, and for how long, is shown in one line, which Ctrl-C leaves empty."""
    shop.hold("--holder", "web-3", "--", "sleep", "60")
    terminal = on_terminal(*LEASES, "hold", "job", "--", "true")
    shown = 'leases: waiting for "job", held by web-3 for '
    terminal.expect(f"\r\x1b[K{shown}", f"\r\x1b[K{shown}")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert "\n" not in terminal.text.replace("^C", "") and terminal.text.endswith("\r\x1b[K")


def test_without_a_command(shop: Shop, on_terminal: Open) -> None:
    """On a terminal the lease is a plain line, and Ctrl-C releases it."""
    terminal = on_terminal(*LEASES, "hold", "job", "--holder", "me")
    terminal.expect('holding "job" as me, token ', "until a signal (Ctrl-C)")
    terminal.type("\x03")
    assert terminal.wait() == 0
    assert shop.slot().claim is None


def test_ctrl_z_where_nobody_could_continue(shop: Shop, on_terminal: Open) -> None:
    """Without a shell to come back to, Ctrl-Z stops nothing for good."""
    terminal = on_terminal(*LEASES, "hold", "job", "--", sys.executable, "-c", TYPES_BACK)
    terminal.expect("ready")
    terminal.type("\x1a")
    terminal.expect("suspended with the command")
    terminal.type("words\n")
    terminal.expect("got words")
    terminal.type("\x04")
    assert terminal.wait() == 0


needs_bash = pytest.mark.skipif(
    shutil.which("bash") is None, reason="there is no shell here whose jobs we know"
)


@pytest.fixture
def bash(on_terminal: Open) -> Terminal:
    shell = on_terminal("bash", "--norc", "--noprofile", "-i")
    shell.type("PS1='$ '; set +m; set -m; echo be''gin\n")
    shell.expect("begin", "$ ")
    return shell


@needs_bash
def test_ctrl_z_and_back(shop: Shop, bash: Terminal) -> None:
    """Ctrl-Z suspends both and says for how long that can be; `fg` brings the command back."""
    bash.type(f"{' '.join(LEASES)} hold job -- cat\n")
    until(lambda: shop.holder() is not None)
    bash.type("before\n")
    bash.expect("before", "before")
    bash.type("\x1a")
    bash.expect("the lease on", "ends in", "Stopped", "$ ")
    bash.type("fg\n")
    bash.expect("hold job")
    bash.type("after\n")
    bash.expect("after", "after")
    bash.type("\x04")
    bash.expect("$ ")
    bash.type("echo code $?\n")
    bash.expect("code 0")
    assert shop.slot().claim is None


@needs_bash
def test_suspended_for_too_long(shop: Shop, bash: Terminal) -> None:
    """Suspended for longer than the lease, the command is dead before another has the lock."""
    command = f"{sys.executable} -c 'import os,time; print(\"pid\", os.getpid(), flush=True); time.sleep(60)'"
    bash.type(f"{' '.join(LEASES)} hold job --ttl 2 -- {command}\n")
    bash.expect("time.sleep(60)", "pid ")
    pid = int(bash.expect("\r\n"))
    bash.type("\x1a")
    bash.expect("Stopped", "$ ")
    assert shop.run("hold", "job", "--", "true").returncode == 0
    assert not alive(pid)
    bash.type("fg; echo code $?\n")
    bash.expect("is lost (expired)", "code 70")


@needs_bash
def test_ended_in_the_background(shop: Shop, bash: Terminal) -> None:
    """A command that stands still there, because it waits for the terminal, hears a signal all the same."""
    bash.type(f"{' '.join(LEASES)} hold job -- cat &\n")
    bash.expect("waits for the terminal")
    bash.type("kill -TERM $!; wait $!; echo code $?\n")
    bash.expect("code 143")
    assert shop.slot().claim is None


@needs_bash
def test_brought_to_the_foreground(shop: Shop, bash: Terminal) -> None:
    """Begun in the background it leaves the terminal alone; `fg` gives it to the command."""
    bash.type(f"{' '.join(LEASES)} hold job -- cat &\n")
    until(lambda: shop.holder() is not None)
    bash.expect("waits for the terminal")
    bash.type("echo shell still reads\n")
    bash.expect("shell still reads", "shell still reads", "$ ")
    bash.type("fg\n")
    bash.expect("hold job")
    bash.type("words\n")
    bash.expect("words", "words")
    bash.type("\x03")
    bash.expect("^C", "$ ")
    bash.type("echo code $?\n")
    bash.expect("code 130")
