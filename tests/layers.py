"""Reads the project's imports from its source: which module needs which, and whether it may.

An import inside a function or under TYPE_CHECKING counts like any other: a reader follows it all the same.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

# Low to high: a module imports from the lines above its own, never from its own or from below it.
# The first line that fits counts. "x.*" is x and all within it, who may import one another, but in no circle.
LAYERS: Final[tuple[tuple[str, ...], ...]] = (
    ("leases.errors", "leases.urls"),
    ("leases.record",),
    ("leases.contract", "leases.clock", "leases.terms"),
    ("leases.events",),
    # The rules of a store, shared by the memory backend and the simulator: what is simulated is what runs.
    ("leases.testing.cells",),
    ("leases_backends.*",),
    ("leases.machine",),
    ("leases.identity", "leases.registry"),
    ("leases.keeper",),
    ("leases.hooks",),
    ("leases.logs",),
    ("leases.hub",),
    ("leases.tenure",),
    ("leases.script",),
    ("leases.choice",),
    ("leases.threads", "leases.aio"),
    ("leases.guard", "leases.stopper"),
    ("leases.cancelling", "leases.interrupting", "leases.watchdog"),
    ("leases.endings",),
    ("leases.lease",),
    ("leases.acquirable",),
    ("leases.lock",),
    ("leases.multilease",),
    ("leases.semaphore", "leases.multilock", "leases.upkeep", "leases.fencing.*"),
    ("leases.health", "leases.observer"),
    ("leases.herald", "leases.progress", "leases.manifesto"),
    ("leases.reign",),
    ("leases.campaign",),
    ("leases.contest", "leases.contest_aio"),
    ("leases.rivals",),
    ("leases.elector",),
    ("leases.calls",),
    ("leases.leadership",),
    ("leases.leader",),
    ("leases.store",),
    ("leases.metrics", "leases.tracing"),
    ("leases",),
    ("leases.testing.*",),
    ("leases.cli.*",),
    ("leases.sidecar.*",),
    ("leases.__main__",),
)

# Pure means: of the standard library only what neither waits, nor talks, nor reads a clock, nor rolls dice.
PURE: Final = ("leases.terms", "leases.events", "leases.machine")
PURE_LIBRARY: Final = frozenset(
    {"__future__", "abc", "bisect", "collections", "collections.abc", "dataclasses", "enum", "functools"}
    | {"heapq", "itertools", "math", "typing"}
)
# A pure module may speak of an instant; it may not look at the clock.
PURE_NAMES: Final = {"leases.clock": frozenset({"Instant"})}

# The one module that may name the backends of this distribution, for a checkout that is not installed.
NAMES_BACKENDS: Final = "leases.registry"

# The client library that a backend translates, where it has one.
# The conformance suite is the one thing that ships and needs pytest.
# A store's modules are those named after it, with or without an underscore before and words behind.
CLIENTS: Final[Mapping[str, frozenset[str]]] = {
    "leases.metrics": frozenset({"prometheus_client"}),
    "leases.sidecar": frozenset({"anyio", "prometheus_client", "starlette", "uvicorn"}),
    "leases.tracing": frozenset({"opentelemetry"}),
    "leases.testing.fixtures": frozenset({"pytest"}),
    "leases.testing.guarded": frozenset({"pytest"}),
    "leases.testing.suite": frozenset({"pytest"}),
    "leases_backends.etcd": frozenset({"google", "grpc", "tenacity"}),
    "leases_backends.kubernetes": frozenset({"kubernetes", "urllib3"}),
    "leases_backends.zookeeper": frozenset({"kazoo"}),
}


def project() -> dict[str, str]:
    """The source of every module that ships, by its dotted name."""
    found: dict[str, str] = {}
    for base, package in ((ROOT, "leases"), (ROOT / "backends", "leases_backends")):
        for file in sorted((base / package).rglob("*.py")):
            parts = file.relative_to(base).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = file.read_text(encoding="utf-8")
    return found


def faults(sources: Mapping[str, str]) -> list[str]:
    """One sentence for every import that the rules above refuse, and for every module they do not know."""
    return [fault for name, source in sources.items() for fault in _faults_of(name, source, sources)]


def circle(sources: Mapping[str, str]) -> list[str]:
    """The modules of one import circle, in order; empty when there is none."""
    graph = {name: {t for t, _ in imports(name, text, sources)} - {name} for name, text in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def imports(name: str, source: str, modules: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Every (module, name taken from it or None) that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source, filename=name)):
        match node:
            case ast.Import(names=aliases):
                yield from ((alias.name, None) for alias in aliases)
            case ast.ImportFrom(names=aliases):
                base = _absolute(name, node, modules)
                for alias in aliases:
                    inner = f"{base}.{alias.name}"
                    yield (inner, None) if inner in modules else (base, alias.name)
            case ast.Call(func=func, args=[ast.Constant(value=str(target)), *_]) if _imports_by_call(func):
                yield target, None
            case _:
                pass


def layer(name: str) -> tuple[int, str] | None:
    """A module's layer, counted from the lowest, and the group in it that the module belongs to."""
    for index, groups in enumerate(LAYERS):
        for group in groups:
            inside = group.removesuffix(".*")
            if name == inside or (group != inside and name.startswith(inside + ".")):
                return index, group
    return None


