"""Each request that a command makes to a registry fails, in every way: the command is run once to learn how many there are, then once for
each of them. What comes out is the right image or none, one clear line, no secret, and a sound store."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.testing.breaking import BreakingWay, Kind, Wrong, recorder
from lamina.testing.commandline import Lamina, Said
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import digest_of, simple_image, tar_of
from lamina.testing.images import push as push_simple

SECRET = "s3cret-of-the-registry"
PACKED = base64.b64encode(f"me:{SECRET}".encode()).decode()
SIMPLE = simple_image([tar_of({"etc": None, "etc/a": b"a" * 2000}), tar_of({"etc/b": b"b"})])
STATUSES = [401, 403, 404, 429, 500]
WAYS: list[tuple[Kind, int, bool]] = [*(("status", status, True) for status in STATUSES), ("status", 503, False), ("mute", 0, True)]
IDS = [f"{kind}-{value}-{'on' if on else 'once'}" for kind, value, on in WAYS]

ENDS = {0, 65, 66, 69, 76, 77}
"""Exit codes that docs/how-to/registries.md promises; 65: an archive or image that cannot be used."""


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    with guarded(getattr(request, "param", "token")) as found:
        yield found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "docker").mkdir()
    return tmp_path


def guarded(auth: str) -> FakeRegistry:
    """With the image as app:1, for whoever logs in."""
    found = FakeRegistry(users={"me": SECRET})
    with found:
        push_simple(found.host, "app", "1", SIMPLE)
    again = FakeRegistry(users={"me": SECRET}, auth=auth)
    again.blobs, again.manifests, again.tags = found.blobs, found.manifests, found.tags
    return again


def log_in(home: Path, *hosts: str) -> None:
    (home / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": PACKED} for host in hosts}}))


def no_secret(registry: FakeRegistry, *texts: str) -> None:
    for text in texts:
        assert SECRET not in text
        assert PACKED not in text
        assert not any(token in text for token in registry.granted), "a token is shown"


def judge(registry: FakeRegistry, said: Said, *, what: object) -> None:
    """One clear line for a failure, nothing secret anywhere."""
    assert said.code in ENDS, (what, said)
    assert "Traceback" not in said.err, (what, said)
    assert "bug in lamina" not in said.err, (what, said)
    if said.code:
        lines = said.err.strip().splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 1, (what, said)
        assert len(lines) <= 2, (what, said)
        assert all(line.startswith(("error: ", "hint: ")) for line in lines), (what, said)
        assert said.out == "", (what, said)
    no_secret(registry, said.out, said.err)


def sound(lamina: Lamina) -> None:
    checked = lamina("check")
    assert checked.code == 0, checked


def each_request(upstream: FakeRegistry, wrongs: Callable[[int], list[Wrong]], run: Callable[[BreakingWay, Wrong | None], None]) -> int:
    """`run` without a wrong, then with each of those that `wrongs(n)` gives for the n-th request; returns how many requests there are.

    From the seventh on every third one: they are alike by then. $LAMINA_EVERY_CALL: all.
    """
    with BreakingWay(upstream.host) as way:
        run(way, None)
        count = way.count
    everyone = bool(os.environ.get("LAMINA_EVERY_CALL"))
    for number in range(count):
        if number > 6 and number % 3 and not everyone and number != count - 1:
            continue
        for wrong in wrongs(number):
            with BreakingWay(upstream.host, wrong) as way:
                run(way, wrong)
    return count


@pytest.mark.parametrize(("kind", "value", "on"), WAYS, ids=IDS)
@pytest.mark.parametrize("registry", ["token", "basic"], indirect=True)
def test_pull(
    lamina: Lamina, home: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, kind: Kind, value: int, on: bool
) -> None:
    stores = iter(range(1000))

    def run(way: BreakingWay, wrong: Wrong | None) -> None:
        monkeypatch.setenv("LAMINA_ROOT", str(home / f"store{next(stores)}"))
        log_in(home, way.host)
        said = lamina("pull", "-q", f"{way.host}/app:1")
        judge(registry, said, what=wrong)
        assert said.code == 0 or wrong
        if wrong and not on and kind == "status":
            assert said.code == 0, "a 503 that comes once costs a repetition, not the command"
        assert lamina("images", "-q", "--no-trunc").out.split() == ([digest_of(SIMPLE.config)] if said.code == 0 else [])
        sound(lamina)

    assert each_request(registry, lambda number: [Wrong(number, kind, value, on)], run) >= 5


@pytest.mark.parametrize(("kind", "value", "on"), WAYS, ids=IDS)
def test_push(lamina: Lamina, home: Path, registry: FakeRegistry, kind: Kind, value: int, on: bool) -> None:
    context(home / "app")
    assert lamina("build", "-q", "-t", "made:1", str(home / "app")).code == 0

    def run(way: BreakingWay, wrong: Wrong | None) -> None:
        empty(registry)
        log_in(home, way.host)
        said = lamina("push", "-q", "made:1", f"{way.host}/made:1")
        judge(registry, said, what=wrong)
        assert said.code == 0 or wrong
        if wrong and not on and kind == "status":
            assert said.code == 0, (wrong, said)
        whole(registry, "made", "1", said)

    assert each_request(registry, lambda number: [Wrong(number, kind, value, on)], run) >= 8
    sound(lamina)


@pytest.mark.parametrize(("kind", "value", "on"), WAYS, ids=IDS)
@pytest.mark.parametrize("broken", ["source", "target"])
def test_copy(lamina: Lamina, home: Path, kind: Kind, value: int, on: bool, broken: str) -> None:
    with guarded("token") as source, guarded("token") as target:

        def run(way: BreakingWay, wrong: Wrong | None) -> None:
            empty(target)
            one, two = (way.host, target.host) if broken == "source" else (source.host, way.host)
            log_in(home, one, two)
            said = lamina("copy", "-q", f"docker://{one}/app:1", f"docker://{two}/made:1")
            judge(source if broken == "source" else target, said, what=wrong)
            assert said.code == 0 or wrong
            whole(target, "made", "1", said)
            if said.code == 0:
                assert said.out.strip() == SIMPLE.digest

        assert each_request(source if broken == "source" else target, lambda number: [Wrong(number, kind, value, on)], run) >= 5
    sound(lamina)


@pytest.mark.parametrize(("kind", "value", "on"), WAYS, ids=IDS)
def test_copy_to_files(lamina: Lamina, home: Path, kind: Kind, value: int, on: bool) -> None:
    with guarded("token") as registry:
        places = iter(range(1000))

        def run(way: BreakingWay, wrong: Wrong | None) -> None:
            number = next(places)
            log_in(home, way.host)
            said = lamina("copy", "-q", f"docker://{way.host}/app:1", f"oci:{home}/layout{number}:one")
            judge(registry, said, what=wrong)
            assert (home / f"layout{number}" / "index.json").exists() == (said.code == 0)
            said = lamina("copy", "-q", f"docker://{way.host}/app:1", f"oci-archive:{home}/archive{number}.tar:one")
            judge(registry, said, what=wrong)
            assert (home / f"archive{number}.tar").exists() == (said.code == 0)

        each_request(registry, lambda number: [Wrong(number, kind, value, on)], run)
        assert not [each for each in home.iterdir() if each.name.startswith(("archive", ".archive")) and each.suffix != ".tar"]


@pytest.mark.parametrize(("kind", "value", "on"), WAYS, ids=IDS)
def test_login(lamina: Lamina, home: Path, registry: FakeRegistry, kind: Kind, value: int, on: bool) -> None:
    def run(way: BreakingWay, wrong: Wrong | None) -> None:
        (home / "docker" / "config.json").unlink(missing_ok=True)
        said = lamina("login", "-u", "me", "--password-stdin", way.host, stdin=SECRET.encode())
        if said.code:
            judge(registry, said, what=wrong)
        assert said.code in ENDS, (wrong, said)
        no_secret(registry, said.out, said.err)
        assert (home / "docker" / "config.json").exists() == (said.code == 0), "a login that was not proved is not kept"

    each_request(registry, lambda number: [Wrong(number, kind, value, on)], run)


@pytest.mark.parametrize(("kind", "value", "on"), WAYS, ids=IDS)
def test_a_base_that_is_asked_for_again(
    lamina: Lamina, home: Path, kind: Kind, value: int, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`build --pull` and `outdated`: an answer, or one line which names the base."""
    with guarded("token") as registry:
        numbers = iter(range(1000))

        def run(way: BreakingWay, wrong: Wrong | None) -> None:
            monkeypatch.setenv("LAMINA_ROOT", str(home / f"store{next(numbers)}"))
            context(home / "app", f"{way.host}/app:1")
            log_in(home, way.host)
            way.wrong = None
            assert lamina("build", "-q", "-t", "made:1", str(home / "app")).code == 0
            way.count, way.wrong = 0, wrong
            said = lamina("outdated", "--all")
            assert said.code in {*ENDS, 1, 3}, (wrong, said)
            assert "Traceback" not in said.err
            assert "bug in lamina" not in said.err
            assert said.code or "current" in said.out or wrong, said
            assert not wrong or way.count <= wrong.at or said.code == 0 or "error: " in said.err or way.host in said.out + said.err, (
                wrong,
                said,
            )
            no_secret(registry, said.out, said.err)
            way.count = 0
            said = lamina("build", "-q", "--pull", "-t", "made:1", str(home / "app"))
            assert said.code in ENDS, (wrong, said)
            no_secret(registry, said.out, said.err)
            sound(lamina)

        each_request(registry, lambda number: [Wrong(number, kind, value, on)], run)


