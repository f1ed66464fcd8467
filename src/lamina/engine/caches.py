"""Opening a shared cache from what `--cache-from` and `--cache-to` say: a place and options.

    dir:/mnt/ci/cache
    oci://registry.example/team/cache,scope=pr/17
    s3://bucket/prefix,endpoint=https://…,region=…,sign=ci=/run/secrets/cache
    https://lamina.example/cache,required=true

Options: `scope` (what records are written under, and believed besides `main`; default main), `policy` (file, cache/remote/trust.py), `sign`
(key file or env:NAME), `project` (for accounts), `required` (true: a cache that does not answer ends the build).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lamina.cache.remote.errors import BadCacheSpec
from lamina.cache.remote.protocols import ObjectStore
from lamina.cache.remote.shared import SharedCache
from lamina.cache.remote.trust import Trust, read_policy, read_signer
from lamina.diagnostics.errors import nearest
from lamina.registry.client import RegistryClient

_FORMS = (
    "mode",
    "image-manifest",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "ignore-error",
    "src",
    "dest",
)
"""docker's options about the form of its cache: there is one form here, always of every stage (mode=max)."""
OPTIONS = ("scope", "policy", "sign", "project", "required", "region", "endpoint", "token")


def open_cache(
    spec: str, *, now: Callable[[], float], environment: Mapping[str, str], registry: Callable[[], RegistryClient]
) -> SharedCache:
    """Raises BadCacheSpec; nothing is asked of the backend yet. LAMINA_CACHE_SCOPE, LAMINA_CACHE_POLICY and LAMINA_CACHE_KEY are defaults."""
    place, options = split(spec)
    scope = options.get("scope") or environment.get("LAMINA_CACHE_SCOPE") or "main"
    policy = options.get("policy") or environment.get("LAMINA_CACHE_POLICY")
    sign = options.get("sign") or environment.get("LAMINA_CACHE_KEY")
    signer = read_signer(sign, environment=environment) if sign else None
    trust = read_policy(Path(policy), scope, environment=environment, signer=signer) if policy else Trust(scope, signer=signer)
    objects = open_objects(place, options, environment, registry)
    return SharedCache(objects, now=now, trust=trust, project=options.get("project", ""), required=options.get("required") == "true")


def split(spec: str) -> tuple[str, dict[str, str]]:
    """(place, options) of `place,name=value,…`."""
    spec = _dockers(spec)
    place, *parts = spec.split(",")
    options: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in OPTIONS or not equals:
            near = nearest(name, OPTIONS)
            hint = f"did you mean {near}?" if near else f"options: {', '.join(OPTIONS)}"
            raise BadCacheSpec(f"{spec!r}: {part!r} is no option of a shared cache", hint=hint)
        options[name] = value
    if options.get("required", "false") not in ("true", "false"):
        raise BadCacheSpec(f"{spec!r}: required is true or false")
    return place, options


def _dockers(spec: str) -> str:
    """docker's `type=registry,ref=…`, `type=local,src=…|dest=…` in our words. Its `inline` and `gha` have no place here."""
    if not spec.startswith("type="):
        return spec
    fields = dict(part.partition("=")[::2] for part in spec.split(","))
    kind = fields.pop("type")
    place = {
        "registry": "oci://" + fields.pop("ref", ""),
        "local": "dir:" + (fields.pop("src", "") or fields.pop("dest", "")),
        "s3": f"s3://{fields.pop('bucket', '')}/{fields.pop('prefix', '')}",
    }.get(kind)
    if place is None:
        raise BadCacheSpec(f"{spec!r}: a shared cache of type {kind} is not known", hint="registry, local or s3, or PLACE as in dir:PATH")
    if fields.get("endpoint_url"):
        fields["endpoint"] = fields.pop("endpoint_url")
    kept = {name: value for name, value in fields.items() if name not in _FORMS}
    return ",".join([place, *(f"{name}={value}" for name, value in kept.items())])


def open_objects(
    place: str, options: Mapping[str, str], environment: Mapping[str, str], registry: Callable[[], RegistryClient]
) -> ObjectStore:
    scheme, separator, rest = place.partition(":")
    if not separator or not rest.strip("/"):
        raise BadCacheSpec(
            f"{place!r} is no place for a shared cache", hint="dir:PATH, oci://REGISTRY/REPOSITORY, s3://BUCKET/PREFIX or http(s)://HOST"
        )
    if scheme == "dir":
        from lamina.cache.remote.directory import DirectoryObjects

        return DirectoryObjects(Path(rest).absolute())
    if scheme == "oci":
        from lamina.cache.remote.oci import RegistryObjects
        from lamina.oci.reference import Reference

        return RegistryObjects(registry(), Reference.parse(rest.removeprefix("//")))
    if scheme == "s3":
        from lamina.cache.remote.s3 import S3Objects

        bucket, _, prefix = rest.removeprefix("//").partition("/")
        return S3Objects.open(bucket, prefix, dict(options), environment)
    raise BadCacheSpec(f"{place!r}: a shared cache is dir:, oci:// or s3://", hint=None)
