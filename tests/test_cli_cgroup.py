"""A control group for a command: where it is found, what it is for, and that nothing is said without it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from leases.cli import cgroup
from leases.cli.cgroup import Cage, folder_of, home, make_cage, sweep
from leases_command import alive, until

MOUNT = "41 31 0:38 {root} {point} rw,relatime shared:9 master:2 - cgroup2 cgroup2 rw\n"
OTHERS = "30 23 0:28 / /sys rw - sysfs sysfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"


@pytest.mark.parametrize(
    ("groups", "root", "point", "folder"),
    [
        ("0::/a.slice/b.scope\n", "/", "/sys/fs/cgroup", "/sys/fs/cgroup/a.slice/b.scope"),
        ("0::/\n", "/", "/sys/fs/cgroup", "/sys/fs/cgroup"),
        ("4:memory:/x\n0::/y\n", "/", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/y"),
        ("0::/docker/1\n", "/docker/1", "/sys/fs/cgroup", "/sys/fs/cgroup"),
        ("0::/docker/1/inner\n", "/docker/1", "/mnt/a\\040b", "/mnt/a b/inner"),
        ("0::/docker/12\n", "/docker/1", "/sys/fs/cgroup", None),
        ("0::/../outside\n", "/", "/sys/fs/cgroup", None),
        ("4:memory:/x\n", "/", "/sys/fs/cgroup", None),
        ("", "/", "/sys/fs/cgroup", None),
    ],
)  # fmt: skip
def test_where_it_is(groups: str, root: str, point: str, folder: str | None) -> None:
    """The group of a process is found where version 2 is mounted, beside version 1 or in a container."""
    assert folder_of(groups, OTHERS + MOUNT.format(root=root, point=point)) == folder
    assert folder_of(groups, OTHERS) is None


def test_no_group_where_it_would_change_something(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No other shares, by controllers that are switched on for children; no limit that is seen no more."""
    monkeypatch.setattr(cgroup, "home", lambda: str(tmp_path))
    control = tmp_path / "cgroup.subtree_control"
    control.write_text("cpu memory\n")
    assert make_cage() is None
    control.write_text("\n")
    for name, limited in (("memory.max", "1000000\n"), ("cpu.max", "50000 100000\n")):
        (tmp_path / name).write_text(limited)
        assert make_cage() is None
        (tmp_path / name).write_text("max\n" if name == "memory.max" else "max 100000\n")
    cage = make_cage()
    assert cage is not None and Path(cage.path).is_dir()
    control.unlink()
    assert make_cage() is None


def test_nowhere_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system without it, or one that forbids it, gets no group and hears no complaint."""
    monkeypatch.setattr(cgroup, "home", lambda: None)
    assert make_cage() is None
    sweep()
    cage = Cage(str(tmp_path / "missing"))
    cage.enter()
    cage.kill()
    cage.remove()


def test_old_kernels(tmp_path: Path) -> None:
    """Without cgroup.kill the members are killed one by one."""
    with subprocess.Popen(["sleep", "60"]) as process:
        (tmp_path / "cgroup.procs").write_text(f"0\n{process.pid}\n")
        Cage(str(tmp_path)).kill()
        assert process.wait(30) == -signal.SIGKILL


def test_sweeping(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty groups of the dead are removed; those of the living, and those with somebody in them, stay."""
    monkeypatch.setattr(cgroup, "home", lambda: str(tmp_path))
    with subprocess.Popen(["true"]) as process:
        pass
    names = {
        "dead": f"leases-{process.pid}-0011", "peopled": f"leases-{process.pid}-0022",
        "living": f"leases-{os.getpid()}-0033", "foreign": "leases.service", "other": "leases-x-1",
    }  # fmt: skip
    for name in names.values():
        (tmp_path / name).mkdir()
    (tmp_path / names["peopled"] / "somebody").touch()
    sweep()
    assert set(os.listdir(tmp_path)) == set(names.values()) - {names["dead"]}
    sweep(os.getpid())
    assert names["living"] not in os.listdir(tmp_path)


def test_sweeping_what_is_nested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hold within a hold that was killed with it leaves its group in the other's: both are removed."""
    monkeypatch.setattr(cgroup, "home", lambda: str(tmp_path))
    with subprocess.Popen(["true"]) as process:
        pass
    inner = tmp_path / f"leases-{process.pid}-0011" / f"leases-{process.pid}-0022"
    inner.mkdir(parents=True)
    sweep()
    assert not inner.parent.exists()
    inner.mkdir(parents=True)
    Cage(str(inner.parent)).remove()
    assert not inner.parent.exists()


def may_have_one() -> bool:
    """Whether this system lets us have a control group."""
    cage = make_cage()
    if cage is not None:
        cage.remove()
    return cage is not None


@pytest.mark.skipif(not may_have_one(), reason="this system lets us have no control group")
def test_all_are_killed_at_once() -> None:
    """Whoever is in the group is killed by one write, whatever session it is in; then it can be removed."""
    cage = make_cage()
    assert cage is not None and cage.path.startswith(str(home()))
    line = "setsid sleep 60 & sleep 60 & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", line], stdout=subprocess.PIPE, preexec_fn=cage.enter, start_new_session=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert Path(cage.path).name in Path(f"/proc/{child}/cgroup").read_text()
        cage.kill()
    until(lambda: not alive(child))
    until(lambda: "populated 0" in Path(f"{cage.path}/cgroup.events").read_text())
    cage.remove()
    assert not os.path.exists(cage.path)
