"""Running as an ordinary user: root makes one, with a range of subordinate ids, and becomes it in a private mount namespace.

The interpreter that runs the tests may lie where only root can go; it is shown at /mnt there.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

NAME, UID = "lamina-test", 52345


def why_not() -> str | None:
    """The reason why no ordinary user can be made here, or None."""
    if os.geteuid() != 0:
        return "becoming an ordinary user needs root"
    for tool in ("useradd", "setpriv", "unshare"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    return None


def has_fuse() -> bool:
    """Whether that user may open /dev/fuse."""
    try:
        return os.stat("/dev/fuse").st_mode & 0o006 == 0o006
    except OSError:
        return False


def make_user(*, subordinate: bool = True) -> None:
    """Idempotent, also for several processes at once. With a range of 65,536 ids where newuidmap is there."""
    with open("/etc/passwd", "rb") as one_at_a_time:  # useradd itself does not wait for another one
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        try:
            pwd.getpwnam(NAME)
        except KeyError:
            subprocess.run(["useradd", "--create-home", "--uid", str(UID), NAME], check=True, capture_output=True)
        for file in ("/etc/subuid", "/etc/subgid"):
            path = Path(file)
            text = path.read_text() if path.exists() else ""
            if subordinate and not any(line.startswith(f"{NAME}:") for line in text.splitlines()):
                path.write_text(text + f"{NAME}:5000000:65536\n")


@contextmanager
def home() -> Iterator[Path]:
    """A folder that the user, who is made if need be, can reach: pytest's own are closed to others."""
    make_user()
    folder = Path(tempfile.mkdtemp(prefix="lamina-test-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` as that user, with this project importable; what is ours in `folder` is given to the user first."""
    prefix = Path(sys.base_prefix)
    source = Path(__file__).resolve().parents[2]
    site = [path for path in sys.path if path.endswith("site-packages")]
    for path in (folder, *folder.rglob("*")):
        if os.lstat(path).st_uid == os.geteuid():
            os.chown(path, UID, UID, follow_symlinks=False)
    program = Path("/mnt/bin") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    settings = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": ":".join([str(source), *site]),
        **(environment or {}),
    }
    words = ["env", "-i", *(f"{k}={v}" for k, v in settings.items()), str(program), *arguments]
    script = f'mount --bind {prefix} /mnt && cd {folder} && exec setpriv --reuid {UID} --regid {UID} --clear-groups "$@"'
    return subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *words], capture_output=True, text=True, check=False)
