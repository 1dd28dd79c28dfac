"""The label of the pod that leads, by which a Service finds it: `leases/role`, `leader` or `standby`.

    label = PodLabel(Pod.mine())
    label.show(False)            # at the start: what an earlier sidecar of this pod has left is corrected
    label.show(True)             # returns at once; a thread sees to it until the API server has agreed
    label.show(False)            # before it resigns
    label.settle(0.2)            # whether it is so now

The pod patches itself, by the one verb `patch` on `pods`, and reads nothing. A label is a hint for whoever
routes, and no fence: the pod of a leader that is cut off from the API server keeps it until it is back, and
others may lead by then. So two pods may have it for a while, and whoever serves has to look at its own lease.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from leases.errors import ConfigurationError
from leases.keeper import report
from leases.logs import warn

LABEL: Final = "leases/role"
LEADER: Final = "leader"
STANDBY: Final = "standby"

SECRETS: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_S: Final = 2.0  # for an answer; a label that has to go waits behind one that was to come
REPEAT_S: Final = 30.0  # what has been agreed on is said again, which costs the API server no write
_FIRST_RETRY_S: Final = 0.25
_LAST_RETRY_S: Final = 10.0
_KEY: Final = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", re.A
)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, and how it reaches its API server.

    Attributes:
        host, port: of the API server.
        namespace, name: of the pod.
        uid: the pod's own; a later pod of the same name is then left alone. Empty where it is not known.
        secrets: the folder with `token` and `ca.crt`, which are read for each request: they are replaced.
    """

    host: str
    port: int
    namespace: str
    name: str
    uid: str = ""
    secrets: Path = SECRETS

    @classmethod
    def mine(cls, environment: Mapping[str, str] | None = None, secrets: Path = SECRETS) -> Self:
        """The pod that this process runs in: by POD_NAME, POD_NAMESPACE and POD_UID, or what is at hand.

        Raises:
            ConfigurationError: this is no pod, or none that may talk to its API server.
        """
        env = os.environ if environment is None else environment
        host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ConfigurationError(
                "there is no pod to label: KUBERNETES_SERVICE_HOST is not set; "
                "run this in a pod, or without its label"
            )
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigurationError(f"KUBERNETES_SERVICE_PORT={port!r} is no port; set it to one, as 443")
        if not (secrets / "token").exists():
            raise ConfigurationError(
                f"there is no token in {secrets}; give the pod a service account that is mounted "
                "(automountServiceAccountToken: true)"
            )
        namespace = env.get("POD_NAMESPACE")
        try:
            namespace = namespace or _line(secrets / "namespace")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the pod's namespace is not known ({error}); set POD_NAMESPACE from the pod's own metadata"
            ) from error
        name = env.get("POD_NAME") or socket.gethostname()
        return cls(host, int(port), namespace, name, env.get("POD_UID", ""), secrets)


