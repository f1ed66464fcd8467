"""One trial: a storm of writers, what clean machines find of it, the unfinished done again and found too."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from lamina.testing import bases
from lamina.testing.machines import Network, network
from lamina.testing.writers.images import LAST, STEPS, Image, images
from lamina.testing.writers.places import Backend, Place, place

_T = TypeVar("_T")
_PATIENCE = 300.0  # seconds for one command
_CALM = 4  # commands at once, when it is not about many

_PLANS = 4

End = Literal["completed", "cut off", "killed", "failed"]
"""Of a writer. Completed: it ended well and handed over all it had. Cut off: it ended well, with a warning that the cache was left out."""


@dataclass(frozen=True, slots=True)
class Settings:
    backend: Backend
    writers: int = 32
    machines: int = 4
    kills: int = 6
    restart: bool = True
    seed: int = 0
    size: int = 20_000  # bytes of each file of an image


@dataclass(frozen=True, slots=True)
class Seen:
    """Steps that can be found, in plans or builds of several images: how many were, how many not."""

    found: int = 0
    missed: int = 0

    def __str__(self) -> str:
        total = self.found + self.missed
        return f"{self.found}/{total} ({100 * self.found / total:.0f} %)" if total else "none"


@dataclass(slots=True)
class Result:
    settings: Settings
    ends: dict[int, End] = field(default_factory=dict)
    restarted: bool = False
    storm_seconds: float = 0.0
    verified: list[str] = field(default_factory=list)  # problems after the storm
    planned: Seen = field(default_factory=Seen)  # `lamina plan` for a few of the images that completed writers built
    completed: Seen = field(default_factory=Seen)  # these images built again by clean machines, before anybody has done more
    again: Seen = field(default_factory=Seen)  # the other images built by clean machines, after their jobs ran once more
    warnings: list[str] = field(default_factory=list)  # of writers that were cut off
    verified_again: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)  # what no trial may show: writers that failed, commands that did

    def count(self, end: End) -> int:
        return list(self.ends.values()).count(end)

    @property
    def sound(self) -> bool:
        rounds = (self.planned, self.completed, self.again)
        found = self.completed.found + self.again.found == self.settings.writers * STEPS
        return found and not any(seen.missed for seen in rounds) and not (self.verified or self.verified_again or self.trouble)


@dataclass(frozen=True, slots=True)
class _Kill:
    """SIGKILL when the writer has said so many lines, or, with None, `delay` seconds after its last step ran: while it publishes."""

    lines: int | None
    delay: float


@dataclass(frozen=True, slots=True)
class _Machine:
    """Where a writer runs: a namespace, and the root of its store."""

    name: str
    root: Path


class Trial:
    """`say` gets a line for each part."""

    def __init__(self, settings: Settings, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self._settings = settings
        self._folder = folder
        self._say = say
        self._result = Result(settings)
        self._images: list[Image] = []
        self._lock = threading.Lock()
        self._publishing = 0
        self._time_to_restart = threading.Event()

    def run(self) -> Result:
        settings, result = self._settings, self._result
        self._folder.mkdir(parents=True, exist_ok=True)
        self._images = images(self._folder / "images", settings.writers, size=settings.size)
        self._seed_store()
        with network(settings.machines) as net, place(settings.backend, self._folder / "place", net) as where:
            self._say(f"{settings.backend}: {settings.writers} writers on {settings.machines} machines, seed {settings.seed}")
            begun = time.monotonic()
            self._storm(net, where)
            result.storm_seconds = time.monotonic() - begun
            if where.port:
                net.wait_for(where.port)
            self._say(f"storm: {', '.join(f'{result.count(end)} {end}' for end in ('completed', 'cut off', 'killed', 'failed'))}")
            if not any(end in ("completed", "cut off", "killed") for end in result.ends.values()):
                return result  # there is nothing to look at
            result.verified = self._verify(net, where)
            done = [image for image in self._images if result.ends[image.number] == "completed"]
            lost = [image for image in self._images if result.ends[image.number] != "completed"]
            result.planned = _sum(self._each(done[:_PLANS], lambda image: self._plan(net, where, image)))
            result.completed = self._round(net, where, done)
            self._say(f"what completed writers built, found by clean machines: {result.completed}")
            self._each(lost, lambda image: self._build(net, self._clean(net, image, "again"), where, image))
            result.again = self._round(net, where, lost)
            self._say(f"the others, after their jobs ran again: {result.again}")
            result.verified_again = self._verify(net, where)
        return result

    def _seed_store(self) -> None:
        """A store that knows the base, copied for each machine."""
        tar = bases.busybox_tar(self._folder / "base.tar")
        machine = _Machine("", self._folder / "seed")
        done = subprocess.run(
            [sys.executable, "-m", "lamina", "import", str(tar), "base:1"],
            env=_environment(machine, None),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"lamina import failed: {done.stderr.decode(errors='replace')}")

    def _machine(self, net: Network, number: int, root: str) -> _Machine:
        path = self._folder / root
        if not path.exists():
            shutil.copytree(self._folder / "seed", path, symlinks=True)
        return _Machine(net.machines[number % len(net.machines)], path)

    def _clean(self, net: Network, image: Image, what: str) -> _Machine:
        """With a store that nobody else has used."""
        return self._machine(net, image.number, f"{what}{image.number}")

    def _storm(self, net: Network, where: Place) -> None:
        settings = self._settings
        dice = random.Random(settings.seed)
        doomed = dice.sample(range(settings.writers), min(settings.kills, settings.writers))
        kills = {number: _Kill(dice.randint(1, 12), 0.0) if at % 2 else _Kill(None, dice.random()) for at, number in enumerate(doomed)}
        machines = [self._machine(net, each, f"machine{each}") for each in range(settings.machines)]
        writers = [(image, self._start(net, machines[image.number % settings.machines], where, image)) for image in self._images]
        restarting = threading.Thread(target=self._restart, args=(where,))
        restarting.start()
        watching = [threading.Thread(target=self._watch, args=(image, process, kills.get(image.number))) for image, process in writers]
        for thread in watching:
            thread.start()
        for thread in watching:
            thread.join()
        self._time_to_restart.set()
        restarting.join()

    def _start(self, net: Network, machine: _Machine, where: Place, image: Image) -> subprocess.Popen[str]:
        command = [
            *net.enter(machine.name), sys.executable, "-m", "lamina", "build", "--progress=plain", "--cache-from", where.spec,
            "--cache-to", where.spec, "-t", f"image{image.number}:1", str(image.context),
        ]  # fmt: skip  # options and their values belong together
        return subprocess.Popen(
            command,
            env=_environment(machine, where),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _watch(self, image: Image, process: subprocess.Popen[str], kill: _Kill | None) -> None:
        """Reads what a writer says, kills it when its time has come, and notes how it ended."""
        lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.startswith(("RAN ", "HIT ", "CACHED")) and LAST in line:
                self._one_more_publishes()
                if kill is not None and kill.lines is None:
                    threading.Timer(kill.delay, process.kill).start()
            if kill is not None and kill.lines == len(lines):
                process.kill()
        code = process.wait()
        text = "".join(lines)
        end: End = "completed"
        if code == -signal.SIGKILL:
            end = "killed"
        elif code:
            end = "failed"
        elif "is left out" in text:
            end = "cut off"
        with self._lock:
            self._result.ends[image.number] = end
            self._result.warnings += [line.strip() for line in lines if "is left out" in line]
            if end == "failed":
                self._result.trouble.append(f"writer {image.number} ended with {code}: {text[-600:]}")

    def _one_more_publishes(self) -> None:
        with self._lock:
            self._publishing += 1
            if self._publishing * 3 >= self._settings.writers:
                self._time_to_restart.set()

    def _restart(self, where: Place) -> None:
        """When a third of the writers has begun to publish: SIGKILL, and the server is started again."""
        self._time_to_restart.wait()
        if self._settings.restart and where.server is not None:
            where.server.stop()
            where.server.start()
            self._result.restarted = True

    def _verify(self, net: Network, where: Place) -> list[str]:
        """What `lamina cache verify` says."""
        machine = self._machine(net, 0, "verifying")
        done = self._lamina(net, machine, where, "cache", "verify", "--bytes", where.spec)
        said = (done.stdout + done.stderr).decode(errors="replace").splitlines()
        return [] if done.returncode == 0 else [line for line in said if line]

    def _plan(self, net: Network, where: Place, image: Image) -> Seen:
        machine = self._clean(net, image, "planning")
        done = self._lamina(net, machine, where, "plan", "--json", "--cache-from", where.spec, str(image.context))
        return self._seen(image, "plan", done, done.stdout)

    def _round(self, net: Network, where: Place, wanted: Sequence[Image]) -> Seen:
        """Each image built on a machine that has nothing but the base."""
        return _sum(self._each(wanted, lambda image: self._build(net, self._clean(net, image, "clean"), where, image)))

    def _build(self, net: Network, machine: _Machine, where: Place, image: Image) -> Seen:
        report = machine.root.with_suffix(".json")
        done = self._lamina(
            net, machine, where, "build", "--progress=plain", "--cache-from", where.spec, "--cache-to", where.spec, "--report",
            str(report), str(image.context),
        )  # fmt: skip  # as above
        seen = self._seen(image, "build", done, report.read_bytes() if report.exists() else b"")
        for line in done.stderr.decode(errors="replace").splitlines():
            if "is left out" in line:
                self._trouble(f"image {image.number}: {line}")
        return seen

    def _seen(self, image: Image, what: str, done: subprocess.CompletedProcess[bytes], document: bytes) -> Seen:
        if done.returncode:
            self._trouble(f"{what} of image {image.number} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-600:]}")
            return Seen()
        verdicts = [step["verdict"] for step in json.loads(document)["steps"]]
        return Seen(verdicts.count("hit"), sum(verdicts.count(bad) for bad in ("ran", "miss", "unknown")))

    def _lamina(self, net: Network, machine: _Machine, where: Place, *words: str) -> subprocess.CompletedProcess[bytes]:
        command = [*net.enter(machine.name), sys.executable, "-m", "lamina", *words]
        return subprocess.run(
            command, env=_environment(machine, where), stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_PATIENCE
        )

    def _each(self, wanted: Sequence[Image], work: Callable[[Image], _T]) -> list[_T]:
        with ThreadPoolExecutor(_CALM) as pool:
            return list(pool.map(work, wanted))

    def _trouble(self, text: str) -> None:
        with self._lock:
            self._result.trouble.append(" ".join(text.split()))


def _sum(seen: Sequence[Seen]) -> Seen:
    return Seen(sum(one.found for one in seen), sum(one.missed for one in seen))


def _environment(machine: _Machine, where: Place | None) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(machine.root.parent),
        "LAMINA_ROOT": str(machine.root),
        **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}),
        **(where.environment if where is not None else {}),
    }