def context(folder: Path, base: str = "scratch") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(f"FROM {base}\nCOPY small /small\nCOPY big /big\n")
    (folder / "small").write_text("small\n")
    if not (folder / "big").exists():
        (folder / "big").write_bytes(os.urandom(1_200_000))  # more than goes in one PUT


def empty(registry: FakeRegistry) -> None:
    registry.blobs.clear()
    registry.manifests.clear()
    registry.tags.clear()
    registry.uploads.clear()


def whole(registry: FakeRegistry, repository: str, tag: str, said: Said) -> None:
    """What the tag names is all there and right; there is no tag where the command failed before its last request."""
    digest = registry.tags.get(repository, {}).get(tag)
    assert digest or said.code
    if digest is None:
        return
    _, raw = registry.manifests[repository, digest]
    assert digest_of(raw) == digest
    document = json.loads(raw)
    for named in (document["config"], *document["layers"]):
        assert digest_of(registry.blobs[repository, named["digest"]]) == named["digest"]
        assert len(registry.blobs[repository, named["digest"]]) == named["size"]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [401, 200])
def test_a_redirect_of_every_call_gets_no_secret(
    lamina: Lamina, home: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """Another host is told to answer, by the n-th answer of the registry: it sees no password, no token and no cookie."""
    context(home / "app")
    assert lamina("build", "-q", "-t", "made:1", str(home / "app")).code == 0
    held = dict(registry.blobs), dict(registry.manifests), {name: dict(tags) for name, tags in registry.tags.items()}
    stores = iter(range(1000))

    def run(way: BreakingWay, wrong: Wrong | None) -> None:
        registry.blobs, registry.manifests = dict(held[0]), dict(held[1])
        registry.tags = {name: dict(tags) for name, tags in held[2].items()}
        log_in(home, way.host)
        monkeypatch.setenv("LAMINA_ROOT", str(home / "store"))
        pushed = lamina("push", "-q", "made:1", f"{way.host}/made:1")
        judge(registry, pushed, what=wrong)
        way.count = 0 if wrong else way.count
        monkeypatch.setenv("LAMINA_ROOT", str(home / f"store{next(stores)}"))
        pulled = lamina("pull", "-q", f"{way.host}/app:1")
        judge(registry, pulled, what=wrong)
        assert lamina("images", "-q", "--no-trunc").out.split() == ([digest_of(SIMPLE.config)] if pulled.code == 0 else [])

    with recorder(answer) as other:
        each_request(
            registry,
            lambda number: [Wrong(number, "redirect", on=on, place=other.url) for on in ((False, True) if number < 4 else (True,))],
            run,
        )
        assert other.seen
        no_secret(registry, other.text())
        assert "authorization" not in {name for sight in other.seen for name in sight.headers}
