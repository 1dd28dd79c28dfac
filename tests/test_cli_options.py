"""`leases hold` with a number of slots, with a lock that is kept on, and with a last word."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from argparse import SUPPRESS
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leases.cli import hold, waiting
from leases.cli.options import Parser
from leases.cli.search import Want
from leases.cli.waiting import Attempt
from leases.hub import Hub
from leases.registry import open_backend
from leases.terms import Terms
from leases.testing.clock import ManualClock
from leases_command import Shop, until
from stores import every_shared_store
from stubborn import Stubborn, fresh_url


def end(*processes: subprocess.Popen[str]) -> None:
    """End commands, and wait for them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(30)


# ---- slots ---------------------------------------------------------------------------------------


def fill(shop: Shop, slots: int) -> list[subprocess.Popen[str]]:
    """Hold every slot of `job`."""
    words = ("hold", "job", "--slots", str(slots))
    holders = [shop.start(*words, "--holder", f"web-{n}", "--", "sleep", "60") for n in range(slots)]
    until(lambda: all(shop.holder(f"job/slot-{slot}") for slot in range(slots)))
    return holders


def test_so_many_hold_and_no_more(shop: Shop) -> None:
    """With --slots 2 two run at a time; who comes third is told who they are, and gets what is freed."""
    holders = fill(shop, 2)
    assert {shop.holder(f"job/slot-{slot}") for slot in range(2)} == {"web-0", "web-1"}
    done = shop.run("hold", "job", "--slots", "2", "-n", "--", "touch", "ran")
    assert done.returncode == 75 and not (shop.folder / "ran").exists()
    assert done.stderr.startswith(
        'leases: all slots of "job" (2) are held, by web-0, web-1 for up to another '
    )
    waiter = shop.start("hold", "job", "--slots", "2", "-c", "echo $LEASES_NAME $LEASES_SLOT")
    freed = next(slot for slot in range(2) if shop.holder(f"job/slot-{slot}") == "web-0")
    end(holders[0])
    out, _ = waiter.communicate(timeout=30)
    assert (waiter.returncode, out) == (0, f"job/slot-{freed} {freed}\n")
    end(holders[1])


def test_the_name_of_a_slot_is_a_locks_name(shop: Shop) -> None:
    """What a command finds of its slot in the environment is what other commands of `leases` understand."""
    leases = f"{sys.executable} -m leases"
    proof = "$LEASES_NAME --holder $LEASES_HOLDER --token $LEASES_TOKEN"
    line = f"echo $LEASES_NAME $LEASES_SLOT; {leases} status $LEASES_NAME --json; {leases} validate {proof}"
    done = shop.run("hold", "job", "--slots", "3", "-c", line)
    first, status = done.stdout.splitlines()[:2]
    name, slot = first.split()
    assert done.returncode == 0 and name == f"job/slot-{slot}" and slot in "012"
    assert json.loads(status)["name"] == name and json.loads(status)["metadata"] == {"leases.slots": "3"}


@pytest.mark.parametrize(("words", "code"), [(("-n",), 75), (("-w", "1.5"), 75), (("--skip",), 0)])
def test_all_slots_are_held(shop: Shop, words: tuple[str, ...], code: int) -> None:
    """With slots a conflict is told as for a lock, once, and --json names the holders."""
    holders = fill(shop, 2)
    done = shop.run("hold", "job", "--slots", "2", *words, "--json", "--", "true")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "waiting"]
    assert (done.returncode, kinds) == (code, ["conflict", "exit"])
    assert events[-2]["holder"] == "web-0, web-1" and 0 < events[-2]["remaining"] <= 15
    if "-w" in words:
        assert [event for event in events if event["event"] == "waiting"][-1]["holders"] == ["web-0", "web-1"]
    end(*holders)


def test_another_number_of_slots(shop: Shop) -> None:
    """Who meets a holder that states another number is refused, with the reason."""
    (holder,) = fill(shop, 1)
    words = ("hold", "job", "--slots", "2", "-n", "--", "true")
    runs = (
        shop.run(*words) for _ in range(50)
    )  # It may meet the slot first that the other does not know of.
    done = next(run for run in runs if run.returncode != 0)
    assert done.returncode == 64 and "state the same number everywhere" in done.stderr
    assert done.stderr.count("\n") == 1
    end(holder)