def _faults_of(name: str, source: str, modules: Mapping[str, str]) -> Iterator[str]:
    if layer(name) is None:
        yield f"{name} is in no layer: add it to LAYERS in tests/layers.py, as low as its imports allow"
    for target, taken in imports(name, source, modules):
        if target.split(".")[0] in ("leases", "leases_backends"):
            yield from _inner_faults(name, target, taken)
        else:
            yield from _outer_faults(name, target)
    if name.split(".")[0] == "leases" and name != NAMES_BACKENDS:
        yield from (
            f"{name}:{line} names leases_backends in a string; only {NAMES_BACKENDS} may"
            for line in _strings_with("leases_backends", source)
        )


def _inner_faults(name: str, target: str, taken: str | None) -> Iterator[str]:
    mine, theirs = layer(name), layer(target)
    if target.split(".")[0] == "leases_backends" and name.split(".")[0] == "leases":
        yield f"{name} imports {target}: leases finds its backends by URL and imports none"
    elif mine and not theirs:
        yield f"{name} imports {target}, which is in no layer: add it to LAYERS in tests/layers.py"
    elif mine and theirs and theirs[0] >= mine[0] and not _of_one_group(mine, theirs):
        yield f"{name} imports {target}, which is not below it: move what they share further down"
    if name in PURE and target in PURE_NAMES and taken not in PURE_NAMES[target]:
        yield f"{name} is pure and takes {taken or 'everything'} from {target}: pass the instant in instead"


def _outer_faults(name: str, target: str) -> Iterator[str]:
    top = target.split(".")[0]
    if name in PURE and target not in PURE_LIBRARY:
        yield f"{name} is pure and imports {target}: let a driver do that, or say why not in PURE_LIBRARY"
    if top not in sys.stdlib_module_names and top not in _clients_of(name):
        yield f"{name} imports {target}, which is not in the standard library"


def _clients_of(name: str) -> frozenset[str]:
    package, _, module = name.partition(".")
    if name.startswith("leases.sidecar."):
        return CLIENTS["leases.sidecar"]
    return CLIENTS.get(name) or CLIENTS.get(f"{package}.{module.lstrip('_').split('_')[0]}", frozenset())


def _of_one_group(mine: tuple[int, str], theirs: tuple[int, str]) -> bool:
    return mine == theirs and mine[1].endswith(".*")


def _absolute(name: str, node: ast.ImportFrom, modules: Mapping[str, str]) -> str:
    if not node.level:
        return node.module or ""
    is_package = any(other.startswith(name + ".") for other in modules)
    parts = name.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def _imports_by_call(func: ast.expr) -> bool:
    match func:
        case ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"):
            return True
        case _:
            return False


def _strings_with(word: str, source: str) -> Iterator[int]:
    """The lines of the strings that hold a word and are more than documentation."""
    nodes = list(ast.walk(ast.parse(source)))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if word in text and id(node) not in prose:
                yield node.lineno
            case _:
                pass
