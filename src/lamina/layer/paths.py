"""Open names below a root descriptor, never through a symlink."""

from __future__ import annotations

import os

from lamina.diagnostics.errors import LaminaError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafePath(LaminaError):
    """A name that would leave the layer, or pass through something that is no folder."""

    code = "layer/unsafe-path"


def open_folder(root: int, path: bytes) -> int:
    """A descriptor of the folder `path` below `root`; the caller closes it. Raises UnsafePath."""
    current = os.dup(root)
    try:
        for part in path.split(b"/") if path else ():
            if part in (b"", b".", b".."):
                raise UnsafePath(f"the path {path.decode(errors='replace')!r} is not clean")
            following = os.open(part, _FOLDER, dir_fd=current)
            os.close(current)
            current = following
    except OSError as error:
        os.close(current)
        raise UnsafePath(f"{path.decode(errors='replace')!r}: {error.strerror}") from error
    except BaseException:
        os.close(current)
        raise
    return current


def clean(name: bytes) -> bytes:
    """A tar member's name as a relative path: absolute made relative, '.' and empty parts dropped. UnsafePath for '..' and NUL."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in name:
        raise UnsafePath(f"the name {name.decode(errors='replace')!r} leaves the layer")
    return b"/".join(parts)
