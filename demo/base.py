"""Write the root file system of a small base image as a tar, out of what this machine has.

    python3 demo/base.py OUT.tar

With a static busybox: that file and a name for each tool. Without: the host's own tools with the libraries that `ldd` names for them.
Needs only the standard library. Nothing is fetched.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile

TOOLS = (
    "sh",
    "ls",
    "cat",
    "cp",
    "mv",
    "rm",
    "mkdir",
    "chmod",
    "echo",
    "sleep",
    "sort",
    "wc",
    "grep",
    "sed",
    "tr",
    "head",
    "env",
    "true",
    "id",
    "date",
)
FOLDERS = ("bin", "etc", "dev", "proc", "sys", "root", "home", "usr", "usr/bin", "var")
BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")


def libraries(program: str) -> list[str]:
    """The absolute paths of the shared libraries and the loader that *program* needs; none for a static one."""
    answer = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    words = answer.stdout.split() if answer.returncode == 0 else []
    return [word for word in words if word.startswith("/")]


def is_static(program: str) -> bool:
    return not libraries(program)


def directory(tar: tarfile.TarFile, path: str, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def text(tar: tarfile.TarFile, path: str, content: str) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content.encode()), 0o644
    tar.addfile(entry, io.BytesIO(content.encode()))


def program(tar: tarfile.TarFile, source: str, path: str) -> None:
    """Add the file *source* (symlinks followed) under *path*, owned by root."""
    real = os.path.realpath(source)
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = os.path.getsize(real), 0o755
    with open(real, "rb") as file:
        tar.addfile(entry, file)


def link(tar: tarfile.TarFile, path: str, target: str) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(entry)


def from_busybox(tar: tarfile.TarFile, busybox: str) -> str:
    program(tar, busybox, "bin/busybox")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            link(tar, f"bin/{name}", "busybox")
    return f"busybox, {len(names)} tools"


def from_host(tar: tarfile.TarFile) -> str:
    """The host's tools in /bin; each library at the path where the loader looks for it."""
    needed: dict[str, None] = {}
    found = 0
    for tool in TOOLS:
        source = shutil.which(tool, path="/bin:/usr/bin")
        if source is None:
            continue
        program(tar, source, f"bin/{tool}")
        needed.update(dict.fromkeys(libraries(source)))
        found += 1
    folders: dict[str, None] = {}
    for library in needed:
        folders.setdefault(os.path.dirname(library).lstrip("/"))
    parents = {"/".join(f.split("/")[: n + 1]) for f in folders for n in range(f.count("/") + 1)}
    for folder in sorted(parents - set(FOLDERS)):
        directory(tar, folder)
    for library in needed:
        program(tar, library, library.lstrip("/"))
    return f"{found} of this machine's tools and {len(needed)} libraries"


def main(out: str) -> int:
    busybox = next((path for path in BUSYBOX if os.access(path, os.X_OK) and is_static(path)), None)
    with tarfile.open(out, "w") as tar:
        for path in FOLDERS:
            directory(tar, path)
        directory(tar, "tmp", 0o1777)
        text(tar, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        text(tar, "etc/group", "root:x:0:\n")
        made_of = from_busybox(tar, busybox) if busybox else from_host(tar)
    print(made_of)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: base.py OUT.tar")
    sys.exit(main(sys.argv[1]))
