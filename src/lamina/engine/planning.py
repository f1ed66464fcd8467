"""What a plan would fetch: of each base, of each step that a shared cache has, and in all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from lamina.cache.record import LayerRef
from lamina.engine.request import PlannedImage, StepReport
from lamina.engine.results import Filesystem, Result
from lamina.graph.vertex import Vertex
from lamina.oci.digest import LayerId

if TYPE_CHECKING:
    from lamina.dockerfile.lower import Lowered
    from lamina.engine.surroundings import Surroundings
    from lamina.solver.events import Ended


class Cost(msgspec.Struct, frozen=True):
    """`steps` with their `fetch_bytes`. A layer counts once in `bytes`, for the first step or base that has it elsewhere."""

    steps: tuple[StepReport, ...]
    images: tuple[PlannedImage, ...]
    bytes: int


def cost(
    lowered: Lowered, ended: Sequence[Ended[Vertex, Result]], around: Surroundings, steps: Sequence[StepReport], *, everything: bool
) -> Cost:
    """`everything`: there is work to do, so that what the steps stand on is needed; else the target's layers only, and those only where a
    shared cache is asked (an image that this store built needs nothing)."""
    wanted: dict[LayerId, LayerRef] = {}
    if everything or around.sharing is not None:
        for end in ended:
            if isinstance(end.result, Filesystem) and (everything or end.node is lowered.target):
                wanted |= {layer.id: layer for layer in end.result.layers}
    images = []
    of_bases: set[LayerId] = set()
    total = 0
    for (reference, platform), (image, _) in sorted(around.bases.used.items(), key=str):
        own = {layer: wanted[layer] for layer in image.layers if layer in wanted and layer not in of_bases}
        of_bases |= own.keys()
        size = around.bases.missing_bytes(own)
        total += size
        images.append(PlannedImage(reference, str(platform), image.id, size))
    if around.sharing is None:
        return Cost(tuple(steps), tuple(images), total)
    results = {id(end.node): end.result for end in ended}
    seen = set(of_bases)
    out = []
    for row, step in zip(lowered.steps, steps, strict=True):
        result = results.get(id(row.vertex)) if row.vertex is not None else None
        layers = result.layers if isinstance(result, Filesystem) else ()
        own_layers = [layer for layer in layers if layer.id in wanted and layer.id not in seen]
        seen |= {layer.id for layer in own_layers}
        size = around.sharing.missing_bytes(own_layers)
        total += size
        out.append(msgspec.structs.replace(step, fetch_bytes=size) if size else step)
    return Cost(tuple(out), tuple(images), total)
