"""docker's credential helpers: `docker-credential-NAME get|store|erase`, with secrets on standard input and output only."""

from __future__ import annotations

import json
import re

from lamina.registry.errors import RegistryError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ABSENT = "credentials not found"  # what all helpers of docker's own library say
_SECONDS = 120.0  # a keychain may have to ask its user


class CredentialProgramFailed(RegistryError):
    """The program that keeps the logins is not there or failed. What it printed is not shown: it may be a secret."""

    code = "registry/credential-program"
    default_exit = 78


class CredentialProgram:
    """One program, by the name that config.json has for it (`pass` for docker-credential-pass)."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise CredentialProgramFailed(f"{name[:80]!r} is not the name of a credential helper")
        self._program = f"docker-credential-{name}"

    def get(self, server: str) -> tuple[str, str] | None:
        """(user, secret); None when it has no login for `server`."""
        code, out = self._run("get", server)
        if code:
            if _ABSENT in out.lower():
                return None
            raise CredentialProgramFailed(f"{self._program} get ended with {code} for {server}", hint=f"try it: {self._program} list")
        try:
            answer = json.loads(out)
            user, secret = answer["Username"], answer["Secret"]
        except (ValueError, KeyError, TypeError, RecursionError):
            answer = user = secret = None
        if not isinstance(user, str) or not isinstance(secret, str):
            raise CredentialProgramFailed(f"{self._program} get answered something else than a login for {server}") from None
        return (user, secret) if user or secret else None

    def store(self, server: str, user: str, secret: str) -> None:
        code, _ = self._run("store", json.dumps({"ServerURL": server, "Username": user, "Secret": secret}))
        if code:
            raise CredentialProgramFailed(f"{self._program} store ended with {code}; the login for {server} was not kept")

    def erase(self, server: str) -> None:
        """Idempotent."""
        code, out = self._run("erase", server)
        if code and _ABSENT not in out.lower():
            raise CredentialProgramFailed(f"{self._program} erase ended with {code} for {server}")

    def _run(self, verb: str, text: str) -> tuple[int, str]:
        import subprocess

        try:
            done = subprocess.run(
                [self._program, verb], input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_SECONDS, check=False
            )
        except FileNotFoundError:
            hint = "install it, or remove credsStore and credHelpers from config.json"
            raise CredentialProgramFailed(f"{self._program} is not installed", hint=hint) from None
        except subprocess.TimeoutExpired:
            raise CredentialProgramFailed(f"{self._program} {verb} did not answer in {_SECONDS:.0f} s") from None
        except OSError as error:
            raise CredentialProgramFailed(f"{self._program} cannot be run: {error.strerror}") from None
        return done.returncode, done.stdout.decode(errors="replace")
