"""The recorded cache scenarios, decided by keys alone: real contexts, parser, lowering, selections and keys; nothing is run.

What a RUN writes is imagined from its text (`… > /path`), which is enough to know whether a COPY --from of it stays equal. A
filesystem is what its producer's key says (`LAMINA_CUT_OFF=off`), as in BuildKit, whose results these are. oracle.py makes the
contexts; its builder, registry and web server are replaced by the classes below.
"""

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lamina.cache import keys
from lamina.cache.freshness import Asked
from lamina.cache.record import InputPart
from lamina.dockerfile.ignore import IgnoreRules
from lamina.dockerfile.lower import Lowered, Needs, Options, ResolvedBase, lower
from lamina.dockerfile.parser import parse
from lamina.graph.ops import ContextOp, CopyAction, ExecOp, FileOp, HttpOp, ImageOp, MergeOp, MkfileAction
from lamina.graph.vertex import Vertex, walk
from lamina.layer.context import ContextTree
from lamina.layer.modes import ModeRule
from lamina.layer.selection import select
from lamina.layer.tree import FileTree
from lamina.oci.config import ContainerConfig, ImageConfig, RootFs
from lamina.oci.digest import DiffId, Digest, StateId

FOLDER = Path(os.environ.get("LAMINA_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance")) / "cache"

# One vertex with two places: which of them is shown is a matter of reports, not of keys.
TWO_PLACES = {"stages-equal-text", "stages-prefix"}
# BuildKit's client does not send a folder again whose mode alone changed (its issue 7176).
FOLDER_MODES = {"dir-sticky", "copy-parents-dirmode"}


@cache
def oracle() -> Any:
    spec = importlib.util.spec_from_file_location("cache_oracle", FOLDER / "oracle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cache_oracle"] = module
    spec.loader.exec_module(module)
    return module


@cache
def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8")) if FOLDER.is_dir() else {}


def content(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


class Registry:
    def __init__(self) -> None:
        self.images: dict[str, tuple[str, dict[str, Any]]] = {}

    def push(self, repository: str, tag: str, spec: dict[str, Any]) -> str:
        digest = "sha256:" + content(repository, json.dumps(spec, sort_keys=True))
        self.images[f"{repository}:{tag}"] = self.images[digest] = (digest, spec)
        return digest

    def resolve(self, reference: str) -> ResolvedBase:
        digest, spec = next(image for name, image in self.images.items() if name in reference)
        config = ContainerConfig(
            env=("PATH=/bin", *(f"{k}={v}" for k, v in spec.get("env", {}).items())),
            working_dir=spec.get("workdir", "/"),
            user=spec.get("user", ""),
            on_build=tuple(spec["onbuild"]) if "onbuild" in spec else None,
        )
        layers = tuple(DiffId(content(layer)) for layer in (spec["files"], *spec.get("more_layers", [])))
        return ResolvedBase(
            reference, Digest(digest), ImageConfig(architecture="amd64", os="linux", config=config, rootfs=RootFs(diff_ids=layers))
        )


class Web:
    addr = "127.0.0.1:9"

    def __init__(self) -> None:
        self.pages: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[str, str]] = []


@dataclass(frozen=True)
class Tree:
    """A filesystem (`state` set, `files` imagined), a context (`tree`), or one remote file (`id`). `forced` reaches what is built on it."""

    state: StateId | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    forced: bool = False
    tree: FileTree | None = None
    id: str = ""


class Failed(Exception):
    pass


