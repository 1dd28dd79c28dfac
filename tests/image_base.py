"""The image of examples/container, built without a network: on a base that is this machine's own Python.

`runtime()` is a file system with a Python and what that is linked to, and nothing else: no shell. What
`builder()` has besides is pip and a shell. The library's requirements are packed again as wheels from where
they are installed, so that pip in the container finds them as it finds those of an index.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from layers import ROOT
from servers.engine import tar_of

# Of a Python: what runs nothing that we have.
NOT_RUN: Final = re.compile(
    r"/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip/_bundled|pydoc_data|unittest|config-[^/]+|site-packages)/"
    r"|/_tkinter|\.a$|\.opt-\d\.pyc$"
)
_BUILDS_BY: Final = "hatchling"
PATH: Final = f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"


def runtime() -> bytes:
    """A file system: this Python, where it is here."""
    return tar_of(_python())


def builder(base: str) -> bytes:
    """What to build to have the same with pip and a shell: a Dockerfile, and what it adds to a base."""
    pip = Path(str(distribution("pip").locate_file("pip")))
    shell = Path("/bin/sh").resolve()
    files = {f"{_packages()}/pip/{path.relative_to(pip)}": path for path in _files(pip)}
    added = tar_of(files | {"/bin/sh": shell} | _linked([shell]))
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, inside in (
            ("Dockerfile", f"FROM {base}\nADD added.tar /\n".encode()),
            ("added.tar", added),
        ):
            about = tarfile.TarInfo(name)
            about.size = len(inside)
            tar.addfile(about, io.BytesIO(inside))
    return content.getvalue()


def context(folder: Path, extras: Iterable[str]) -> None:
    """Fill a folder with what `docker build` is run in: a checkout, and wheels of all that it requires."""
    for name in ("LICENSE", "README.md", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("leases", "backends", "examples/container"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "wheels").mkdir()
    needed = dict(_closure("leases", frozenset(extras))) | dict(_closure(_BUILDS_BY, frozenset()))
    for name, found in needed.items():
        if name != "leases":
            _wheel(found, folder / "wheels")


def _python() -> dict[str, Path]:
    """This Python's program, library and what they are linked to, by their names in the image."""
    prefix = Path(sys.base_prefix)
    program = Path(sys.executable).resolve()
    library = Path(os.__file__).resolve().parent
    shared = [path for path in library.glob("lib-dynload/*.so") if not NOT_RUN.search(str(path))]
    files = {str(path): path for path in _files(library) if not NOT_RUN.search(str(path))}
    files |= {str(program): program, str(prefix / "bin" / "python3"): program}
    linked = _linked([program, *shared, *_of_grpc()])
    return files | linked | _of_libc(linked)


def _of_grpc() -> Iterator[Path]:
    """A client in C++: what it is linked to is in every usual base, and so in ours."""
    yield from Path(str(distribution("grpcio").locate_file("grpc"))).rglob("*.so")


def _of_libc(linked: Mapping[str, Path]) -> dict[str, Path]:
    """What a libc was once divided into: others are linked to it, and every usual base has it."""
    (folder,) = {Path(name).parent for name in linked if Path(name).name == "libc.so.6"}
    parts = (
        "dl.so.2",
        "nss_dns.so.2",
        "nss_files.so.2",
        "pthread.so.0",
        "resolv.so.2",
        "rt.so.1",
        "util.so.1",
    )
    return {str(path): path for path in (folder / f"lib{part}" for part in parts) if path.exists()}


def _linked(programs: Iterable[Path]) -> dict[str, Path]:
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout
    found = map(os.path.normpath, re.findall(r"(?:=> |^\s)(/\S+) \(0x", told, re.MULTILINE))
    return {name: Path(name) for name in found if "/site-packages/" not in name}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _packages() -> str:
    """Where this Python looks for packages outside of environments; Debian's has a place of its own."""
    asks = "import sysconfig; print(sysconfig.get_path('purelib'))"
    words = [str(Path(sys.executable).resolve()), "-I", "-c", asks]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def _closure(name: str, extras: frozenset[str]) -> Iterator[tuple[str, Distribution]]:
    """What a distribution requires, and it itself, as far as it is installed."""
    found = distribution(name)
    yield name, found
    for text in found.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in extras | {""}):
            yield from _closure(wanted.name, frozenset(wanted.extras))


def _wheel(found: Distribution, folder: Path) -> None:
    """Pack what is installed as the wheel that it came from, without its scripts, which pip makes anew."""
    about = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}
    tags = re.findall(r"^Tag: (\w+)-(\w+)-(\w+)", found.read_text("WHEEL") or "", re.MULTILINE)
    assert tags and found.files is not None, found.name
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    inside = [
        file for file in found.files
        if ".." not in file.parts and "__pycache__" not in file.parts and file.name not in about
    ]  # fmt: skip
    own = next(str(file.parent) for file in found.files if file.name == "METADATA")
    whole = folder / f"{own.removesuffix('.dist-info')}-{tag}.whl"
    with zipfile.ZipFile(whole, "w") as archive:
        for file in inside:
            archive.write(file.locate(), str(file))
        archive.writestr(f"{own}/RECORD", "".join(f"{file},,\n" for file in [*inside, f"{own}/RECORD"]))
