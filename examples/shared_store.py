"""One connection shared on purpose, many locks on it, and a look at who holds what."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from leases import Store, connect


def follow(store: Store, name: str, ready: threading.Event) -> None:
    """Print every state of one lock, until it is free again."""
    was_held = False
    for status in store.watch(name):
        print(f"watch: {name} is {'held by ' + str(status.holder) if status.held else 'free'}", flush=True)
        ready.set()
        if was_held and not status.held:
            return
        was_held = status.held


def main() -> None:
    with connect() as store, ExitStack() as held:
        ready = threading.Event()
        follower = threading.Thread(target=follow, args=(store, "orders/42", ready))
        follower.start()
        ready.wait()

        for number in 41, 42, 43:
            lock = store.lock(f"orders/{number}", holder="web-1", metadata={"step": "packing"})
            held.enter_context(lock)

        for status in store.list("orders/"):
            print(f"list: {status.name}, token {status.token}, {status.holder}, {status.metadata}")
        print(f"status: {store.status('orders/44')}")

        held.close()  # releases all three
        follower.join()


if __name__ == "__main__":
    main()
