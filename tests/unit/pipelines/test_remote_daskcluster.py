"""Connections to dask that fail: one line each, with a way out. Real clusters: tests/e2e/test_pipeline_clusters.py."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from lamina.pipelines.remote import daskcluster
from lamina.pipelines.remote.cluster import ClusterError
from lamina.pipelines.remote.daskcluster import DaskWorkers, _machine
from lamina.pipelines.remote.queueing import Machine


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daskcluster, "CONNECT", 1.0)


@pytest.fixture
def port() -> Iterator[int]:
    """Bound, so nobody else takes it; nobody listens, so connections are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.mark.parametrize(
    "text", ["dask://", "dask://host:port", "dask://host:70000", "dask://user@host:1", "dask://host:1/path", "dask+http://host:1"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ClusterError, match="is no address of a dask scheduler") as caught:
        DaskWorkers(text)
    assert caught.value.hint == "dask://HOST:PORT or dask+tls://HOST:PORT"


def test_nobody_listens(port: int) -> None:
    with pytest.raises(ClusterError) as caught:
        DaskWorkers(f"dask://127.0.0.1:{port}")
    assert str(caught.value).startswith(f"no dask scheduler can be used at dask://127.0.0.1:{port}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint is not None
    assert "dask scheduler" in caught.value.hint


def test_tls_without_certificates(port: int) -> None:
    with pytest.raises(ClusterError, match="no certificates are configured") as caught:
        DaskWorkers(f"dask+tls://127.0.0.1:{port}")
    assert caught.value.hint is not None
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in caught.value.hint


def test_dask_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match="dask is not installed here") as caught:
        DaskWorkers("dask://host:1")
    assert caught.value.hint == "pip install 'lamina[dask]'"


@pytest.mark.parametrize(
    ("info", "machine"),
    [
        ({"resources": {"MEM": 900.0, "CPU": 1.5, "gpu": 1.0}}, Machine("w", 900, 1.5, 4, frozenset({"gpu"}))),
        ({"resources": {}}, Machine("w", 8000, 4.0, 4)),
        ({"memory_limit": 0}, Machine("w", 1 << 40, 4.0, 4)),
        ({"status": "paused"}, Machine("w", 8000, 4.0, 4)),
        ({"status": "closing_gracefully"}, None),
        ({"nthreads": None}, None),
    ],
)
def test_what_a_worker_declares(info: dict[str, object], machine: Machine | None) -> None:
    assert _machine("w", {"status": "running", "nthreads": 4, "memory_limit": 8_000_000_000, "resources": {}, **info}) == machine
