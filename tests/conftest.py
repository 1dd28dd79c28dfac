"""What every test shares: how hypothesis searches, and hands of both colours."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from hands import Hands, Tasks, Threads

# A deadline per example would judge the machine, and a machine that is shared is often slow.
settings.register_profile("here", deadline=None)
# In CI the same examples every time: whoever changed nothing must not be the one to find the old fault.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(params=[Threads, Tasks], ids=["threads", "asyncio"])
def hands(request: pytest.FixtureRequest) -> Iterator[Hands]:
    """Hands of one colour, then of the other."""
    made: Hands = request.param()
    yield made
    made.close()
