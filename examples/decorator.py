"""A lock around every call of a function, or of a coroutine function."""

from __future__ import annotations

import asyncio
import time

from leases import AcquireTimeout, Lock


@Lock("thumbnails")
def make_thumbnails(album: str) -> None:
    print(f"thumbnails of {album}")


@Lock("upload", timeout=5)
async def upload(album: str) -> None:
    await asyncio.sleep(0.01)
    print(f"uploaded {album}")


@Lock("thumbnails", timeout=0)  # the same lock by its name, without waiting
def tidy_up() -> None:
    print("tidied up")


@Lock("thumbnails")
def rebuild() -> None:
    time.sleep(0.01)
    try:
        tidy_up()
    except AcquireTimeout as error:
        print(f"not tidied up: {error}")


def main() -> None:
    make_thumbnails("beach")
    asyncio.run(upload("beach"))
    rebuild()
    tidy_up()


if __name__ == "__main__":
    main()
