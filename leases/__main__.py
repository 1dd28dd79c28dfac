"""`python -m leases` is the same as `leases`."""

from __future__ import annotations

from leases.cli.program import program

if __name__ == "__main__":
    program()
