"""Shared caches as a command line names them: cache/remote/opening.py's form, docker's `type=…` form, and defaults from the environment.

LAMINA_CACHE_SCOPE, LAMINA_CACHE_POLICY and LAMINA_CACHE_KEY stand for the options `scope`, `policy` and `key` where these are not given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lamina.cache.remote.errors import BadCacheSpec
from lamina.cache.remote.opening import open_cache as open_remote
from lamina.cache.remote.opening import parse_spec
from lamina.cache.remote.shared import SharedCache
from lamina.registry.client import RegistryClient

_DEFAULTS = {"scope": "LAMINA_CACHE_SCOPE", "policy": "LAMINA_CACHE_POLICY", "key": "LAMINA_CACHE_KEY"}
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


def open_cache(
    text: str, *, now: Callable[[], float], environment: Mapping[str, str], registry: Callable[[float], RegistryClient]
) -> SharedCache:
    """Raises BadCacheSpec; nothing is asked of the backend yet. `registry`: a client that waits no longer than so many seconds; its settings
    (proxies, authorities, hosts without TLS) are those of http(s):// caches too."""
    spec = docker_form(text)
    given = parse_spec(spec).options
    for option, variable in _DEFAULTS.items():
        if option not in given and environment.get(variable):
            spec += f",{option}={environment[variable]}"
    parsed = parse_spec(spec)
    return open_remote(parsed, now=now, environment=environment, client=lambda: registry(parsed.timeout))


def docker_form(text: str) -> str:
    """docker's `type=registry,ref=…`, `type=local,src=…|dest=…`, `type=s3,bucket=…` in our words; anything else as it is."""
    if not text.startswith("type="):
        return text
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    kind = fields.pop("type")
    place = {
        "registry": "oci://" + _repository(fields.pop("ref", "")),
        "local": "dir:" + (fields.pop("src", "") or fields.pop("dest", "")),
        "s3": f"s3://{fields.pop('bucket', '')}/{fields.pop('prefix', '')}",
    }.get(kind)
    if place is None:
        raise BadCacheSpec(
            f"a shared cache of type {kind} is not known", hint="type=registry, type=local or type=s3; or a place such as dir:PATH"
        )
    if "endpoint_url" in fields:
        fields["endpoint"] = fields.pop("endpoint_url")
    return ",".join([place, *(f"{name}={value}" for name, value in fields.items() if name not in _FORMS)])


def _repository(reference: str) -> str:
    """Without its tag: a cache is the whole repository."""
    head, colon, tail = reference.rpartition(":")
    return head if colon and "/" not in tail else reference
