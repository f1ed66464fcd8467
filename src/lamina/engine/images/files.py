"""What an archive and a layout directory have in common: names that can be read. Small documents have a size limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, Protocol

from lamina.engine.images.errors import BadArchive
from lamina.engine.images.tar import TarIndex
from lamina.oci.digest import Digest


class Files(Protocol):
    """Regular files by relative name with '/'. `label` is what the user calls the whole."""

    @property
    def label(self) -> str: ...
    def read(self, name: str, limit: int) -> bytes | None:
        """All bytes of a small file; None when absent; BadArchive when larger."""
        ...

    def open(self, name: str) -> tuple[BinaryIO, int] | None:
        """A reader and the size; None when absent. The caller closes it."""
        ...

    def blob(self, name: str) -> tuple[Digest, int] | None:
        """(digest, size) of a file that is in the store already, as it is."""
        ...


class ArchiveFiles:
    """Files in an uncompressed tar."""

    def __init__(self, index: TarIndex, label: str) -> None:
        self._index = index
        self._label = label

    @property
    def label(self) -> str:
        return self._label

    def read(self, name: str, limit: int) -> bytes | None:
        return self._index.read(name, limit)

    def open(self, name: str) -> tuple[BinaryIO, int] | None:
        member = self._index.find(name)
        return None if member is None else (self._index.open(member), member.size)

    def blob(self, name: str) -> tuple[Digest, int] | None:
        return None


class FolderFiles:
    """Files in a directory. Only regular ones: a fifo in place of a blob must not block us."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def label(self) -> str:
        return str(self._root)

    def read(self, name: str, limit: int) -> bytes | None:
        found = self.open(name)
        if found is None:
            return None
        file, size = found
        with file:
            if size > limit:
                raise BadArchive(f"{self.label}: {name} has {size} bytes; at most {limit} are expected there")
            return file.read(limit)

    def open(self, name: str) -> tuple[BinaryIO, int] | None:
        if ".." in name.split("/") or name.startswith("/"):
            raise BadArchive(f"{self.label}: {name!r} leads out of the directory")
        try:
            handle = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise BadArchive(f"{self.label}: cannot read {name}: {error.strerror}") from error
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            os.close(handle)
            raise BadArchive(f"{self.label}: {name} is not a regular file")
        return os.fdopen(handle, "rb"), found.st_size

    def blob(self, name: str) -> tuple[Digest, int] | None:
        return None
