"""From what stands behind --cache-from and --cache-to to a SharedCache."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from lamina.cache.remote.errors import BadCacheSpec
from lamina.cache.remote.names import check_scope
from lamina.cache.remote.protocols import ObjectStore
from lamina.cache.remote.shared import SharedCache
from lamina.cache.remote.trust import Trust, read_policy, read_signer
from lamina.diagnostics.errors import nearest

if TYPE_CHECKING:
    from lamina.registry.client import RegistryClient
    from lamina.registry.transport import TransportSettings

Kind = Literal["dir", "oci", "s3", "http", "https"]

_BACKENDS = ("region", "endpoint", "token-file", "token-env", "insecure", "timeout")
_OPTIONS = ("scope", "project", "required", "policy", "key", "chunks", *_BACKENDS)
TIMEOUT = 20.0
_SPLIT = re.compile(r",(?=[a-z][a-z-]*=)")
_SECONDS = re.compile(r"(?=.*[1-9])[0-9]{1,4}(\.[0-9]{1,3})?")
_FORM = "dir:PATH, oci://REGISTRY/REPOSITORY, s3://BUCKET/PREFIX or http(s)://SERVER"


class CacheSpec(msgspec.Struct, frozen=True):
    """`place`: what follows the kind. `options` as given, names checked."""

    kind: Kind
    place: str
    options: Mapping[str, str]

    @property
    def required(self) -> bool:
        """An unreachable cache ends the build."""
        return _truth(self.options.get("required", "false"))

    @property
    def timeout(self) -> float:
        """Seconds that a build waits for an answer, or for the next byte of one."""
        return float(self.options.get("timeout", TIMEOUT))


def parse_spec(text: str) -> CacheSpec:
    """`s3://ci/cache,scope=main,required=true`. BadCacheSpec."""
    address, *pairs = _SPLIT.split(text)
    options: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in _OPTIONS:
            close = nearest(name, _OPTIONS)
            raise BadCacheSpec(
                f"a cache has no option {name!r}", hint=f"did you mean {close}?" if close else f"there are {', '.join(_OPTIONS)}"
            )
        options[name] = value
    for name in ("required", "insecure", "chunks"):
        _truth(options.get(name, "false"))
    if not _SECONDS.fullmatch(options.get("timeout", "1")):
        raise BadCacheSpec(f"timeout={options['timeout']} is no number of seconds", hint="for example timeout=30")
    if "scope" in options:
        check_scope(options["scope"])
    if address.startswith("dir:") and len(address) > 4:
        return CacheSpec("dir", address.removeprefix("dir:"), options)
    kind, colon, rest = address.partition("://")
    for known in ("oci", "s3", "http", "https"):
        if colon and kind == known and rest.strip("/"):
            if "@" in rest.partition("/")[0]:
                raise BadCacheSpec(
                    f"{kind}:// addresses hold no user names or passwords", hint="token-file=PATH, token-env=NAME or a login"
                )
            return CacheSpec(known, rest, options)
    raise BadCacheSpec(f"{address!r} is no shared cache", hint=f"a cache is {_FORM}")


def open_cache(
    spec: CacheSpec | str,
    *,
    now: Callable[[], float],
    environment: Mapping[str, str],
    scope: str = "main",
    project: str = "",
    client: Callable[[], RegistryClient] | None = None,
    transport: TransportSettings | None = None,
) -> SharedCache:
    """Opens without a request: the first call finds out whether anybody is there.

    `scope`, `project`: where the spec names none. `client`: of registries, with the user's logins (needed for oci://); http(s):// goes the
    same ways as it, unless `transport` says otherwise. `environment`: for AWS's variables, key=env:NAME and token-env. BadCacheSpec for what
    cannot be meant.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    scope = check_scope(spec.options.get("scope", scope))
    signer = read_signer(spec.options["key"], environment=environment) if "key" in spec.options else None
    if "policy" in spec.options:
        trust = read_policy(Path(spec.options["policy"]), scope, environment=environment, signer=signer)
    else:
        trust = Trust(scope, signer=signer)
    objects = _objects(spec, environment, client, transport)
    cache = SharedCache(objects, now=now, trust=trust, project=spec.options.get("project", project), required=spec.required)
    cache.chunks = _truth(spec.options["chunks"]) if "chunks" in spec.options else None
    return cache


def _objects(
    spec: CacheSpec, environment: Mapping[str, str], client: Callable[[], RegistryClient] | None, transport: TransportSettings | None
) -> ObjectStore:
    if spec.kind == "dir":
        from lamina.cache.remote.directory import DirectoryObjects

        return DirectoryObjects(Path(spec.place))
    if spec.kind == "s3":
        from lamina.cache.remote.s3 import S3Objects

        bucket, _, prefix = spec.place.partition("/")
        return S3Objects.open(bucket, prefix.strip("/"), spec.options, environment, timeout=spec.timeout)
    if spec.kind == "oci":
        from lamina.cache.remote.oci import RegistryObjects
        from lamina.oci.reference import Reference

        if client is None:
            raise BadCacheSpec("oci:// caches cannot be opened here: no registry client was given")
        reference = Reference.parse(spec.place.strip("/"))
        if reference.tag or reference.digest:
            raise BadCacheSpec(f"oci://{spec.place}: a cache is a repository, without tag or digest")
        return RegistryObjects(client(), reference)
    if transport is None and client is not None:
        transport = client().session.transport.settings
    return _http(spec, environment, transport)


def _http(spec: CacheSpec, environment: Mapping[str, str], settings: TransportSettings | None) -> ObjectStore:
    from lamina.cache.remote.http import HttpObjects
    from lamina.registry.transport import Transport, TransportSettings

    settings = settings or TransportSettings()
    if _truth(spec.options.get("insecure", "false")):
        from dataclasses import replace

        settings = replace(settings, plain_http=settings.plain_http | {spec.place.partition("/")[0]})
    return HttpObjects(Transport(settings), f"{spec.kind}://{spec.place}", _token(spec, environment))


def _token(spec: CacheSpec, environment: Mapping[str, str]) -> str:
    if "token-env" in spec.options:
        name = spec.options["token-env"]
        if not environment.get(name):
            raise BadCacheSpec(f"the cache's token comes from the variable {name}, which is not set")
        return environment[name].strip()
    if "token-file" in spec.options:
        path = Path(spec.options["token-file"])
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadCacheSpec(f"the cache's token {path} cannot be read: {error}") from error
    return ""


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise BadCacheSpec(f"{text!r} is neither true nor false")
    return text == "true"
