"""What a name in FROM, COPY --from or a mount's from= can be besides a stage: a named context, nothing (scratch), an image."""

from __future__ import annotations

from collections.abc import Iterable

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile.lower.values import BaseKey, Options
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference

SCRATCH = "scratch"
_NEVER_REPLACED = ("scratch", "context")


def context_key(name: str) -> str:
    """Under which a named context is looked for: `docker.io/library/alpine:latest` and `alpine` are one name (dockerui.NamedContext)."""
    try:
        return Reference.parse(name).familiar.removesuffix(":latest")
    except LaminaError:
        return name


class Contexts:
    """The named contexts of a build."""

    def __init__(self, options: Options) -> None:
        self._directories = _by_key(options.contexts)
        self._images = _by_key(options.images)
        self._options = options

    def replaces(self, name: str) -> bool:
        return bool(self._directories or self._images) and (self.directory(name) is not None or self._image(name) is not None)

    def directory(self, name: str) -> str | None:
        """The context, by the user's name for it, that stands in the place of `name`."""
        return self._find(self._directories, name)

    def image(self, name: str) -> str:
        """The reference that `name` comes down to; "scratch" for none at all."""
        given = self._image(name)
        return name if given is None else self._options.images[given].removeprefix("docker-image://")

    def _image(self, name: str) -> str | None:
        return self._find(self._images, name)

    @staticmethod
    def _find(known: dict[str, str], name: str) -> str | None:
        return known.get(context_key(name)) if known and name.lower() not in _NEVER_REPLACED else None


def _by_key(names: Iterable[str]) -> dict[str, str]:
    return {context_key(name): name for name in names}


def base_key(text: str, platform: Platform) -> BaseKey:
    """What is asked for in `Needs`. Raises InvalidReference."""
    return (text if "://" in text else str(Reference.parse(text).with_default_tag()), platform)
