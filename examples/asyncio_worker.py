"""The same lock in asyncio, and work that is cancelled when its lease is lost.

Renewal runs in a thread of its own: a loop that is busy does not lose the lease by that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from leases import AcquireTimeout, Lease, Lock


async def copy_table(lease: Lease) -> None:
    for page in range(1, 4):
        lease.check()
        await asyncio.sleep(0.05)
        print(f"page {page} under token {lease.token}", flush=True)


async def while_held(lease: Lease, work: Coroutine[Any, Any, None]) -> None:
    """Run the work, and cancel it at the instant at which the lease is lost."""
    task = asyncio.create_task(work)
    lost = asyncio.create_task(lease.lost.wait_async())
    try:
        await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        lost.cancel()
        task.cancel()  # nothing happens to a task that is done
    await task


async def worker(name: str) -> None:
    try:
        async with Lock("copy-table", ttl=10, timeout=5, holder=name) as lease:
            print(f"{name} has the lock", flush=True)
            await while_held(lease, copy_table(lease))
    except AcquireTimeout as error:
        print(error)


async def main() -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(1, 4):
            group.create_task(worker(f"worker-{number}"))


if __name__ == "__main__":
    asyncio.run(main())
