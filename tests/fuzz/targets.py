"""What is fuzzed: each target takes any bytes and may end in nothing worse than a LaminaError.

`make fuzz` runs them under atheris (coverage-guided), `test_fuzz_seeds.py` runs the kept seeds and simple damages of them under pytest.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import hashlib
import io
import json
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from lamina.cache.keys import key_of, key_parts, selections
from lamina.cache.remote import chunks, mounts
from lamina.cache.remote.envelope import unseal
from lamina.cache.remote.names import encode_scope, mount_name
from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile import parse
from lamina.dockerfile.ignore import IgnoreRules
from lamina.dockerfile.lint import lint
from lamina.dockerfile.lower import Needs, Options, ResolvedBase, lower
from lamina.dockerfile.lower.values import BaseKey
from lamina.graph.show import as_text
from lamina.graph.vertex import walk
from lamina.layer import listing, statcache, sums
from lamina.layer.apply import apply_tar
from lamina.layer.entry import Kind
from lamina.layer.extra import read_extra
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.scan import entries
from lamina.layer.tarread import TarReader
from lamina.oci.config import ContainerConfig, ImageConfig, encode_config, parse_config
from lamina.oci.digest import parse_digest
from lamina.oci.manifest import parse_document
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.pipelines import plan, show
from lamina.pipelines.choose import Start
from lamina.pipelines.lint import lint_document
from lamina.pipelines.load import examine
from lamina.pipelines.load import load as load_pipelines
from lamina.registry.auth import Credentials
from lamina.registry.challenge import parse_challenges
from lamina.registry.logins import Logins, log_in, log_out
from lamina.server import filters, logins
from lamina.server.buildkit import asked as asking
from lamina.server.buildkit import grpc, http2, messages, wire
from lamina.server.buildkit.receiving import receive
from lamina.server.containers import creating, shapes
from lamina.server.errors import ClientGone
from lamina.server.http.connection import Connection
from lamina.server.http.messages import Duplex, Hijack, Reply, Request, answer, request
from lamina.store.removal import remove

_PLAIN = Flavour("plain", IdMap("single"))
_MOST = 1 << 22  # bytes of one body that a target reads


def dockerfile(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    lint(parse(text))


def lowering(data: bytes) -> None:
    """A Dockerfile to what is built and to its keys; its base images are plain, but for one whose ONBUILD triggers are the file's first lines."""
    text = data.decode("utf-8", "surrogateescape")
    triggers = tuple(text.splitlines()[:2])
    _lowered(text, lambda reference: ImageConfig(config=ContainerConfig(on_build=triggers if "trigger" in reference else None)))


def inherited(data: bytes) -> None:
    """An image made upon a stranger's: each line gives a field of its config, by its first letter. The config's JSON itself is another target."""
    config: dict[str, Any] = {}
    image: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": []}}
    for line in data.decode("utf-8", "replace").splitlines():
        kind, value = line[:1], line[1:]
        if kind in _LISTS:
            config.setdefault(_LISTS[kind], []).append(value)
        elif kind in _TEXTS:
            config[_TEXTS[kind]] = value
        elif kind in _SETS:
            config.setdefault(_SETS[kind], {})[value] = "" if kind == "L" else {}
        elif kind in _OF_IMAGE:
            image[_OF_IMAGE[kind]] = value
        elif kind == "D":
            image["rootfs"]["diff_ids"].append(value)
        elif kind == "H":
            image.setdefault("history", []).append({"created_by": value, "empty_layer": len(value) % 2 == 0})
    found = parse_config(json.dumps(image).encode())
    _lowered(_UPON, lambda _: found)


_LISTS = {"E": "Env", "O": "OnBuild", "C": "Cmd", "N": "Entrypoint", "S": "Shell"}
_TEXTS = {"U": "User", "W": "WorkingDir", "T": "StopSignal"}
_SETS = {"V": "Volumes", "P": "ExposedPorts", "L": "Labels"}
_OF_IMAGE = {"c": "created", "u": "author", "a": "architecture", "o": "os", "v": "variant", "w": "os.version"}
_UPON = """\
FROM base
ARG A=1
ENV B=$A C="$PATH:/x" HOME=
WORKDIR sub/../deeper
COPY --chown=$USER a b ./
RUN --mount=type=cache,target=cache echo $B ${C:-c}
RUN ["/bin/x"]
HEALTHCHECK CMD true
VOLUME $HOME/v
EXPOSE 1-3
ONBUILD RUN true
CMD x
"""


