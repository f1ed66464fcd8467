"""Base root file systems made from what the machine has: busybox-static, or the host's own programs with their libraries."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

BUSYBOX = Path("/bin/busybox")


def why_not() -> str | None:
    """The reason why no busybox base can be made, or None."""
    return None if BUSYBOX.exists() else "busybox-static is not installed (make test-deps)"


def busybox_tar(target: Path, *, extra: dict[str, bytes] | None = None) -> Path:
    """A root file system as a tar: busybox with all its links, passwd and group with root and worker (1000:1001)."""
    files = {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1001::/home/worker:/bin/sh\n",
        "etc/group": b"root:x:0:\nworkers:x:1001:worker\n",
        **(extra or {}),
    }
    with tarfile.open(target, "w") as archive:
        for folder in ("bin", "etc", "tmp", "root", "home", "home/worker", "var", "usr", "usr/bin"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            if folder == "home/worker":
                info.uid, info.gid = 1000, 1001
            archive.addfile(info)
        program = tarfile.TarInfo("bin/busybox")
        data = BUSYBOX.read_bytes()
        program.size, program.mode = len(data), 0o755
        archive.addfile(program, io.BytesIO(data))
        applets = subprocess.run([str(BUSYBOX), "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))
    return target


def host_program_tar(target: Path, programs: Iterable[str], folders: Iterable[str] = ()) -> Path:
    """busybox plus programs of the host with the shared libraries that ldd names, and whole folders (git's helpers). An image that can run git."""
    busybox_tar(target)
    names: set[str] = set(folders)
    for program in programs:
        path = shutil.which(program)
        assert path, f"{program} is not installed"
        names |= {path, *_libraries(path)}
    for folder in folders:
        for helper in ("git-remote-http", "git-remote-https"):
            if (Path(folder) / helper).exists():
                names |= _libraries(str(Path(folder) / helper))
    with tarfile.open(target, "a") as archive:
        for name in sorted(names):
            real = os.path.realpath(name)
            archive.add(real, arcname=name.lstrip("/"))
    return target


def _libraries(program: str) -> set[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(/\S+) \(0x", listed))
