"""`FileFence`: one file, written whole or not at all, guarded by the highest token it has seen."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any, Final

from leases.errors import ConfigurationError, MalformedToken, RecordRefused, ResourceBusy
from leases.fencing.level import Level
from leases.fencing.token import Token, admitted, check_seconds, of_lock
from leases.lease import Lease
from leases.record import check_name

if sys.platform != "win32":
    import fcntl

PATIENCE: Final = 10.0
_LOOK_AGAIN: Final = (0.002, 0.05)  # seconds: at first, and at most; flock can wait, but not for a time


class FileFence:
    """Guards one file that processes of this host write.

    fence.write(lease, report)                  # the old content, or the new; never half of it

    with fence.writing(lease) as file:          # the same, piece by piece
        json.dump(state, file)

    Level: highest token seen; sealed when it is among the ``fences=`` of its lock. The token stands in
    ``NAME.fence`` beside the file. It is compared under a file lock (``NAME.fence.lock``), which is kept
    until the new content has its name, and it is on the disk before the content is: a crash in between
    loses the content and never the seal.

    It works on a local file system alone: on network file systems file locks and renames may not be what
    they seem. It cannot stop who writes past it, and who removes ``NAME.fence`` removes its memory. It
    works for the file's name: a symbolic link is followed, another hard link is another file afterwards. A
    process that is stopped just between comparison and change keeps all others waiting until it goes on or
    is killed.

    Args:
        name: the lock that guards; tokens of others are refused.
        path: the file. It need not exist, its folder must.
        timeout: seconds to wait for a write under way; in a seal over and above the timeout of the
            acquisition. Default 10.

    Raises:
        ConfigurationError: a name, a path or a timeout that cannot work, or a system without file locks.
    """

    level: Final = Level.SEALED

    def __init__(self, name: str, path: str | os.PathLike[str], *, timeout: float = PATIENCE) -> None:
        self.name = check_name(name)
        self.timeout = check_seconds("timeout", timeout)
        self.path = Path(os.path.realpath(path))
        if sys.platform == "win32":
            raise ConfigurationError("this system has no flock(); use another fence, such as SqlFence")
        if not self.path.parent.is_dir() or (self.path.exists() and not self.path.is_file()):
            raise ConfigurationError(
                f"{str(path)!r} is no plain file in a folder that exists; make the folder, or name another"
            )
        self._token = self.path.with_name(f"{self.path.name}.fence")
        self._lock = self.path.with_name(f"{self.path.name}.fence.lock")

    @property
    def highest(self) -> int | None:
        """The highest token seen by any process; None before the first.

        Raises:
            RecordRefused: what stands in ``NAME.fence`` is damaged, or another lock's.
        """
        return self._read()

    # ---- write -----------------------------------------------------------------------------------

    def write(self, lease: Lease | Token, /, data: bytes | str) -> None:
        """Replace the file's content; text is written in UTF-8.

        Raises:
            StaleToken: a later tenure was here; the file stands as it was.
            ForeignToken: a token of another lock.
            RecordRefused: what stands in ``NAME.fence`` is damaged, or another lock's.
            ResourceBusy: another write did not end in time.
            OSError: the file system's own.
        """
        with self.writing(lease, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)

    async def write_async(self, lease: Lease | Token, /, data: bytes | str) -> None:
        """`write`, awaited. Cancelled, it may still be carried out."""
        import asyncio

        await asyncio.to_thread(self.write, lease, data)

    @contextmanager
    def writing(self, lease: Lease | Token, /, mode: str = "w") -> Generator[IO[Any]]:
        """Write a new content, which takes the file's place when the body ends, if its token still passes.

        Nobody waits for the body: the token is compared at its end, and the old content stands until then,
        or for good if the body raises.

        Args:
            lease: whose token counts.
            mode: ``"w"`` for text in UTF-8 (default), ``"wb"`` for bytes.

        Raises:
            StaleToken, ForeignToken, RecordRefused, ResourceBusy, OSError: as for `write`, at the end.
        """
        if mode not in ("w", "wb"):
            raise ConfigurationError(f'mode={mode!r} writes no new content; pass "w" or "wb"')
        token = of_lock(self.name, lease)
        with _Draft(self.path, mode) as draft:
            yield draft.file
            draft.finish()
            with self.admitted(token):
                draft.take_its_place()

    @contextmanager
    def admitted(self, lease: Lease | Token, /) -> Generator[Token]:
        """Run a body as one step with the check of its token, such as one that appends in place.

        One body on this host at a time; it cannot be nested, and what it has half done stays.

        Raises:
            StaleToken, ForeignToken, RecordRefused, ResourceBusy, OSError: as for `write`; no body runs.
        """
        token = of_lock(self.name, lease)
        with self._locked():
            before = self._read()
            highest = admitted(token, before)
            if highest != before:
                self._remember(token)
            yield token

    # ---- check and seal --------------------------------------------------------------------------

    def check(self, lease: Lease | Token, /) -> Token:
        """Compare a token with the highest seen, and remember it. What follows is not one step with that.

        Raises:
            StaleToken, ForeignToken, RecordRefused, ResourceBusy, OSError: as for `write`.
        """
        with self.admitted(lease) as token:
            return token

    def seal(self, lease: Lease | Token, /) -> None:
        """Shut out all earlier tenures from now on; a write under way ends first.

        Raises:
            StaleToken, ForeignToken, RecordRefused, ResourceBusy, OSError: as for `write`.
        """
        self.check(lease)

    async def seal_async(self, lease: Lease | Token, /) -> None:
        """`seal`, awaited."""
        import asyncio

        await asyncio.to_thread(self.seal, lease)

    # ---- inside ----------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Generator[None]:
        # A file of its own, which is never replaced: who waits for it waits for the same file.
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._wait_for(lock)
            yield
        finally:
            with suppress(OSError):  # Said aloud: a forked child may have a copy, which would keep it locked.
                fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    def _wait_for(self, lock: int) -> None:
        ends, (pause, longest) = monotonic() + self.timeout, _LOOK_AGAIN
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            left = ends - monotonic()
            if left <= 0:
                raise ResourceBusy(self.name, self.timeout)
            sleep(min(pause, left))
            pause = min(2 * pause, longest)

    def _read(self) -> int | None:
        try:
            body = self._token.read_bytes()
        except FileNotFoundError:
            return None
        try:
            token = Token.parse(body.decode("utf-8", "replace").removesuffix("\n"))
        except MalformedToken:
            raise RecordRefused(self.name, f"{self._token} holds no token", body) from None
        if token.name != self.name:  # A file that two locks guard is guarded by none.
            raise RecordRefused(self.name, f'{self._token} says that lock "{token.name}" guards it', body)
        return token.number

    def _remember(self, token: Token) -> None:
        with _Draft(self._token, "w") as draft:
            draft.file.write(f"{token}\n")
            draft.finish()
            draft.take_its_place()

    def __repr__(self) -> str:
        return f'<FileFence "{self.name}" {self.path}>'


class _Draft:
    """A new file beside the one whose place it is to take; gone at the end if it did not come to that."""

    def __init__(self, target: Path, mode: str) -> None:
        self._target = target
        self._path = target.with_name(f".{target.name[:30]}.{secrets.token_hex(8)}")
        encoding = None if "b" in mode else "utf-8"
        self.file: IO[Any] = open(self._path, mode.replace("w", "x"), encoding=encoding)  # noqa: SIM115 - it is one

    def __enter__(self) -> _Draft:
        with suppress(OSError):  # There is none, or the file system knows no permissions.
            os.fchmod(self.file.fileno(), stat.S_IMODE(self._target.stat().st_mode))
        return self

    def finish(self) -> None:
        """Have its content on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def take_its_place(self) -> None:
        """Have its name on the disk, too."""
        os.replace(self._path, self._target)
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def __exit__(self, *_: object) -> None:
        try:
            self.file.close()
        finally:
            with suppress(FileNotFoundError):
                self._path.unlink()
