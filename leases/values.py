"""Frozen dataclasses at the price of plain classes, for what every short command has to load.

`dataclasses` imports `inspect` with all that it needs, and compiles each method of each class by itself: for
the few values of the core that was a fifth of what a command under a lock costs. What is made here behaves
the same, and is a dataclass to `dataclasses.replace`, `asdict` and `fields`; type checkers see the standard
one. It does what the core needs: everything frozen, with slots, compared whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:

    def dataclass(*, frozen: bool, slots: bool, init: bool = True) -> Callable[[type], type]:
        """As `dataclasses.dataclass`."""
        assert frozen and slots, "nothing else is made here"
        return lambda cls: _made(cls, init=init)

    def field(*, default_factory: Callable[[], object]) -> _Factory:
        """As `dataclasses.field`."""
        return _Factory(default_factory)

    def replace(value: Any, /, **changes: object) -> Any:
        """As `dataclasses.replace`."""
        for name in value.__match_args__:
            if name not in changes:
                changes[name] = getattr(value, name)
        return value.__class__(**changes)


class _Factory:
    """A default that is made anew for every value."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


_REQUIRED: Final = object()


def _made(cls: type, *, init: bool) -> type:
    """The class anew, with slots and methods; a class that exists can be given no slots."""
    kinds = cls.__annotations__
    defaults = {name: cls.__dict__.get(name, _REQUIRED) for name in kinds}
    space = {key: it for key, it in cls.__dict__.items() if key not in (*kinds, "__dict__", "__weakref__")}
    space |= {
        "__slots__": tuple(kinds),
        "__match_args__": tuple(kinds),
        "__dataclass_fields__": _Fields(defaults),
    }
    space |= _METHODS | _compiled(defaults)
    if init:
        space["__init__"].__annotations__ = {**kinds, "return": "None"}
    else:
        space["__init__"] = cls.__dict__["__init__"]
    made = type(cls)(cls.__name__, cls.__bases__, space)
    made.__qualname__ = cls.__qualname__
    return made


def _compiled(defaults: dict[str, Any]) -> dict[str, Any]:
    """What is done for every request to a store; nothing is as fast there as straight lines."""
    known: dict[str, Any] = {f"_{name}": it for name, it in defaults.items() if it is not _REQUIRED}
    heads = ", ".join(f"{name}=_{name}" if f"_{name}" in known else name for name in defaults)
    fresh = (name for name, it in defaults.items() if isinstance(it, _Factory))
    mine, its = ("".join(f"{who}.{name}, " for name in defaults) for who in ("self", "other"))
    methods: dict[str, Any] = {}
    exec(  # noqa: S102 - nothing but the names of our own fields
        "\n".join(
            [
                f"def __init__(self, {heads}):",
                *(f"    if {name} is _{name}: {name} = _{name}.make()" for name in fresh),
                *(f"    _set(self, {name!r}, {name})" for name in defaults),
                "def __eq__(self, other):",
                f"    return ({mine}) == ({its}) if other.__class__ is self.__class__ else NotImplemented",
                "def __hash__(self):",
                f"    return hash(({mine}))",
            ]
        ),
        known | {"_set": object.__setattr__},
        methods,
    )
    return methods


def __repr__(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{self.__class__.__qualname__}({shown})"


def __setattr__(self: Any, name: str, value: object) -> None:
    _refuse("assign to", name)


def __delattr__(self: Any, name: str) -> None:
    _refuse("delete", name)


def __getstate__(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__match_args__]


def __setstate__(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)


_METHODS: Final = {
    method.__name__: method for method in (__repr__, __setattr__, __delattr__, __getstate__, __setstate__)
}


def _refuse(what: str, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot {what} field {name!r}")


class _Fields:
    """What `dataclasses` asks a dataclass for, made when somebody asks."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self._defaults = defaults

    def __get__(self, instance: object, owner: type) -> dict[str, Any]:
        import dataclasses

        fields: list[Any] = []
        for name, kind in owner.__annotations__.items():
            default = self._defaults[name]
            if isinstance(default, _Factory):
                fields.append((name, kind, dataclasses.field(default_factory=default.make)))
            else:
                fields.append((name, kind, *(() if default is _REQUIRED else (default,))))
        twin: Any = dataclasses.make_dataclass(owner.__name__, fields, frozen=True)
        found: dict[str, Any] = twin.__dataclass_fields__
        type.__setattr__(owner, "__dataclass_fields__", found)
        return found
