"""What can be found out about a cluster before anybody locks anything in it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from leases.contract import Finding, Verdict
from leases.errors import StoreError
from leases_backends._kubernetes_answers import VERBS
from leases_backends._kubernetes_client import Answer
from leases_backends._kubernetes_lease import GROUP
from leases_backends._kubernetes_site import Site

_REVIEWS: Final = "/apis/authorization.k8s.io/v1"
_LEAST: Final = (1, 14)


def examine(site: Site, timeout: float) -> Iterator[Finding]:
    """Look at an API server, its health and clock, and at what we may do in a namespace."""
    until = time.monotonic() + timeout

    def ask(method: str, path: str, body: object = None) -> Answer:
        return site.client.call(method, path, until - time.monotonic(), body)

    try:
        answer = ask("GET", "/version")
        yield _version(answer)
        yield _clock(answer)
        yield _health(ask("GET", "/readyz"))
        yield _group(ask("GET", f"/apis/{GROUP}/v1"))
        yield from _permissions(site.namespace, ask)
    except StoreError as error:
        yield Finding("reach", Verdict.BAD, str(error))


def _version(answer: Answer) -> Finding:
    said = str(answer.body.get("gitVersion") or "")
    if not said:
        return Finding("version", Verdict.DOUBTFUL, f"the API server does not tell: {answer.message}")
    numbers = re.match(r"v?(\d+)\.(\d+)", said)
    if numbers and (int(numbers[1]), int(numbers[2])) < _LEAST:
        return Finding("version", Verdict.BAD, f"Kubernetes {said}", "upgrade it: Leases came with 1.14")
    return Finding("version", Verdict.GOOD, f"Kubernetes {said}")


def _clock(answer: Answer) -> Finding:
    try:
        ahead = parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()
    except (LookupError, TypeError, ValueError):
        return Finding("clock", Verdict.GOOD, "the API server does not tell its time; nothing depends on it")
    way = "ahead of" if ahead > 0 else "behind"
    return Finding(
        "clock", Verdict.GOOD, f"the API server's is {abs(ahead):.0f} s {way} ours; nothing depends on it"
    )


def _health(answer: Answer) -> Finding:
    if answer.status == 200:
        return Finding("health", Verdict.GOOD, "the API server is ready")
    if answer.status in (401, 403, 404):
        return Finding(
            "health", Verdict.GOOD, "the API server answers; whether it is ready, it does not tell us"
        )
    return Finding(
        "health", Verdict.DOUBTFUL, f"the API server is not ready: {answer.message}", "look at its log"
    )


def _group(answer: Answer) -> Finding:
    kinds = [resource.get("name") for resource in answer.body.get("resources") or ()]
    if "leases" in kinds:
        return Finding("leases", Verdict.GOOD, f"{GROUP}/v1 is served")
    verdict = Verdict.BAD if answer.status == 404 else Verdict.DOUBTFUL
    return Finding(
        "leases", verdict, f"{GROUP}/v1 is not shown: {answer.message}", "ask who runs the cluster"
    )


def _permissions(namespace: str, ask: Callable[..., Answer]) -> Iterator[Finding]:
    """One finding for each verb; a Role may also name the locks that it is good for."""
    named = _named_verbs(
        ask("POST", f"{_REVIEWS}/selfsubjectrulesreviews", _review("Rules", namespace=namespace))
    )
    for verb in (*VERBS, "delete"):
        what = {"namespace": namespace, "verb": verb, "group": GROUP, "resource": "leases"}
        answer = ask(
            "POST", f"{_REVIEWS}/selfsubjectaccessreviews", _review("Access", resourceAttributes=what)
        )
        subject, where = f"permission to {verb}", f"leases in {namespace}"
        status: Mapping[str, Any] = answer.body.get("status") or {}
        if status.get("allowed"):
            yield Finding(subject, Verdict.GOOD, f"any {where}")
        elif named.get(verb):
            yield Finding(subject, Verdict.DOUBTFUL, f"of {where}, these only: {', '.join(named[verb])}")
        elif "allowed" not in status:
            yield Finding(subject, Verdict.DOUBTFUL, f"the API server does not tell: {answer.message}")
        elif verb == "delete":
            yield Finding(subject, Verdict.GOOD, f"none for {where}; only prune --offline would need it")
        else:
            yield Finding(
                subject,
                Verdict.DOUBTFUL if verb == "watch" else Verdict.BAD,
                f"none for {where}",
                f'add to a Role: {{apiGroups: ["{GROUP}"], resources: ["leases"], verbs: ["{verb}"]}}',
            )


def _review(kind: str, **spec: object) -> dict[str, object]:
    return {"apiVersion": "authorization.k8s.io/v1", "kind": f"SelfSubject{kind}Review", "spec": spec}


def _named_verbs(answer: Answer) -> dict[str, list[str]]:
    """The names of Leases that each verb is allowed for, as far as the rules name any."""
    found: dict[str, list[str]] = {}
    for rule in (answer.body.get("status") or {}).get("resourceRules") or ():
        if GROUP in rule.get("apiGroups", ()) and "leases" in rule.get("resources", ()):
            for verb in rule.get("verbs", ()):
                found.setdefault(verb, []).extend(rule.get("resourceNames", ()))
    return found
