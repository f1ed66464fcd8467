"""Any interleaving of publishing, using and pruning: nothing that was published and is not pruned is lost, and nothing dangles."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.inventory import Inventory, usage
from lamina.cache.remote.memory import MemoryObjects
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.cache.remote.trust import Trust
from lamina.cache.remote.upkeep import prune, verify
from lamina.oci.digest import sha256
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.recordcache import key, record

_SCOPES = ("main", "pr/17")
_publish = st.tuples(st.just("publish"), st.sampled_from(_SCOPES), st.integers(0, 3), st.lists(st.integers(0, 4), max_size=3, unique=True))
_use = st.tuples(st.just("use"), st.sampled_from(_SCOPES), st.integers(0, 3), st.just([0]))
_prune = st.tuples(st.just("prune"), st.just(""), st.integers(0, 20_000), st.just([0]))
_wait = st.tuples(st.just("wait"), st.just(""), st.integers(1, 100), st.just([0]))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(_publish, _publish, _use, _wait, _prune), max_size=25))
def test_nothing_is_lost_and_nothing_dangles(steps: list[tuple[str, str, int, list[int]]]) -> None:
    clock = [1_000_000.0]
    objects = MemoryObjects(lambda: clock[0])
    local = MemoryBlobs()
    expected: set[str] = set()
    for count, (what, scope, number, blobs) in enumerate(steps):
        clock[0] += 1
        if what == "wait":
            clock[0] += number * 3600.0
        elif what == "publish":
            refs = []
            for each in blobs:
                data = b"blob %d" % each * 500
                local.keep(sha256(data), data)
                refs.append(BlobRef(sha256(data), len(data)))
            one = msgspec.structs.replace(record(number), build=str(count), seconds=float(count))
            with SharedCache(objects, now=lambda: clock[0], trust=Trust(scope)) as cache:
                cache.publish([Publication(one, tuple(refs))], local)
            expected.add(str(count))
        elif what == "use":
            with SharedCache(objects, now=lambda: clock[0], trust=Trust(scope)) as cache:
                for offer in cache.lookup([key(number)])[key(number)].offers:
                    cache.mark_used(offer)
        else:
            before = {listed.name: listed for listed in Inventory(objects).records}
            removed = {one.name for one in prune(objects, clock[0], cap=number).removals}
            kept = Inventory(objects)
            assert all(clock[0] - before[name].used >= 3600 for name in removed if name in before)
            assert usage(kept).total <= number or all(clock[0] - one.used < 3600 for one in kept.records)
            expected = {offer for offer in expected if offer in _builds(objects, clock[0])}
            assert len(expected) == len(before) - sum(name in before for name in removed)
        assert verify(objects, bytes_too=True) == []
        assert _builds(objects, clock[0]) == expected


def _builds(objects: MemoryObjects, now: float) -> set[str]:
    cache = SharedCache(objects, now=lambda: now, trust=Trust("pr/17"))
    return {offer.record.build for answer in cache.lookup([key(number) for number in range(4)]).values() for offer in answer.offers}
