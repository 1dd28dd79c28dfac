"""A scene of your own in the simulator that ships with the library, judged at every step, and drawn.

    python examples/draw_a_scene.py docs/timeline.svg

Two minutes pass in no time: the machines are the real ones, the clocks, the network and the store are not.
The store here follows the rules of etcd. Every step is judged by the invariants of the protocol; a
`Violation` would end the scene.
"""

from __future__ import annotations

import sys
from pathlib import Path

from leases import Terms
from leases.testing.cells import Kind
from leases.testing.driver import Habits
from leases.testing.scene import Scene
from leases.testing.timeline import draw, story
from leases.testing.world import World

TITLE = "Three hosts, one lock, ttl 15 s"
NOTE = "The first holder stands still, the second is cut off from the store, the third crashes."


def play() -> Scene:
    """Three processes want the lock for good; each holder meets with an accident."""
    scene = Scene(World("a scene", watched=True), Kind.ETCD)
    for name, host, wants in ("web-1", "host 1", 1), ("web-2", "host 2", 2), ("web-3", "host 3", 3):
        process = scene.process(name, scene.host(host), Terms(15), Habits(work=1000))
        scene.world.at(wants, process.want)
    first, second, third = scene.processes
    scene.world.at(22, first.pause, 24.0)
    scene.world.at(50, scene.partition, second.host, 30.0)
    scene.world.at(88, third.crash)
    scene.world.run(120)
    return scene


def main() -> None:
    scene = play()
    marks = scene.world.marks or []
    for process in scene.processes:
        for held in story(marks, process.name, scene.world.time).held:
            print(f"{process.name} believed from {held.begin:6.2f} s to {held.end:6.2f} s, token {held.text}")
    lanes = [(process.name, process.host.name) for process in scene.processes]
    picture = draw(marks, lanes, title=TITLE, note=NOTE)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
