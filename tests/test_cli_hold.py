"""`leases hold`: what the command gets, what its end means, and what is left when it is over."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from leases_command import LEASES, Shop, until
from stores import every_shared_store, every_shared_store_once

PRINT_ENVIRONMENT = "import os, json; print(json.dumps(dict(os.environ)))"


# ---- what the command gets -----------------------------------------------------------------------


def test_stdin_is_passed_on(shop: Shop) -> None:
    """The command reads what `leases` was given to read."""
    assert shop.run("hold", "job", "--", "cat", input="line\n").stdout == "line\n"


def test_no_stdin(shop: Shop) -> None:
    """With --no-stdin the command reads nothing."""
    done = shop.run("hold", "job", "--no-stdin", "--", "cat", input="line\n")
    assert (done.returncode, done.stdout) == (0, "")


def test_environment(shop: Shop) -> None:
    """The command finds the lease in its environment, in the place of what was inherited."""
    words = ("--holder", "me", "--backend", "sqlite:leases.db", "--", sys.executable, "-c", PRINT_ENVIRONMENT)
    outer = {"LEASES_NAME": "a", "LEASES_TOKEN": "7", "LEASES_HOLDER": "b", "LEASES_URL": "c:", "OTHER": "é"}
    done = shop.run("hold", "job", *words, env=outer)
    found = json.loads(done.stdout)
    assert (found["LEASES_NAME"], found["LEASES_HOLDER"], found["OTHER"]) == ("job", "me", "é")
    assert found["LEASES_URL"] == shop.url
    assert int(found["LEASES_TOKEN"]) == 1


def test_the_command_reaches_the_store_from_another_folder(shop: Shop) -> None:
    """Whatever the file is called, LEASES_URL is that of the file that the lock is in."""
    line = f'cd / && exec {shlex.join(LEASES)} validate job --holder me --token "$LEASES_TOKEN"'
    done = shop.run("hold", "job", "--holder", "me", "--backend", "sqlite:a%2520b.db", "-c", line)
    assert (done.returncode, done.stderr) == (0, "")
    assert (shop.folder / "a%20b.db").exists()


@every_shared_store
def test_tokens_grow(shop: Shop) -> None:
    """Every hold has a larger token than the one before."""
    tokens = [int(shop.run("hold", "job", "-c", "echo $LEASES_TOKEN").stdout) for _ in range(3)]
    assert tokens == sorted(set(tokens))


def test_arguments_are_no_shell(shop: Shop) -> None:
    """What follows `--` reaches the command word by word, options and all."""
    done = shop.run("hold", "job", "--", "echo", "$HOME", "*", "-n", "--", "a  b")
    assert done.stdout == "$HOME * -n -- a  b\n"


@pytest.mark.parametrize(
    "words", [("-c", "echo $((1 + 1)); exit 4"), ("--shell", "--", "echo $((1 + 1));", "exit", "4")]
)
def test_shell(shop: Shop, words: tuple[str, ...]) -> None:
    """-c and --shell give a line to the shell."""
    done = shop.run("hold", "job", *words)
    assert (done.returncode, done.stdout) == (4, "2\n")


def test_script_without_a_first_line(shop: Shop) -> None:
    """An executable that the kernel does not know is given to the shell, as execvp does."""
    script = shop.folder / "script"
    script.write_text('echo "script $1"\n')
    script.chmod(0o755)
    assert shop.run("hold", "job", "--", "./script", "one").stdout == "script one\n"


def test_own_process_group(shop: Shop) -> None:
    """The command leads a process group of its own, and no signal is ignored or blocked in it."""
    program = (
        "import os, signal; print(os.getpgrp() == os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, ()),"
        "[n for n in open('/proc/self/status') if n.startswith(('SigIgn', 'SigBlk'))])"
    )
    plain = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, start_new_session=True
    )
    assert shop.run("hold", "job", "--", sys.executable, "-c", program).stdout == plain.stdout


def test_inherited_descriptors_and_nothing_of_ours(shop: Shop) -> None:
    """The command has the descriptors that the caller passed down, and none of ours."""
    read, write = os.pipe()
    program = "import os; print(sorted(set(map(int, os.listdir('/proc/self/fd'))) - {0, 1, 2}))"
    done = shop.run("hold", "job", "--", sys.executable, "-c", program, pass_fds=(write,))
    os.close(read)
    os.close(write)
    descriptors = json.loads(done.stdout)
    assert write in descriptors and len(descriptors) == 2  # the other is the listing's own


# ---- how it ends ---------------------------------------------------------------------------------


@every_shared_store_once("code", [0, 1, 75, 255])
def test_the_commands_own_code(shop: Shop, code: int) -> None:
    """The command's exit code is passed on, and nothing is said."""
    done = shop.run("hold", "job", "-c", f"exit {code}")
    assert (done.returncode, done.stderr) == (code, "")
    assert not shop.slot().held


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_killed_by_a_signal(shop: Shop, number: int) -> None:
    """A command that signal N ended gives 128 + N."""
    assert shop.run("hold", "job", "-c", f"kill -{int(number)} $$").returncode == 128 + number
    assert not shop.slot().held


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [("no-such-command", 127, "not found in $PATH"), ("./missing", 127, "not found"),
     ("./plain", 126, "not executable"), (".", 126, "not executable"),
     ("./broken", 127, "cannot be run"), ("", 127, "empty")],
)  # fmt: skip
def test_cannot_run(shop: Shop, command: str, code: int, words: str) -> None:
    """A command that cannot be run is 126 or 127, as in a shell, with one line; the lock is not left held."""
    (shop.folder / "plain").write_text("text")
    (shop.folder / "broken").write_text("#!/no/such/interpreter\n")
    (shop.folder / "broken").chmod(0o755)
    done = shop.run("hold", "job", "--", command)
    assert done.returncode == code
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not shop.slot().held


