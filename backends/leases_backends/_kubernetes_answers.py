"""What the API server's answers mean: not now, or not at all, and then what is missing."""

from __future__ import annotations

import re
from typing import Final

from leases.errors import StoreDenied, StoreError
from leases_backends._kubernetes_client import Answer, NoAnswer
from leases_backends._kubernetes_lease import GROUP

# What locks need. To look and to wait takes the first three.
VERBS: Final = ("get", "list", "watch", "create", "update")

_LATER: Final = (408, 425, 429)


def trouble(answer: Answer, verb: str, namespace: str, shown: str) -> StoreError:
    """The error for an answer that is neither success nor conflict.

    Args:
        answer: its status is 400 or more, or one that a proxy gives.
        verb: what was asked for, as a Role calls it.
        namespace: where.
        shown: the API server, for people.
    """
    if answer.status in _LATER:
        return NoAnswer(f"{shown} is busy ({answer.message}); ask less often", void=True)
    if answer.status >= 500 or answer.status < 400:
        return NoAnswer(f"{shown} says: {answer.message}; look at its log", void=False)
    if answer.status == 403:
        return StoreDenied(f"{shown} says: {_forbidden(answer, verb, namespace)}")
    if answer.status == 404 and answer.reason == "NotFound":
        return StoreDenied(f"{shown} has no namespace {namespace!r}; create it: kubectl create namespace")
    if answer.status == 404:
        return StoreDenied(f"{shown} does not know {GROUP}/v1; it takes Kubernetes 1.14 or newer")
    return StoreDenied(f"{shown} refuses to {verb} it ({answer.status}): {answer.message}")


def lacks(answer: Answer) -> bool:
    """Whether it is a permission that is missing, and not a quota or a policy that forbids."""
    return answer.status == 403 and re.search(r" cannot \w+ resource ", answer.message) is not None


def _forbidden(answer: Answer, verb: str, namespace: str) -> str:
    if "system:anonymous" in answer.message:
        return f"{answer.message}; it was given no credentials: name another context or kubeconfig"
    if lacks(answer):
        return (
            f"{answer.message}; the verb {verb!r} is missing, so add to a Role in {namespace!r}: "
            f'{{apiGroups: ["{GROUP}"], resources: ["leases"], verbs: ["{verb}"]}}'
        )
    return f"{answer.message}; ask who runs the cluster"
