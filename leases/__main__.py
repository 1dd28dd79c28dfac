"""`python -m leases` is the same as `leases`."""

from __future__ import annotations

import sys

from leases.cli import main

if __name__ == "__main__":
    sys.exit(main())
