"""Which variables may hold a secret although they came as ENV or ARG. In keys and records such a value stands as its digest.

Pinned by the golden keys: another rule here is another KEY_SCHEMA.
"""

from __future__ import annotations

import re

_WORDS = frozenset(["KEY", "KEYS", "PASS", "PWD", "AUTH", "PRIVATE", "CERT", "COOKIE", "PSK"])
_PARTS = ("PASSW", "PASSPHRASE", "SECRET", "TOKEN", "APIKEY", "CREDENTIAL", "SIGNATURE")
_USER_INFO = r"://[^/@\s]*:[^/@\s]*@"
_MUCH = 1024


def sensitive(name: str, value: str) -> bool:
    """By its name (`NPM_TOKEN`), or by a value of several lines, of more than 1024 characters, or with a URL's password."""
    upper = name.upper()
    return (
        not _WORDS.isdisjoint(upper.split("_"))
        or any(part in upper for part in _PARTS)
        or "\n" in value
        or len(value) > _MUCH
        or ("://" in value and re.search(_USER_INFO, value) is not None)
    )
