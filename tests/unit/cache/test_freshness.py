import pytest

from lamina.cache.freshness import Asked, matches
from lamina.testing.vertices import step

RUN = step("RUN  apt-get update && apt-get install git", stage="deps", number=1, index=3)
COPY = step("COPY . /src", stage="", number=2, index=1)
WORKDIR = step("WORKDIR /app", stage="deps", number=1, index=2)
SOURCE = step("FROM debian", stage="deps", number=-1)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("deps", True),
        ("DEPS", True),
        ("1", True),
        ("deps:3", True),
        ("1:3", True),
        ("deps:2", False),
        ("other:3", False),
        ("RUN apt-get update", True),
        ("RUN apt-get  update &&", True),
        ("apt-get", False),
        ("dep", False),
        ("0", False),
        ("", False),
        (":3", False),
        ("RUN http://x:3", False),
    ],
)
def test_selectors(selector: str, expected: bool) -> None:
    assert matches(selector, RUN) is expected


def test_a_stage_without_a_name_has_a_number_only() -> None:
    assert matches("2", COPY)
    assert matches("2:1", COPY)
    assert not matches(":1", COPY)
    assert not matches("deps", SOURCE)


def test_who_forces_a_step() -> None:
    assert Asked(no_cache=True).forced_by(RUN) == "--no-cache"
    assert Asked(no_cache=True).forced_by(WORKDIR) is None
    assert Asked(no_cache_filter=("x", "Deps")).forced_by(RUN) == "--no-cache-filter Deps"
    assert Asked(no_cache_filter=("deps",)).forced_by(COPY) is None
    assert Asked(refresh=("deps:2",)).forced_by(WORKDIR) == "--refresh deps:2"
    assert Asked(refresh=("deps:2",)).forced_by(RUN) is None


def test_the_smallest_limit_holds() -> None:
    asked = Asked(max_age=(("deps", 60.0), ("RUN apt", 30.0), ("other", 1.0)))
    assert asked.limit(RUN) == (30.0, "--max-age RUN apt")
    assert asked.limit(RUN, 10.0) == (10.0, "# lamina: max-age")
    assert asked.limit(COPY) is None


def test_selectors_that_match_nothing_are_told() -> None:
    asked = Asked(no_cache_filter=("nope",), refresh=("deps", "typo"), max_age=(("RUN nothing", 1.0),))
    assert asked.unused([RUN, COPY]) == ("nope", "typo", "RUN nothing")
