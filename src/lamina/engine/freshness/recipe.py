"""A build request as it can be kept and repeated: places instead of contents, no secret, and in words what could not be kept."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
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

_HINT = "`lamina outdated --rebuild` takes --secret, --ssh and --build-arg; for the rest build it again with `lamina build`"
_USER_INFO = r"(://)[^/@\s]*@"


class Given(msgspec.Struct, frozen=True):
    """What the user gives to a rebuild because it was not kept, or is another now."""

    secrets: tuple[Secret, ...] = ()
    ssh: Mapping[str, Path] = {}
    args: Mapping[str, str] = {}


NOTHING_GIVEN = Given()


class CannotRebuild(LaminaError):
    code = "freshness/cannot-rebuild"
    default_exit = 1


class Recipe(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of `folder` (a directory) and `place` (a URL or repository) is given, or neither: a Dockerfile alone.

    `dockerfile`: the file's path; `inside`: its name in `place`; `text`: it came on standard input. `missing`: what was not kept;
    `secret_ids`, `secret_args`: names of secrets and build arguments whose values were not.
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
    secret_ids: tuple[str, ...] = ()
    secret_args: tuple[str, ...] = ()


def plain_url(text: str) -> str:
    """Without user and password; a query, which may be a signature, as its hash."""
    bare, question, query = re.sub(_USER_INFO, r"\1", text).partition("?")
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
    secret_args = []
    for name, value in request.args.items():
        if value is None:
            continue
        if sensitive(name, value):
            secret_args.append(name)
        else:
            args[name] = value
    secrets = {}
    secret_ids = []
    for secret in request.secrets:
        if secret.file is None:
            secret_ids.append(secret.id)
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
        secret_ids=tuple(secret_ids),
        secret_args=tuple(secret_args),
    )


def hindrance(recipe: Recipe, given: Given = NOTHING_GIVEN) -> str | None:
    """Why the build cannot be repeated now, in one line; None when it can."""
    here = {secret.id for secret in given.secrets}
    missing = [
        *recipe.missing,
        *(
            f"--build-arg {name} looks like a secret and is not kept: give it again"
            for name in recipe.secret_args
            if name not in given.args
        ),
        *(f"--secret {name} was no file: give it again" for name in recipe.secret_ids if name not in here),
    ]
    if missing:
        return "; ".join(missing)
    if recipe.folder and not os.path.isdir(recipe.folder):
        return f"its context {recipe.folder} is gone"
    if recipe.dockerfile and not os.path.isfile(recipe.dockerfile):
        return f"its Dockerfile {recipe.dockerfile} is gone"
    for name, where in recipe.contexts.items():
        if os.path.isabs(where) and not os.path.isdir(where):
            return f"its context {name}={where} is gone"
    for option, kept, ours in (("secret", recipe.secrets, here), ("ssh", recipe.ssh, given.ssh)):
        for name, path in kept.items():
            if name not in ours and not os.path.exists(path):
                return f"{path} of --{option} {name} is gone: give it again"
    return None


def request_of(recipe: Recipe, tags: Sequence[str], *, push: bool = False, given: Given = NOTHING_GIVEN) -> BuildRequest:
    """The request again, with today's Dockerfile. Of `given` it takes what it had; `push` repeats its --output type=registry too. CannotRebuild, NoDockerfile."""
    why = hindrance(recipe, given)
    if why is not None:
        raise CannotRebuild(f"{', '.join(tags) or 'the image'} cannot be rebuilt: {why}", hint=_HINT)
    ours = {secret.id: secret for secret in given.secrets}
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
        args={**recipe.args, **{name: given.args[name] for name in recipe.secret_args}},
        platforms=tuple(Platform.parse(each) for each in recipe.platforms),
        tags=tuple(tags),
        labels=recipe.labels,
        named_contexts=recipe.contexts,
        secrets=(
            *(Secret(each, file=Path(where)) for each, where in recipe.secrets.items() if each not in ours),
            *(ours[each] for each in (*recipe.secrets, *recipe.secret_ids) if each in ours),
        ),
        ssh={each: given.ssh.get(each, Path(where)) for each, where in recipe.ssh.items()},
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
