"""Writers on four machines share a cache; some are killed, its server is killed and comes back: nothing that was completed is lost.

The machines are network namespaces. `python -m lamina.testing.writers` runs the same with other numbers and seeds.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.testing import bases, machines
from lamina.testing.writers import buildkit, places
from lamina.testing.writers.places import Backend
from lamina.testing.writers.trial import Settings, Trial

_SEED = int(os.environ.get("LAMINA_TRIAL_SEED", "20"))
_WRITERS = int(os.environ.get("LAMINA_TRIAL_WRITERS", "16"))
_REFUSED = machines.why_not() or bases.why_not()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.xdist_group("many writers"),  # one trial after the other: each has as many processes as writers
    pytest.mark.skipif(_REFUSED is not None, reason=str(_REFUSED)),
]


@pytest.mark.parametrize("backend", places.BACKENDS)
def test_nothing_that_a_writer_completed_is_lost(backend: Backend, tmp_path: Path) -> None:
    missing = places.why_not(backend)
    if missing:
        pytest.skip(missing)
    said: list[str] = []
    result = Trial(
        Settings(backend, writers=_WRITERS, machines=4, kills=max(2, _WRITERS // 5), restart=True, seed=_SEED),
        tmp_path / "trial",
        said.append,
    ).run()
    assert result.sound, (said, result)
    assert len(result.ends) == _WRITERS
    assert result.count("killed"), "the trial was about kills"
    assert result.count("completed") >= _WRITERS // 4, result.warnings  # the others met the server's end: how many depends on the machine
    assert result.restarted == (backend != "dir")


@pytest.mark.docker
@pytest.mark.parametrize("way", ["docker", "registry", "local"])
def test_of_a_cache_with_one_name_the_last_writer_remains(way: buildkit.Way, tmp_path: Path) -> None:
    """What the page on many writers says of BuildKit, with few of them."""
    missing = buildkit.why_not(way) or places.why_not("oci") or places.why_not("http")
    if missing:
        pytest.skip(missing)
    found = buildkit.compare(tmp_path / "trial", way, writers=3, machines=2)
    assert found.alone.missed == 0
    if found.failures:
        return  # a registry that is asked for the name while another writes it may answer with an error: the cache is lost and the build too
    assert found.whole == 1
    assert found.together.missed == 4, "two steps of each of the other two: the rest they share with the last one"
