"""A dockerd of our own for comparisons: own data-root, exec-root, pidfile and socket; stopped by its pid."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_REPOSITORY = Path(__file__).parents[3]

# Debian's client has BuildKit built in; a newer one on PATH may need a plugin that is not there.
CLIENT = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"

_PATIENCE = 120.0  # seconds until it must answer: two on an idle machine


def why_not() -> str | None:
    """The reason why no dockerd can be started here, or None."""
    if os.geteuid() != 0:
        return "dockerd needs root"
    for tool in ("dockerd", "docker", "containerd"):
        if not shutil.which(tool):
            return f"{tool} is not installed (make test-deps)"
    return None


def why_not_newer() -> str | None:
    """The reason why `newer` cannot start one here, or None."""
    return why_not() or (None if _newer() else "no dockerd 26 is here (make test-deps)")


@functools.cache
def _newer() -> str | None:
    """A dockerd with a BuildKit of 2024: $LAMINA_DOCKERD, what `.ci/buildx` fetched, or the one that is installed."""
    for place in (os.environ.get("LAMINA_DOCKERD"), str(_REPOSITORY / ".venv/buildx/dockerd"), shutil.which("dockerd")):
        if place and os.access(place, os.X_OK):
            said = subprocess.run([place, "--version"], capture_output=True, text=True, check=False).stdout
            found = re.search(r"version (\d+)\.", said)
            if found and int(found[1]) >= 26:
                return place
    return None


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon; `docker()` calls Debian's client against it."""

    socket: Path

    def docker(
        self,
        *arguments: str,
        buildkit: bool = True,
        stdin: bytes | None = None,
        check: bool = True,
        extra: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_BUILDKIT": "1" if buildkit else "0",
            "BUILDKIT_PROGRESS": "plain",
            **(extra or {}),
        }
        done = subprocess.run([CLIENT, *arguments], env=environment, input=stdin, capture_output=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)} failed with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
        return done


@contextmanager
def daemon(
    options: Sequence[str] = (),
    parent: Path | None = None,
    before: Sequence[str] = (),
    *,
    bridge: bool = False,
    program: str = "dockerd",
) -> Iterator[Daemon]:
    """Start one and stop it. Its state lies on `parent` (default /var/tmp): overlay2 needs a real disk or tmpfs.

    `before`: words in front of the command, for example to enter a network namespace. `bridge`: with its own bridge and rules
    (in such a namespace only).
    """
    home = Path(tempfile.mkdtemp(prefix="lamina-dockerd-", dir=parent or "/var/tmp"))
    socket = home / "s"
    log = open(home / "log", "wb")  # noqa: SIM115  # closed when the daemon has ended
    process = subprocess.Popen(
        [
            *before, program, "--data-root", str(home / "data"), "--exec-root", str(home / "exec"), "--pidfile", str(home / "pid"), "-H", f"unix://{socket}",
            *(() if bridge else ("--bridge=none", "--iptables=false", "--ip6tables=false")), *options,
        ],
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError("dockerd does not answer: " + (home / "log").read_text(errors="replace")[-2000:])
            if (
                socket.exists()
                and subprocess.run([CLIENT, "-H", f"unix://{socket}", "version"], capture_output=True, check=False).returncode == 0
            ):
                break
            time.sleep(0.1)
        yield Daemon(socket)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        _unmount_below(home)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def newer(folder: Path, parent: Path | None = None, before: Sequence[str] = ()) -> Iterator[Daemon]:
    """dockerd 26 or later whose images are containerd's: only so does its BuildKit export caches of every kind. Settings go into `folder`."""
    program = _newer()
    assert program is not None
    settings = folder / "newer.json"
    settings.write_text('{"features": {"containerd-snapshotter": true}}\n')
    with daemon(("--config-file", str(settings)), parent, before, program=program) as started:
        yield started


def _unmount_below(home: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in sorted((m for m in mounts if m.startswith(str(home))), key=len, reverse=True):
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)
