"""``on_lost="kill"``: this process is ended at the deadline of its lease, whatever it does or fails to do.

On Linux by a timer of the kernel (timer_create(2) on CLOCK_BOOTTIME, for SIGKILL), which is set before the
acquisition is reported, set anew by every renewal, and deleted when the work has stopped. It needs no thread
of this process: a C extension may hold the GIL, the process may be stopped, the host may have slept. Where
the platform has no such timer, a guardian process does the same from outside (`leases.guard`).

It ends this process, not those that it has started: let `leases hold` run a command. After `fork` the child
has neither lease nor timer; `exec` takes a timer away, and a guardian not, who kills what runs then. The
first process of a container cannot be killed from within, so there it is refused.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import IO, Any, Final, Protocol, cast

from leases import guard, logs
from leases.clock import Clock, system_clock
from leases.errors import ConfigurationError, LeaseLost
from leases.events import Endangered, Event, Lost, Renewed
from leases.stopper import Ending, Start, Stopper, say_last_words

_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", None)
_TIMER_ABSTIME: Final = 1
_SIGEV_SIGNAL: Final = 0
_START_SECONDS: Final = 10.0  # for a guardian to say that it is there


def check_platform() -> None:
    """Refuse where nothing could end this process in time; it is tried.

    Raises:
        ConfigurationError: the platform cannot, or does not let us.
    """
    if not hasattr(signal, "SIGKILL"):
        raise ConfigurationError(f'on_lost="kill" is not to be had on {sys.platform}; pass on_lost="exit"')
    if os.getpid() == 1:
        raise ConfigurationError(
            'on_lost="kill" cannot end process 1 of a container, which no signal from within ends; give the '
            'container an init (docker run --init, tini), or pass on_lost="exit"'
        )
    _try(os.getpid())


@cache
def _try(process: int) -> None:
    """Once for each process."""
    _open_timer().delete()


class Timer(Protocol):
    """Ends this process at an instant of `system_clock().hold`."""

    def set(self, at: float) -> None: ...
    def delete(self) -> None: ...
    def forget(self) -> None: ...


class Kill(Stopper):
    """Ends the process at the deadline, or `stop_within` before it; at once where the lease is lost sooner.

    Args:
        patience: seconds for the log and the callback of a loss that was seen; at the deadline there is none.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._timer: Timer | None = None
        self._at = 0.0  # on the system's clock
        self._mutex = threading.Lock()
        self._over = False
        self._unheard: Callable[[], None] = _nothing

    def begin(self, lease: Ending, clock: Clock, stop_within: float) -> None:
        self._name, self._clock, self._stop_within = lease.name, clock, stop_within
        self._timer = _open_timer()
        self._unheard = lease.listen(self._hear)
        self._move(lease.deadline)

    def _hear(self, event: Event) -> None:
        match event:
            case Renewed(deadline):
                self._move(deadline)
            case Endangered(deadline):
                self._warn(deadline)
            case Lost("forked"):
                self._forget()
            case _:
                pass

    def _move(self, deadline: float) -> None:
        """Set the timer for a deadline, which may be no later than the one that it is set for."""
        at = deadline - self._stop_within
        if self._clock is not system_clock:  # Looked at first: a pause makes it too early, and not too late.
            at = system_clock().hold + (at - self._clock().hold)
        with self._mutex:
            if at > self._at and not self._over and self._timer is not None:
                self._timer.set(at)
                self._at = at

    def _warn(self, deadline: float) -> None:
        """The last that can be said: at the deadline there is nobody to say anything."""
        left = max(deadline - self._stop_within - self._clock().hold, 0.0)
        logs.warn('lease on "%s": this process is killed in %.1f s unless it is renewed', self._name, left)

    def stop(self, loss: LeaseLost, call: Callable[[], None] | None, start: Start) -> None:
        with self._mutex:
            if self._over or self._timer is None:
                return
            soon = system_clock().hold + self._patience
            if soon < self._at:  # Should a thread hold the GIL now, the timer does it.
                with suppress(OSError):  # A guardian that is gone, and no other to be had: then we do.
                    self._timer.set(soon)
        start(lambda: self._kill(loss, call))

    def _kill(self, loss: LeaseLost, call: Callable[[], None] | None) -> None:
        say_last_words(f"{loss}; the process is killed", call, self._patience)
        with self._mutex:
            if not self._over:
                os.kill(os.getpid(), signal.SIGKILL)

    def end(self) -> None:
        with self._mutex:
            self._over = True
            if self._timer is not None:
                self._timer.delete()
                self._timer = None
        self._unheard()

    def _forget(self) -> None:
        """In the child of a fork, where the mutex may be held by nobody who is there."""
        self._mutex = threading.Lock()
        self._over = True
        if self._timer is not None:
            self._timer.forget()
            self._timer = None


