from __future__ import annotations

import pytest

from lamina.pipelines.resources import memory, smallest


@pytest.mark.parametrize(
    ("size", "services", "build", "enough"),
    [
        (None, (), 4096, True),
        ("1x", (("docker", None),), 3072, True),
        ("1x", (("docker", 3072),), 1024, True),
        ("1x", (("docker", 3073),), 1023, False),
        ("2x", (("docker", 7168),), 1024, True),
        ("2x", (("docker", 7169),), 1023, False),
        ("8x", (("a", 128), ("b", None)), 8 * 4096 - 1152, True),
        ("32x", (), 32 * 4096, True),
    ],
)
def test_division(size: str | None, services: tuple[tuple[str, int | None], ...], build: int, enough: bool) -> None:
    found = memory(size, services)
    assert (found.build, found.enough) == (build, enough)


def test_own_runners_bring_their_own_total() -> None:
    assert memory("1x", (("a", 4000),), own=8192).build == 4192


def test_the_refusal_speaks_bitbuckets_words_and_the_sum() -> None:
    found = memory("1x", (("docker", 3000), ("db", 500)))
    assert found.refusal().endswith("Services on the current step are consuming 3500 MB.")
    assert "docker 3000 + db 500" in found.arithmetic()


def test_the_smallest_size_that_fits() -> None:
    assert smallest(5120) == "2x"
    assert smallest(10**6) is None
