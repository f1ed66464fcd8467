"""Logins as docker and podman keep them: config.json, auth.json, and the credential programs that these name.

Reading asks, for one registry, in each file: `credHelpers` for this registry, `credsStore`, `auths`. Secrets pass through memory, the
files and the programs' pipes only.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lamina.registry.auth import Credentials, CredentialSource
from lamina.registry.credentialprograms import CredentialProgram
from lamina.registry.errors import RegistryError

LENT = "LAMINA_LENT_LOGINS"
"""Handed from process to process in memory; nobody sets it in a real environment."""
_HUB = "https://index.docker.io/v1/"
_LIMIT = 8 << 20
_TOKEN_USER = "<token>"  # docker's own word: the secret beside it is an identity token

Document = dict[str, object]


class BadLoginFile(RegistryError):
    """config.json or auth.json cannot be read, understood or written; the message has no content of it."""

    code = "registry/login-file"
    default_exit = 78


def login_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where logins may stand, first the one that `login` writes: $REGISTRY_AUTH_FILE, docker's config.json, podman's two auth.json."""
    home = Path(environment.get("HOME") or "/root")
    docker = Path(environment["DOCKER_CONFIG"]) if environment.get("DOCKER_CONFIG") else home / ".docker"
    found = [Path(environment["REGISTRY_AUTH_FILE"])] if environment.get("REGISTRY_AUTH_FILE") else []
    found.append(docker / "config.json")
    if environment.get("XDG_RUNTIME_DIR"):
        found.append(Path(environment["XDG_RUNTIME_DIR"], "containers", "auth.json"))
    found.append(Path(environment.get("XDG_CONFIG_HOME") or home / ".config", "containers", "auth.json"))
    return tuple(dict.fromkeys(found))


class LentLogins:
    """A CredentialSource of what somebody else has lent for one job, before this machine's own logins."""

    def __init__(self, text: str, own: CredentialSource | None) -> None:
        """`text`: {registry: [name, password, identity token]}, as `lend` writes it."""
        self._lent = {registry: Credentials(*words) for registry, words in json.loads(text).items()}
        self._own = own

    def credentials(self, registry: str, repository: str) -> Credentials | None:
        found = self._lent.get(registry)
        return found if found is not None or self._own is None else self._own.credentials(registry, repository)


def lend(logins: Mapping[str, Credentials]) -> str:
    """For the value of LENT."""
    return json.dumps({registry: [one.username, one.password, one.identity_token] for registry, one in logins.items()})


class Logins:
    """A CredentialSource over these files. Thread-safe; a file is read once, a credential program asked once per registry."""

    def __init__(self, files: Sequence[Path], program: Callable[[str], CredentialProgram] = CredentialProgram) -> None:
        self._files = tuple(files)
        self._program = program
        self._lock = threading.Lock()
        self._documents: list[Document] | None = None
        self._answers: dict[tuple[str, str], Credentials | None] = {}

    def credentials(self, registry: str, repository: str) -> Credentials | None:
        """The most specific login: of a path below the registry (podman's form) before that of the whole registry."""
        with self._lock:
            if self._documents is None:
                self._documents = [_read(file) for file in self._files]
            for document in self._documents:
                found = self._in(document, registry, repository)
                if found is not None:
                    return found
            return None

    def _in(self, document: Document, registry: str, repository: str) -> Credentials | None:
        names = _names(registry)
        helpers = _table(document, "credHelpers")
        program = next((value for name in names if isinstance(value := helpers.get(name), str)), "") or document.get("credsStore")
        if isinstance(program, str) and program:
            found = self._asked(program, _server(registry))
            if found is not None:
                return found
        auths = _table(document, "auths")
        hosts = {_host(key): key for key in reversed(auths) if "/" not in _host(key)}
        for path in _paths(repository):
            for name in names:
                key = f"{name}/{path}" if path else name if name in auths else hosts.get(name, "")
                found = _entry(auths.get(key))
                if found is not None:
                    return found
        return None

    def _asked(self, program: str, server: str) -> Credentials | None:
        key = (program, server)
        if key not in self._answers:
            answer = self._program(program).get(server)
            self._answers[key] = None if answer is None else _made(*answer)
        return self._answers[key]


