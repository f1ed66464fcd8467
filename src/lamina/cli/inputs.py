"""Option values of `build` and `plan`: text from the command line into frozen values, each mistake named."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.engine.contextfiles import is_remote
from lamina.engine.request import Incoming, Secret, Selector


class BadOption(LaminaError):
    code = "cli/option"
    default_exit = 2


def pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """NAME=VALUE items; a missing '=' is an error."""
    result: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name:
            raise BadOption(f"{option} {value!r} is not NAME=VALUE")
        result[name] = rest
    return result


def build_args(values: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str | None]:
    """`NAME=VALUE`, or `NAME` for the environment's value (left out when it has none), as docker does."""
    result: dict[str, str | None] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not name:
            raise BadOption(f"--build-arg {value!r} has no name")
        if equals:
            result[name] = rest
        elif name in environment:
            result[name] = environment[name]
    return result


def epoch(args: Mapping[str, str | None], environment: Mapping[str, str], *, reproducible: bool) -> int | None:
    """Seconds of SOURCE_DATE_EPOCH: the build argument's, else the environment's, else 0 where a reproducible image is asked for."""
    text = args.get("SOURCE_DATE_EPOCH") or environment.get("SOURCE_DATE_EPOCH")
    if not text:
        return 0 if reproducible else None
    if not (text.isascii() and text.isdecimal()) or len(text) > 11:
        raise BadOption(f"SOURCE_DATE_EPOCH={text} is not a number of seconds", hint="for example $(git log -1 --format=%ct)")
    return int(text)


def fields(value: str, option: str, known: tuple[str, ...]) -> dict[str, str]:
    """Comma-separated key=value fields (csv quoting), with did-you-mean for keys."""
    from lamina.dockerfile.csvfields import csv_fields

    result: dict[str, str] = {}
    try:
        items = csv_fields(value) if value else []
    except ValueError as error:
        raise BadOption(f"{option} {value!r}: {error}") from None
    for item in items:
        name, equals, rest = item.partition("=")
        name = name.strip().lower()
        if name not in known:
            near = nearest(name, known)
            raise BadOption(
                f"{option} {value!r}: unknown field {name!r}", hint=f"did you mean {near}?" if near else f"known: {', '.join(known)}"
            )
        if not equals:
            raise BadOption(f"{option} {value!r}: {name} needs a value")
        result[name] = rest
    return result


def secret(value: str, environment: Mapping[str, str]) -> Secret:
    """`id=ID[,src=FILE|,env=NAME]`; without either the environment variable ID, else the file ID, as buildx does."""
    found = fields(value, "--secret", ("id", "src", "source", "env", "type"))
    identifier = found.get("id")
    if not identifier:
        raise BadOption("--secret needs id=NAME", hint="for example --secret id=token,src=./token")
    source, variable = found.get("src") or found.get("source"), found.get("env")
    kind = found.get("type", "")
    if kind not in ("", "file", "env"):
        raise BadOption(f"--secret {identifier}: type {kind!r} is neither file nor env")
    if kind == "env" and not variable:
        variable, source = source or identifier, None
    if variable is None and source is None:
        if kind != "file" and identifier in environment:
            variable = identifier
        else:
            source = identifier
    if variable is not None:
        if variable not in environment:
            raise BadOption(f"--secret {identifier}: the environment has no {variable}")
        return Secret(identifier, value=os.fsencode(environment[variable]))
    assert source is not None
    path = Path(source)
    if not path.is_file():
        raise BadOption(f"--secret {identifier}: there is no file {source}")
    return Secret(identifier, file=path.absolute())


def ssh(values: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, Path]:
    """`default`, `ID`, `ID=SOCKET` or `ID=KEYFILE`."""
    result: dict[str, Path] = {}
    for value in values:
        identifier, equals, path = value.partition("=")
        if not equals:
            path = environment.get("SSH_AUTH_SOCK", "")
            if not path:
                raise BadOption(
                    f"--ssh {value}: there is no SSH_AUTH_SOCK in the environment", hint=f"name a socket or key: --ssh {value}=PATH"
                )
        if "," in path:
            raise BadOption(f"--ssh {identifier}: several keys are not supported", hint="load them into an agent and give its socket")
        result[identifier or "default"] = Path(path).absolute()
    return result


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(text: str, option: str) -> float:
    """Seconds of `90`, `12h`, `1d12h`."""
    found = re.fullmatch(r"(?:\d+(?:\.\d+)?[smhdw]?)+", text)
    if not found:
        raise BadOption(f"{option}: {text!r} is not a duration", hint="for example 12h, 90m or 1d")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([smhdw]?)", text))


def max_age(value: str) -> tuple[Selector, float]:
    selector, equals, age = value.rpartition("=")
    if not equals or not selector:
        raise BadOption(f"--max-age {value!r} is not SELECTOR=DURATION", hint="for example --max-age deps=12h")
    return Selector(selector), duration(age, "--max-age")


