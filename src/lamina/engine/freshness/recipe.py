"""A build request as it can be kept and repeated: places instead of contents, no secret, and in words what could not be kept."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from lamina.cache.sensitive import sensitive
from lamina.diagnostics.errors import LaminaError
from lamina.engine.contextfiles import is_remote, read_dockerfile
from lamina.engine.request import BuildRequest, Incoming, Output, Secret, Selector
from lamina.oci.platform import Platform

if TYPE_CHECKING:
    from lamina.engine.freshness.lockfile import Lock

_USER_INFO = re.compile(r"(://)[^/@\s]*@")


class CannotRebuild(LaminaError):
    code = "freshness/cannot-rebuild"
    default_exit = 1


class Recipe(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of `folder` (a directory) and `place` (a URL or repository) is given, or neither: a Dockerfile alone.

    `dockerfile`: the file's path; `inside`: its name in `place`; `text`: it came on standard input. `missing`: what was not kept.
    """

    folder: str = ""
    place: str = ""
    dockerfile: str = ""
    inside: str = ""
    text: str | None = None
    target: str | None = None
    args: dict[str, str] = {}
    platforms: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    contexts: dict[str, str] = {}
    secrets: dict[str, str] = {}  # id -> file
    ssh: dict[str, str] = {}
    max_age: tuple[tuple[str, float], ...] = ()
    network: Literal["default", "none", "host"] = "default"
    hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    allow_insecure: bool = False
    exact_modes: bool = False
    arg_scope: Literal["declared", "named"] = "declared"
    cut_off: bool = True
    epoch: int | None = None
    pushed: tuple[tuple[tuple[str, str], ...], ...] = ()  # attributes of each --output type=registry
    cache_from: tuple[str, ...] = ()  # without those whose address has a password: a rebuild only takes longer then
    cache_to: tuple[str, ...] = ()
    locked: bool = False
    provenance: Literal["min", "max"] | None = None  # of what is pushed
    sbom: tuple[Literal["spdx", "cyclonedx"], ...] = ()
    missing: tuple[str, ...] = ()


def plain_url(text: str) -> str:
    """Without user and password; a query, which may be a signature, as its hash."""
    bare, question, query = _USER_INFO.sub(r"\1", text).partition("?")
    return f"{bare}?sha256:{hashlib.sha256(query.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}" if question else bare


def recipe_of(request: BuildRequest) -> Recipe:
    """What can be kept of a request."""
    missing: list[str] = []
    folder = place = dockerfile = inside = ""
    text: str | None = None
    incoming = request.incoming
    if incoming is None:
        folder = str(request.context.absolute())
    elif incoming.archive is not None:
        missing.append("its context came from standard input")
    elif incoming.place is not None:
        place = incoming.place
        if plain_url(place) != place:
            place = plain_url(place)
            missing.append("its context's URL has a password or a query, which is not kept")
    if incoming is not None and request.lock is not None:
        missing.append("it was built with --locked, and its context is no directory here")
    if incoming is not None and incoming.dockerfile is not None:
        inside = incoming.dockerfile
    elif request.dockerfile_path is not None:
        dockerfile = str(request.dockerfile_path)
    else:
        text = request.dockerfile_text
    args = {}
    for name, value in request.args.items():
        if value is None:
            continue
        if sensitive(name, value):
            missing.append(f"--build-arg {name} looks like a secret and is not kept")
        else:
            args[name] = value
    secrets = {}
    for secret in request.secrets:
        if secret.file is None:
            missing.append(f"--secret {secret.id} was no file")
        else:
            secrets[secret.id] = str(secret.file)
    contexts = {}
    for name, where in request.named_contexts.items():
        if "://" not in where and not is_remote(where):
            where = str(Path(where).absolute())
        elif plain_url(where) != where:
            missing.append(f"--build-context {name}: its URL has a password or a query, which is not kept")
            where = plain_url(where)
        contexts[name] = where
    return Recipe(
        folder=folder,
        place=place,
        dockerfile=dockerfile,
        inside=inside,
        text=text,
        target=request.target,
        args=args,
        platforms=tuple(str(platform) for platform in request.platforms),
        labels=dict(request.labels),
        contexts=contexts,
        secrets=secrets,
        ssh={name: str(path) for name, path in request.ssh.items()},
        max_age=tuple((selector.text, age) for selector, age in request.max_age),
        network=request.network,
        hosts=request.extra_hosts,
        shm_size=request.shm_size,
        ulimits=request.ulimits,
        allow_insecure=request.allow_insecure,
        exact_modes=request.exact_modes,
        arg_scope=request.arg_scope,
        cut_off=request.cut_off,
        epoch=request.epoch,
        pushed=tuple(output.attrs for output in request.outputs if output.type == "registry"),
        cache_from=tuple(place for place in request.cache_from if plain_url(place) == place),
        cache_to=tuple(place for place in request.cache_to if plain_url(place) == place),
        locked=request.lock is not None,
        provenance=request.provenance,
        sbom=request.sbom,
        missing=tuple(missing),
    )


