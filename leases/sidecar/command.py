"""`leases elector NAME`: leader election over HTTP, for an application beside it in any language."""

from __future__ import annotations

import argparse
import os
import re
import socket
from typing import TYPE_CHECKING, Final

from leases.cli.console import Console
from leases.cli.options import UsageError, add_store, duration, pair
from leases.errors import ConfigurationError
from leases.identity import default_holder
from leases.registry import VARIABLE, open_backend, store_url
from leases.sidecar.port import PORT, Address, address, listen
from leases.urls import shown

if TYPE_CHECKING:
    from leases.sidecar.candidate import Mark

_MORE: Final = """\
requests:
  GET /              {"name": "<leader, or empty>", "is_leader", "id", "token", "since", "expires_in", ...}
  GET /leader        200 if this one leads, else 404: curl -f
  GET /events        server-sent events: the state first, then every change
  GET /wait?token=N  the state, as soon as it is newer than N; N is the token that was seen last, or 0
  GET /validate?holder=H&token=N   200 if that one leads now, as the store says; else 409
  POST /resign, POST /transfer?to=ID          give the leadership away; from this host alone
  GET /history, /healthz, /readyz, /metrics   who has led; for probes; for Prometheus
  GET /ui            a page to look at

A leader is shown as long as it can be one: nobody, once nothing was heard for the ttl. On SIGTERM and
SIGINT it says that it does not lead any more, gives the application --drain seconds, releases, and exits.

In a pod of Kubernetes the store is by default kubernetes://, the id is $POD_NAME or the host's name, and
--http has to be :4040 where the kubelet is to probe it. The flags of the old leader-elector are taken:
--election, --election-namespace, --id, --ttl 10s, --http 0.0.0.0:4040, --use-cluster-credentials; with
one dash, too.

exit codes: 0 after a signal; 64 the words make no sense; 69 the port, or the store, is not to be had;
77 the store refuses us. A store that gives no answer is waited for.

examples:
  leases elector scheduler --backend etcd://etcd-1,etcd-2 &
  curl -fs -o /dev/null localhost:4040/leader && ./nightly.sh     from cron on every host: one runs it
  leases elector --election=scheduler --election-namespace=jobs --id="$POD_NAME" --http=:4040
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = "leases elector NAME [options]"
    parser.epilog = _MORE
    add = parser.add_argument
    add("name", metavar="NAME", nargs="?", help="what is led: the name of a lock")
    add("--http", type=address, metavar="HOST:PORT", help=f"where to answer; default localhost:{PORT}")
    add("--holder", "--id", metavar="ID", help="who this candidate is; default host:pid")
    add("--ttl", type=go_duration, default=15.0, metavar="SECS", help="of the lease; default 15")
    add(
        "--drain", type=duration, metavar="SECS",
        help="from saying that it leads no more to the release; default 0.5",
    )  # fmt: skip
    add("--meta", type=pair, action="append", default=[], metavar="K=V", help="what others are to see")
    add("--priority", type=int, metavar="N", help="the higher one leads; default: whoever came first")
    add("--ready-leader-only", action="store_true", help="/readyz is 200 on the leader alone")
    add(
        "--validate-cache", type=duration, default=0.0, metavar="SECS",
        help="/validate uses a yes of the store again for so long; default 0",
    )  # fmt: skip
    add(
        "--allow-remote-control", action="store_true",
        help="take /resign and /transfer from anywhere: whoever reaches the port can depose the leader",
    )  # fmt: skip
    add(
        "--pod-label", nargs="?", const="", metavar="KEY",
        help="label this pod leader or standby; default key leases/role",
    )  # fmt: skip
    add_store(parser)
    add("--json", action="store_true", help="say everything on stderr as JSON, one object a line")
    add("--election", metavar="NAME", help="as NAME")
    add("--election-namespace", metavar="NS", help="as --backend kubernetes://NS")
    add("--use-cluster-credentials", nargs="?", const="true", help=argparse.SUPPRESS)
    for old in ("election", "election-namespace", "id", "http", "ttl", "use-cluster-credentials"):
        _add_with_one_dash(parser, old)


def _add_with_one_dash(parser: argparse.ArgumentParser, old: str) -> None:
    like = next(action for action in parser._actions if f"--{old}" in action.option_strings)
    parser.add_argument(
        f"-{old}", dest=like.dest, type=like.type or str, nargs=like.nargs, const=like.const,
        default=argparse.SUPPRESS, help=argparse.SUPPRESS,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; the exit code.

    Raises:
        LeasesError: it cannot begin.
    """
    console = Console(as_json=args.json)
    try:
        from leases.sidecar.access import Access
        from leases.sidecar.candidate import Candidate
        from leases.sidecar.http import app
        from leases.sidecar.serving import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("leases"):
            raise
        raise ConfigurationError(
            f'the sidecar needs the package {error.name}; install it with: pip install "leases[sidecar]"'
        ) from error
    name, store = _name(args), _store(args)
    open_backend(store_url(store)).close()  # What makes no sense is told before anything is served.
    candidate = Candidate(
        name,
        store=store,
        ttl=args.ttl,
        holder=args.holder if args.holder is not None else _default_id(),
        metadata=dict(args.meta),
        priority=args.priority,
        drain=args.drain,
        marks=_marks(args.pod_label, console),
    )
    sockets = listen(args.http or Address("localhost", PORT))
    application = app(
        candidate,
        access=Access(remote=args.allow_remote_control),
        ready_leader_only=args.ready_leader_only,
        validate_cache=args.validate_cache,
    )
    return serve(application, sockets, console)


def _marks(key: str | None, console: Console) -> list[Mark]:
    """The label of the pod, if it was asked for."""
    if key is None:
        return []
    from leases.sidecar.pod import LABEL, Pod, PodLabel

    return [PodLabel(Pod.mine(), label=key or LABEL, tell=lambda text: console.say("label", text))]


# ---- what the words mean ---------------------------------------------------------------------------


def _name(args: argparse.Namespace) -> str:
    if args.name is not None and args.election not in (None, args.name):
        raise UsageError(
            f'both NAME "{args.name}" and --election "{args.election}" were given; leave one out'
        )
    name: str | None = args.name if args.name is not None else args.election
    if name is None:
        raise UsageError("no name was given; write what is to be led: leases elector NAME")
    return name


def _store(args: argparse.Namespace) -> str | None:
    """The store's URL; None for what is so elsewhere."""
    if args.election_namespace is not None:
        url = f"kubernetes://{args.election_namespace}"
        if args.backend is not None:
            raise UsageError(
                f"both --election-namespace and --backend {shown(args.backend)} were given; leave one out"
            )
        return url
    if args.backend is None and not os.environ.get(VARIABLE) and in_cluster():
        return "kubernetes://"  # A file in a container would make every replica a leader.
    backend: str | None = args.backend
    return backend


def in_cluster() -> bool:
    """Whether this is a container in a pod of Kubernetes."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _default_id() -> str:
    """In a pod its name, by which the application knows itself; elsewhere as everywhere."""
    if in_cluster():
        return os.environ.get("POD_NAME") or socket.gethostname()
    return default_holder()


_GO: Final = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:h|ms|m|s|us|µs|ns))+", re.ASCII)
_GO_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(h|ms|m|s|us|µs|ns)", re.ASCII)
_GO_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def go_duration(text: str) -> float:
    """Seconds, as every other duration or as Go writes them: `10s`, `1m30s`."""
    if _GO.fullmatch(text):
        return sum(float(count) * _GO_UNITS[unit] for count, unit in _GO_PART.findall(text))
    return duration(text)