def test_not_found_takes_no_lock(shop: Shop) -> None:
    """A command that does not exist is refused before the store is asked."""
    assert shop.run("hold", "job", "--", "no-such-command").returncode == 127
    assert not shop.path.exists()


# ---- held by another -----------------------------------------------------------------------------


@pytest.fixture
def taken(shop: Shop) -> Iterator[Shop]:
    holder = shop.hold("--holder", "web-3", "--", "sleep", "60")
    yield shop
    holder.terminate()
    holder.wait()
    assert not shop.slot().held


@pytest.mark.parametrize(
    ("words", "code"),
    [(("-n",), 75), (("-w", "0"), 75), (("--timeout", "100ms"), 75), (("-n", "-E", "1"), 1),
     (("-w", "0.1", "--conflict-exit-code", "9"), 9), (("--skip",), 0), (("-w", "0.1", "--skip"), 0),
     (("-n", "--skip", "-E", "3"), 0)],
)  # fmt: skip
def test_conflict(taken: Shop, words: tuple[str, ...], code: int) -> None:
    """Held by another for all of the time allowed: the code asked for, and the command does not run."""
    done = taken.run("hold", "job", *words, "--", "touch", "ran")
    assert done.returncode == code
    assert not (taken.folder / "ran").exists()
    if "--skip" in words:
        assert done.stderr == ""
    else:
        assert done.stderr.startswith('leases: lock "job" is held by web-3 for up to another ')
        assert done.stderr.count("\n") == 1 and "-w" in done.stderr


@every_shared_store
def test_waits_for_its_turn(shop: Shop) -> None:
    """Without -n it waits, and runs when the holder before it is gone."""
    first = shop.hold("--", "sleep", "60")
    second = shop.start("hold", "job", "--verbose", "--", "echo", "second")
    first.terminate()
    out, err = second.communicate(timeout=30)
    assert (second.returncode, out) == (0, "second\n")
    assert 'acquired "job"' in err and 'released "job"' in err


@pytest.mark.waits
def test_verbose_says_once_for_whom_it_waits(shop: Shop) -> None:
    """In a pipe --verbose has a line for every change, and nothing that only a terminal understands."""
    first = shop.hold("--holder", "web-3", "-c", "sleep 60")
    second = shop.start("hold", "job", "--verbose", "-w", "2.5", "--", "true")
    _, err = second.communicate(timeout=30)
    assert err.count('waiting for "job", held by web-3 for ') == 1
    assert "\r" not in err and "\x1b" not in err
    first.terminate()
    first.wait()


@every_shared_store
def test_others_may_hold_other_names(taken: Shop) -> None:
    """A lock keeps nobody from another name."""
    assert taken.run("hold", "other", "-n", "--", "true").returncode == 0


# ---- without a command ---------------------------------------------------------------------------