def hindrance(recipe: Recipe) -> str | None:
    """Why the build cannot be repeated now, in one line; None when it can."""
    if recipe.missing:
        return "; ".join(recipe.missing)
    if recipe.folder and not os.path.isdir(recipe.folder):
        return f"its context {recipe.folder} is gone"
    if recipe.dockerfile and not os.path.isfile(recipe.dockerfile):
        return f"its Dockerfile {recipe.dockerfile} is gone"
    for name, where in recipe.contexts.items():
        if os.path.isabs(where) and not os.path.isdir(where):
            return f"its context {name}={where} is gone"
    for name, path in (*recipe.secrets.items(), *recipe.ssh.items()):
        if not os.path.exists(path):
            return f"{path} of --{'secret' if name in recipe.secrets else 'ssh'} {name} is gone"
    return None


def request_of(recipe: Recipe, tags: Sequence[str], *, push: bool = False) -> BuildRequest:
    """The request again, with today's Dockerfile. `push` repeats its --output type=registry too. CannotRebuild, NoDockerfile."""
    why = hindrance(recipe)
    if why is not None:
        raise CannotRebuild(f"{', '.join(tags) or 'the image'} cannot be rebuilt: {why}", hint="build it again with `lamina build`")
    context = Path(recipe.folder) if recipe.folder else Path()
    incoming: Incoming | None = None
    path: Path | None = None
    name, text, ignore, ignore_name = recipe.inside, "", None, ".dockerignore"
    if not recipe.inside:
        path = Path(recipe.dockerfile) if recipe.dockerfile else None
        name, text, ignore, ignore_name = read_dockerfile(context if recipe.folder else (path or context).parent, path, recipe.text)
    if not recipe.folder:
        incoming = Incoming(recipe.place or None, dockerfile=recipe.inside or None)
        ignore = None
    outputs = tuple(Output("registry", None, attrs) for attrs in recipe.pushed) if push else ()
    return BuildRequest(
        context=context,
        dockerfile_name=name,
        dockerfile_text=text,
        dockerfile_path=path,
        ignore_text=ignore,
        ignore_name=ignore_name,
        incoming=incoming,
        target=recipe.target,
        args=dict(recipe.args),
        platforms=tuple(Platform.parse(each) for each in recipe.platforms),
        tags=tuple(tags),
        labels=recipe.labels,
        named_contexts=recipe.contexts,
        secrets=tuple(Secret(each, file=Path(where)) for each, where in recipe.secrets.items()),
        ssh={each: Path(where) for each, where in recipe.ssh.items()},
        outputs=(*outputs, Output("image")),
        max_age=tuple((Selector(each), age) for each, age in recipe.max_age),
        network=recipe.network,
        extra_hosts=recipe.hosts,
        shm_size=recipe.shm_size,
        ulimits=recipe.ulimits,
        allow_insecure=recipe.allow_insecure,
        exact_modes=recipe.exact_modes,
        arg_scope=recipe.arg_scope,
        cut_off=recipe.cut_off,
        epoch=recipe.epoch,
        cache_from=recipe.cache_from,
        cache_to=recipe.cache_to,
        lock=_lock(recipe.folder) if recipe.locked else None,
        provenance=recipe.provenance if outputs else None,
        sbom=recipe.sbom if outputs else (),
    )


def _lock(folder: str) -> Lock:
    from lamina.engine.freshness.lockfile import NAME, read_lock

    return read_lock(Path(folder) / NAME)
