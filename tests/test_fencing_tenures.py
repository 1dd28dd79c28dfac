"""Every fence, any interleaving of tenures: nothing of an earlier one is accepted after a later seal."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from databases import Database
from leases.fencing import FileFence, MemoryFence, StaleToken, Token


class Resource(ABC):
    """What is guarded, and by which fence."""

    fence: Any

    def __init__(self) -> None:
        self.name = "job"

    def seal(self, number: int) -> bool:
        """Show the token of a new tenure; whether it was accepted."""
        return _accepted(lambda: self.fence.seal(Token(self.name, number)))

    def write(self, number: int) -> bool:
        """Write the number; whether it was accepted."""
        return _accepted(lambda: self._write(Token(self.name, number)))

    @abstractmethod
    def _write(self, token: Token) -> object: ...

    @abstractmethod
    def written(self) -> list[int]:
        """All that was accepted, as the resource itself shows it."""


class Memory(Resource):
    def __init__(self) -> None:
        super().__init__()
        self.fence, self._log = MemoryFence(self.name), list[int]()

    def _write(self, token: Token) -> None:
        with self.fence.admitted(token):
            self._log.append(token.number)

    def written(self) -> list[int]:
        return self._log


class File(Resource):
    def __init__(self, folder: str) -> None:
        super().__init__()
        self._path = Path(folder) / "log"
        self.fence = FileFence(self.name, self._path)

    def _write(self, token: Token) -> None:
        self.fence.write(token, " ".join(map(str, [*self.written(), token.number])))

    def written(self) -> list[int]:
        return [int(word) for word in self._path.read_text().split()] if self._path.exists() else []


class Sql(Resource):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database, self.name = database, f"job-{next(_names)}"
        self.fence = database.fenced(self.name)
        with database.transaction() as connection:
            database.execute(connection, f"DELETE FROM {database.journal}")

    def _write(self, token: Token) -> None:
        with self._database.transaction() as connection:
            self._database.write(connection, token.number)
            self.fence.check(connection, token)

    def written(self) -> list[int]:
        return self._database.written()


_names = iter(range(1 << 30))


def _accepted(act: Callable[[], object]) -> bool:
    try:
        act()
    except StaleToken:
        return False
    return True


Kinds = Callable[[], Any]


@pytest.fixture(params=["memory", "file", "sqlite", "postgres"])
def resources(request: pytest.FixtureRequest, tmp_path: Path) -> Kinds:
    """Resources of one kind, each fresh."""

    @contextmanager
    def in_a_folder() -> Generator[Resource]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            yield File(folder)

    @contextmanager
    def as_it_is(made: Resource) -> Generator[Resource]:
        yield made

    if request.param == "memory":
        return lambda: as_it_is(Memory())
    if request.param == "file":
        return in_a_folder
    url = (
        str(tmp_path / "x.db") if request.param == "sqlite" else str(request.getfixturevalue("postgres").url)
    )
    database = Database(request.param, url)
    return lambda: as_it_is(Sql(database))


# A tenure begins, with its seal or without; or any tenure that has begun, over or not, tries to write.
steps: Final = st.lists(
    st.sampled_from(["begins", "begins unsealed", "seals again"]) | st.integers(0, 9), min_size=1, max_size=30
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.integers(0, 1 << 62), st.lists(st.integers(1, 5), min_size=30, max_size=30))
def test_no_interleaving_lets_an_earlier_tenure_in(
    resources: Kinds, steps: list[str | int], first: int, gaps: list[int]
) -> None:
    """The fence accepts exactly what is not below a token that it has accepted before; that is written."""
    with resources() as resource:
        tenures, highest, accepted = list[int](), -1, list[int]()
        for step, gap in zip(steps, gaps, strict=False):
            if isinstance(step, str) and (step != "seals again" or not tenures):
                tenures.append(tenures[-1] + gap if tenures else first)
                if step == "begins":
                    assert resource.seal(tenures[-1])
                    highest = tenures[-1]
            elif tenures:
                writes = not isinstance(step, str)
                number = tenures[step % len(tenures) if isinstance(step, int) else gap % len(tenures)]
                passes = number >= highest
                assert (resource.write(number) if writes else resource.seal(number)) is passes
                highest = max(highest, number)
                accepted += [number] if writes and passes else []
            assert resource.written() == accepted
        assert accepted == sorted(accepted)


def test_the_holder_in_between_crashed_before_it_wrote(resources: Kinds) -> None:
    """S2: the highest token seen lets the late write in, and only the seal refuses it."""
    with resources() as resource:
        assert resource.seal(1) and resource.write(1)
        assert resource.write(1)  # tenure 2 has the lock, and has neither written nor sealed: this is late
        assert resource.seal(2)
        assert not resource.write(1)  # now nothing of it is accepted, though nobody has written since
        assert resource.seal(3) and not resource.write(2) and resource.write(3)
        assert resource.written() == [1, 1, 3]