@every_shared_store_once("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_without_a_command(shop: Shop, number: int) -> None:
    """The lease is printed as one line of JSON, held until a signal, and released: success."""
    process = shop.start("hold", "job", "--holder", "me", "--ttl", "3", "--meta", "build=17")
    assert process.stdout is not None
    lease = json.loads(process.stdout.readline())
    assert (lease["name"], lease["holder"], lease["ttl"]) == ("job", "me", 3.0)
    assert (lease["url"], lease["metadata"]) == (shop.backend.identity, {"build": "17"})
    assert lease["token"] == shop.slot().token and shop.holder() == "me"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not shop.slot().held


@every_shared_store
def test_without_a_command_and_lost(shop: Shop) -> None:
    """A lease that is lost ends it, with the code for that."""
    process = shop.start("hold", "job", "--lost-exit-code", "7")
    assert process.stdout is not None and process.stdout.readline()
    shop.supersede(ttl=30)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 7
    assert "is lost (superseded)" in err


def test_nobody_reads_the_lease(shop: Shop) -> None:
    """If stdout is a pipe that nobody reads, it ends as by SIGPIPE, and releases."""
    read, write = os.pipe()
    os.close(read)
    done = shop.run("hold", "job", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
    assert not shop.slot().held


@pytest.mark.parametrize("words", [("--", "touch", "ran"), ("--ttl", "1")])
def test_closed_descriptors(shop: Shop, words: tuple[str, ...]) -> None:
    """It does its work although the caller has closed stdin, stdout and stderr."""
    shell = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *LEASES)
    process = shop.start("hold", "job", *words, program=shell)
    if "ran" in words:
        assert process.wait(30) == 0 and (shop.folder / "ran").exists()
    else:
        until(lambda: shop.holder() is not None)
        process.terminate()
        assert process.wait(30) in (0, 143)  # It may not know yet that it holds.
    assert not shop.slot().held


# ---- as JSON -------------------------------------------------------------------------------------


@every_shared_store
def test_json_of_a_run(shop: Shop) -> None:
    """With --json every line on stderr is an object, and the last one has the exit code."""
    done = shop.run("hold", "job", "--json", "-c", "echo out; exit 3")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["acquired", "ended", "released", "exit"]
    assert all(event["message"] for event in events)
    assert events[0]["token"] > 0 and events[1]["code"] == events[-1]["code"] == 3 == done.returncode
    assert done.stdout == "out\n"


@every_shared_store
def test_json_of_a_conflict(taken: Shop) -> None:
    """A conflict names the holder and how long its record lasts."""
    done = taken.run("hold", "job", "--json", "-n", "--", "true")
    *_, conflict, end = (json.loads(line) for line in done.stderr.splitlines())  # A slow store is waited for.
    assert (conflict["event"], conflict["holder"]) == ("conflict", "web-3")
    assert 0 < conflict["remaining"] <= 15
    assert (end["event"], end["code"]) == ("exit", 75)


def test_json_of_an_error(shop: Shop) -> None:
    """An error is an object too."""
    done = shop.run("hold", "job", "--json", "--", "no-such-command")
    error, end = (json.loads(line) for line in done.stderr.splitlines())
    assert error["event"] == "error" and "no-such-command" in error["message"]
    assert end["code"] == 127 == done.returncode


@every_shared_store
def test_metadata_and_holder_are_shown(shop: Shop) -> None:
    """--holder and --meta are what others see."""
    process = shop.hold("--holder", "me", "--meta", "a=1", "--meta", "b=x=y", "--", "sleep", "60")
    claim = shop.slot().claim
    assert claim is not None and claim.holder == "me" and dict(claim.metadata) == {"a": "1", "b": "x=y"}
    process.terminate()
    process.wait()


# ---- what a command leaves running ---------------------------------------------------------------


@every_shared_store
def test_what_is_left_running_ends_before_the_release(shop: Shop) -> None:
    """Processes that the command leaves in its group are ended; until then the lock is held."""
    process = shop.beat("forking", "leaving", ttl=60)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (5, "", "")
    assert not shop.slot().held
    last = shop.beats()[-1]
    until(lambda: not os.path.exists(f"/proc/{last[0]}"))
    assert shop.beats()[-1] == last


def test_what_ends_by_itself_is_let_end(shop: Shop) -> None:
    """What is about to end when the command does, as the end of a pipe, is not cut off."""
    done = shop.run("hold", "job", "-c", "(sleep 0.05; echo last words) & exit 0")
    assert (done.returncode, done.stdout) == (0, "last words\n")
