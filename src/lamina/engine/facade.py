"""The library's own functions: what `lamina build` does, from Python. Every default is the command line's.

As root the engine runs in the calling process. As an ordinary user a build needs a user namespace, which a process enters as a whole: a
child process does it, so that the caller's own process stays what it is.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lamina.diagnostics.errors import LaminaError
from lamina.engine.request import BuildRequest, BuildResult, BuiltImage, Incoming, Output, PlanResult, Report, Secret, Selector

if TYPE_CHECKING:
    from lamina.engine.freshness.lockfile import Lock
    from lamina.engine.freshness.outdated import Outdated

Source = str | os.PathLike[str]


class BuildProcessFailed(LaminaError):
    """The child process that builds for an ordinary user ended without an answer."""

    code = "engine/child"
    default_exit = 70


def build(
    context: Source = ".",
    *,
    dockerfile: Source | None = None,
    target: str | None = None,
    args: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    named_contexts: Mapping[str, str] | None = None,
    secrets: Mapping[str, bytes | Path] | None = None,
    platform: str | None = None,
    outputs: Sequence[Output] = (),
    no_cache: bool = False,
    no_cache_filter: Sequence[str] = (),
    refresh: Sequence[str] = (),
    max_age: Mapping[str, float] | None = None,
    pull: bool = False,
    network: Literal["default", "none", "host"] = "default",
    exact_modes: bool = False,
    arg_scope: Literal["declared", "named"] = "declared",
    jobs: int = 0,
    epoch: int | None = None,
    provenance: Literal["min", "max"] | None = None,
    sbom: Sequence[Literal["spdx", "cyclonedx"]] = (),
    locked: bool = False,
    root: Source | None = None,
    sandbox: str | None = None,
    report: Report | None = None,
) -> BuildResult:
    """Build an image and keep it in the store.

    `context` is a directory, a git repository (URL#REF:FOLDER) or the URL of an archive; `dockerfile` a path, for a URL a name in it (default:
    context/Dockerfile). `secrets` values are bytes or files; `max_age` maps a selector to seconds; `root` is the store (default:
    $XDG_DATA_HOME/lamina). `epoch` (seconds) is the time of everything that is made, in config and layers: the same image on every machine.
    `report` gets a ProgressEvent for each thing that happens, from other threads. Raises LaminaError (`code`, `hint`, `spans`).
    """
    request = _request(
        context,
        dockerfile,
        target=target,
        args=dict(args or {}),
        tags=tuple(tags),
        labels=dict(labels or {}),
        named_contexts=dict(named_contexts or {}),
        secrets=tuple(_secret(name, value) for name, value in (secrets or {}).items()),
        platforms=_platforms(platform),
        outputs=tuple(outputs),
        no_cache=no_cache,
        no_cache_filter=tuple(no_cache_filter),
        refresh=tuple(Selector(text) for text in refresh),
        max_age=tuple((Selector(text), seconds) for text, seconds in (max_age or {}).items()),
        pull=pull,
        network=network,
        exact_modes=exact_modes,
        arg_scope=arg_scope,
        jobs=jobs,
        epoch=epoch,
        provenance=provenance,
        sbom=tuple(sbom),
        lock=_lock(context) if locked else None,
    )
    result = _perform("build", request, root, sandbox, report)
    assert isinstance(result, BuildResult)
    return result


def plan(
    context: Source = ".",
    *,
    dockerfile: Source | None = None,
    target: str | None = None,
    args: Mapping[str, str] | None = None,
    named_contexts: Mapping[str, str] | None = None,
    platform: str | None = None,
    no_cache: bool = False,
    refresh: Sequence[str] = (),
    pull: bool = False,
    exact_modes: bool = False,
    arg_scope: Literal["declared", "named"] = "declared",
    root: Source | None = None,
    sandbox: str | None = None,
) -> PlanResult:
    """What `build` would do, step by step. Executes nothing."""
    request = _request(
        context,
        dockerfile,
        target=target,
        args=dict(args or {}),
        named_contexts=dict(named_contexts or {}),
        platforms=_platforms(platform),
        no_cache=no_cache,
        refresh=tuple(Selector(text) for text in refresh),
        pull=pull,
        exact_modes=exact_modes,
        arg_scope=arg_scope,
    )
    result = _perform("plan", request, root, sandbox, None)
    assert isinstance(result, PlanResult)
    return result


def save(image: BuiltImage | BuildResult | str, dest: Source, *, root: Source | None = None, sandbox: str | None = None) -> None:
    """Write an image as an archive that docker, podman and skopeo load."""
    name = image if isinstance(image, str) else image.images[0].id if isinstance(image, BuildResult) else image.id
    _perform("save", (name, Path(dest).absolute()), root, sandbox, None)


def load(source: Source, *, root: Source | None = None, sandbox: str | None = None) -> tuple[str, ...]:
    """Read the images of an archive into the store; returns their ids."""
    found = _perform("load", Path(source).absolute(), root, sandbox, None)
    assert isinstance(found, tuple)
    return found


def push(image: BuiltImage | BuildResult | str, name: str, *, root: Source | None = None, sandbox: str | None = None) -> str:
    """Send an image to the registry of `name`; returns the digest that the name has there now. What the registry has is not sent.

    Logins and settings are those of the command line (docs/how-to/registries.md). Raises LaminaError.
    """
    which = image if isinstance(image, str) else image.images[0].id if isinstance(image, BuildResult) else image.id
    digest = _perform("push", (which, name), root, sandbox, None)
    assert isinstance(digest, str)
    return digest


def pull(name: str, *, platform: str | None = None, root: Source | None = None, sandbox: str | None = None) -> str:
    """Fetch an image with its layers into the store; returns its id. Raises LaminaError."""
    identifier = _perform("pull", (name, platform), root, sandbox, None)
    assert isinstance(identifier, str)
    return identifier


def outdated(images: Sequence[str] = (), *, root: Source | None = None, sandbox: str | None = None) -> Outdated:
    """Which images built here (or which of `images`) stand on bases that have moved: `.behind`, in the order of rebuilding. One HEAD request for
    each distinct base; a registry that does not answer makes its images "unknown". Raises LaminaError for an image that was not built here."""
    from lamina.engine.freshness.outdated import Outdated

    found = _perform("outdated", tuple(images), root, sandbox, None)
    assert isinstance(found, Outdated)
    return found


def _request(context: Source, dockerfile: Source | None, **values: Any) -> BuildRequest:
    from lamina.engine.contextfiles import is_remote, read_dockerfile

    if isinstance(context, str) and is_remote(context):
        inside = os.fspath(dockerfile) if dockerfile is not None else "Dockerfile"
        return BuildRequest(Path(), inside, "", incoming=Incoming(context, dockerfile=inside), **values)
    folder = Path(context).absolute()
    name, text, ignore, ignore_name = read_dockerfile(folder, Path(dockerfile) if dockerfile is not None else None)
    path = Path(dockerfile).absolute() if dockerfile is not None else folder / "Dockerfile"
    return BuildRequest(
        context=folder,
        dockerfile_name=name,
        dockerfile_text=text,
        dockerfile_path=path,
        ignore_text=ignore,
        ignore_name=ignore_name,
        **values,
    )


def _platforms(text: str | None) -> tuple[Any, ...]:
    from lamina.oci.platform import Platform

    return tuple(Platform.parse(word) for word in (text or "").split(",") if word)


def _lock(context: Source) -> Lock:
    from lamina.engine.freshness.lockfile import NAME, read_lock

    return read_lock(Path(context) / NAME)


def _secret(name: str, value: bytes | Path) -> Secret:
    return Secret(name, value=value) if isinstance(value, bytes) else Secret(name, file=Path(value).absolute())


def _perform(what: str, subject: object, root: Source | None, sandbox: str | None, report: Report | None) -> object:
    place = Path(root).absolute() if root is not None else default_root(os.environ)
    if os.geteuid() == 0 and sandbox in (None, "root", "chroot", "none"):
        return perform(what, subject, place, sandbox, report)
    return _in_child(what, subject, place, sandbox, report)


def default_root(environment: Mapping[str, str]) -> Path:
    """$LAMINA_ROOT, else $XDG_DATA_HOME/lamina, else ~/.local/share/lamina."""
    if environment.get("LAMINA_ROOT"):
        return Path(environment["LAMINA_ROOT"]).absolute()
    base = environment.get("XDG_DATA_HOME")
    if base and os.path.isabs(base):
        return Path(base, "lamina")
    return Path(environment.get("HOME") or "/root", ".local", "share", "lamina")


def perform(what: str, subject: Any, root: Path, sandbox: str | None, report: Report | None) -> object:
    """One call, in this process."""
    from lamina.engine.opening import open_engine

    host, uid = socket.gethostname(), os.geteuid()
    with open_engine(root, rung=sandbox, clock=time.time, host=host, proxies={}, uid=uid, registry_environment=os.environ) as engine:
        match what:
            case "build":
                return engine.build(subject, report or (lambda event: None))
            case "plan":
                return engine.plan(subject)
            case "save":
                from lamina.engine.exporters.export import save as save_images
                from lamina.engine.exporters.place import replacing

                name, dest = subject
                with replacing(dest) as out:
                    save_images(engine.store, [(engine.store.images.find(name), None)], out)
                return None
            case "push":
                from lamina.engine.images.finding import find_image
                from lamina.engine.registries.pushing import push as push_images
                from lamina.oci.reference import Reference

                which, name = subject
                return push_images(engine.store, engine.registry(), [find_image(engine.store, which)], Reference.parse(name)).digest
            case "outdated":
                from lamina.engine.freshness.outdated import outdated as find_outdated
                from lamina.oci.reference import Reference

                names = tuple(str(Reference.parse(each).with_default_tag()) for each in subject)
                return find_outdated(engine.store, engine.registry, names)
            case "pull":
                from lamina.engine.engine import own_platform
                from lamina.engine.images.importing import pull as pull_image
                from lamina.oci.platform import Platform
                from lamina.oci.reference import Reference

                name, text = subject
                wanted = Platform.parse(text) if text else own_platform()
                return pull_image(engine.store, engine.registry(), Reference.parse(name), wanted).id
            case "load":
                from lamina.engine.engine import own_platform
                from lamina.engine.images.importing import load as load_images

                return tuple(image.id for image in load_images(engine.store, subject, own_platform()))
    raise AssertionError(what)


def _in_child(what: str, subject: object, root: Path, sandbox: str | None, report: Report | None) -> object:
    """Both ends are this installation: pickles go over private pipes, secrets among them, never argv."""
    child = subprocess.Popen([sys.executable, "-m", "lamina.engine.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        pickle.dump((what, subject, root, sandbox), child.stdin)
        child.stdin.close()
        while True:
            try:
                kind, value = pickle.load(child.stdout)
            except EOFError:
                raise BuildProcessFailed(f"the build's process ended with {child.wait()}") from None
            if kind == "event":
                if report is not None:
                    report(value)
            elif kind == "error":
                raise value
            else:
                return value
    finally:
        if child.poll() is None:
            child.terminate()
        child.stdout.close()
        child.wait()
