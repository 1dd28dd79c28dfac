"""What the commands write: results to stdout; everything else, line by line, to stderr.

Text that comes out of a store is written by others, so what a terminal could take for a command is escaped.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from leases.cli.voice import Voice

_LAST_WORDS: Final = 1.0
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_ERASE: Final = "\r\x1b[K"
_LONGEST: Final = 1000  # characters of a line about what went wrong


class OutputFailed(OSError):
    """A result could not be written."""

    def __str__(self) -> str:
        return f"stdout cannot be written: {self.strerror}; make room there, or write elsewhere"


def is_of_output(error: OSError) -> bool:
    """Whether an error is that of a result that could not be written, by us or by a plain `print`."""
    return isinstance(error, OutputFailed) or (error.filename is None and error.errno in _FULL)


def print_out(text: str, *, flush: bool = True) -> int:
    """Write a result, whole; the exit code of success.

    Args:
        text: the result.
        flush: whether it is to be read at once; of many lines the last call may do it for all.

    Raises:
        BrokenPipeError: nobody reads it.
        OutputFailed: it could not be written.
    """
    if sys.stdout is None:  # The caller had closed it.
        return 0
    try:
        if text:  # Without a buffer even nothing is written, and a full device refuses that.
            sys.stdout.write(_encodable(text, sys.stdout.encoding))
        if flush:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(error.errno, error.strerror) from error
    return 0


def on_terminal() -> bool:
    """Whether stdout is a terminal on which text can be changed in place."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def colours() -> bool:
    """Whether stdout is a terminal with colours whose user has not asked for none."""
    return on_terminal() and not os.environ.get("NO_COLOR")


def silence_output() -> None:
    """Nobody reads stdout any more: let what is left in its buffer go nowhere, without an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def complain(who: str, text: str) -> None:
    """One line about what went wrong."""
    _write(f"{who}: {plain(shortened(text))}\n")


def shortened(text: str) -> str:
    """Text that somebody can read, even where it repeats what a script has passed on; its end stays."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def plain(text: str) -> str:
    """Text without anything that a terminal would obey."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def span(seconds: float) -> str:
    """A length of time for people, in two units at most: `0.4 s`, `12 s`, `1 min 12 s`, `3 h 5 min`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


class Console:
    """What `leases hold` says on stderr: text, or one JSON object a line.

    Args:
        as_json: JSON instead of text; it says everything then.
        verbose: say also what is no trouble.

    Attributes:
        as_json: the same.
        live: whether there is a terminal on which a line may change in place.
        curious: whether anybody wants to know what is no trouble.
    """

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.live = not as_json and sys.stderr is not None and sys.stderr.isatty()
        self.curious = as_json or verbose
        self._shown = False
        self._voice: Voice | None = None

    def say(self, event: str, text: str, **facts: Any) -> None:
        """Say what everybody must know: a failure, a warning."""
        self.wipe()
        self._write(self.line(event, text, **facts))

    def line(self, event: str, text: str, **facts: Any) -> str:
        """The line that says it."""
        if not self.as_json:
            return f"leases: {plain(shortened(text))}\n"
        from json import dumps

        return dumps({"event": event, **facts, "message": text}) + "\n"

    def note(self, event: str, text: str, **facts: Any) -> None:
        """Say what only the curious want to know."""
        if self.curious:
            self.say(event, text, **facts)

    def show(self, text: str) -> None:
        """Show a line that the next one replaces, on a terminal."""
        if self.live:
            self._shown = True
            self._write(f"{_ERASE}{f'leases: {plain(text)}'[: _columns() - 1]}")

    def wipe(self) -> None:
        """Remove the line that is shown in place."""
        if self._shown:
            self._shown = False
            self._write(_ERASE)

    def finish(self) -> None:
        """Let what was said be written, for as long as a reader may reasonably take; then no more is."""
        if self._voice is not None:
            self._voice.finish(_LAST_WORDS)

    def _write(self, text: str) -> None:
        """By a thread, which may have to wait where we may not."""
        if self._voice is None and sys.stderr is not None:
            try:
                from leases.cli.voice import Voice

                self._voice = Voice(sys.stderr)
            except (
                OSError,
                ImportError,
            ):  # It is no file, as where a program calls us; or none can be opened.
                _write(text)
                return
        if self._voice is not None:
            self._voice.say(text)


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def _write(text: str) -> None:
    if sys.stderr is None:  # The caller had closed it.
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # Nobody reads it any more, which must not end what is being held.
        pass


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _encodable(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)
