"""The same storm with the BuildKit of Debian's dockerd: many writers of one cache that has one name.

That BuildKit (20.10) exports its cache in one way only, inside the image that is pushed (`BUILDKIT_INLINE_CACHE=1`); `type=registry` and
`type=local` need a buildkitd or a buildx that Debian 12 does not have. What is measured is what all of them share: a name that the next
writer overwrites. Nobody is killed here and nothing restarted.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lamina.testing import bases, dockerd, registryauth
from lamina.testing.dockerd import Daemon
from lamina.testing.machines import ADDRESS, network
from lamina.testing.writers.images import STEPS, Image, images
from lamina.testing.writers.places import registry
from lamina.testing.writers.trial import Seen

_STEP = re.compile(r"^#(\d+) \[[^\]]*\d+/\d+\] (?!FROM)", re.MULTILINE)
_CACHED = re.compile(r"^#(\d+) CACHED$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`alone`: the image of a writer that had the name for itself, built by a clean machine. `together`: those of writers that shared it."""

    alone: Seen
    together: Seen
    whole: int  # images of which every step was found
    writers: int


def compare(folder: Path, writers: int = 32, machines: int = 4) -> Comparison:
    """Takes about two seconds for each writer. AssertionError where docker fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with network(machines + 1) as net, ExitStack() as stack:
        authority = registryauth.authority(folder)
        server, host = registry(folder, net, registryauth.certificate(folder, ADDRESS))
        server.start()
        stack.callback(server.stop)
        net.wait_for(int(host.rpartition(":")[2]))
        trust = ["env", f"SSL_CERT_FILE={authority}"]
        *daemons, clean = [stack.enter_context(dockerd.daemon(before=[*net.enter(machine), *trust])) for machine in net.machines]
        base = f"{host}/team/base:1"
        daemons[0].docker("import", str(bases.busybox_tar(folder / "base.tar")), base)
        daemons[0].docker("push", base)
        made = images(folder / "images", writers, base=base)
        _write(daemons[0], made[0], f"{host}/team/app:alone", threading.Lock())
        alone = _read(clean, made[0], f"{host}/team/app:alone")
        daemons[0].docker("system", "prune", "--all", "--force")
        _storm(daemons, made, f"{host}/team/app:cache")
        seen = [_read(clean, image, f"{host}/team/app:cache") for image in made]
    whole = sum(not one.missed for one in seen)
    return Comparison(alone, Seen(sum(one.found for one in seen), sum(one.missed for one in seen)), whole, writers)


def _storm(daemons: Sequence[Daemon], made: Sequence[Image], name: str) -> None:
    # Writers of one machine have one daemon, in which the name is one too: each pushes before the next gives it away.
    locks = [threading.Lock() for _ in daemons]
    with ThreadPoolExecutor(len(made)) as pool:
        list(pool.map(lambda image: _write(daemons[image.number % len(daemons)], image, name, locks[image.number % len(daemons)]), made))


def _write(daemon: Daemon, image: Image, name: str, lock: threading.Lock) -> None:
    """Build with what is there, push image and cache."""
    own = f"own{image.number}:1"
    daemon.docker(
        "build", "--network=host", "--cache-from", name, "--build-arg", "BUILDKIT_INLINE_CACHE=1", "-t", own, str(image.context)
    )  # fmt: skip  # options and their values belong together
    with lock:
        daemon.docker("tag", own, name)
        daemon.docker("push", name)


def _read(daemon: Daemon, image: Image, name: str) -> Seen:
    """What a machine finds that has nothing."""
    daemon.docker("system", "prune", "--all", "--force")
    said = daemon.docker("build", "--network=host", "--cache-from", name, str(image.context)).stderr.decode(errors="replace")
    cached = set(_CACHED.findall(said))
    found = len(set(_STEP.findall(said)) & cached)
    return Seen(found, STEPS - found)