def size(text: str, option: str) -> int:
    """Bytes of `64m`, `1g`, `512000` (docker's binary units)."""
    found = re.fullmatch(r"(\d+)\s*([bkmgt]?)b?", text.lower())
    if not found:
        raise BadOption(f"{option}: {text!r} is not a size", hint="for example 64m")
    return int(found[1]) << {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2]]


def ulimit(value: str) -> tuple[str, int, int]:
    name, _, limits = value.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        low = int(soft)
        return name, low, int(hard) if colon else low
    except ValueError:
        raise BadOption(f"--ulimit {value!r} is not NAME=SOFT[:HARD]") from None


def add_host(value: str) -> tuple[str, str]:
    separator = "=" if "=" in value else ":"
    name, found, address = value.partition(separator)
    if not found or not name or not address:
        raise BadOption(f"--add-host {value!r} is not HOST:ADDRESS")
    return name, address.strip("[]")


def dockerfile(context: Path, given: str | None) -> tuple[str, str, str | None, str]:
    """(name, text, text of the ignore file or None, its name). `-f -` reads standard input; `-f` is relative to the working directory."""
    from lamina.engine.contextfiles import read_dockerfile

    if given == "-":
        return read_dockerfile(context, None, _stdin_text())
    return read_dockerfile(context, Path(given) if given else None)


def context_directory(text: str) -> Path:
    """The context as a directory. BadOption for what is none."""
    if text == "-" or is_remote(text):
        raise BadOption(f"the context {text!r} is not a directory", hint="lamina build and lamina plan take it")
    if not text:
        raise BadOption("PATH is empty", hint="the folder with the files to build from; '.' is this one")
    path = Path(text)
    if path.is_symlink() and not path.exists():
        raise BadOption(f"{text} is a link to {os.readlink(path)}, which is not there")
    if not path.exists():
        raise BadOption(f"there is no directory {text}")
    if not path.is_dir():
        raise BadOption(f"the context {text} is not a directory")
    return path


class Context(msgspec.Struct, frozen=True):
    """What PATH and --file say together. `text` is "" where the Dockerfile comes with the context."""

    folder: Path
    name: str
    text: str
    ignore: str | None = None
    ignore_name: str = ".dockerignore"
    incoming: Incoming | None = None
    path: Path | None = None  # of the Dockerfile, where it is a file here


def context(path: str, file: str | None) -> Context:
    """A directory, `-` (a Dockerfile or an archive on standard input), a repository, or a URL. BadOption, NoDockerfile.

    For a remote context `--file` names a file in it, `-` standard input, an absolute path a file here (docker's rule).
    """
    if path == "-":
        return _from_stdin(file)
    if not is_remote(path):
        folder = context_directory(path)
        where = None if file == "-" else Path(file).absolute() if file else folder.absolute() / "Dockerfile"
        return Context(folder.absolute(), *dockerfile(folder, file), path=where)
    if file == "-":
        return Context(Path(), "<stdin>", _stdin_text(), incoming=Incoming(path))
    if file is not None and os.path.isabs(file):
        from lamina.engine.contextfiles import read_dockerfile

        name, text, _, _ = read_dockerfile(Path(file).parent, Path(file))
        return Context(Path(), name, text, incoming=Incoming(path), path=Path(file))
    return Context(Path(), file or "Dockerfile", "", incoming=Incoming(path, dockerfile=file or "Dockerfile"))


def _from_stdin(file: str | None) -> Context:
    from lamina.layer.unpacking import looks_packed

    if file == "-":
        raise BadOption("standard input cannot be both the context and the Dockerfile")
    stream = stdin()
    if stream.isatty():
        raise BadOption(
            "the context '-' is standard input, which is this terminal", hint="lamina build - < Dockerfile, or < context.tar.gz"
        )
    head = stream.read(512)
    if not looks_packed(head):
        if file is not None:
            raise BadOption(f"standard input is a Dockerfile, and --file {file} names another", hint="leave out one of them")
        return Context(Path(), "<stdin>", _stdin_text(head), incoming=Incoming())
    return Context(Path(), file or "Dockerfile", "", incoming=Incoming(archive=_spooled(head, stream), dockerfile=file or "Dockerfile"))


def stdin() -> BinaryIO:
    """Standard input's bytes. BadOption where there is none."""
    if sys.stdin is None:  # closed by who started it
        raise BadOption("standard input is closed, and is to be read")
    return sys.stdin.buffer


def _stdin_text(head: bytes = b"") -> str:
    """The Dockerfile on standard input, as bytes whatever the locale; `head` was read of it already."""
    from lamina.engine.contextfiles import text_of

    return text_of(stdin(), "standard input", head)


def _spooled(head: bytes, stream: BinaryIO) -> int:
    """A descriptor of a file without a name that holds the stream: nothing is left however this process ends."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        piece = head
        try:
            while piece:
                file.write(piece)
                piece = stream.read(1 << 20)
            file.flush()
        except OSError as error:
            raise BadOption(f"cannot keep the context of standard input: {error.strerror or error}") from error
        return os.dup(file.fileno())
