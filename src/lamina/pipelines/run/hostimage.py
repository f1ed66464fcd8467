"""`image: host`: this machine's own programs as the root of a step. What the step changes in them goes with it."""

from __future__ import annotations

import os
from pathlib import Path

from lamina.pipelines.run.around import RunError
from lamina.sandbox.protocols import Overlay, SubMount

_FOLDERS = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64")


def host_mounts(upper: Path, scratch: Path, rung: str) -> tuple[SubMount, ...]:
    """Each folder as an overlay of its own over the host's; links like /bin are made again in `upper`. Homes, /var and data of the machine are not shown."""
    if rung not in ("root", "userns"):
        raise RunError(f"image: host needs the rung root or userns, not {rung}", hint="give an image: --image-map NAME=IMAGE")
    found = []
    for name in _FOLDERS:
        place = Path("/", name)
        if place.is_symlink():
            os.symlink(os.readlink(place), upper / name)
        elif place.is_dir():
            for one in ("upper", "work"):
                (scratch / name / one).mkdir(parents=True)
            (scratch / name / "upper").chmod(0o755)
            found.append(SubMount(Overlay((place,), scratch / name / "upper", scratch / name / "work"), f"/{name}", readonly=False))
    for name, mode in (("tmp", 0o1777), ("root", 0o700), ("var", 0o755), ("var/tmp", 0o1777), ("run", 0o755)):
        (upper / name).mkdir()
        (upper / name).chmod(mode)
    return tuple(found)
