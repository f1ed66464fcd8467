"""The home directory of a user of an image, read from the image's own passwd."""

from __future__ import annotations

import os
import stat

from lamina.pipelines.run.images import Fetched

_LARGEST = 1 << 20


def home_of(image: Fetched, user: str) -> str:
    """HOME of the image's config, else that of the user in /etc/passwd, else /root."""
    for one in image.config.config.env or ():
        name, _, value = one.partition("=")
        if name == "HOME" and value.startswith("/"):
            return value
    name = user.partition(":")[0]
    if name in ("", "0", "root"):
        return "/root"
    for row in _rows(image):
        if len(row) >= 6 and name in (row[0], row[2]) and row[5].startswith("/"):
            return row[5]
    return "/"


def _rows(image: Fetched) -> list[list[str]]:
    """Of the topmost layer that has the file; nothing is followed."""
    for lower in image.lowers:
        try:
            folder = os.open(lower / "etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            descriptor = os.open("passwd", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            continue
        finally:
            os.close(folder)
        with open(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return [line.split(":") for line in file.read(_LARGEST).decode(errors="replace").splitlines()]
    return []
