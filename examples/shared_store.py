"""One connection shared on purpose, several locks on it, and a look at who holds what."""

from __future__ import annotations

from contextlib import ExitStack

from leases import Status, connect


def show(status: Status) -> None:
    holder = f"held by {status.holder} with token {status.token}" if status.held else "free"
    print(f"{status.name} is {holder} {dict(status.metadata or {})}", flush=True)


def main() -> None:
    with connect() as store:
        states = store.watch("orders/42")  # what is there now, and then what is there after a change
        show(next(states))
        with ExitStack() as held:
            for number in 41, 42, 43:
                lock = store.lock(f"orders/{number}", holder="web-1", metadata={"step": "packing"})
                held.enter_context(lock)
            show(next(states))
            print("all orders that are locked:")
            for status in store.list("orders/"):
                show(status)
        show(next(states))
        print("one that nobody locked:")
        show(store.status("orders/44"))


if __name__ == "__main__":
    main()
