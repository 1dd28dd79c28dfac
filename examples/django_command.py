"""A Django command that runs in every replica and works in one of them. Start it twice, and kill one.

In a project the class stands in ``<app>/management/commands/send_reminders.py`` and runs as ``python
manage.py send_reminders``; the settings here are there so that this file runs as it stands.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import django
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from leases import LeaseLost, leader_only

TTL = float(os.environ.get("TTL", "15"))  # seconds after which another takes over from one that was killed


@leader_only("reminders", ttl=TTL)
def send_reminders() -> str:
    began = time.monotonic()
    for _ in range(5):
        send_reminders.lease().check()  # raises LeaseLost unless this process still leads
        time.sleep(0.01)
    return f"{os.getpid()} sent reminders from {began:.3f} to {time.monotonic():.3f}"


def exit_orderly(number: int, frame: object) -> None:
    sys.exit()  # so that leadership is resigned at the exit; to die of the signal leaves no time for it


class Command(BaseCommand):
    help = "Send reminders for as long as it runs, if no other replica does."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--every", type=float, default=0.25, metavar="SECONDS")

    def handle(self, *args: Any, **options: Any) -> None:
        signal.signal(signal.SIGTERM, exit_orderly)
        while True:
            time.sleep(options["every"])
            try:
                told = send_reminders()
            except LeaseLost as loss:
                self.stderr.write(f"stopped half-way: {loss}")
            else:
                if told is not None:  # None: another replica does it
                    self.stdout.write(told)
                    self.stdout.flush()


if __name__ == "__main__":
    settings.configure()
    django.setup()
    Command().run_from_argv(["manage.py", "send_reminders", *sys.argv[1:]])
