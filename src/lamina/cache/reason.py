"""Why a step hit, ran or was left out: stable codes and a sentence. Every step of every build has one."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["hit", "ran", "skipped", "none", "miss", "unknown", "failed"]
"""build reports say hit, ran, skipped (not needed for the target), none (no step of its own), failed; plans say hit, miss, unknown, skipped, none."""

MISS_CODES = (
    "first-build", "text-changed", "file-changed", "file-added", "file-removed", "mode-changed", "owner-changed", "xattr-changed", "arg-changed",
    "env-changed", "base-changed", "parent-changed", "mount-changed", "remote-changed", "platform-changed", "forced", "expired", "evicted",
    "not-trusted", "schema-changed", "forgotten", "option-changed", "failed-before",
)  # fmt: skip
HIT_CODES = ("same-key", "cut-off", "shared", "adopted")


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """`message` is one plain sentence that names the path, argument or instruction; `details` lists further ones."""

    code: str
    message: str
    details: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    record_age: float | None = None  # seconds, of the record that was used or compared with
    root_step: str | None = None  # for parent-changed: the step where it began
