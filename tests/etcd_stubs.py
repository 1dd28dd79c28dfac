"""Makes the messages of etcd's interface from its trimmed proto: `python tests/etcd_stubs.py`.

What protoc itself would write for Python runs with one or two major versions of its runtime library, and puts
every message into a pool that the whole process shares. So only the descriptor is taken from protoc, and
the classes are made from it when they are imported, in a pool of their own; their types are written here.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = Path(__file__).resolve().parents[1] / "backends" / "leases_backends"
PROTO: Final = PACKAGE / "_etcd.proto"
STUBS: Final = (PACKAGE / "_etcd_messages.py", PACKAGE / "_etcd_messages.pyi")

_NOTE: Final = "Made by `python tests/etcd_stubs.py` from _etcd.proto: change that instead."
_LIBRARY: Final = "google.protobuf.descriptor_pb2"
_TYPES: Final = {3: "int", 4: "int", 8: "bool", 9: "str", 12: "bytes", 14: "int"}
_MESSAGE, _REPEATED = 11, 3


def make() -> tuple[str, str]:
    """The module and its types, as they should be."""
    file = _describe()
    return _module(file), _types(file)


def _describe() -> Any:
    """What protoc reads in the proto."""
    from grpc_tools import protoc  # type: ignore[import-untyped] # It ships without types.

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        code = protoc.main(["protoc", f"-I{PACKAGE}", f"--descriptor_set_out={out}", str(PROTO)])
        if code:
            raise SystemExit(f"protoc refuses {PROTO.name}; see above")
        files = importlib.import_module(_LIBRARY).FileDescriptorSet.FromString(out.read_bytes())
    return files.file[0]


def _module(file: Any) -> str:
    names = [message.name for message in file.message_type]
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")  # Depends on the version of protoc, and nobody needs it.
    body = file.SerializeToString(deterministic=True)
    lines = "\n".join(f"    {body[at : at + 32]!r}" for at in range(0, len(body), 32))
    classes = "\n".join(f'{name} = _class("{name}")' for name in names)
    return f'''\
"""The messages of etcd's interface. {_NOTE}"""

# pyright: basic

from __future__ import annotations

from google.protobuf import descriptor_pool, message_factory

_DESCRIPTOR = (
{lines}
)
_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_DESCRIPTOR)


def _class(name):
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName("{file.package}." + name))


{classes}
'''


def _types(file: Any) -> str:
    classes = "\n".join(line for message in file.message_type for line in _type(message))
    return f'''\
"""The types of _etcd_messages.py. {_NOTE}"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

class _Message:
    def SerializeToString(self) -> bytes: ...
    @classmethod
    def FromString(cls, data: bytes, /) -> Self: ...
    def WhichOneof(self, name: str, /) -> str | None: ...
    def HasField(self, name: str, /) -> bool: ...

{classes}'''


def _type(message: Any) -> Iterator[str]:
    yield f"class {message.name}(_Message):"
    for enum in message.enum_type:
        yield from (f"    {value.name}: int" for value in enum.value)
    arguments: list[str] = []
    for field in message.field:
        one = field.type_name.rpartition(".")[2] if field.type == _MESSAGE else _TYPES[field.type]
        many = field.label == _REPEATED
        yield f"    {field.name}: {f'Sequence[{one}]' if many else one}"
        arguments.append(f"{field.name}: {f'Iterable[{one}]' if many else one} = ...")
    star = ["self", "*", *arguments] if arguments else ["self"]
    text = f"def __init__({', '.join(star)}) -> None: ..."
    yield textwrap.indent(text, "    ")
    yield ""


if __name__ == "__main__":
    for path, text in zip(STUBS, make(), strict=True):
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {len(text.splitlines())} lines", file=sys.stderr)