def test_a_signal_while_it_waits_for_a_slot(shop: Shop) -> None:
    """A command that is ended while it waits for a slot leaves nothing behind."""
    (holder,) = fill(shop, 1)
    token = shop.slot("job/slot-0").token
    waiter = shop.start("hold", "job", "--slots", "1", "--verbose", "--", "touch", "ran")
    assert waiter.stderr is not None
    line = waiter.stderr.readline()
    assert line == 'leases: waiting for one of 1 slots of "job", held by web-0\n'
    waiter.send_signal(signal.SIGTERM)
    assert waiter.wait(30) == 128 + signal.SIGTERM
    assert shop.slot("job/slot-0").token == token and not (shop.folder / "ran").exists()
    end(holder)


def test_a_lock_inside_of_a_slot(shop: Shop) -> None:
    """A command under a lock does not take the slot of an outer hold for its own."""
    inner = f"{sys.executable} -m leases hold inner -c 'echo $LEASES_NAME [$LEASES_SLOT]'"
    done = shop.run("hold", "job", "--slots", "1", "-c", inner)
    assert done.stdout == "inner []\n"
    assert shop.run("hold", "job", "-c", "echo [${LEASES_SLOT-unset}]").stdout == "[unset]\n"


# ---- a lock that is kept on ----------------------------------------------------------------------


@pytest.mark.waits
@every_shared_store
def test_kept_although_the_command_has_ended(shop: Shop) -> None:
    """With --at-least-for the lock stays held when `leases` has exited, and is free when the time is over."""
    began = time.time()
    done = shop.run("hold", "job", "--at-least-for", "1.5", "--verbose", "--", "true")
    claim = shop.slot().claim
    assert done.returncode == 0 and 'leases: kept "job" for another ' in done.stderr
    assert claim is not None and claim.held and claim.ttl <= 1.5
    assert shop.run("hold", "job", "-w", "20", "--", "true").returncode == 0
    assert time.time() >= began + 1.5


def test_kept_for_what_the_store_can_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the time is rounded up to the shortest ttl of the store."""
    clock, url = ManualClock(), fresh_url("etcd")
    hub = Hub(open_backend(url), url, clock=clock)
    monkeypatch.setattr(waiting, "shared_hub", lambda url, use: hub)
    want = Want(url, "job", "me", Terms(), {}, 0.0, None, at_least=5.0)
    attempt = Attempt(want, SimpleNamespace(wake=lambda: None))  # type: ignore[arg-type]
    attempt.run()
    holding = attempt.holding()
    assert holding is not None and hub.backend.traits.least_ttl == 1.0
    owed = [holding.owed] + [clock.advance(step) and holding.owed for step in (3.5, 1.0, 0.49, 0.01)]
    assert owed == pytest.approx([5.0, 1.5, 1.0, 1.0, 0.0])
    hub.close()


@pytest.mark.parametrize(("line", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_kept_however_it_ended(shop: Shop, line: str, code: int) -> None:
    """The lock is kept after a failure too, and after a signal."""
    assert shop.run("hold", "job", "--at-least-for", "1h", "-c", line).returncode == code
    claim = shop.slot().claim
    assert claim is not None and claim.held and 3500 < claim.ttl <= 3600


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--", "sh", "-c", "echo; exec sleep 60"), 143)])
def test_kept_after_a_signal(shop: Shop, words: tuple[str, ...], code: int) -> None:
    """A signal that ends the holding, or the command, leaves the lock kept."""
    process = shop.start("hold", "job", "--at-least-for", "1h", *words)
    assert process.stdout is not None and process.stdout.readline()
    process.terminate()
    assert process.wait(30) == code
    assert shop.holder() is not None


def test_not_kept_if_the_command_was_long_enough(shop: Shop) -> None:
    """A command that runs for longer leaves a free lock."""
    done = shop.run("hold", "job", "--at-least-for", "0.2", "--verbose", "-c", "sleep 0.3")
    assert 'released "job"' in done.stderr and shop.holder() is None


def test_not_kept_for_nothing(shop: Shop) -> None:
    """If the command could not be run nothing was done, and another host may have a try."""
    (shop.folder / "broken").write_text("#!/no/such/interpreter\n")
    (shop.folder / "broken").chmod(0o755)
    assert shop.run("hold", "job", "--at-least-for", "1h", "--", "./broken").returncode == 127
    assert shop.holder() is None


@pytest.mark.waits
def test_not_kept_after_a_loss(shop: Shop) -> None:
    """A lock that is another's by now is left to that one."""
    process = shop.hold("--ttl", "1", "--at-least-for", "1h", "--", "sleep", "60")
    shop.supersede(ttl=30)
    assert process.wait(30) == 70 and shop.holder() == "usurper"


