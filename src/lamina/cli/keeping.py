"""After a build: the store's cache expires and stays below its cap, as the environment says. Never the build's failure."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lamina.cli.settings import Settings
from lamina.diagnostics.errors import LaminaError

if TYPE_CHECKING:
    from lamina.store.local import LocalStore


def limits(settings: Settings) -> tuple[float | None, int | None]:
    """(seconds until what is not used goes, bytes that the store may take). BadOption, before anything is built."""
    from lamina.cache.policy import DEFAULT_EXPIRY
    from lamina.cli import inputs

    age, size = settings.environment.get("LAMINA_CACHE_EXPIRY", ""), settings.environment.get("LAMINA_CACHE_KEEP", "")
    expiry = None if age.lower() in ("off", "never", "0") else inputs.duration(age, "LAMINA_CACHE_EXPIRY") if age else DEFAULT_EXPIRY
    return expiry, inputs.size(size, "LAMINA_CACHE_KEEP") if size else None


def after_build(store: LocalStore, allowed: tuple[float | None, int | None], *, grown: bool, quiet: bool) -> None:
    from lamina.cli.words import size
    from lamina.store.keeping import keep

    expiry, cap = allowed
    try:
        kept = keep(store, expiry=expiry, cap=cap, grown=grown)
    except (LaminaError, OSError) as error:
        print(f"warning: the cache was not pruned: {error}", file=sys.stderr)
        return
    if kept is None or quiet:
        return
    swept = kept.pruned.swept
    if swept.layers or swept.idle:
        why = "not used for long" if cap is None else "not used for long, or over LAMINA_CACHE_KEEP"
        print(f"cache: {len(swept.layers)} layers and {len(swept.idle)} other things went, {size(swept.freed)} ({why})", file=sys.stderr)
    if cap is not None and grown and kept.left > cap:
        print(
            f"warning: the store takes {size(kept.left)}, more than LAMINA_CACHE_KEEP: images and running builds hold it", file=sys.stderr
        )
