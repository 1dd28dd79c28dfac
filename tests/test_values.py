"""The core's frozen classes behave as those of `dataclasses` do, and are made without it."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any, Final

import pytest

from leases import contract, record, terms, values
from leases.contract import Applied, Slot
from leases.record import Claim


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    """What all others are compared with."""

    name: str
    parts: dict[str, int] = dataclasses.field(default_factory=dict)
    size: int = 7

    @property
    def twice(self) -> int:
        """A member that is no field."""
        return 2 * self.size


@values.dataclass(frozen=True, slots=True)
class Ours:
    """The same, made by ours."""

    name: str
    parts: dict[str, int] = values.field(default_factory=dict)
    size: int = 7

    @property
    def twice(self) -> int:
        """A member that is no field."""
        return 2 * self.size


KINDS: Final[tuple[Any, ...]] = (Standard, Ours)
each: Final = pytest.mark.parametrize("kind", KINDS)


@each
def test_values_are_compared_whole(kind: Any) -> None:
    """Values are equal if class and all fields are; then they have the same hash, if they have any."""
    assert kind("a") == kind("a", {}, 7) and kind("a") != kind("a", {}, 8) and kind("a") != kind("b")
    assert kind("a") != ("a", {}, 7) and all(kind("a") != other("a") for other in KINDS if other is not kind)
    assert hash(kind("a", ())) == hash(kind(name="a", parts=(), size=7)) != hash(kind("b", ()))
    with pytest.raises(TypeError, match="unhashable"):
        hash(kind("a"))


@each
def test_values_cannot_change(kind: Any) -> None:
    """A field cannot be assigned or deleted, nor can anything be added."""
    value = kind("a")
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'size'"):
        value.size = 8
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'size'"):
        del value.size
    with pytest.raises((AttributeError, TypeError)):
        value.other = 8
    assert value.size == 7 and not hasattr(value, "__dict__")


@each
def test_defaults(kind: Any) -> None:
    """What a factory makes belongs to one value alone, and what has no default is asked for."""
    assert kind("a").parts is not kind("a").parts
    with pytest.raises(TypeError, match="argument"):
        kind()
    with pytest.raises(TypeError, match="argument"):
        kind("a", {}, 7, 8)
    with pytest.raises(TypeError, match="unexpected keyword"):
        kind("a", length=3)


@each
def test_copies(kind: Any) -> None:
    """A value is copied, pickled, and made anew with changes, by either `replace`."""
    value = kind("a", {"b": 1})
    assert copy.copy(value) == copy.deepcopy(value) == value
    assert dataclasses.replace(value, size=8) == kind("a", {"b": 1}, 8)
    assert values.replace(value, size=8) == kind("a", {"b": 1}, 8)
    with pytest.raises(TypeError, match="unexpected keyword"):
        values.replace(value, length=8)


def test_pickled() -> None:
    """A slot with a claim comes out of a pickle as it went in."""
    slot = Slot("a", 1, Claim("h", "i", "b", 1.0, metadata={"k": "v"}))
    assert pickle.loads(pickle.dumps(slot)) == slot


def test_both_show_the_same() -> None:
    """Their text, signature, fields, patterns, members and names are those of the standard ones."""
    assert repr(Ours("a")) == repr(Standard("a")).replace("Standard", "Ours")
    ours, standard = inspect.signature(Ours), inspect.signature(Standard)
    assert list(ours.parameters) == list(standard.parameters)
    assert ours.parameters["parts"].annotation == standard.parameters["parts"].annotation
    assert dataclasses.asdict(Ours("a")) == dataclasses.asdict(Standard("a"))
    assert [repr(field) for field in dataclasses.fields(Ours)] == [
        repr(field) for field in dataclasses.fields(Standard)
    ]
    assert Ours.__match_args__ == Standard.__match_args__ and Ours.__slots__ == Standard.__slots__
    assert Ours("a").twice == 14 and (Ours.__qualname__, Ours.__module__) == ("Ours", __name__)
    match Applied(Slot("a", 1)):
        case Applied(Slot(name, version)):
            assert (name, version) == ("a", 1)


@pytest.mark.parametrize(
    "kind", [contract.Traits, contract.Slot, contract.Applied, contract.Finding, record.Claim, terms.Terms]
)
def test_the_core_uses_them(kind: type) -> None:
    """They are dataclasses to whoever asks, with every field that is annotated."""
    assert dataclasses.is_dataclass(kind)
    assert [field.name for field in dataclasses.fields(kind)] == list(kind.__annotations__)


def test_the_core_is_loaded_without_dataclasses() -> None:
    """Neither the module nor what it imports is loaded with a lock; a class made so is one all the same."""
    code = "import sys, leases.lock; print([m for m in ('dataclasses', 'inspect') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
