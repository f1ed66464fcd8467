import msgspec

from lamina.cache.policy import DAY, DEFAULT_EXPIRY, Item, choose, prune, too_old, value
from lamina.cache.record import CacheKey, KeyParts, Place, Record
from lamina.oci.digest import StateId

NOW = 100 * DAY
RECORD = Record(
    CacheKey("k"), KeyParts(1, {}, ()), Place("Dockerfile", "s", 1, 1, "RUN x"), StateId("state:a"), (), "d", NOW, 1.0, "h", "b"
)


def made(age: float, *, state: str = "state:a", build: str = "b") -> Record:
    return msgspec.structs.replace(RECORD, created=NOW - age, state=StateId(state), build=build)


def test_too_old() -> None:
    assert not too_old(made(1e9), None, NOW)
    assert too_old(made(11), 10, NOW)
    assert not too_old(made(10), 10, NOW)
    assert too_old(made(0), 0, NOW)
    assert not too_old(made(-5), 10, NOW)
    assert too_old(made(-11), 10, NOW), "made by a clock that was ahead"


def test_the_newest_is_chosen() -> None:
    records = [made(20, state="state:old"), made(10, state="state:new")]
    assert choose(records, present=lambda r: r.state == "state:old", max_age=None, now=NOW) == records[1]


def test_of_equal_content_the_one_whose_layers_are_here() -> None:
    records = [made(10, build="far"), made(20, build="here")]
    assert choose(records, present=lambda r: r.build == "here", max_age=None, now=NOW) == records[1]
    assert choose(records, present=lambda r: False, max_age=None, now=NOW) == records[0]
    assert choose(records, present=lambda r: r.build == "here", max_age=15, now=NOW) == records[0]


def test_none_is_chosen_when_all_are_too_old() -> None:
    assert choose([made(10)], present=lambda r: True, max_age=5, now=NOW) is None
    assert choose([], present=lambda r: True, max_age=None, now=NOW) is None


def item(name: str, *, size: int = 100, unused: float = 0.0, seconds: float = 1.0, leased: bool = False) -> Item:
    return Item(name, size, NOW - unused, seconds, leased)


def test_what_was_not_used_for_a_week_goes() -> None:
    items = [item("new"), item("old", unused=DEFAULT_EXPIRY + 1), item("leased", unused=DEFAULT_EXPIRY + 1, leased=True)]
    removals = prune(items, NOW)
    assert [(r.item.name, r.why) for r in removals] == [("old", "not used for 7 days")]
    assert prune(items, NOW, expiry=None) == []


def test_the_cap_holds_and_the_least_valuable_goes_first() -> None:
    items = [
        item("slow", seconds=100),
        item("big", size=300, seconds=2),
        item("stale", seconds=5, unused=3 * DAY),
        item("empty", size=0),
    ]
    assert [r.item.name for r in prune(items, NOW, cap=500)] == []
    assert [r.item.name for r in prune(items, NOW, cap=400)] == ["stale"]
    assert [r.item.name for r in prune(items, NOW, cap=399)] == ["stale", "big"]
    assert [r.item.name for r in prune(items, NOW, cap=100)] == ["stale", "big"]
    assert [r.item.name for r in prune(items, NOW, cap=0)] == ["stale", "big", "slow"]
    assert "300 bytes, 2.0 s to make" in prune(items, NOW, cap=100)[1].why


def test_leased_items_count_and_stay() -> None:
    items = [item("leased", size=500, leased=True), item("free", size=10)]
    assert [r.item.name for r in prune(items, NOW, cap=100)] == ["free"]


def test_value() -> None:
    one = item("x")
    assert value(one, NOW) > value(msgspec.structs.replace(one, size=200), NOW)
    assert value(one, NOW) < value(msgspec.structs.replace(one, seconds=2.0), NOW)
    assert value(one, NOW) == 2 * value(item("x", unused=DAY), NOW)
    assert value(item("x", size=0, seconds=0.0), NOW) > 0
