"""What every test shares: how hypothesis searches."""

from __future__ import annotations

import os

from hypothesis import settings

# A deadline per example would judge the machine, and a machine that is shared is often slow.
settings.register_profile("here", deadline=None)
# In CI the same examples every time: whoever changed nothing must not be the one to find the old fault.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
