"""Whose records are believed: scopes, keys, and the policy file (docs/dev/shared-cache.md). Pure but for reading the key files.

A policy:

    [keys.ci]
    scopes = ["main", "release/*"]     # what this key may vouch for
    hmac-file = "/run/secrets/cache"   # or hmac-env = "NAME", or ed25519 = "hex of the public key"

    [[believe]]
    build = "pr/*"                     # scope of the build that asks; the first entry that fits counts
    scopes = ["main", "{build}"]       # what it believes
    keys = ["ci", "pr"]                # one of them must vouch; left out: any of the table; []: none needed
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import msgspec

from lamina.cache.remote.envelope import CONTEXT, Envelope, Signature
from lamina.cache.remote.errors import BadCacheSpec
from lamina.oci import typed

_SHORTEST = 16  # bytes of a MAC's key


class Key(Protocol):
    """One that can vouch for records."""

    name: str
    scopes: tuple[str, ...]

    def verifies(self, data: bytes, signature: Signature) -> bool: ...


class SigningKey(Key, Protocol):
    def sign(self, data: bytes) -> Signature: ...


class MacKey:
    """HMAC-SHA256: whoever can verify can sign. Its secret is shown nowhere."""

    def __init__(self, name: str, secret: bytes, scopes: Sequence[str] = ("*",)) -> None:
        secret = secret.strip()
        if len(secret) < _SHORTEST:
            raise BadCacheSpec(f"the cache key {name!r} is shorter than {_SHORTEST} bytes", hint="for example `openssl rand -hex 32`")
        self.name = name
        self.scopes = tuple(scopes)
        self._secret = secret

    def sign(self, data: bytes) -> Signature:
        return Signature(self.name, "hmac-sha256", hmac.new(self._secret, data, hashlib.sha256).hexdigest())

    def verifies(self, data: bytes, signature: Signature) -> bool:
        made = self.sign(data)
        return signature.algorithm == made.algorithm and hmac.compare_digest(signature.value.encode(), made.value.encode())


class PublicKey:
    """Ed25519 (extra `sign`): verifies what only the holder of the private key can sign."""

    def __init__(self, name: str, public: bytes, scopes: Sequence[str] = ("*",)) -> None:
        _ed25519()
        if len(public) != 32:
            raise BadCacheSpec(f"the cache key {name!r} is no Ed25519 public key: 32 bytes in hexadecimal are needed")
        self.name = name
        self.scopes = tuple(scopes)
        self._public = public

    def verifies(self, data: bytes, signature: Signature) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        if signature.algorithm != "ed25519":
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self._public).verify(bytes.fromhex(signature.value), data)
        except (InvalidSignature, ValueError):
            return False
        return True


class PrivateKey:
    """Ed25519 (extra `sign`). `private`: 32 bytes."""

    def __init__(self, name: str, private: bytes, scopes: Sequence[str] = ("*",)) -> None:
        _ed25519()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if len(private) != 32:
            raise BadCacheSpec(f"the cache key {name!r} is no Ed25519 private key: 32 bytes in hexadecimal are needed")
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()
        self.name = name
        self.scopes = tuple(scopes)
        self._verifier = PublicKey(name, self.public, scopes)

    def sign(self, data: bytes) -> Signature:
        return Signature(self.name, "ed25519", self._private.sign(data).hex())

    def verifies(self, data: bytes, signature: Signature) -> bool:
        return self._verifier.verifies(data, signature)


class Belief(msgspec.Struct, frozen=True):
    """One [[believe]]. `keys` None: any known key; (): no signature needed."""

    build: str
    scopes: tuple[str, ...]
    keys: tuple[str, ...] | None = None


class Trust:
    """What one build believes and how it signs.

    Without a policy a build of scope S believes S and `main`; where keys are known one of them must vouch, otherwise whoever may write to
    the backend is believed. With a policy a scope that no entry names is refused.
    """

    def __init__(
        self, scope: str = "main", *, keys: Sequence[Key] = (), beliefs: Sequence[Belief] | None = None, signer: SigningKey | None = None
    ) -> None:
        self.scope = scope
        self._signer = signer
        if beliefs is None:
            own = () if signer is None else (signer,)
            self._keys: dict[str, Key] = {key.name: key for key in (*keys, *own)}
            self._wanted: tuple[str, ...] | None = None if self._keys else ()
            self._exact: set[str] = {scope, "main"}
            self._patterns: tuple[str, ...] = ()
            return
        # With a policy its table alone says what a key may vouch for, the signer's included.
        self._keys = {key.name: key for key in keys}
        belief = next((one for one in beliefs if fnmatchcase(scope, one.build)), Belief("*", ()))
        self._wanted = belief.keys
        # The build's own scope is data, never a pattern: a branch may be called `*`.
        self._exact = {scope} if "{build}" in belief.scopes else set()
        self._patterns = tuple(pattern for pattern in belief.scopes if pattern != "{build}")
        for name in belief.keys or ():
            if name not in self._keys:
                raise BadCacheSpec(f"the cache policy believes the key {name!r}, which its table of keys does not have")

    def sign(self, data: bytes) -> tuple[Signature, ...]:
        return () if self._signer is None else (self._signer.sign(data),)

    def refusal(self, envelope: Envelope) -> str | None:
        """Why the record is not believed, in words; None: it is."""
        return self.doubt(envelope.statement.scope, envelope.signatures, CONTEXT + envelope.body)

    def doubt(self, scope: str, signatures: Sequence[Signature], signed: bytes) -> str | None:
        """Why a statement of `scope` is not believed; `signed`: the bytes that the signatures are over."""
        if not self.believes_scope(scope):
            return f"a build of scope {self.scope} does not believe the scope {scope}"
        wanted = self._wanted
        if wanted == ():
            return None
        known = [(key, one) for one in signatures if (key := self._keys.get(one.key)) and (wanted is None or one.key in wanted)]
        if not known:
            named = ", ".join(sorted({one.key for one in signatures}))[:80]
            return f"signed by {named}, which is not believed here" if named else "it is not signed"
        fitting = [(key, one) for key, one in known if any(fnmatchcase(scope, pattern) for pattern in key.scopes)]
        if not fitting:
            return f"the key {known[0][0].name} may not vouch for the scope {scope}"
        if any(key.verifies(signed, one) for key, one in fitting):
            return None
        return f"its signature by {fitting[0][0].name} is wrong"

    def scopes(self) -> tuple[tuple[str, ...], bool]:
        """(believed scopes that have a name, the build's own first; whether patterns believe others too)."""
        plain = {pattern for pattern in self._patterns if not any(sign in pattern for sign in "*?[")}
        named = sorted(self._exact | plain, key=lambda scope: (scope != self.scope, scope))
        return tuple(named), len(plain) < len(set(self._patterns))

    def believes_scope(self, scope: str) -> bool:
        """Known before a record is read: what is in other scopes need not be fetched."""
        return scope in self._exact or any(fnmatchcase(scope, pattern) for pattern in self._patterns)


class _KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    scopes: tuple[str, ...] = ("*",)
    hmac_file: str = ""
    hmac_env: str = ""
    ed25519: str = ""


class _BeliefEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    build: str
    scopes: tuple[str, ...]
    keys: tuple[str, ...] | None = None


class _Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: dict[str, _KeyEntry] = {}
    believe: tuple[_BeliefEntry, ...] = ()


def read_policy(path: Path, scope: str, *, environment: Mapping[str, str], signer: SigningKey | None = None) -> Trust:
    """Trust of a build of `scope` under the policy file. BadCacheSpec names the file and what is wrong with it."""
    import tomllib

    try:
        policy = typed.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Policy)
    except OSError as error:
        raise BadCacheSpec(f"the cache policy {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise BadCacheSpec(f"the cache policy {path}: {error}") from error
    keys = [_key(path, name, entry, environment) for name, entry in policy.keys.items()]
    beliefs = [Belief(one.build, one.scopes, one.keys) for one in policy.believe]
    return Trust(scope, keys=keys, beliefs=beliefs, signer=signer)


def _key(path: Path, name: str, entry: _KeyEntry, environment: Mapping[str, str]) -> Key:
    if sum(map(bool, (entry.hmac_file, entry.hmac_env, entry.ed25519))) != 1:
        raise BadCacheSpec(f"the cache policy {path}: [keys.{name}] needs one of hmac-file, hmac-env, ed25519")
    if entry.ed25519:
        return PublicKey(name, _hex(name, entry.ed25519), entry.scopes)
    if entry.hmac_env:
        return MacKey(name, _variable(entry.hmac_env, environment), entry.scopes)
    return MacKey(name, _file(path.parent / entry.hmac_file), entry.scopes)


def read_signer(text: str, *, environment: Mapping[str, str], name: str = "") -> SigningKey:
    """`[NAME=]FILE`, `[NAME=]env:VARIABLE`; a content of `ed25519:HEX` is a private key, anything else a MAC's secret. The name is
    `default` where none is given."""
    label, equals, place = text.partition("=")
    if not equals:
        label, place = name or "default", text
    secret = _variable(place.removeprefix("env:"), environment) if place.startswith("env:") else _file(Path(place))
    secret = secret.strip()
    if secret.startswith(b"ed25519:"):
        return PrivateKey(label, _hex(label, secret.removeprefix(b"ed25519:").decode("ascii", "replace")))
    return MacKey(label, secret)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCacheSpec(f"the cache key {path} cannot be read: {error.strerror or error}") from error


def _variable(name: str, environment: Mapping[str, str]) -> bytes:
    if name not in environment:
        raise BadCacheSpec(f"the cache key comes from the variable {name}, which is not set")
    return environment[name].encode("utf-8", "surrogateescape")


def _hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise BadCacheSpec(f"the cache key {name!r} is not hexadecimal") from None


def _ed25519() -> None:
    try:
        import cryptography  # noqa: F401  # asked for its presence
    except ImportError:
        raise BadCacheSpec("Ed25519 keys need the extra `sign`", hint="pip install 'lamina[sign]', or use a MAC key") from None
