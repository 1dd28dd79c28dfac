"""The conformance suite: what every store must do, and a backend's author can have checked.

Subclass `BackendSuite` in a test file, say how to connect, and run pytest:

    import pytest
    from leases.testing.suite import BackendSuite
    from mystore import connect

    class TestMyStore(BackendSuite):
        @pytest.fixture
        def connect(self):
            return lambda: connect("mystore://localhost/suite")

Each call of `connect` is to give another connection to the same store. Names are random, so the store need
not be empty. The tests name what a store must be able to do; none knows which store it is. For assertions
that show their values, put `pytest.register_assert_rewrite("leases.testing.suite")` before the import.

Needs pytest; nothing else in `leases` does.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace
from typing import Final

import pytest

from leases.contract import Applied, Backend, Slot, Unknown, absent, names
from leases.errors import RecordRefused, StoreUnavailable
from leases.record import decode
from leases.testing._probes import (
    TIMEOUT,
    Hints,
    a_claim,
    applied,
    awaited,
    claims_of_all_sorts,
    conflicted,
    in_child,
    long_name,
    number,
    put,
)
from leases.testing.guarded import GuardedKeys

NASTY: Final = (
    "plain",
    "a/b",
    "a/b/c",
    "a//b",
    "/a",
    "a/",
    ".",
    "..",
    "../a",
    "a/../b",
    "a.b",
    "%2F",
    "a%2Fb",
    "%",
    "%%",
    "_",
    "*",
    "?",
    "a b",
    " a",
    "a ",
    "a+b",
    "a&b=c#d",
    "a:b",
    "a\\b",
    'a"b',
    "a'b",
    "a;--",
    "-a",
    "~a",
    "A",
    "a",
    "Straße",
    "STRASSE",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "ﬁ",
    "fi",
    "🦊",
    "名前",
    "اسم",
    "0",
    "00",
)


class BackendSuite(GuardedKeys):
    """What every backend must pass.

    Attributes:
        shared: another process that connects reaches the same records.
    """

    shared = True

    @pytest.fixture
    def connect(self) -> Callable[[], Backend]:
        """Override: what makes one more connection to the store under test."""
        raise NotImplementedError("override the fixture `connect`")

    @pytest.fixture
    def write_foreign(self) -> Callable[[str, bytes], None] | None:
        """Override: what writes any bytes under a name, past the backend, as another program could."""
        return None

    @pytest.fixture
    def cut_off(self) -> Callable[[], AbstractContextManager[object]] | None:
        """Override: what keeps the store from answering any swap as long as its context lasts."""
        return None

    @pytest.fixture
    def secret(self) -> str | None:
        """Override: the password in the URL that `connect` uses."""
        return None

    @pytest.fixture
    def backend(self, connect: Callable[[], Backend]) -> Iterator[Backend]:
        with closing(connect()) as backend:
            yield backend

    @pytest.fixture
    def other(self, connect: Callable[[], Backend]) -> Iterator[Backend]:
        """A second connection to the same store."""
        with closing(connect()) as backend:
            yield backend

    @pytest.fixture
    def name(self) -> str:
        return f"suite-{secrets.token_hex(6)}"

    # What stands under a name.

    def test_a_name_that_was_never_written_is_absent(self, backend: Backend, name: str) -> None:
        """It reads as a slot without version, claim or bytes, not as an error."""
        slot = backend.read(name, TIMEOUT)
        assert (slot.name, slot.version, slot.claim, slot.body) == (name, None, None, b"")
        assert not slot.held and slot.token is None

    def test_a_claim_is_created_where_nothing_stands(
        self, backend: Backend, other: Backend, name: str
    ) -> None:
        """The slot that the swap answers with is what everybody reads then."""
        claim = a_claim(backend, absent(name))
        slot = applied(backend.swap(absent(name), claim, TIMEOUT))
        assert slot.claim == claim and slot.version is not None
        assert backend.read(name, TIMEOUT) == awaited(other, name, slot.version) == slot

    def test_reading_changes_nothing(self, backend: Backend, name: str) -> None:
        """Two reads with nothing between them show the same version and the same bytes."""
        slot = put(backend, absent(name))
        reads = [backend.read(name, TIMEOUT) for _ in range(3)]
        assert [(read.version, read.body) for read in reads] == [(slot.version, slot.body)] * 3

    def test_a_record_comes_back_as_it_was_written(self, backend: Backend, name: str) -> None:
        """Every field, of every kind of text; the bytes that are shown decode to the claim that is shown."""
        slot = absent(name)
        for claim in claims_of_all_sorts(backend):
            slot = applied(backend.swap(slot, claim, TIMEOUT))
            read = backend.read(name, TIMEOUT)
            assert slot.claim == read.claim == claim
            assert decode(name, read.body) == claim and read.body == slot.body

    # Compare and swap.

    def test_a_second_create_conflicts(self, backend: Backend, other: Backend, name: str) -> None:
        """Who comes second changes nothing, and may be told what stands there."""
        slot = put(backend, absent(name))
        conflicted(other.swap(absent(name), a_claim(other, slot), TIMEOUT), slot)
        assert backend.read(name, TIMEOUT) == slot

    def test_the_version_that_stands_there_can_be_swapped(self, backend: Backend, name: str) -> None:
        """From one slot to the next, by any claim: the store does not care whose it is."""
        first = put(backend, absent(name))
        second = put(backend, first)
        assert second.version != first.version and backend.read(name, TIMEOUT) == second

    def test_a_slot_that_was_read_can_be_swapped(self, backend: Backend, other: Backend, name: str) -> None:
        """A version read over another connection is as good as the one that a swap answered with."""
        first = put(backend, absent(name))
        slot = put(other, awaited(other, name, first.version))
        assert awaited(backend, name, slot.version) == slot

    def test_a_version_that_is_gone_is_never_swapped_or_freed(self, backend: Backend, name: str) -> None:
        """However the record came to another version: renewed, freed, or freed and claimed again."""
        stale = [absent(name), put(backend, absent(name))]
        stale.append(put(backend, stale[-1]))
        free = applied(backend.swap(stale[-1], None, TIMEOUT))
        stale.append(put(backend, free))
        if free.version is not None:
            stale.append(free)
        now = put(backend, stale.pop(3))
        for seen in stale:
            conflicted(backend.swap(seen, a_claim(backend, now), TIMEOUT), now)
            conflicted(backend.swap(seen, None, TIMEOUT), now)
        assert backend.read(name, TIMEOUT) == now

    def test_versions_are_not_used_again(self, backend: Backend, name: str) -> None:
        """Over renewals, releases and new claims on one name, each write has a version of its own."""
        versions, slot = [], absent(name)
        for _ in range(5):
            for _ in range(3):
                slot = put(backend, slot)
                versions.append(slot.version)
            slot = applied(backend.swap(slot, None, TIMEOUT))
            versions += [slot.version] if slot.version is not None else []
        assert len(set(versions)) == len(versions)

    def test_another_beat_is_another_version(self, backend: Backend, name: str) -> None:
        """A renewal that changes nothing but the beat is seen by everybody who watches the version."""
        slot = put(backend, absent(name))
        assert slot.claim is not None
        renewed = applied(backend.swap(slot, replace(slot.claim, beat=secrets.token_hex(8)), TIMEOUT))
        assert renewed.version != slot.version and backend.read(name, TIMEOUT) == renewed

    def test_a_write_to_one_name_is_none_to_another(self, backend: Backend, name: str) -> None:
        """Whatever numbers the writes, the version of a record that was left alone stays."""
        slot = put(backend, absent(name))
        put(backend, absent(f"{name}-2"))
        assert backend.read(name, TIMEOUT) == slot

    def test_of_all_who_swap_one_version_one_gets_it(
        self, connect: Callable[[], Backend], backend: Backend, name: str
    ) -> None:
        """Threads on several connections race; every version is followed by exactly one other."""
        won: list[tuple[Slot, Slot]] = []
        errors: list[BaseException] = []
        start = threading.Barrier(6)

        def race(mine: Backend) -> None:
            try:
                start.wait()
                for _ in range(25):
                    seen = mine.read(name, TIMEOUT)
                    free = seen.held and secrets.randbelow(4) == 0
                    outcome = mine.swap(seen, None if free else a_claim(mine, seen), TIMEOUT)
                    if isinstance(outcome, Applied):
                        won.append((seen, outcome.slot))
            except BaseException as error:
                errors.append(error)
                raise

        others = [connect() for _ in range(2)]
        threads = [threading.Thread(target=race, args=(mine,)) for mine in [backend, *others] * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for mine in others:
            mine.close()
        assert not errors and won
        seen = [before.version for before, _ in won if before.version is not None]
        made = [after.version for _, after in won if after.version is not None]
        assert len(set(seen)) == len(seen) and len(set(made)) == len(made)
        last = set(made) - set(seen) or {None}
        assert last == {awaited(backend, name, next(iter(last))).version}

    # Release.

    def test_freeing_leaves_what_the_traits_say(self, backend: Backend, name: str) -> None:
        """Nothing where release deletes, else a free record that keeps the token; nobody holds either way."""
        slot = put(backend, absent(name))
        free = applied(backend.swap(slot, None, TIMEOUT))
        read = backend.read(name, TIMEOUT)
        assert not free.held and not read.held
        if backend.traits.release_deletes:
            assert (free.version, free.claim) == (read.version, read.claim) == (None, None)
        else:
            assert slot.claim is not None and slot.claim.token is not None
            assert read == free and read.claim == slot.claim.freed(token=slot.claim.token)

    def test_what_is_absent_cannot_be_freed(self, backend: Backend, name: str) -> None:
        """It conflicts, for a name that was never written and for one that has been freed."""
        conflicted(backend.swap(absent(name), None, TIMEOUT))
        slot = put(backend, absent(name))
        applied(backend.swap(slot, None, TIMEOUT))
        conflicted(backend.swap(slot, None, TIMEOUT))
        conflicted(backend.swap(absent(name), None, TIMEOUT))

    def test_a_freed_name_can_be_claimed_from_what_the_release_showed(
        self, backend: Backend, name: str
    ) -> None:
        """The slot that the release answered with is one to swap on, without reading first."""
        free = applied(backend.swap(put(backend, absent(name)), None, TIMEOUT))
        assert put(backend, free).held

    def test_a_free_record_with_a_successor_stands_on_every_store(self, backend: Backend, name: str) -> None:
        """A hand-over is a write like any other, also where release deletes."""
        slot = put(backend, absent(name))
        assert slot.claim is not None
        free = applied(backend.swap(slot, slot.claim.freed(token=7, successor="web-2"), TIMEOUT))
        read = backend.read(name, TIMEOUT)
        assert read == free and not read.held
        assert read.claim is not None and (read.claim.successor, read.claim.token) == ("web-2", 7)

    # Order and tokens.

    def test_order_grows_with_every_write(self, backend: Backend, name: str) -> None:
        """Over create, renew, takeover, release and a new claim; an absence is news too."""
        if not backend.traits.ordered:
            pytest.skip("this store's versions have no order")
        slots = [backend.read(name, TIMEOUT)]
        for _ in range(3):
            slots += [put(backend, slots[-1])]
            slots += [put(backend, slots[-1])]
            slots += [applied(backend.swap(slots[-1], None, TIMEOUT))]
        orders = [number(slot.order) for slot in slots]
        assert orders == sorted(orders) and len(set(orders)) == len(orders)
        assert number(backend.read(name, TIMEOUT).order) >= orders[-1]

    def test_without_order_no_number_is_invented(self, backend: Backend, name: str) -> None:
        """Where versions cannot be compared, slots say so."""
        if backend.traits.ordered:
            pytest.skip("this store's versions have an order")
        assert backend.read(name, TIMEOUT).order is None
        assert put(backend, absent(name)).order is None

    def test_an_absence_is_not_older_than_another_name_s_writes(self, backend: Backend, name: str) -> None:
        """What an absence is numbered by never falls below the number of the removal."""
        if not backend.traits.ordered or not backend.traits.release_deletes:
            pytest.skip("only where release deletes and versions have an order")
        gone = applied(backend.swap(put(backend, absent(name)), None, TIMEOUT))
        for index in range(3):
            put(backend, absent(f"{name}-{index}"))
            assert number(backend.read(name, TIMEOUT).order) >= number(gone.order)

    def test_tokens_rise_over_every_acquisition(self, backend: Backend, other: Backend, name: str) -> None:
        """By release and new claim, by takeover of a held record, and by the same holder on its own."""
        tokens: list[int] = []
        slot = backend.read(name, TIMEOUT)
        for _ in range(4):
            for mine in (backend, other):
                slot = awaited(mine, name, slot.version)
                won = put(mine, slot)
                assert number(won.token) > max([slot.floor, *tokens])
                tokens.append(number(won.token))
                slot = mine.read(name, TIMEOUT)
            slot = applied(backend.swap(slot, None, TIMEOUT))
        assert tokens == sorted(set(tokens))

    def test_the_floor_never_falls(self, backend: Backend, name: str) -> None:
        """Nor is it below a token that the record shows, so that the next token is above it."""
        slot = absent(name)
        floor = backend.read(name, TIMEOUT).floor
        for _ in range(3):
            for free in (False, False, True):
                slot = applied(backend.swap(slot, None, TIMEOUT)) if free else put(backend, slot)
                read = backend.read(name, TIMEOUT)
                assert read.floor >= floor and read.floor >= (read.token or 0)
                floor = read.floor

    # Names.

    def test_different_names_are_different_locks(self, backend: Backend, name: str) -> None:
        """Slashes, dots, escapes, case, normal forms and length: no two names meet, and none is changed."""
        every = [f"{name}{nasty}" for nasty in NASTY] + [long_name(name, "x"), long_name(name, "y")]
        written = {one: put(backend, absent(one), holder=one[:60]) for one in every}
        for one in every:
            assert backend.read(one, TIMEOUT) == written[one]
            found = [slot for slot in names(backend.scan(one, TIMEOUT)) if slot.name == one]
            assert [slot.claim for slot in found] == [written[one].claim]
        for one in every:
            applied(backend.swap(written[one], None, TIMEOUT))
            assert not backend.read(one, TIMEOUT).held

    @pytest.mark.parametrize("nasty", [".", "..", "/", "//", "a/", "%", " ", "-", "*", "é", "🦊"])
    def test_a_name_may_be_short_and_odd(self, backend: Backend, nasty: str) -> None:
        """What a file system or a URL would take for something else is a name like any other."""
        slot = backend.read(nasty, TIMEOUT)
        slot = put(backend, slot)
        assert backend.read(nasty, TIMEOUT) == slot
        applied(backend.swap(slot, None, TIMEOUT))

    def test_a_scan_shows_the_records_under_a_prefix(
        self, backend: Backend, other: Backend, name: str
    ) -> None:
        """All that begin so, by name, each as a read would show it, and nothing else."""
        under = sorted(f"{name}/{end}" for end in ("a", "B", "b/c", "b", "é", "🦊", "%", "_"))
        for one in [*reversed(under), f"{name}x", f"{name.upper()}/a", f"x{name}/a"]:
            put(backend, absent(one))
        found = list(other.scan(f"{name}/", TIMEOUT))
        assert found == [other.read(one, TIMEOUT) for one in under]
        assert list(other.scan(f"{name}/b", TIMEOUT)) == [
            other.read(one, TIMEOUT) for one in under if one.startswith(f"{name}/b")
        ]
        assert list(other.scan(f"{name}/nothing", TIMEOUT)) == []

    def test_a_scan_takes_no_character_for_a_pattern(self, backend: Backend, name: str) -> None:
        """A per cent sign, an underscore or an asterisk in a prefix stands for itself."""
        for end in ("%a", "_a", "*a", "?a", "aa"):
            put(backend, absent(f"{name}{end}"))
        for end in ("%", "_", "*", "?"):
            assert [slot.name for slot in names(backend.scan(f"{name}{end}", TIMEOUT))] == [f"{name}{end}a"]

    def test_a_scan_shows_what_is_free_only_where_release_leaves_it(
        self, backend: Backend, name: str
    ) -> None:
        """A record is shown as long as it is there, held or free."""
        free = applied(backend.swap(put(backend, absent(name)), None, TIMEOUT))
        assert list(backend.scan(name, TIMEOUT)) == ([] if backend.traits.release_deletes else [free])

    # Hints.

    def test_a_change_is_hinted(self, backend: Backend, other: Backend, name: str) -> None:
        """To create, renew and free are changes, by whatever connection; a hint shows it or asks to read."""
        needs_watches(backend)
        slot = backend.read(name, TIMEOUT)
        hints = Hints()
        with closing(backend.watch(slot, hints)):
            for step in range(4):
                slot = applied(other.swap(slot, None, TIMEOUT)) if step == 3 else put(other, slot)
                hints.expect(slot)

    def test_a_change_before_the_watch_is_hinted_at_once(self, backend: Backend, name: str) -> None:
        """Nothing is lost between reading a slot and watching it."""
        needs_watches(backend)
        seen = put(backend, absent(name))
        slot = put(backend, seen)
        for old, new in ((absent(name), slot), (seen, slot)):
            hints = Hints()
            with closing(backend.watch(old, hints)):
                hints.expect(new)

    def test_a_watch_that_is_closed_is_silent(self, backend: Backend, name: str) -> None:
        """Closing ends it, twice does no harm, and another watch on the same name goes on."""
        needs_watches(backend)
        slot = backend.read(name, TIMEOUT)
        closed, open_ = Hints(), Hints()
        watch = backend.watch(slot, closed)
        with closing(backend.watch(slot, open_)):
            watch.close()
            watch.close()
            open_.expect(put(backend, slot))
        assert closed.empty()

    def test_a_watch_may_be_closed_by_its_own_hint(self, backend: Backend, name: str) -> None:
        """The listener needs no thread of its own to stop listening."""
        needs_watches(backend)
        slot, done = backend.read(name, TIMEOUT), threading.Event()

        def once(_: Slot | None) -> None:
            watch.close()
            done.set()

        watch = backend.watch(slot, once)
        put(backend, slot)
        assert done.wait(TIMEOUT)

    def test_many_names_are_watched_at_once(self, backend: Backend, other: Backend, name: str) -> None:
        """Each listener hears of its own name, in whatever order they change."""
        needs_watches(backend)
        slots = [backend.read(f"{name}/{index}", TIMEOUT) for index in range(20)]
        hints = [Hints() for _ in slots]
        watches = [backend.watch(slot, hint) for slot, hint in zip(slots, hints, strict=True)]
        for index in reversed(range(20)):
            hints[index].expect(put(other, slots[index]))
        for watch in watches:
            watch.close()

    # What is not ours.

    @pytest.mark.parametrize(
        "body",
        [b"hello", b"{}", b'{"format":99}', b"\xff\xfe", b"[1]" * 2000],
        ids=lambda body: repr(body[:12]),
    )
    def test_a_foreign_record_is_refused_and_left(
        self, backend: Backend, write_foreign: Callable[[str, bytes], None] | None, name: str, body: bytes
    ) -> None:
        """Another program's bytes, or a newer format's: shown in an error, never overwritten or removed."""
        if write_foreign is None:
            pytest.skip("no way to write past the backend was given")
        held = put(backend, absent(name))
        write_foreign(name, body)
        for attempt in (
            lambda: backend.read(name, TIMEOUT),
            lambda: backend.swap(absent(name), a_claim(backend, held), TIMEOUT),
            lambda: backend.swap(held, a_claim(backend, held), TIMEOUT),
            lambda: backend.swap(held, None, TIMEOUT),
            lambda: backend.read(name, TIMEOUT),
        ):
            with pytest.raises(RecordRefused) as refused:
                attempt()
            assert refused.value.name == name and refused.value.body == body

    def test_a_scan_goes_on_past_a_foreign_record(
        self, backend: Backend, write_foreign: Callable[[str, bytes], None] | None, name: str
    ) -> None:
        """An error stands in its place, between the records before and after it."""
        if write_foreign is None:
            pytest.skip("no way to write past the backend was given")
        first, last = put(backend, absent(f"{name}/a")), put(backend, absent(f"{name}/c"))
        write_foreign(f"{name}/b", b"hello")
        before, error, after = backend.scan(f"{name}/", TIMEOUT)
        assert (before, after) == (first, last)
        assert isinstance(error, RecordRefused) and error.name == f"{name}/b"

    def test_a_foreign_record_is_hinted_without_a_slot(
        self, backend: Backend, write_foreign: Callable[[str, bytes], None] | None, name: str
    ) -> None:
        """Whoever waits is asked to read, and will be refused; the watch goes on."""
        if write_foreign is None:
            pytest.skip("no way to write past the backend was given")
        needs_watches(backend)
        hints = Hints()
        with closing(backend.watch(put(backend, absent(name)), hints)):
            write_foreign(name, b"hello")
            assert hints.get(timeout=TIMEOUT) is None

    # Trouble.

    def test_a_store_that_does_not_answer_is_given_up(
        self,
        backend: Backend,
        cut_off: Callable[[], AbstractContextManager[object]] | None,
        name: str,
    ) -> None:
        """A swap is unknown after its timeout; what is void was not done; afterwards all works again."""
        if cut_off is None:
            pytest.skip("no way to cut the store off was given")
        slot = put(backend, absent(name))
        with cut_off():
            began = time.monotonic()
            outcome = backend.swap(slot, a_claim(backend, slot), 0.2)
            assert time.monotonic() - began < TIMEOUT
        assert isinstance(outcome, Unknown)
        if outcome.void:
            assert backend.read(name, TIMEOUT) == slot
        # What was unknown may still land, between a read and the next swap, but then it does so once.
        for _ in range(2):
            seen = backend.read(name, TIMEOUT)
            outcome = backend.swap(seen, a_claim(backend, seen), TIMEOUT)
        applied(outcome)

    def test_no_time_at_all_is_no_reason_to_hang_or_to_guess(self, backend: Backend, name: str) -> None:
        """With a timeout of 0 a call answers what it knows, or that it does not know."""
        with suppress(StoreUnavailable):
            assert backend.read(name, 0.0).claim is None
        outcome = backend.swap(absent(name), a_claim(backend, absent(name)), 0.0)
        stands = backend.read(name, TIMEOUT).held
        assert isinstance(outcome, Unknown) or isinstance(outcome, Applied) == stands
        assert not (isinstance(outcome, Unknown) and outcome.void and stands)

    def test_a_closed_backend_says_so(self, backend: Backend, other: Backend, name: str) -> None:
        """Its calls raise `StoreUnavailable`, closing twice does no harm, and its records stay."""
        slot = put(backend, absent(name))
        backend.close()
        backend.close()
        for call in (
            lambda: backend.read(name, TIMEOUT),
            lambda: backend.swap(slot, None, TIMEOUT),
            lambda: list(backend.scan(name, TIMEOUT)),
            lambda: backend.watch(slot, lambda _: None),
        ):
            with pytest.raises(StoreUnavailable):
                call()
        assert other.read(name, TIMEOUT) == slot

    def test_closing_a_backend_ends_its_watches(self, backend: Backend, other: Backend, name: str) -> None:
        """It tells them nothing more, and closing them afterwards does no harm."""
        needs_watches(backend)
        slot, mine, theirs = backend.read(name, TIMEOUT), Hints(), Hints()
        watch = backend.watch(slot, mine)
        with closing(other.watch(slot, theirs)):
            backend.close()
            theirs.expect(put(other, slot))
        assert mine.empty()
        watch.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    def test_parent_and_child_of_a_fork_can_both_go_on(self, backend: Backend, name: str) -> None:
        """The child reads and writes over connections of its own; the parent's are none the worse."""
        slot = put(backend, absent(name))
        hints = Hints()
        with closing(backend.watch(slot, hints)):
            status = in_child(lambda: _use_in_child(backend, slot))
            assert status == 0
            if self.shared:
                assert backend.read(f"{name}-child", TIMEOUT).held
            else:
                assert backend.read(f"{name}-child", TIMEOUT).claim is None
            assert backend.read(name, TIMEOUT) == slot
            renewed = put(backend, slot)
            hints.expect(renewed)
        applied(backend.swap(renewed, None, TIMEOUT))

    # What a store says of itself.

    def test_the_identity_is_stable_and_without_secrets(
        self, backend: Backend, other: Backend, secret: str | None
    ) -> None:
        """Every connection says the same. Nothing in it could be a password, nor in the address."""
        assert backend.identity == other.identity and backend.identity.isprintable()
        assert secret is None or secret not in backend.identity + backend.address + repr(backend)
        assert not re.search(r"//[^/@]*:[^/@]+@", f"{backend.identity} {backend.address}")

    def test_the_traits_fit_together(self, backend: Backend) -> None:
        """A token from the write needs ordered versions, and so does a release that deletes."""
        traits = backend.traits
        assert traits.store and traits.failover and traits.restore and traits.least_ttl > 0
        assert traits.ordered or not (traits.token_from_write or traits.release_deletes)


def needs_watches(backend: Backend) -> None:
    """Skip where a store cannot tell of changes."""
    if not backend.traits.watches:
        pytest.skip("this store does not tell of changes")


def _use_in_child(backend: Backend, slot: Slot) -> None:
    backend.forked()
    assert backend.read(slot.name, TIMEOUT) == slot
    mine = put(backend, backend.read(f"{slot.name}-child", TIMEOUT))
    hints = Hints()
    with closing(backend.watch(mine, hints)):
        hints.expect(put(backend, mine))
