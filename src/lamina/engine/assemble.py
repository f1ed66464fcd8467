"""The built image: config with diffIDs and times, manifest, names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from lamina.cache.record import LayerRef
from lamina.dockerfile.lower import Lowered
from lamina.engine.results import Filesystem
from lamina.engine.surroundings import Surroundings
from lamina.oci.config import History, ImageConfig, RootFs, encode_config
from lamina.oci.digest import DiffId, LayerId, sha256
from lamina.store.refs import Image


def assemble(
    lowered: Lowered,
    result: Filesystem | None,
    times: Sequence[float | None],
    around: Surroundings,
    names: Sequence[str],
    epoch: int | None = None,
) -> Image:
    """Record the image under `names`. Its bytes follow from the steps alone: times are those of the records, so a build that is all
    cached gives the same image id. `times[i]`: when history entry i (after the base's) was made, None for one without a layer.
    With `epoch` (seconds) that is the time of everything that is made here."""
    layers: tuple[LayerRef, ...] = result.layers if result is not None else ()
    named: list[tuple[LayerId, DiffId]]
    if epoch is None:
        named = [(layer.id, diff_id) for layer, diff_id in zip(layers, around.layers.diff_ids(layers))]
    else:
        from lamina.engine.reproducible import redated

        named = redated(around.store, around.layers, layers, epoch)
        times = [float(epoch)] * len(times)
    config = _dated(lowered.config, times)
    config = msgspec.structs.replace(config, rootfs=RootFs(diff_ids=tuple(diff_id for _, diff_id in named)))
    raw = encode_config(config)
    known = around.store.images.by_id(sha256(raw))
    if known is not None:
        around.store.images.tag(known.id, names)
        return known
    from lamina.engine.images.recording import record_built  # an all-cached build does not come here

    return record_built(
        around.store,
        raw,
        named,
        names,
        stored=around.bases.descriptors(),
        sizes=around.layers.packed_sizes(layers),
    )


def _dated(config: ImageConfig, times: Sequence[float | None]) -> ImageConfig:
    count = len(config.history) - len(times)
    last = config.history[count - 1].created if count > 0 else config.created
    entries: list[History] = list(config.history[:count])
    for entry, when in zip(config.history[count:], times):
        if when is not None:
            last = _rfc3339(when)
        entries.append(msgspec.structs.replace(entry, created=last))
    return msgspec.structs.replace(config, history=tuple(entries), created=last)


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