def _lowered(text: str, config: Callable[[str], ImageConfig]) -> None:
    document = parse(text)
    if document.errors:
        return
    bases: dict[BaseKey, ResolvedBase] = {}
    for options in (
        Options(args={"A": "a", "HTTP_PROXY": "p"}),
        Options(target="0", labels={"l": "m"}, platform=Platform("linux", "arm", "v7")),
    ):
        while isinstance(found := lower(document, options, bases), Needs):
            bases |= {
                key: ResolvedBase(key[0], parse_digest("sha256:" + "0" * 64), config(key[0])) for key in found.references - set(bases)
            }
        encode_config(found.config)
        for vertex in walk((found.target,)):
            key_of(key_parts(vertex.op, None, [None] * len(selections(vertex.op))))
        as_text([found.target])


def ignore(data: bytes) -> None:
    rules = IgnoreRules.parse(data.decode("utf-8", "surrogateescape"))
    folder = rules.root()
    for name in ("a", "b.txt", ".git", "é"):
        rules.ignored(f"src/{name}")
        folder.kept([name])
        folder = folder.directory(name)


def tar(data: bytes) -> None:
    reader = TarReader(io.BytesIO(data))
    for _ in reader:
        left = _MOST
        while left > 0 and (piece := reader.read(1 << 16)):
            left -= len(piece)


def layer(data: bytes) -> None:
    """Unpacked below a folder of its own; what is beside it stays."""
    top = Path(tempfile.mkdtemp(prefix="lamina-fuzz-"))
    try:
        (top / "layer" / "diff").mkdir(parents=True)
        (top / "victim").write_bytes(b"victim")
        try:
            apply_tar(io.BytesIO(data), top / "layer", _PLAIN)
            for _ in entries(top / "layer", _PLAIN):
                pass
        finally:
            assert sorted(path.name for path in top.iterdir()) == ["layer", "victim"]
            assert (top / "victim").read_bytes() == b"victim"
    finally:
        remove(top)


def manifest(data: bytes) -> None:
    parse_document(data)


def config(data: bytes) -> None:
    parse_config(data)


