"""`--cache-mounts`, of `build`, `plan`, `cache push` and `cache pull`: alone, or with a rule after `=` (declaring.WithCacheMounts)."""

from __future__ import annotations

from lamina.cli.options import Option

NAME = "--cache-mounts"


def mount_option(help_text: str) -> Option:
    return Option((NAME,), "cache_mounts", help_text, many=True, metavar="[id=ID,merge=RULE]", alone=True)