class PodLabel:
    """Keeps a label of a pod as it was last asked for, from a thread of its own.

    Args:
        pod: whose label.
        label: its key.
        tell: is told in one sentence of each trouble, once until it is over; default a warning to the log.

    Raises:
        ConfigurationError: a key that no label can have.
    """

    def __init__(self, pod: Pod, *, label: str = LABEL, tell: Callable[[str], object] | None = None) -> None:
        if not _KEY.fullmatch(label):
            raise ConfigurationError(f"{label!r} is no key of a label; use one like {LABEL}")
        self._pod, self._label = pod, label
        self._tell = tell or _warn
        self._changed = threading.Condition()
        self._wanted = ""
        self._agreed = self._closed = False
        self._due_at: float | None = None
        self._retry_s = _FIRST_RETRY_S
        self._trouble = ""
        self._thread: threading.Thread | None = None

    def show(self, leading: bool) -> None:
        """From now on the label is to say whether this pod leads. Waits for nothing."""
        role = LEADER if leading else STANDBY
        with self._changed:
            if self._closed or role == self._wanted:
                return
            self._wanted, self._agreed = role, False
            self._due_at, self._retry_s = time.monotonic(), _FIRST_RETRY_S
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="leases-pod-label", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settle(self, timeout: float) -> bool:
        """Wait until the label is as asked for; False when that took longer than so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._agreed, timeout)

    @property
    def trouble(self) -> str:
        """Why the label may not be as asked for; empty where nothing is wrong."""
        return self._trouble

    def close(self) -> None:
        """Stop; the label stays as it is."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ---- in the thread ---------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._turn():
            wanted = self._wanted
            trouble = patch(self._pod, self._label, wanted)
            if trouble and trouble != self._trouble:
                self._say(trouble)
            with self._changed:
                self._trouble = trouble
                if wanted == self._wanted:  # Else it has been asked for something else, which is due now.
                    self._plan(done=not trouble)

    def _turn(self) -> bool:
        """Wait until there is something to say; False at the end."""
        with self._changed:
            while not self._closed:
                left = REPEAT_S if self._due_at is None else self._due_at - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
            return False

    def _say(self, trouble: str) -> None:
        try:
            self._tell(trouble)
        except Exception as error:  # Whatever is told must not end the thread that it is told by.
            report("%s failed; it is told the next trouble all the same", self._tell, error)

    def _plan(self, *, done: bool) -> None:
        if done:
            self._agreed, self._retry_s = True, _FIRST_RETRY_S
            self._changed.notify_all()
        # After success too: a request whose answer was lost may arrive late, and people edit labels.
        self._due_at = time.monotonic() + (REPEAT_S if done else self._retry_s)
        if not done:
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)


def _warn(trouble: str) -> None:
    warn("%s", trouble)


def patch(pod: Pod, label: str, value: str) -> str:
    """Set one label of a pod; what went wrong, or nothing where nothing did."""
    metadata: dict[str, object] = {"labels": {label: value}}
    if pod.uid:
        metadata["uid"] = pod.uid
    who = f"pod {pod.name} in namespace {pod.namespace}"
    try:
        status, answer = _ask(pod, json.dumps({"metadata": metadata}))
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        return f"label {label} of {who} is not set ({why}); see whether the pod reaches its API server"
    return "" if status == 200 else f"label {label} of {who} is not set: {_refusal(pod, status, answer)}"


def _ask(pod: Pod, body: str) -> tuple[int, bytes]:
    # The authority and the token are read anew each time: both are replaced while a pod runs.
    context = ssl.create_default_context(cafile=str(pod.secrets / "ca.crt"))
    # From 3.13 on Python asks for extensions that the authorities of many clusters do not have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    headers = {
        "Authorization": f"Bearer {_line(pod.secrets / 'token')}",
        "Content-Type": "application/merge-patch+json",
        "Accept": "application/json",
    }
    connection = http.client.HTTPSConnection(pod.host, pod.port, timeout=REQUEST_S, context=context)
    try:
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}?fieldManager=leases"
        connection.request("PATCH", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(65536)
    finally:
        connection.close()


def _refusal(pod: Pod, status: int, answer: bytes) -> str:
    match status:
        case 401:
            return f"the API server does not know the token in {pod.secrets} (401); mount a service account's"
        case 403:
            return (
                "verb 'patch' is missing (403); add to a Role of its service account: "
                'apiGroups: [""], resources: ["pods"], verbs: ["patch"]'
            )
        case 404:
            return "there is no such pod (404); set POD_NAME and POD_NAMESPACE from the pod's own metadata"
        case 409 | 422 if b"uid" in answer:
            return f"it is another pod than this one ({status}); set POD_UID from the pod's own metadata"
        case _:
            return f"the API server said {status}, {_message(answer)}; it is tried again"


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])[:200]
    except (ValueError, LookupError, TypeError):
        return "without a reason"


def _line(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()
