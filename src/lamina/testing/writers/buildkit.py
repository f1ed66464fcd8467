"""The same storm with BuildKit: many writers of one cache that has one name. Nobody is killed here and nothing restarted.

Four ways to hand a cache over: `docker` is the BuildKit inside Debian 12's dockerd (20.10), which exports inside the image that is pushed
and in no other way; `inline` is that of a newer one (dockerd 26 with buildx, see .ci/buildx), `registry` and `local` are its caches of
their own, with `mode=max`: everything that a build has made. What all of them share is a name that the next writer overwrites.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from lamina.testing import bases, buildx, dockerd, registryauth
from lamina.testing.dockerd import Daemon
from lamina.testing.machines import ADDRESS, network
from lamina.testing.writers.images import STEPS, Image, images
from lamina.testing.writers.places import registry
from lamina.testing.writers.trial import Seen

Way = Literal["docker", "inline", "registry", "local"]
WAYS: tuple[Way, ...] = get_args(Way)

_PATIENCE = 300.0  # seconds for one build
_STEP = re.compile(r"^#(\d+) \[[^\]]*\d+/\d+\] (?!FROM)", re.MULTILINE)
_CACHED = re.compile(r"^#(\d+) CACHED$", re.MULTILINE)
# Of newer ones: now and then the word is missing where the step's layers are seen to come from the cache.
_CACHED_OR_FETCHED = re.compile(r"^#(\d+) (?:CACHED$|sha256:|extracting sha256:)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`alone`: the image of a writer that had the name for itself, built by a clean machine. `together`: those of writers that shared it."""

    alone: Seen
    together: Seen
    whole: int  # images of which every step was found
    writers: int
    failures: tuple[str, ...] = ()  # of builds that ended with an error: the last line of what each said


class _Builder(Protocol):
    """A machine's BuildKit."""

    daemon: Daemon
    hit: re.Pattern[str]  # line of a step that was found in a cache

    def write(self, image: Image, cache: str) -> str:
        """Build with what is in the cache of that name, and hand over what the build has. What was said when it failed, else nothing."""
        ...

    def read(self, image: Image, cache: str) -> str:
        """Build with what is in the cache; what was said."""
        ...


def why_not(way: Way) -> str | None:
    """The reason why this way cannot be had here, or None."""
    if way == "docker":
        return dockerd.why_not()
    return dockerd.why_not_newer() or (None if buildx.buildx() else "docker-buildx is not here (make test-deps)")


def compare(folder: Path, way: Way, writers: int = 32, machines: int = 4) -> Comparison:
    """Takes about two seconds for each writer. AssertionError where docker fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with network(machines + 1) as net, ExitStack() as stack:
        authority = registryauth.authority(folder)
        server, host = registry(folder, net, registryauth.certificate(folder, ADDRESS))
        server.start()
        stack.callback(server.stop)
        net.wait_for(int(host.rpartition(":")[2]))
        trust = ["env", f"SSL_CERT_FILE={authority}"]
        start = dockerd.daemon if way == "docker" else functools.partial(dockerd.newer, folder)
        builders: list[_Builder] = []
        for number, machine in enumerate(net.machines):
            daemon = stack.enter_context(start(before=[*net.enter(machine), *trust]))
            builders.append(_Docker(daemon, host) if way == "docker" else _Buildx(daemon, way, host, folder, number))
        *many, clean = builders
        base = f"{host}/team/base:1"
        many[0].daemon.docker("import", str(bases.busybox_tar(folder / "base.tar")), base)
        many[0].daemon.docker("push", base)
        made = images(folder / "images", writers, base=base)
        failed = many[0].write(made[0], "alone")
        assert not failed, failed
        alone = _read(clean, made[0], "alone")
        many[0].daemon.docker("system", "prune", "--all", "--force")
        with ThreadPoolExecutor(len(made)) as pool:
            ends = list(pool.map(lambda image: many[image.number % len(many)].write(image, "cache"), made))
        seen = [_read(clean, image, "cache") for image in made]
    whole = sum(not one.missed for one in seen)
    together = Seen(sum(one.found for one in seen), sum(one.missed for one in seen))
    return Comparison(alone, together, whole, writers, tuple(said.strip().splitlines()[-1] for said in ends if said))


def _read(builder: _Builder, image: Image, cache: str) -> Seen:
    """What a machine finds that has nothing."""
    builder.daemon.docker("system", "prune", "--all", "--force")
    said = builder.read(image, cache)
    steps = set(_STEP.findall(said))
    assert len(steps) == STEPS, said
    found = len(steps & set(builder.hit.findall(said)))
    return Seen(found, STEPS - found)


class _Docker:
    """docker 20.10, both sides."""

    hit = _CACHED

    def __init__(self, daemon: Daemon, host: str) -> None:
        self.daemon = daemon
        self._host = host
        # Writers of one machine have one daemon, in which the name is one too: each pushes before the next gives it away.
        self._lock = threading.Lock()

    def write(self, image: Image, cache: str) -> str:
        own, name = f"own{image.number}:1", f"{self._host}/team/app:{cache}"
        self.daemon.docker(
            "build", "--network=host", "--cache-from", name, "--build-arg", "BUILDKIT_INLINE_CACHE=1", "-t", own, str(image.context)
        )  # fmt: skip  # options and their values belong together
        with self._lock:
            self.daemon.docker("tag", own, name)
            self.daemon.docker("push", name)
        return ""

    def read(self, image: Image, cache: str) -> str:
        name = f"{self._host}/team/app:{cache}"
        return self.daemon.docker("build", "--network=host", "--cache-from", name, str(image.context)).stderr.decode(errors="replace")


class _Buildx:
    """A newer dockerd with its images in containerd, as its BuildKit exports no other cache than `inline` without, and buildx."""

    hit = _CACHED_OR_FETCHED

    def __init__(self, daemon: Daemon, way: Way, host: str, folder: Path, number: int) -> None:
        self.daemon = daemon
        self._way, self._host, self._folder = way, host, folder
        self._client = buildx.Client("buildx", f"unix://{daemon.socket}", folder / f"home{number}")

    def write(self, image: Image, cache: str) -> str:
        name = f"{self._host}/team/app:{cache}"
        to = {
            "inline": ("--cache-to", "type=inline", "--output", f"type=image,name={name},push=true"),
            "registry": ("--cache-to", f"type=registry,ref={name},mode=max"),
            "local": ("--cache-to", f"type=local,dest={self._folder / cache},mode=max"),
        }[self._way]
        good, said = self._build(image, cache, *to)
        return "" if good else said or "it said nothing"

    def read(self, image: Image, cache: str) -> str:
        good, said = self._build(image, cache)
        assert good, said
        return said

    def _build(self, image: Image, cache: str, *more: str) -> tuple[bool, str]:
        where = f"type=local,src={self._folder / cache}" if self._way == "local" else f"type=registry,ref={self._host}/team/app:{cache}"
        words = ["build", "--network=host", "--provenance=false", "--cache-from", where, *more, "."]
        done = self._client.run(words, cwd=image.context, timeout=_PATIENCE)
        return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


def reports(found: dict[Way, Comparison]) -> Sequence[str]:
    """Lines, for reading."""
    lines = []
    for way, one in found.items():
        lines.append(f"buildkit {way}, one writer of the name: {one.alone}")
        lines.append(f"buildkit {way}, {one.writers} writers of the name: {one.together}; {one.whole} of {one.writers} images found whole")
        lines += [f"buildkit {way}, builds that failed: {len(one.failures)}; the first: {one.failures[0]}"] if one.failures else []
    return lines