class Builder:
    def __init__(self, registry: Registry, web: Web) -> None:
        self.registry, self.web = registry, web
        self.known: set[str] = set()
        self.remembered: dict[str, str] = {}  # bodies by URL and ETag, or by checksum
        self.asked = Asked()

    def build(self, context: str, dockerfile: str, args: dict[str, str], flags: Any) -> list[Any]:
        file = Path(dockerfile)
        document = parse(file.read_bytes().decode(), file.name)
        ignores = [p for p in (file.with_name(file.name + ".dockerignore"), Path(context) / ".dockerignore") if p.exists()]
        rules = IgnoreRules.parse(ignores[0].read_text(encoding="utf-8")) if ignores else None
        trees = {"context": ContextTree(Path(context), rules)} | {n: ContextTree(Path(p)) for n, p in flags.contexts.items()}
        self.asked = Asked(flags.no_cache, tuple(flags.no_cache_filter))
        options = Options(
            target=flags.target,
            args=args,
            labels=flags.labels,
            contexts=frozenset(flags.contexts),
            network=flags.network if flags.network else "default",
        )
        bases: dict[Any, ResolvedBase] = {}
        while isinstance(found := lower(document, options, bases), Needs):
            bases |= {(name, platform): self.registry.resolve(name) for name, platform in found.references}
        verdicts: dict[int, bool] = {}
        results: dict[int, Tree] = {}
        try:
            for vertex in walk((found.target,)):
                results[id(vertex)] = self.solve(vertex, [None if i is None else results[id(i)] for i in vertex.inputs], trees, verdicts)
        except Failed as error:
            raise oracle().BuildError("failed", steps(found, verdicts)) from error
        return steps(found, verdicts)

    def cleanup(self, salt: str) -> None:
        pass

    def solve(self, vertex: Vertex, inputs: list[Tree | None], trees: Mapping[str, FileTree], verdicts: dict[int, bool]) -> Tree:
        op = vertex.op
        if isinstance(op, ContextOp):
            return Tree(tree=trees[op.name])
        if isinstance(op, HttpOp):
            return Tree(id=self.fetch(op))
        if isinstance(op, ImageOp):
            files = {"/" + name.lstrip("/"): text for name, text in self.registry.images[op.digest][1]["files"].items()}
            return Tree(StateId("base " + content(sorted(files.items()))), files)
        below = [i for i in inputs if i is not None]
        if isinstance(op, MergeOp):
            files = {name: text for i in below for name, text in i.files.items()}
            return Tree(keys.merge_state([None if i is None else i.state for i in inputs]), files, any(i.forced for i in below))
        selected = [None if wanted is None else self.select(inputs[wanted.input], wanted) for wanted in keys.selections(op)]
        root = inputs[0] if inputs else None
        root_part = None if root is None or root.state is None else InputPart("filesystem", root.state)
        key = keys.key_of(keys.key_parts(op, root_part, selected))
        forced = (root is not None and root.forced) or any(self.asked.forced_by(step) for step in vertex.steps)
        verdicts[id(vertex)] = key in self.known and not forced
        files = dict(root.files) if root is not None else {}
        if isinstance(op, ExecOp):
            imagine_run(op, selected, files)
        elif isinstance(op, FileOp):
            for action, part in zip(op.actions, selected):
                if isinstance(action, MkfileAction):
                    files[action.path] = content(action.data)
                elif isinstance(action, CopyAction) and part is not None:
                    name = action.source.rpartition("/")[2] if action.dest.endswith("/") else ""
                    files[action.dest + name] = part.id
        self.known.add(key)
        return Tree(keys.definition_state(key), files, forced)

    def select(self, source: Tree | None, wanted: keys.Selection) -> InputPart:
        assert source is not None
        if source.id:
            return InputPart("url", source.id)
        if source.tree is None:
            path = wanted.path.rstrip("/")
            below = sorted((name, text) for name, text in source.files.items() if name == path or name.startswith(path + "/"))
            return InputPart("files", content([(name[len(path) :], text) for name, text in below]))
        rules = IgnoreRules.parse("\n".join(wanted.exclude))
        found = select(
            source.tree,
            wanted.path,
            wildcard=wanted.wildcard,
            include=wanted.include,
            excluded=(lambda name: rules.ignored(name.decode())) if wanted.exclude else None,
            follow_symlink=wanted.follow_symlink,
            required=wanted.required,
            mode=ModeRule("0") if wanted.chmod else None,
            owned=wanted.chown,
        )
        return InputPart("files", found.digest())

    def fetch(self, op: HttpOp) -> str:
        """As BuildKit: an ETag that is known, weak or strong, stands for its bytes; so does a checksum."""
        if op.checksum is not None and op.checksum in self.remembered:
            return content(self.remembered[op.checksum])
        page = self.web.pages.get("/" + op.url.split("/", 4)[4].split("?")[0], {"status": 404})
        if page.get("status", 200) >= 400:
            raise Failed
        body: str = page.get("body", "")
        if page.get("etag"):
            body = self.remembered.setdefault(op.url + " " + page["etag"].removeprefix("W/"), body)
        self.remembered["sha256:" + hashlib.sha256(body.encode()).hexdigest()] = body
        return content(body)


def imagine_run(op: ExecOp, selected: list[InputPart | None], files: dict[str, str]) -> None:
    """Each `command > path` writes what follows from the command, the files and the variables that it names."""
    if op.args[-1] == "false":
        raise Failed
    for part in re.split(r"&&|;", op.args[-1]):
        words = part.split()
        found = re.search(r">+\s*(\S+)\s*$", part)
        if found:
            named = [pair for pair in op.env if "$" + pair.partition("=")[0] in part]
            mounted = [chosen.id for chosen in selected if chosen is not None]
            files[found[1]] = content(part[: found.start()].strip(), [files.get(word) for word in words], named, mounted)
        elif words and words[0] == "chown":
            files[words[-1]] = content(files.get(words[-1]), words)


def steps(lowered: Lowered, verdicts: Mapping[int, bool]) -> list[Any]:
    return [
        oracle().Step(s.step.line, s.step.text, s.step.stage, verdicts.get(id(s.vertex)) if s.needed and s.vertex is not None else None)
        for s in lowered.steps
        if not s.step.trigger
    ]


def pattern(build: Mapping[str, Any]) -> str:
    return "".join({None: ".", True: "C", False: "x"}[step["cached"]] for step in build["steps"])


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no recorded scenarios in {FOLDER}")
@pytest.mark.parametrize("scenario", load("scenarios.json") or [{"id": "none"}], ids=lambda scenario: str(scenario["id"]))
def test_scenario(scenario: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    name = scenario["id"]
    if name in TWO_PLACES | FOLDER_MODES:
        pytest.skip("not decided by keys")
    if os.getuid() and re.search(r'"op": "chown"|"value": "\\u0001', json.dumps(scenario)):
        pytest.skip("needs uid 0")
    registry, web = Registry(), Web()
    found = oracle().run_scenario(scenario, Builder(registry, web), registry, web, "seed")
    differs = load("lamina-differs.json")
    expected = (
        differs[name]["expect"] if name in differs else [pattern(b) for b in load("expected-buildkit.json")["scenarios"][name]["builds"]]
    )
    assert [pattern(build) for build in found["builds"]] == expected
