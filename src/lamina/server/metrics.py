"""Figures of an engine in the text format of Prometheus (0.0.4). The format is a few lines, so no library is needed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from lamina.server.ui.steps import steps_of
from lamina.store.builds import BuildLog

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})


class Requests:
    """How many requests were answered since the engine began, by method and class of status. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, method: str, status: int) -> None:
        """A method that clients make up does not make a row of its own."""
        with self._lock:
            self._counts[method if method in _METHODS else "other", f"{status // 100}xx"] += 1

    def counts(self) -> dict[tuple[str, str], int]:
        with self._lock:
            return dict(self._counts)


def exposition(logs: Sequence[BuildLog], layers: Sequence[tuple[int, bool]], blobs: int, requests: Mapping[tuple[str, str], int]) -> bytes:
    """`layers`: bytes, and whether an image needs it. Figures of builds are those of the builds that are kept (the last 100), so they
    are gauges: one that is dropped takes its share along."""
    outcomes = Counter("failed" if log.error is not None else "ok" for log in logs)
    verdicts: Counter[str] = Counter()
    saved = spent = 0.0
    for log in logs:
        for step in steps_of(log):
            verdicts[step.verdict] += 1
            saved += step.saved
            spent += step.seconds
    in_images = sum(size for size, used in layers if used)
    only_cache = sum(size for size, used in layers if not used)
    lines = [
        *_family("lamina_builds", "gauge", "Builds that are kept.", {f'outcome="{name}"': outcomes[name] for name in ("ok", "failed")}),
        *_family(
            "lamina_steps", "gauge", "Steps of the kept builds.", {f'verdict="{_escaped(n)}"': c for n, c in sorted(verdicts.items())}
        ),
        *_family("lamina_saved_seconds", "gauge", "What hits of the kept builds had cost when they ran.", {"": round(saved, 4)}),
        *_family("lamina_step_seconds", "gauge", "Spent on steps of the kept builds.", {"": round(spent, 4)}),
        *_family(
            "lamina_store_bytes",
            "gauge",
            "Bytes in the store.",
            {'kind="image_layers"': in_images, 'kind="cache_layers"': only_cache, 'kind="blobs"': blobs},
        ),
        *_family(
            "lamina_requests_total",
            "counter",
            "Requests answered.",
            {f'method="{method}",status="{status}"': count for (method, status), count in sorted(requests.items())},
        ),
    ]
    return ("\n".join(lines) + "\n").encode()


def _family(name: str, kind: str, told: str, rows: Mapping[str, float]) -> list[str]:
    head = [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
    return head + [f"{name}{'{' + labels + '}' if labels else ''} {value}" for labels, value in rows.items()]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
