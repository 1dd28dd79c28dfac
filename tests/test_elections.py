"""The judge of elections sees what is wrong in a journal, and nothing where all is well.

The elections themselves are in `test_faults_elections.py`; without this their silence would prove nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.journals import Blow, Journal, Line, disorder, overlaps

A, B = 1, 2


def line(at: float, pid: int, what: str, token: int | None, **more: Any) -> Line:
    """A line of a journal."""
    return Line(at, "ab"[pid - 1], pid, what, token, more)


def tenure(pid: int, token: int, begins: float, ends: float, *, stood: float | None = None) -> list[Line]:
    """A tenure that ended because its holder was asked to stop."""
    stood = ends if stood is None else stood
    return [
        line(begins, pid, "elected", token),
        line(begins, pid, "in", token, alone=True),
        line(ends, pid, "ending", token, held=True),
        line(ends, pid, "out", token, stood=stood, reason=None),
        line(ends, pid, "lost", token, reason="released"),
    ]


def lost(pid: int, token: int, begins: float, ends: float, *, stood: float) -> list[Line]:
    """One that ended by a loss."""
    lines = tenure(pid, token, begins, ends, stood=stood)
    lines[2] = line(ends, pid, "ending", token, held=False)
    return [*lines[:-1], line(ends, pid, "lost", token, reason="expired")]


GOOD = [*tenure(A, 1, 0.0, 1.0), *lost(B, 3, 1.1, 2.0, stood=1.9), *tenure(A, 4, 2.1, 3.0)]


def test_an_election_in_order_is_nothing_to_complain_of() -> None:
    """One after another, tokens that rise, each end told."""
    assert overlaps(GOOD, []) == disorder(GOOD, []) == []


def test_two_at_work_at_once_are_seen() -> None:
    """By their own instants, even where the kernel saw nothing."""
    found = overlaps([*tenure(A, 1, 0.0, 1.0), *tenure(B, 2, 0.9, 2.0)], [])
    assert len(found) == 1 and "came 0.1" in found[0]


def test_an_overlap_is_seen_over_a_tenure_in_between() -> None:
    """A long stay is compared with all that came after it, not with the next alone."""
    others = [*tenure(B, 2, 1.5, 2.0), *tenure(B, 3, 2.5, 3.0)]
    assert len(overlaps([*tenure(A, 1, 0.0, 5.0), *others], [])) == 2


def test_who_stood_still_is_inside_until_it_saw_its_lease_for_the_last_time() -> None:
    """Before it stood still: that is no overlap. After it: then it is one."""
    others = tenure(B, 2, 2.0, 3.0)
    assert overlaps([*lost(A, 1, 0.0, 5.0, stood=1.0), *others], []) == []
    assert len(overlaps([*lost(A, 1, 0.0, 5.0, stood=4.95), *others], [])) == 1


def test_who_was_killed_is_inside_until_it_was_dead() -> None:
    """And one that was killed while it stood still, until it was stopped."""
    killed = tenure(A, 1, 0.0, 9.0)[:2]
    lines = [*killed, *tenure(B, 2, 3.0, 4.0)]
    assert overlaps(lines, [Blow(A, at=2.0, killed=True)]) == []
    assert len(overlaps(lines, [Blow(A, at=3.5, killed=True)])) == 1
    assert overlaps(lines, [Blow(A, at=2.0), Blow(A, at=3.5, killed=True)]) == []
    assert len(overlaps(lines, [])) == 1, "who was neither is at work still"


def test_a_release_under_running_work_is_seen() -> None:
    """Whoever else enters may come late enough; it is wrong all the same."""
    lines = tenure(A, 1, 0.0, 1.0)
    lines[3] = line(1.0, A, "out", 1, stood=0.5, reason="released")
    assert "released under its work" in overlaps(lines, [])[0]


def test_the_kernels_word_counts() -> None:
    """Whoever did not get the kernel's lock was not alone, unless its owner stood still."""
    after = tenure(B, 2, 2.0, 3.0)
    after[1] = line(2.0, B, "in", 2, alone=False)
    assert overlaps([*lost(A, 1, 0.0, 2.5, stood=1.0), *after], []) == []
    assert "kernel" in overlaps([*tenure(A, 1, 0.0, 1.0), *after], [])[0]


