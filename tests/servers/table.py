"""The servers that the tests run against: which versions, and where each comes from.

A new version is a new line here and a folder `builds/SERVER-VERSION` with its recipe: `go.mod` and
`go.sum` of a module that requires the server, or the `pom.xml` that names its jars.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

BUILDS: Final = Path(__file__).parent / "builds"

Versions = Literal["new", "old"]


@dataclass(frozen=True)
class Go:
    """Built from published modules: the main package, and what the linker is to set."""

    package: str
    sets: str = ""


@dataclass(frozen=True)
class Maven:
    """Jars, copied into `lib`."""


@dataclass(frozen=True)
class Debian:
    """Taken out of packages, which are not installed: `files` are patterns inside them, put into `into`.

    What has to find its neighbours is taken by the folder: `trees` are patterns, too, and keep their places.
    """

    packages: tuple[str, ...]
    files: tuple[str, ...]
    into: str = "."
    trees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """One server in one version.

    `program` is what there is to find: a file's name on PATH and in the cache, or the cache's folder of jars.
    `image` is the official one, and `inside` the place of the program in it; empty: it runs in no container.
    `beneath` is the place of the program in the cache, where that is no more than its name.
    `asks` are the arguments that make the program tell its version.
    """

    server: str
    version: str
    program: str
    source: Go | Maven | Debian
    image: str
    inside: str
    asks: tuple[str, ...] = ("--version",)
    takes: str = "a minute"
    beneath: str = "."

    @property
    def name(self) -> str:
        """`etcd-3.7.3`: the folder in the cache, and the one with the recipe."""
        return f"{self.server}-{self.version}"

    @property
    def recipe(self) -> Path:
        return BUILDS / self.name


SERVERS: Final = ("etcd", "zookeeper", "consul", "kubernetes", "postgres")

_GIT_VERSION: Final = "k8s.io/component-base/version.gitVersion"  # without it the server says version 0.0.0
_APISERVER: Final = "k8s.io/kubernetes/cmd/kube-apiserver"
_JARS_INSIDE: Final = "/apache-zookeeper-%s-bin/lib"
_JARS: Final = ("zookeeper", "zookeeper-jute", "netty-*", "slf4j-api", "slf4j-simple", "metrics-core")

# No store of locks, but what a lock guards. It refuses to be root, so its image is of no use to us: our
# containers have the user who runs the tests. The libraries are what it needs and a small Debian has not.
_POSTGRES: Final = Wanted(
    "postgres",
    "15",
    "postgres",
    Debian(
        (
            "postgresql-15=15*",
            "libpq5",
            "libldap-2.5-0",
            "libsasl2-2",
            "libxml2",
            "libicu72",
            "libgssapi-krb5-2",
            "libkrb5-3",
            "libk5crypto3",
            "libkrb5support0",
            "libkeyutils1",
        ),
        (),
        trees=(
            "usr/lib/postgresql/15/bin",
            "usr/lib/postgresql/15/lib",
            "usr/share/postgresql/15",
            "usr/lib/*-linux-gnu*",
        ),
    ),
    image="",
    inside="",
    takes="half a minute",
    beneath="usr/lib/postgresql/15/bin",
)

TABLE: Final[dict[Versions, tuple[Wanted, ...]]] = {
    "new": (
        Wanted(
            "etcd",
            "3.7.3",
            "etcd",
            Go("go.etcd.io/etcd/server/v3"),
            "gcr.io/etcd-development/etcd:v3.7.3",
            "/usr/local/bin/etcd",
        ),
        Wanted(
            "zookeeper",
            "3.9.4",
            "lib",
            Maven(),
            "zookeeper:3.9.4",
            _JARS_INSIDE % "3.9.4",
            takes="ten seconds",
        ),
        Wanted(
            "consul",
            "1.21.0",
            "consul",
            Go("github.com/hashicorp/consul"),
            "hashicorp/consul:1.21.0",
            "/bin/consul",
            asks=("version",),
            takes="five minutes",
        ),
        Wanted(
            "kubernetes",
            "1.37.2",
            "kube-apiserver",
            Go(_APISERVER, f"{_GIT_VERSION}=v1.37.2"),
            "registry.k8s.io/kube-apiserver:v1.37.2",
            "/usr/local/bin/kube-apiserver",
            takes="five minutes",
        ),
        _POSTGRES,
    ),
    "old": (
        Wanted(
            "etcd",
            "3.4.23",
            "etcd",
            Debian(("etcd-server=3.4.23*",), ("usr/bin/etcd",)),
            "gcr.io/etcd-development/etcd:v3.4.23",
            "/usr/local/bin/etcd",
            takes="ten seconds",
        ),
        Wanted(
            "zookeeper",
            "3.8.0",
            "lib",
            Debian(
                (
                    "libzookeeper-java=3.8.0*",
                    "libnetty-java",
                    "libslf4j-java",
                    "libdropwizard-metrics-java",
                    "libsnappy-java",
                    "libcommons-io-java",
                ),
                tuple(f"usr/share/java/{jar}.jar" for jar in (*_JARS, "snappy-java", "commons-io")),
                into="lib",
            ),
            "zookeeper:3.8.0",
            _JARS_INSIDE % "3.8.0",
            takes="ten seconds",
        ),
        Wanted(
            "consul",
            "1.18.0",
            "consul",
            Go("github.com/hashicorp/consul"),
            "hashicorp/consul:1.18.0",
            "/bin/consul",
            asks=("version",),
            takes="five minutes",
        ),
        Wanted(
            "kubernetes",
            "1.32.2",
            "kube-apiserver",
            Go(_APISERVER, f"{_GIT_VERSION}=v1.32.2"),
            "registry.k8s.io/kube-apiserver:v1.32.2",
            "/usr/local/bin/kube-apiserver",
            takes="five minutes",
        ),
        _POSTGRES,
    ),
}

# What speaks to a server as its users do. It is no server itself: one version does for all.
TOOLS: Final = (
    Wanted(
        "etcdctl",
        "3.7.3",
        "etcdctl",
        Go("go.etcd.io/etcd/etcdctl/v3"),
        image="",
        inside="",
        asks=("version",),
        takes="ten seconds",
    ),
)


def wanted(server: str, versions: Versions = "new") -> Wanted:
    """The line of the table, or that of a tool; KeyError for what is neither."""
    for line in (*TABLE[versions], *TOOLS):
        if line.server == server:
            return line
    raise KeyError(server)


def variable(server: str) -> str:
    """The environment variable that may hold the address of a running one: LEASES_TEST_ETCD."""
    return f"LEASES_TEST_{server.upper()}"
