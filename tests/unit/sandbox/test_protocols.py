"""The values of the plug point: secrets do not show, errors have stable codes."""

from __future__ import annotations

from pathlib import Path

from lamina.sandbox.protocols import Overlay, SandboxSetupFailed, SandboxSpec, SandboxUnavailable, SecretFile

SECRET = SecretFile("/run/secrets/tok", b"hush", 0o400)


def test_no_repr_shows_a_secret() -> None:
    spec = SandboxSpec(Overlay((), Path("/u"), Path("/w")), ("/bin/sh",), ("TOKEN=hush",), secrets=(SECRET,), stdin=b"hush")
    for text in (repr(SECRET), repr(spec), f"{spec}", repr([spec]), repr((SECRET,))):
        assert "hush" not in text
    assert "/bin/sh" in repr(spec)


def test_errors() -> None:
    assert (SandboxUnavailable("x").code, SandboxUnavailable("x").exit_code) == ("sandbox/unavailable", 69)
    assert (SandboxSetupFailed("x").code, SandboxSetupFailed("x").exit_code) == ("sandbox/setup", 70)


def test_what_a_spec_is_by_default() -> None:
    spec = SandboxSpec(Overlay((), Path("/u"), Path("/w")), ("true",), ())
    assert (spec.cwd, spec.user, spec.network, spec.insecure, spec.shm_size, spec.timeout) == ("/", "", "host", False, 64 << 20, None)