def test_a_token_that_does_not_rise_is_seen() -> None:
    """Between processes, and within one."""
    assert "is not above" in overlaps([*tenure(A, 3, 0.0, 1.0), *tenure(B, 2, 1.5, 2.0)], [])[0]
    assert "not above 3" in disorder([*tenure(A, 3, 0.0, 1.0), *tenure(A, 3, 1.5, 2.0)], [])[0]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (line(1.05, A, "lost", 1, reason="expired"), "or is lost"),
        (line(1.05, B, "jeopardy", 3), "not the last"),
        (line(2.5, A, "lost", 1, reason="expired"), "not the last"),
        (line(2.5, A, "elected", 9), "was not told"),
        (line(2.5, A, "in", 4, alone=True), "beside"),
        (line(3.5, A, "in", 9, alone=True), "without elected"),
        (line(3.5, A, "elected", 9), "without in"),
    ],
    ids=[
        "lost twice",
        "jeopardy before",
        "an old loss",
        "elected twice",
        "two works",
        "no election",
        "no work",
    ],
)
def test_a_callback_out_of_order_is_seen(wrong: Line, what: str) -> None:
    """Each that was told twice, of another lease, of one that is over, or of none."""
    assert what in " ".join(disorder(sorted([*GOOD, wrong], key=lambda line: line.at), []))


def test_a_leader_of_the_past_is_seen() -> None:
    """Nobody is told of a leader with a token below one it was told of; of nobody it may be told always."""
    seen = [line(0.1, A, "leader", 5), line(0.2, A, "leader", None), line(0.3, A, "leader", 6)]
    assert disorder(seen, []) == []
    assert "of the past" in disorder([*seen, line(0.4, A, "leader", 5)], [])[0]


def test_an_end_that_was_not_told_is_seen() -> None:
    """A loss, a release, and work that never ended; who was killed is excused."""
    killed = [Blow(A, at=1.1, killed=True)]
    for lines in (lost(A, 1, 0.0, 1.0, stood=0.9)[:-1], tenure(A, 1, 0.0, 1.0)[:-1]):
        assert "without lost" in " ".join(disorder(lines, [])) and disorder(lines, killed) == []
    endless = tenure(A, 1, 0.0, 1.0)[:2]
    assert "without out" in " ".join(disorder(endless, [])) and disorder(endless, killed) == []


def test_work_may_be_forestalled_by_an_order_or_a_stop_and_by_nothing_else() -> None:
    """Work that is to stop already is not called; an order of an earlier tenure is used up."""
    lines = [line(4.0, A, "elected", 9), line(4.1, A, "lost", 9, reason="released")]
    for order in ("stop", "resign", "transfer"):
        assert disorder([*GOOD, line(3.9, A, "told", None, order=order), *lines], []) == []
    assert disorder([*GOOD, *lines], [Blow(A, at=4.05, until=4.08)]) == []
    for innocent in ("look", "begin"):
        assert "without in" in disorder([*GOOD, line(3.9, A, "told", None, order=innocent), *lines], [])[0]
    used = sorted([*GOOD, line(2.9, A, "told", None, order="resign")], key=lambda line: line.at)
    assert "without in" in disorder([*used, *lines], [])[0]
    assert "without in" in disorder([*GOOD, line(3.9, B, "told", None, order="stop"), *lines], [])[0]
    assert "without in" in disorder([*GOOD, *lines], [Blow(B, at=4.05, until=4.08)])[0]


def test_a_loss_that_is_told_as_a_release_is_seen() -> None:
    """The work saw that its lease did not stand any more."""
    lines = [*lost(A, 1, 0.0, 1.0, stood=0.9)[:-1], line(1.0, A, "lost", 1, reason="released")]
    assert "the loss that ended it" in disorder(lines, [])[0]


def test_a_journal_is_read_as_it_grows(tmp_path: Path) -> None:
    """What was read is read once, and what comes is read next time."""
    journal = Journal(tmp_path / "journal")
    assert journal.news() == []
    text = '{"at": 1.0, "who": "a", "pid": 1, "what": "in", "token": 1, "alone": true}\n'
    for count in (1, 2):
        with journal.file.open("a") as file:
            file.write(text)
        assert len(journal.news()) == count
    assert journal.lines[1] == line(1.0, A, "in", 1, alone=True)