def test_kept_for_longer_than_it_may_run(shop: Shop) -> None:
    """--at-most-for bounds the command and --at-least-for the lock, so the second may be the longer."""
    words = ("--at-most-for", "0.2", "--at-least-for", "1h", "--", "sleep", "60")
    assert shop.run("hold", "job", *words).returncode == 124
    assert shop.holder() is not None


@pytest.mark.waits
def test_kept_without_an_answer(shop: Shop) -> None:
    """If the store does not confirm that the lock is kept, that is said: it may be free too early."""
    line = f"touch up; until [ -e {shop.folder}/go ]; do sleep 0.02; done"
    process = shop.start("hold", "job", "--ttl", "3", "--at-least-for", "1h", "-c", line)
    until((shop.folder / "up").exists)
    with shop.frozen():
        (shop.folder / "go").touch()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err.startswith('leases: the store did not confirm that "job" is kept for another 59 min ')


@pytest.mark.parametrize("lost", [False, True])
def test_kept_though_the_store_was_silent(monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """A store that is silent for a moment is asked again; what has gone meanwhile is not kept."""
    url, want = fresh_url("etcd"), Want("memory:", "job", "me", Terms(2.0), {}, 0.0, None, at_least=60.0)
    backend, other = Stubborn(inner=open_backend(url)), open_backend(url)
    monkeypatch.setattr(waiting, "shared_hub", lambda url, use: Hub(backend))
    attempt = Attempt(want, SimpleNamespace(wake=lambda: None))  # type: ignore[arg-type]
    attempt.run()
    holding = attempt.holding()
    assert holding is not None
    backend.down = True
    if lost:
        other.swap(other.read("job", 1.0), None, 1.0)
    threading.Timer(0.7, setattr, (backend, "down", False)).start()  # An attempt takes half of that.
    assert holding.release(20.0, keep=60.0) is not lost
    claim = other.read("job", 1.0).claim
    assert claim is None if lost else claim is not None and claim.held and claim.ttl == 60.0
    other.close()


def test_a_lock_that_was_broken_is_not_called_released(shop: Shop) -> None:
    """Whoever follows the events would take it for free."""
    line = f"{sys.executable} -m leases break job --if-token $LEASES_TOKEN > /dev/null 2>&1; sleep 60"
    words = ("--ttl", "3", "--json", "-c", line)
    done = shop.run("hold", "job", *words)
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert done.returncode == 70 and "lost" in events and "released" not in events


# ---- a last word ---------------------------------------------------------------------------------


def last_word(shop: Shop, *words: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Run `leases hold` to its end; its exit code, and the one line that it wrote."""
    read, write = os.pipe()
    done = shop.run("hold", *words[:1], "--status-fd", str(write), *words[1:], pass_fds=(write,), **options)
    os.close(write)
    with open(read, encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert len(lines) == 1, done.stderr
    return done.returncode, json.loads(lines[0])


@pytest.mark.parametrize(
    ("line", "code", "command"),
    [("exit 0", 0, {"code": 0, "signal": None}), ("exit 75", 75, {"code": 75, "signal": None}),
     ("kill -9 $$", 137, {"code": 137, "signal": 9})],
)  # fmt: skip
def test_the_last_word_of_a_run(shop: Shop, line: str, code: int, command: dict[str, Any]) -> None:
    """It tells what the command ended with, and under which lease; its 75 is no conflict."""
    status, word = last_word(shop, "job", "--holder", "me", "-c", f"sleep 0.1; {line}")
    held = word.pop("held")
    assert status == code and 0.1 <= held < 30
    assert word == {
        "outcome": "done", "code": code, "name": "job", "slot": None, "holder": "me", "token": 1,
        "released": True, "command": command,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "outcome"),
    [(("job", "--at-least-for", "1h", "--", "true"), 0, "done"),
     (("job", "--slots", "1", "--", "true"), 0, "done"),
     (("job", "--at-most-for", "0.1", "--", "sleep", "60"), 124, "overtime"),
     (("job", "--", "no-such-command"), 127, "unrunnable"),
     (("job", "--", "./broken"), 127, "unrunnable"),
     (("taken", "-n", "--", "true"), 75, "conflict"),
     (("taken", "--skip", "--", "true"), 0, "conflict"),
     (("job", "--ttl", "0", "--", "true"), 64, "usage"),
     (("job", "--shell"), 64, "usage"),
     (("job", "-c", "true", "--", "true"), 64, "usage"),
     (("job", "--backend", "sqlite:text", "--", "true"), 77, "refused"),
     (("job", "--backend", "consul://127.0.0.1:1", "-w", "0.2", "--", "true"), 69, "unavailable")],
    ids=lambda value: "-".join(value[:-2])[:30] if isinstance(value, tuple) else str(value),
)  # fmt: skip
def test_the_last_word_of_every_end(shop: Shop, words: tuple[str, ...], code: int, outcome: str) -> None:
    """Each way to end has a word of its own, with our exit code."""
    (shop.folder / "text").write_text(500 * "This is not a database.\n")
    (shop.folder / "broken").write_text("#!/no/such/interpreter\n")
    (shop.folder / "broken").chmod(0o755)
    holder = shop.hold("--holder", "web-3", "--", "sleep", "60", name="taken") if "taken" in words else None
    status, word = last_word(shop, *words)
    assert (status, word["code"], word["outcome"]) == (code, code, outcome)
    if "--at-least-for" in words:
        assert word["released"] is False
    if "--slots" in words:
        assert (word["name"], word["slot"]) == ("job/slot-0", 0)
    if outcome == "conflict":
        assert (word["name"], word["holder"], word["token"]) == ("taken", "web-3", None)
    if holder is not None:
        end(holder)


@pytest.mark.waits
def test_the_last_word_of_a_command_that_was_stopped_in_time(shop: Shop) -> None:
    """If the store gives no answer, the command ends before its lease: for so long it was held."""
    read, write = os.pipe()
    words = ("--ttl", "1.5", "--", "sleep", "60")
    process = shop.start("hold", "job", "--status-fd", str(write), *words, pass_fds=(write,))
    os.close(write)
    until(lambda: shop.holder() is not None)
    with shop.frozen(), open(read, encoding="utf-8") as file:
        word = json.loads(file.read())
    assert process.wait(30) == word["code"] == 70
    assert (word["outcome"], word["released"]) == ("lost", False) and 0 < word["held"] < 30


def test_the_last_word_of_a_loss(shop: Shop) -> None:
    """A loss is told, with what the command ended with, and that nothing was released."""
    read, write = os.pipe()
    words = ("--ttl", "1", "--lost-exit-code", "7", "--", "sleep", "60")
    process = shop.start("hold", "job", "--status-fd", str(write), *words, pass_fds=(write,))
    os.close(write)
    until(lambda: shop.holder() is not None)
    shop.supersede(ttl=30)
    with open(read, encoding="utf-8") as file:
        word = json.loads(file.read())
    assert process.wait(30) == word["code"] == 7
    assert (word["outcome"], word["released"], word["command"]["signal"]) == ("lost", False, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_last_word_while_it_waits(shop: Shop, number: int) -> None:
    """A signal that ends the waiting is told; if `leases` is killed there is no word, and the pipe ends."""
    holder = shop.hold("--", "sleep", "60")
    read, write = os.pipe()
    words = ("hold", "job", "--status-fd", str(write), "--verbose", "--", "true")
    process = shop.start(*words, pass_fds=(write,))
    os.close(write)
    assert process.stderr is not None and "waiting for" in process.stderr.readline()
    process.send_signal(number)
    with open(read, encoding="utf-8") as file:
        text = file.read()
    process.wait(30)
    if number == signal.SIGKILL:
        assert text == ""
    else:
        word = json.loads(text)
        assert (word["outcome"], word["code"], word["command"]) == ("signalled", 143, None)
    end(holder)


@pytest.mark.parametrize(("where", "code"), [("/dev/full", 74), ("a closed pipe", 141)])
def test_the_last_word_of_who_cannot_print_the_lease(shop: Shop, where: str, code: int) -> None:
    """If the lease cannot be printed, the last word and the exit code say the same."""
    read, stdout = (
        os.pipe()
        if where == "a closed pipe"
        else (os.open(os.devnull, os.O_RDONLY), os.open(where, os.O_WRONLY))
    )
    os.close(read)
    status, word = last_word(shop, "job", stdout=stdout)
    os.close(stdout)
    assert (status, word["code"], word["outcome"], word["released"]) == (code, code, "unread", True)


def test_the_last_word_is_not_the_commands_affair(shop: Shop) -> None:
    """The command does not inherit the descriptor, by that number or another, and it keeps the others."""
    read, write = os.pipe()
    other = os.open(os.devnull, os.O_RDONLY)
    words = ("hold", "job", "--status-fd", str(write), "--", "ls", "-l", "/proc/self/fd/")
    done = shop.run(*words, pass_fds=(write, other))
    assert f" {other} -> {os.devnull}\n" in done.stdout
    assert f"[{os.fstat(write).st_ino}]" not in done.stdout
    for descriptor in (read, write, other):
        os.close(descriptor)


def test_the_last_word_on_stdout(shop: Shop) -> None:
    """Where the last word goes to stdout, the command keeps that, and comes first."""
    done = shop.run("hold", "job", "-c", "echo out", "--status-fd", "1")
    first, word = done.stdout.splitlines()
    assert first == "out" and json.loads(word)["outcome"] == "done"


@pytest.mark.parametrize(
    ("number", "how", "advice"),
    [("9", "", "--status-fd 9 is not open; open it, as in --status-fd 3 3>status"),
     ("7", "7<text", "--status-fd 7 is open for reading only; open it with 7> or 7>>"),
     ("99999999", "", "is not open"), ("-1", "", "status-fd"), ("three", "", "write a number such as 3"),
     ("1", "1>&-", "--status-fd 1 is not open")],
)  # fmt: skip
def test_no_last_word_can_be_written(shop: Shop, number: str, how: str, advice: str) -> None:
    """A descriptor that cannot be written to is refused before anything is done."""
    (shop.folder / "text").touch()
    script = f'exec {sys.executable} -m leases "$@" {how}'
    done = shop.run("hold", "job", "--status-fd", number, "--", "true", program=("sh", "-c", script, "sh"))
    assert done.returncode == 64 and advice in done.stderr and done.stderr.count("\n") == 1
    assert not shop.path.exists()


@pytest.mark.waits
def test_nobody_reads_the_last_word(shop: Shop) -> None:
    """A pipe that is full does not keep `leases` from ending, nor does one without a reader."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        os.set_blocking(write, True)
    words = ("hold", "job", "--status-fd", str(write), "-c", "exit 3")
    done = shop.run(*words, pass_fds=(write,))
    assert done.returncode == 3 and f"nobody reads descriptor {write}" in done.stderr
    os.close(read)
    done = shop.run(*words, pass_fds=(write,))
    os.close(write)
    assert (done.returncode, done.stderr) == (3, "")


# ---- what is said --------------------------------------------------------------------------------

MODULES = ("again", "display", "guarding", "hold", "holding", "lastword", "supervisor", "waiting")


def events() -> set[str]:
    """The names of the events that `leases hold` tells, from its source."""
    found: set[str] = set()
    for module in MODULES:
        source = Path(hold.__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="say" | "note" | "_line" | "_stop_for_lease"), args=args
                ):
                    words = [it.value for it in args[:2] if isinstance(it, ast.Constant)]
                    found |= {word for word in words if isinstance(word, str) and word.isidentifier()}
                case ast.Call(func=ast.Name(id="tell"), args=[ast.Constant(value=str(word)), *_]):
                    found.add(word)
                case _:
                    pass
    return found


def test_every_event_is_in_the_help() -> None:
    """The help names each event of --json, and no other."""
    parser = Parser(prog="leases hold")
    hold.add_arguments(parser)
    text = " ".join(parser.format_help().split())
    told = re.search(r"The events are ([a-z, ]+), and at the end always exit", text)
    assert told is not None
    assert {*re.split(r", | and ", told[1]), "exit"} == events()


def test_every_option_is_in_the_readme() -> None:
    """The table of the README names each option."""
    readme = (Path(hold.__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    parser = Parser(prog="leases hold")
    hold.add_arguments(parser)
    rows = "".join(line.split("|")[1] for line in readme.splitlines() if line.startswith("| `-"))
    shown = [action for action in parser._actions if action.help != SUPPRESS]
    options = {name for action in shown for name in action.option_strings} - {"-h", "--help"}
    assert options <= set(re.findall(r"`(--?[a-z-]+|-[A-Z])`", rows))


def test_options_that_were_not_given_load_nothing(shop: Shop) -> None:
    """A plain hold pays for none of these options."""
    words = (sys.executable, "-X", "importtime", "-m", "leases", "hold", "job", "--", "true")
    env = {**os.environ, "LEASES_URL": shop.url}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "leases.cli.search" in loaded
    assert not loaded & {
        "fcntl", "hashlib", "leases.choice", "leases.cli.lastword", "leases.cli.recall", "leases.semaphore",
    }  # fmt: skip
