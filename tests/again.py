"""Run the tests; in CI a few that failed are run once more, alone: `python tests/again.py ARGUMENTS`.

Thousands of tests keep real time, with real servers and processes, several tests at a time; and a machine
that CI shares with others may stand still for longer than one of them can bear. A fault fails alone as well,
so what fails in both runs has failed. What passes alone is named in the last line: it may be a rare fault.

There is no second chance on a machine of one's own, where more than a few failed, where one of them is about
safety (to have seen two at work at once is enough), nor where it is the run that broke.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MOST = 3
"""How many may fail among thousands, and be called weather."""


class Failures:
    """What failed, as the reports come in, from whichever process."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.unsafe: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the name of a test that failed, in its body or around it."""
        if report.failed and report.nodeid not in self.names:
            self.names.append(report.nodeid)
            if "safety" in report.keywords:
                self.unsafe.append(report.nodeid)


def main(arguments: list[str]) -> int:
    """Run them all; pytest's exit status, or that of the second run."""
    failures = Failures()
    status = pytest.main(arguments, plugins=[failures])
    if status != pytest.ExitCode.TESTS_FAILED or os.environ.get("CI") != "true":
        return status
    if failures.unsafe:
        print(f"again: not tried, for they are about safety: {', '.join(failures.unsafe)}")
        return status
    if not 0 < len(failures.names) <= MOST:
        print(f"again: not tried, for {len(failures.names)} failed, and at most {MOST} can be called weather")
        return status
    print(f"again: alone, and once: {', '.join(failures.names)}", flush=True)
    # Another Python may be at its tests in the same folder, so nothing is kept there.
    alone = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *failures.names]
    second = subprocess.run(alone, check=False).returncode
    if second == 0:
        print(f"again: failed among the others and passed alone, see above: {', '.join(failures.names)}")
    return second


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
