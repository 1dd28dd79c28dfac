"""Which API server to talk to, and as whom: by a pod's service account, or by a context of a kubeconfig.

The official package reads both, with its plugins; what it found is taken over once and kept until the API
server says that it has expired. So a call costs no look at a file, and nothing runs in the midst of one.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import kubernetes.client
import kubernetes.config
from kubernetes.config import incluster_config, kube_config

from leases.errors import ConfigurationError
from leases_backends._url import absolute

_IN_POD: Final = "KUBERNETES_SERVICE_HOST"
_ADVICE: Final = "mend it, or name another with kubeconfig=FILE or context=NAME"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration comes from.

    Attributes:
        kubeconfig: files, separated as in `$KUBECONFIG`; empty in a pod.
        context: of the kubeconfig; None is its current one.
    """

    kubeconfig: str
    context: str | None = None

    @property
    def shown(self) -> str:
        """For an error message."""
        if not self.kubeconfig:
            return "the pod's service account"
        return f"context {self.context!r} of {self.kubeconfig}" if self.context else self.kubeconfig

    @property
    def absolute(self) -> str:
        """The files of the kubeconfig, for who looks from another folder."""
        files = self.kubeconfig.split(os.pathsep)
        return os.pathsep.join(absolute(os.path.expanduser(file)) for file in files if file)


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the API server.

    Attributes:
        server: its URL, without slash at the end, user or password.
        authorization: the value of the header; empty where a certificate says who we are.
        tls: None for a server without.
        server_name: what the server's certificate must be for; None for the host of the URL.
        proxy: the URL of a proxy to go through.
        namespace: the one of the context, or of the service account.
    """

    server: str
    authorization: str = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)
    server_name: str | None
    proxy: str | None = field(repr=False)
    namespace: str


def source(kubeconfig: str | None, context: str | None) -> Source:
    """Where to look: in a pod at the service account, unless a kubeconfig or a context is named.

    Raises:
        ConfigurationError: there is neither.
    """
    if kubeconfig is None and context is None and _in_pod():
        return Source("")
    files = os.path.expanduser(kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    if not any(os.path.exists(file) for file in files.split(os.pathsep) if file):
        where = "" if kubeconfig else " and this is no pod with a service account"
        raise ConfigurationError(f"there is no kubeconfig {files}{where}; name one with kubeconfig=FILE")
    return Source(files, context)


def _in_pod() -> bool:
    return bool(os.environ.get(_IN_POD)) and os.path.isfile(incluster_config.SERVICE_TOKEN_FILENAME)


def load(where: Source) -> Access:
    """Read the configuration; a plugin that it names is run, and may take its time.

    Raises:
        ConfigurationError: it cannot be read, or says something that will not do.
    """
    found = kubernetes.client.Configuration()
    try:
        namespace = _read_kubeconfig(where, found) if where.kubeconfig else _read_service_account(found)
    except kubernetes.config.ConfigException as error:
        raise ConfigurationError(f"{where.shown}: {_first_line(error)}; {_ADVICE}") from error
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
        raise ConfigurationError(f"{where.shown} cannot be read ({why}); {_ADVICE}") from error
    except Exception as error:  # A YAML parser's, a plugin's, a TypeError: what the package does not check.
        # Its text may hold what it stumbled over, and that may be a credential.
        raise ConfigurationError(
            f"{where.shown} cannot be read ({type(error).__name__}); {_ADVICE}"
        ) from None
    return _access(where, found, namespace)


def _read_kubeconfig(where: Source, found: Any) -> str:
    loader: Any = kube_config
    loader.load_kube_config(
        config_file=where.kubeconfig, context=where.context, client_configuration=found, persist_config=False
    )
    merged = loader.KubeConfigMerger(where.kubeconfig).config
    name = where.context or merged["current-context"]
    context = merged["contexts"].get_with_name(name)["context"]
    return str(context.safe_get("namespace") or "default")


def _read_service_account(found: Any) -> str:
    loader: Any = incluster_config
    loader.load_incluster_config(client_configuration=found)
    try:
        folder = os.path.dirname(incluster_config.SERVICE_TOKEN_FILENAME)
        with open(os.path.join(folder, "namespace"), encoding="utf-8") as file:
            return file.read().strip() or "default"
    except OSError:
        return "default"


def _access(where: Source, found: Any, namespace: str) -> Access:
    parts = urlsplit(str(found.host))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{where.shown}: the server is no http: or https: URL; {_ADVICE}")
    address = parts.netloc.rpartition("@")[2]
    server = urlunsplit((parts.scheme, address, parts.path.rstrip("/"), "", ""))
    authorization = str((found.auth_settings().get("BearerToken") or {}).get("value") or "").strip()
    if not authorization.isprintable() or not authorization.isascii():
        raise ConfigurationError(f"{where.shown}: the token has characters that no token has; {_ADVICE}")
    tls = None
    if parts.scheme == "https":
        if not authorization and not found.cert_file:
            raise ConfigurationError(f"{where.shown} has no credentials, or its plugin gave none; {_ADVICE}")
        tls = _tls(where, found)
    return Access(server, authorization, tls, found.tls_server_name, _proxy(found, server), namespace)


def _tls(where: Source, found: Any) -> ssl.SSLContext:
    if not found.verify_ssl:
        raise ConfigurationError(
            f"{where.shown} has insecure-skip-tls-verify: whoever answers could hand out locks; "
            "give the cluster's certificate-authority instead"
        )
    try:
        context = ssl.create_default_context(cafile=found.ssl_ca_cert)
        # Python 3.13 refuses authorities without a key identifier, as many clusters have; kubectl takes them.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if found.cert_file:
            context.load_cert_chain(found.cert_file, found.key_file)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unknown"
        raise ConfigurationError(
            f"{where.shown}: a certificate or key in it cannot be used ({why}); {_ADVICE}"
        ) from None
    return context


def _proxy(found: Any, server: str) -> str | None:
    if not found.proxy:
        return None
    from kubernetes.client.rest import should_bypass_proxies

    if should_bypass_proxies(server, no_proxy=found.no_proxy or ""):
        return None
    return str(found.proxy)


def _first_line(error: Exception) -> str:
    """What the package says, without what a plugin wrote, which may hold anything."""
    return (str(error).splitlines() or [""])[0].partition("Stderr:")[0].strip(" .")[:300]
