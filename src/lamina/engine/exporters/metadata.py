"""The files that tell scripts what was built: `--iidfile` and `--metadata-file`, with buildx's names."""

from __future__ import annotations

import json
from pathlib import Path

from lamina.engine.exporters.place import replacing
from lamina.engine.request import BuiltImage


def iidfile(image: BuiltImage) -> bytes:
    """The image's id (digest of its config), without a newline, as docker writes it."""
    return image.id.encode()


def metadata(images: tuple[BuiltImage, ...], build_id: str = "") -> bytes:
    """JSON of buildx's --metadata-file: containerimage.digest, containerimage.config.digest, image.name.

    With several images (platforms) the first one counts. `image.name` is the tags joined by commas, absent without tags.
    """
    document: dict[str, object] = {}
    if build_id:
        document["buildx.build.ref"] = build_id
    if images:
        first = images[0]
        document["containerimage.config.digest"] = first.id
        document["containerimage.digest"] = first.manifest
        names = list(dict.fromkeys(tag for image in images for tag in image.tags))
        if names:
            document["image.name"] = ",".join(names)
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def write_small(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step."""
    with replacing(path) as out:
        out.write(data)
