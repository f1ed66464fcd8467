"""What can go wrong with a shared cache, as the user reads it. None of these ends a build unless the cache is required."""

from __future__ import annotations

from lamina.diagnostics.errors import LaminaError


class CacheError(LaminaError):
    """The cache's answer cannot be used."""

    code = "cache/remote"
    default_exit = 76


class CacheUnavailable(CacheError):
    """No connection, no answer in time, or an input/output error. Always transient."""

    code = "cache/unreachable"
    default_exit = 69

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, transient=True)


class CacheDenied(CacheError):
    """Reachable, but this user may not do that there."""

    code = "cache/denied"
    default_exit = 77


class CacheFull(CacheError):
    """No space or no quota left there."""

    code = "cache/full"
    default_exit = 74


class ObjectGone(CacheError):
    """The object is not there (any more)."""

    code = "cache/gone"
    default_exit = 66


class BadCacheSpec(CacheError):
    """--cache-from, --cache-to or a policy file that cannot be understood."""

    code = "cache/bad-spec"
    default_exit = 2