def reference(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    found = Reference.parse(text)
    assert Reference.parse(str(found)) == found


def sidefiles(data: bytes) -> None:
    """The small files of ours that a disk may have damaged, or a later lamina wrote: as they are, and inside of what protects them."""
    top = Path(tempfile.mkdtemp(prefix="lamina-fuzz-"))
    try:
        (top / "diff" / "d").mkdir(parents=True)
        (top / "diff" / "a").write_bytes(b"a")
        (top / "extra").write_bytes(data)
        for name, mark in (("sums", sums._MAGIC), ("statcache", statcache._MAGIC)):
            (top / name).write_bytes(data if data.startswith(mark) else mark + zlib.crc32(data).to_bytes(4, "big") + data)
        packed = listing.pack(data)
        _each([
            lambda: listing.load(data), lambda: listing.compare_documents(packed, data), lambda: _compared(listing.load(packed)),
            lambda: sums.read(top), lambda: statcache.StatCache(top / "statcache").drop(b"a"),
            lambda: read_extra(top), lambda: collections.deque(entries(top, _PLAIN), 0),
        ])  # fmt: skip
    finally:
        remove(top)


def _compared(found: listing.Listing | None) -> None:
    if found is not None:
        other = listing.Listing({b"": {b"a": listing.Item(Kind.FILE.value, bytes(32), 0o644, 0, 0)}}, complete=True)
        assert listing.compare_documents(listing.dump(found), listing.encode(found)) == []
        listing.compare_documents(listing.dump(found), listing.encode(other))
        listing.compare_documents(listing.dump(other), listing.encode(found))


def pipelines(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    document, _ = examine(text)
    if document is not None:
        lint_document(document)
    found = plan.plan(load_pipelines(text), plan.Request(Start("branch", "main")))
    for _ in show.lines(found):
        pass
    json.dumps(show.document_of(found))


def sharedcache(data: bytes) -> None:
    """What lies in a shared cache under the name that it should have: envelopes, versions of mounts, recipes, listings."""
    _, _, body = data.partition(b"\n")
    key, scope, identifier = "0" * 64, "main", "id"
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        found = json.loads(body)
        identifier, scope = str(found.get("identifier", identifier)), str(found.get("scope", scope))
        key = str(found.get("record", {}).get("key", "")).removeprefix("sha256:") or key
    acts: list[Callable[[], object]] = [
        lambda: unseal(f"records/{key}/{encode_scope(scope)}/{hashlib.sha256(data).hexdigest()}", data),
        lambda: mounts.unseal_mount(mount_name(identifier, scope, data), data),
        lambda: chunks.unpack(data, 1 << 20),
        lambda: _joined(chunks.load_recipe(chunks.pack(data))),
        lambda: mounts.load_listing(chunks.pack(data)),
    ]
    _each(acts)


def _joined(recipe: chunks.Recipe) -> None:
    if recipe.size <= 1 << 20 and len(recipe.runs) < 1000:
        assert sum(map(len, chunks.join(recipe, lambda chunk: bytes(chunk.size)))) == recipe.size


class _Program:
    """A credential program that knows everyone."""

    def __init__(self, name: str) -> None:
        pass

    def get(self, server: str) -> tuple[str, str]:
        return "user", "secret"

    def store(self, server: str, user: str, secret: str) -> None:
        pass

    def erase(self, server: str) -> None:
        pass


def registry(data: bytes) -> None:
    """A registry's challenge, and the files with logins."""
    parse_challenges(data.decode("latin-1"))
    top = Path(tempfile.mkdtemp(prefix="lamina-fuzz-"))
    try:
        file = top / "config.json"
        program = cast(Any, _Program)
        for act in (
            lambda: [Logins([file], program).credentials(host, "a/b") for host in ("docker.io", "localhost:5000")],
            lambda: log_in(file, "docker.io", Credentials("user", "secret"), program),
            lambda: log_out(file, "docker.io", program),
        ):
            file.write_bytes(data)
            _each([act])
    finally:
        remove(top)


class _Wire:
    """A client that has sent everything and reads nothing: both ends of a connection as its owners see them."""

    transport: Any

    def __init__(self, data: bytes) -> None:
        self._in = io.BytesIO(data)
        self.transport = self

    async def read(self, limit: int, /) -> bytes:
        return self._in.read(min(limit, 700))

    async def drain(self) -> None:
        pass

    def write(self, data: bytes | memoryview, /) -> int:
        return len(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, /) -> object:
        return None


def http(data: bytes) -> None:
    """Requests of the Engine API as they come: heads, bodies, connections that are taken over."""

    async def talk() -> None:
        wire_ = _Wire(data)
        await Connection(wire_, cast(Any, wire_), _served, _threads(), (("Server", "fuzz"),)).run()

    asyncio.run(asyncio.wait_for(talk(), 15))


@functools.cache
def _threads() -> Executor:
    return ThreadPoolExecutor(4)


def _served(request: Request) -> Reply:
    """What handlers do with a request before they do anything."""
    try:
        if request.upgrade or request.path.endswith("/attach"):
            return Hijack(_echo)
        filters.parse(request.query, ("label", "name"))
        request.query.integer("t")
        logins.one(request.headers.get("x-registry-auth", ""), "docker.io")
        logins.several(request.headers.get("x-registry-config", ""))
        asked = request.json()
        if request.path.endswith("/create"):
            _created(asked)
        return answer({"asked": asked, "path": request.path})
    except LaminaError as error:
        return answer({"message": error.message}, 400)
    except ClientGone:
        return answer({"message": "gone"}, 400)


def _echo(duplex: Duplex) -> None:
    while data := duplex.read(100):
        duplex.write(data)


def containers(data: bytes) -> None:
    """The JSON body of `POST /containers/create`."""
    _created(request("POST", "/containers/create", data).json())


def _created(body: dict[str, Any]) -> None:
    image = {"Cmd": ["sh"], "Env": ["A=1"]}
    asked = shapes.checked_body(body)
    rules = creating.Rules(roots=(Path("/nowhere"),))
    config = creating.merged_config(asked, image, "app", "ab" * 32)
    host, _ = creating.host_config(asked.get("HostConfig") or {}, rules)
    creating.mounts(config, host, rules, lambda name: name or "new")


class _Call:
    """A call of a client that has sent `data`, gRPC's frames."""

    def __init__(self, data: bytes) -> None:
        self._in = io.BytesIO(data)
        self._messages = grpc._Messages(cast(Any, self))

    def read(self) -> bytes:
        return self._in.read(500)

    def receive(self, kind: type[wire.M]) -> wire.M | None:
        data = self._messages.next()
        return None if data is None else wire.decode(kind, data)

    def send(self, message: wire.Message) -> None:
        wire.encode(message)

    def end(self) -> None:
        pass


def buildkit(data: bytes) -> None:
    """Messages, the options of a build among them."""
    for kind in _kinds():
        with contextlib.suppress(LaminaError):
            found = wire.decode(kind, data)
            assert wire.decode(kind, wire.encode(found)) == found
    with contextlib.suppress(LaminaError):
        solve = wire.decode(messages.SolveRequest, data)
        asked = asking.Asked(solve.frontend_attrs)
        asking.agent_names(parse(asked.attrs.get("text", "")))
        _each([
            asked.platforms, asked.no_cache, asked.hosts, asked.shm_size, asked.ulimits, asked.named_contexts,
            lambda: asked.remote, lambda: asking.check(asked, solve.frontend, privileged=False),
            lambda: asking.cache_entries(asked.attrs.get("cache-imports", "")), lambda: asking.exclude_patterns(asked.attrs.get("ignore")),
        ])  # fmt: skip


@functools.cache
def _kinds() -> tuple[type[wire.Message], ...]:
    return tuple(kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, wire.Message))


def fsutil(data: bytes) -> None:
    """A client's folder, into a place of its own that has an earlier state; what is beside it stays."""
    top = Path(tempfile.mkdtemp(prefix="lamina-fuzz-"))
    try:
        (top / "victim").write_bytes(b"victim")
        (top / "place" / "files" / "a").mkdir(parents=True)
        (top / "place" / "files" / "a" / "up").symlink_to("../..")
        (top / "place" / "files" / "b").write_bytes(b"b")
        try:
            receive(cast(Any, _Call(data)), top / "place")
        finally:
            assert sorted(path.name for path in top.iterdir()) == ["place", "victim"]
            assert sorted(path.name for path in (top / "place").iterdir()) == ["files", "incoming"]
            assert (top / "victim").read_bytes() == b"victim"
    finally:
        remove(top)


class _Carrier:
    def __init__(self, data: bytes) -> None:
        self._in = io.BytesIO(data)

    def read(self, limit: int = 65536, /) -> bytes:
        return self._in.read(min(limit, 300))

    def write(self, data: bytes | memoryview, /) -> int:
        return len(data)


def http2frames(data: bytes) -> None:
    """A client's connection to /grpc: frames, header blocks, messages. What a thread of it raises is a finding."""
    raised: list[BaseException] = []

    def serve(stream: http2.Stream) -> None:
        try:
            grpc.acceptor({"/a": lambda call: call.send(call.request(messages.SolveRequest))})(stream)
        except (http2.Reset, ClientGone):
            pass
        except BaseException as error:
            raised.append(error)

    http2.Http2(_Carrier(data), serve).run()
    if raised:
        raise raised[0]


def _each(acts: Sequence[Callable[[], object]]) -> None:
    """All of them; a LaminaError of one is looked at and ends that one."""
    for act in acts:
        run(lambda _, act=act: act(), b"")  # type: ignore[misc]  # the default binds the act


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        dockerfile, lowering, inherited, ignore, tar, layer, manifest, config, reference, sidefiles, pipelines, sharedcache, registry, http, containers, buildkit,
        fsutil, http2frames,
    )
}  # fmt: skip


SEEDS_OF = {"layer": "tar", "lowering": "dockerfile"}  # those that have none of their own


def run(target: Callable[[bytes], object], data: bytes) -> None:
    """Any other end than these is a finding."""
    try:
        target(data)
    except LaminaError as error:
        said = str(error)
        if not said or ("\n" in said and not error.code.startswith("dockerfile/")):
            raise AssertionError(f"not one clear line: {said!r}") from error
