"""The health check of the image: whom it asks, and what it makes of the answer."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from leases.sidecar import probe
from leases.sidecar.port import PORT, Address
from servers.process import HOST, Ports

LOCAL = Address("localhost", PORT)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("leases elector job", LOCAL),
        ("/opt/leases/bin/python3 /opt/leases/bin/leases elector job", LOCAL),
        ("leases elector job --http :8080", Address("", 8080)),
        ("leases elector --http=0.0.0.0:8080 job", Address("0.0.0.0", 8080)),  # noqa: S104
        ("leases elector job -http=localhost:1", Address("localhost", 1)),
        ("leases elector job --http 1 --http 2", Address("localhost", 2)),
        ("/sbin/docker-init -- leases elector job --http [::1]:8080", Address("::1", 8080)),
        ("leases hold job -- sleep 9", None),
        ("leases hold elector -- ./run elector", None),
        ("/pause", None),
        ("", None),
    ],
)
def test_it_asks_where_the_elector_was_told_to_listen(line: str, where: Address | None) -> None:
    """By the command line of process 1, whatever started it."""
    assert probe.told_to_listen(line.split(" ")) == where


class Sidecar(http.server.BaseHTTPRequestHandler):
    """Answers as it is told."""

    status, body = 200, b""

    def do_GET(self) -> None:
        assert self.path == "/healthz"
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # its name in the base class
        pass


@pytest.fixture
def at() -> Iterator[str]:
    """The address of a sidecar that is one in name."""
    with http.server.HTTPServer((HOST, 0), Sidecar) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (200, {"ok": True, "reasons": []}, 0, "ok"),
        (503, {"ok": False, "reasons": ["it is late", "it hangs"]}, 1, "it is late; it hangs"),
        (200, {"name": "something else"}, 1, "gives no answer"),
        (200, [], 1, "gives no answer"),
    ],
)
def test_what_it_is_told_is_its_code(
    at: str,
    status: int,
    body: object,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the sidecar says is kept by the engine; what is no sidecar is not well."""
    monkeypatch.setattr(Sidecar, "status", status)
    monkeypatch.setattr(Sidecar, "body", json.dumps(body).encode())
    assert probe.main([at]) == code
    assert said in capsys.readouterr().out


def test_nobody_there_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    """A port that nobody listens on, and words that are no address."""
    with closing(Ports("http")) as ports:
        assert probe.main([ports.at("http")]) == 1
    assert "see the container's log" in capsys.readouterr().out
    assert probe.main(["nowhere"]) == 1
    assert "write localhost:4040" in capsys.readouterr().out


def test_who_runs_no_elector_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container of another command has nothing to ask, nor has one whose process 1 cannot be seen."""
    line = tmp_path / "cmdline"
    monkeypatch.setattr(probe, "_FIRST", line)
    assert probe.main([]) == 0
    line.write_bytes(b"leases\0hold\0job\0--\0sleep\0" + b"9\0")
    assert probe.main([]) == 0
    assert "nothing to ask" in capsys.readouterr().out
    with closing(Ports("http")) as ports:
        line.write_bytes(f"leases\0elector\0job\0--http\0{ports.at('http')}\0".encode())
        assert probe.main([]) == 1
