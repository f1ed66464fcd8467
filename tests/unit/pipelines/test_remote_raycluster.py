"""Connections to ray that fail before ray is asked. Real clusters: tests/e2e/test_pipeline_clusters.py."""

from __future__ import annotations

import socket
import sys
from types import ModuleType

import pytest

from lamina.pipelines.remote.cluster import ClusterError
from lamina.pipelines.remote.queueing import Machine
from lamina.pipelines.remote.raycluster import RayWorkers, _machine


@pytest.mark.parametrize("text", ["ray://", "ray://host:port", "ray://host:70000", "ray://user@host:1", "ray://host:1/path"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ClusterError, match="is no address of a ray cluster"):
        RayWorkers(text)


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match="ray is not installed here") as caught:
        RayWorkers("ray://host:1")
    assert caught.value.hint == "pip install 'lamina[ray]'"


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens: connections are refused, and nobody else takes the port
        port = bound.getsockname()[1]
        with pytest.raises(ClusterError, match=f"no ray cluster can be used at ray://127.0.0.1:{port}: .*refused"):
            RayWorkers(f"ray://127.0.0.1:{port}")


def test_what_a_node_declares() -> None:
    resources = {"CPU": 2.0, "memory": 1e9, "object_store_memory": 8e7, "node:198.18.0.10": 1.0, "gpu": 1.0, "GPU": 1.0, "used up": 0.0}
    assert _machine({"NodeID": "ab", "Alive": True, "Resources": resources}) == Machine("ab", 1000, 2.0, 1000, frozenset({"gpu"}))
