"""Whole builds on a disk that fails, and builds that are killed: the store is sound or mended, the next build makes the same image.

Every call of the build's process that changes a file is reached, SQLite's too (lamina.testing.faultlayer). LAMINA_FAULTS and LAMINA_KILLS
say how many of each; `make soak-faults` takes 200 and 50.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from lamina.testing import bases, faultlayer
from lamina.testing.faultlayer import Ended, Fault

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="builds with RUN as root, and watches them"),
    pytest.mark.skipif(faultlayer.why_not() is not None, reason=str(faultlayer.why_not())),
]

FAULTS = int(os.environ.get("LAMINA_FAULTS", "12"))
KILLS = int(os.environ.get("LAMINA_KILLS", "6"))
SEED = int(os.environ.get("LAMINA_FAULT_SEED", "1"))

WITH_RUN = """\
FROM base:1 AS one
WORKDIR /src
COPY a/ /src/a/
RUN cat a/* > all && mkdir -p out/deep && cp all out/deep/
FROM base:1 AS two
COPY --chown=worker b /b
RUN seq 1 500 > /numbers; ln /numbers /again; rm /etc/group
FROM base:1
COPY --from=one /src/out /out
COPY --from=two /numbers /again /
COPY c /c
ENV X=1
RUN echo done > /done
"""
WITHOUT = "\n".join(
    line for line in WITH_RUN.replace("/numbers /again /", "/b /b").replace("/src/out", "/src/a").splitlines() if "RUN" not in line
)


class Place:
    """A context, a store that knows the base, and what an undisturbed build of it makes."""

    def __init__(self, folder: Path, dockerfile: str) -> None:
        self.folder, self.context, self.root = folder, folder / "context", folder / "store"
        self.context.mkdir(parents=True)
        (self.context / "Dockerfile").write_text(dockerfile)
        for name, count in (("a", 20), ("c", 5)):
            (self.context / name).mkdir()
            for number in range(count):
                (self.context / name / f"{number}").write_bytes(b"%d" % number * 3000)
        (self.context / "b").write_bytes(random.Random(3).randbytes(300_000))
        for path in [*self.context.rglob("*"), self.context]:
            os.utime(path, (1_700_000_000, 1_700_000_000))
        bases.busybox_tar(folder / "base.tar")
        assert self.run("import", str(folder / "base.tar"), "base:1").code == 0
        shutil.copytree(self.root, folder / "fresh", symlinks=True)
        began = time.monotonic()
        plain = self.build()
        assert plain.code == 0, plain.err
        self.seconds = time.monotonic() - began
        self.image = plain.out.split()[-1]
        self.anew()
        watched = self.build(watched=True)
        assert watched.out.split()[-1] == self.image, watched.err
        self.calls = watched.calls
        assert self.calls > 100

    def anew(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.folder / "fresh", self.root, symlinks=True)

    def run(self, *arguments: str, fault: Fault | None = None, kill_after: float | None = None, watched: bool = False) -> Ended:
        environment = {"LAMINA_ROOT": str(self.root), "SOURCE_DATE_EPOCH": "1700000000"}
        return faultlayer.lamina(
            arguments, environment, self.context, self.root, fault=fault, kill_after=kill_after, watched=watched or fault is not None
        )

    def build(self, *options: str, fault: Fault | None = None, kill_after: float | None = None, watched: bool = False) -> Ended:
        return self.run(
            "build", "--progress=plain", "--reproducible", "-t", "app:1", *options, ".", fault=fault, kill_after=kill_after, watched=watched
        )  # fmt: skip

    def mended(self, what: str) -> list[str]:
        """Codes of what `check` found, once the next build and the deep check after it are as if nothing had been."""
        first = self.run("check")
        found = [line.partition(":")[0] for line in first.out.splitlines() if line.startswith("check/")]
        assert first.code in (0, 1), f"{what}: check ends with {first.code}: {first.err}"
        if first.code:
            assert found, f"{what}: {first.out}{first.err}"
            assert self.run("check", "--repair").code == 0, what
            again = self.run("check", "--repair")
            assert again.code == 0, f"{what}: {again.out}{again.err}"
        after = self.build()
        assert after.code == 0, f"{what}: the next build fails: {after.err}"
        assert after.out.split()[-1] == self.image, f"{what}: another image: {after.err}"
        deep = self.run("check", "--deep")
        assert deep.code == 0, f"{what}: {deep.out}{deep.err}"
        for name in ("tmp", "active", "leases"):
            assert os.listdir(self.root / name) == [], f"{what}: {name}"
        mounts = Path("/proc/self/mountinfo").read_text()
        assert str(self.root) not in mounts, f"{what}: a mount stays"
        return found


@pytest.fixture(params=[WITH_RUN, WITHOUT], ids=["with RUN", "without RUN"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    reason = bases.why_not()
    if reason:
        pytest.skip(reason)
    return Place(tmp_path, request.param)


def fault(chance: random.Random, calls: int) -> Fault:
    error = chance.choice([errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, 0])
    at, stays = chance.randint(1, calls), chance.random() < 0.4
    if error == 0:  # a write that is carried out by half; then it goes on, or the disk is full
        return Fault(at, errno.ENOSPC if stays else 0, half=True, stays=stays)
    return Fault(at, error, stays=stays)


def test_faults_at_any_write(place: Place, request: pytest.FixtureRequest) -> None:
    chance = random.Random(f"{SEED} {request.node.name}")
    failed, mended, hit = 0, 0, 0
    problems: list[str] = []
    rounds = (FAULTS + 1) // 2
    for number in range(rounds):
        if number % 3 or problems:
            place.anew()
            options: tuple[str, ...] = ()
        else:
            options = ("--no-cache",)  # on what the rounds before have left
        one = fault(chance, place.calls)
        ended = place.build(*options, fault=one)
        what = f"round {number}, {one} ({ended.hit})"
        hit += bool(ended.hit)
        failed += ended.code != 0
        try:
            assert not ended.left, f"{what}: processes stay"
            assert ended.code in (0, 1, 65, 69, 74), f"{what}: ends with {ended.code}: {ended.err}"
            assert "Traceback" not in ended.err, f"{what}: {ended.err}"
            assert "a bug in lamina" not in ended.err, f"{what}: {ended.err}"
            if ended.code == 0:
                assert ended.out.split()[-1] == place.image, f"{what}: another image: {ended.err}"
            else:
                assert "error: " in ended.err, f"{what}: {ended.err}"
            mended += bool(place.mended(what))
        except AssertionError as error:
            problems.append(str(error))
    print(f"{rounds} faults in {place.calls} calls: {hit} met, {failed} builds failed, {mended} stores mended")
    assert not problems, "\n".join(problems)
    assert hit


def test_killed_at_any_moment(place: Place, request: pytest.FixtureRequest) -> None:
    chance = random.Random(f"{SEED} {request.node.name}")
    killed, mended = 0, 0
    problems: list[str] = []
    rounds = (KILLS + 1) // 2
    for number in range(rounds):
        place.anew()
        if number % 2:
            ended = place.build(fault=Fault(chance.randint(1, place.calls)))
        else:
            ended = place.build(kill_after=chance.random() * place.seconds, watched=True)
        what = f"round {number}, killed ({ended.hit})"
        killed += ended.code != 0
        try:
            assert ended.code in (0, -9), f"{what}: {ended.err}"
            assert not ended.left, f"{what}: processes stay"
            mended += bool(place.mended(what))
        except AssertionError as error:
            problems.append(str(error))
    print(f"{rounds} kills: {killed} in time, {mended} stores mended")
    assert not problems, "\n".join(problems)
    assert killed