def _open_timer() -> Timer:
    """One that works here.

    Raises:
        ConfigurationError: neither of the two does.
    """
    try:
        return KernelTimer()
    except OSError as refused:
        try:
            return Guardian()
        except OSError as error:
            raise ConfigurationError(
                f'on_lost="kill" needs a timer of the kernel ({refused}) or a guardian process ({error}); '
                'allow timer_create, or pass on_lost="exit"'
            ) from error


# ---- a timer of the kernel -----------------------------------------------------------------------


class _Sigevent(ctypes.Structure):
    """struct sigevent of 64-bit Linux: 64 bytes, of which three fields matter here."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class KernelTimer:
    """timer_create(2) on the clock that counts sleep, for SIGKILL.

    Raises:
        OSError: the platform has none, or does not let us have one.
    """

    def __init__(self) -> None:
        self._libc = _libc()
        self._id = ctypes.c_void_p()
        event = _Sigevent(signo=signal.SIGKILL, notify=_SIGEV_SIGNAL)
        self._call("timer_create", _BOOTTIME, ctypes.byref(event), ctypes.byref(self._id))

    def set(self, at: float) -> None:
        """Let it go off at this instant, which replaces every earlier one."""
        seconds, nanoseconds = divmod(max(int(at * 1e9), 1), 10**9)  # Nought would switch it off.
        when = _Itimerspec(value=_Timespec(seconds, nanoseconds))
        self._call("timer_settime", self._id, _TIMER_ABSTIME, ctypes.byref(when), None)

    def delete(self) -> None:
        """It goes off no more. Harmless when repeated."""
        with suppress(OSError):
            self._call("timer_delete", self._id)

    def forget(self) -> None:
        """Timers are not inherited, and their numbers may be those of others in a child."""

    def _call(self, function: str, *args: Any) -> None:
        if getattr(self._libc, function)(*args) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{function}: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    if _BOOTTIME is None or sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8:
        raise OSError("this platform has no timer_create on CLOCK_BOOTTIME")
    for name in (None, "librt.so.1"):  # The second, before glibc 2.34.
        libc = ctypes.CDLL(name, use_errno=True)
        if hasattr(libc, "timer_create"):
            return libc
    raise OSError("the C library has no timer_create")


# ---- a guardian process --------------------------------------------------------------------------


class Guardian:
    """A process of its own session that kills this one, fed through a pipe; it is there when this returns.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._process = self._start()
        with cast(IO[bytes], self._process.stdout) as voice:
            there = select.select([voice], [], [], _START_SECONDS)[0] and os.read(voice.fileno(), 1)
        if not there:
            _end(self._process)
            raise OSError(f"{sys.executable} did not run it")

    def _start(self) -> subprocess.Popen[bytes]:
        if not sys.executable:
            raise OSError("sys.executable names no Python")
        clock = "" if system_clock_number() is None else str(system_clock_number())
        command = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), clock]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        os.set_blocking(_pipe(process), False)
        return process

    def set(self, at: float) -> None:
        """Let it kill at this instant, which replaces every earlier one."""
        if not self._tell(at):  # It was killed: another takes its place. Nobody waits for it to be there.
            _end(self._process)
            self._process = self._start()
            self._tell(at)

    def _tell(self, at: float) -> bool:
        try:
            os.write(_pipe(self._process), guard.INSTANT.pack(at))
        except BlockingIOError:  # It is stopped, and may go on.
            return True
        except (OSError, ValueError):  # The second, where the pipe was closed because there was no other.
            return False
        return True

    def delete(self) -> None:
        """Dismiss it. Harmless when repeated."""
        _end(self._process)

    def forget(self) -> None:
        """It is the parent's: let go of the pipe, so that it hears of the parent's end."""
        _let_go(self._process)
        self._process.returncode = 0


def system_clock_number() -> int | None:
    """The clock of `system_clock().hold`, as `time.clock_gettime` knows it; None for `time.monotonic`."""
    if sys.platform == "linux":
        return time.CLOCK_BOOTTIME
    if sys.platform == "darwin":
        return time.CLOCK_MONOTONIC_RAW
    return None


def _nothing() -> None:
    """Nobody listens yet."""


def _pipe(process: subprocess.Popen[bytes]) -> int:
    return cast(IO[bytes], process.stdin).fileno()


def _end(process: subprocess.Popen[bytes]) -> None:
    _let_go(process)
    process.kill()
    process.wait()


def _let_go(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            cast(IO[bytes], pipe).close()