def log_in(
    file: Path, registry: str, credentials: Credentials, program: Callable[[str], CredentialProgram] = CredentialProgram
) -> str | None:
    """Keep a login that was proved good. Returns the credential program that has it, or None: it is in `file`, readable for its owner
    only but not encrypted."""
    with _changing(file) as document:
        name = _program_for(document, registry)
        server = _server(registry)
        auths = document.setdefault("auths", {})
        if not isinstance(auths, dict):
            raise BadLoginFile(f"{file}: auths is no table")
        if name:
            secret = credentials.identity_token or credentials.password
            program(name).store(server, _TOKEN_USER if credentials.identity_token else credentials.username, secret)
            auths[server] = {}
            return name
        entry = {"auth": base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()}
        if credentials.identity_token:
            entry["identitytoken"] = credentials.identity_token
        auths[server] = entry
        return None


def log_out(file: Path, registry: str, program: Callable[[str], CredentialProgram] = CredentialProgram) -> bool:
    """Forget the login; False when there was none."""
    with _changing(file) as document:
        name = _program_for(document, registry)
        if name:
            program(name).erase(_server(registry))
        auths = _table(document, "auths")
        wanted = set(_names(registry))
        gone = [key for key in auths if key in wanted or _host(key) in wanted]
        for key in gone:
            del auths[key]
        return bool(gone)


def _program_for(document: Document, registry: str) -> str:
    helpers = _table(document, "credHelpers")
    named = next((helpers[name] for name in _names(registry) if name in helpers), document.get("credsStore"))
    return named if isinstance(named, str) else ""


def _names(registry: str) -> tuple[str, ...]:
    return (_HUB, "docker.io", "index.docker.io", "registry-1.docker.io") if registry == "docker.io" else (registry,)


def _server(registry: str) -> str:
    return _HUB if registry == "docker.io" else registry


def _host(key: str) -> str:
    """The registry of a key that was written as an address (`https://registry.example/v2/`)."""
    name = key.removeprefix("https://").removeprefix("http://")
    return name.removesuffix("/").removesuffix("/v1").removesuffix("/v2")


def _paths(repository: str) -> Iterator[str]:
    """a/b/c, a/b, a, and "" for the registry itself."""
    while repository:
        yield repository
        repository = repository.rpartition("/")[0]
    yield ""


def _entry(value: object) -> Credentials | None:
    if not isinstance(value, dict):
        return None
    user, password = value.get("username"), value.get("password")
    token = value.get("identitytoken")
    packed = value.get("auth")
    if isinstance(packed, str) and packed:
        try:
            user, _, password = base64.b64decode(packed, validate=False).decode().rstrip("\0").partition(":")
        except ValueError:  # no base64, no ASCII, no UTF-8
            return None
    if isinstance(token, str) and token:
        return Credentials("", "", token)
    if isinstance(user, str) and user and isinstance(password, str):
        return _made(user, password)
    return None


def _made(user: str, secret: str) -> Credentials:
    return Credentials("", "", secret) if user == _TOKEN_USER else Credentials(user, secret)


def _table(document: Document, name: str) -> dict[str, object]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _read(file: Path) -> Document:
    try:
        with file.open("rb") as source:
            raw = source.read(_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        return {}  # root's file, seen by another user: as if there were none
    except OSError as error:
        raise BadLoginFile(f"cannot read {file}: {error.strerror}") from error
    if not raw.strip():
        return {}
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadLoginFile(f"{file} is not JSON", hint="repair it, or move it away and log in again") from error
    if not isinstance(document, dict):
        raise BadLoginFile(f"{file} is no JSON object")
    return document


@contextmanager
def _changing(file: Path) -> Iterator[Document]:
    """The document to be changed in place; written when the block ends well: a new file, mode 0600, moved over the old one."""
    try:
        target = Path(os.path.realpath(file))
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # two logins at once both stay
            document = _read(target)
            before = json.dumps(document)
            yield document
            if json.dumps(document) != before:
                _replace(target, json.dumps(document, indent="\t").encode() + b"\n")
        finally:
            os.close(folder)
    except OSError as error:
        raise BadLoginFile(f"cannot write {file}: {error.strerror}") from error


def _replace(target: Path, data: bytes) -> None:
    made = target.with_name(f".{target.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(made, target)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
