"""`--output` strings: `type=oci,dest=image.tar` or the short forms `DIR` (type=local) and `-` (type=tar to standard output)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.dockerfile.csvfields import csv_fields
from lamina.engine.request import Output

OutputType = Literal["image", "oci", "docker", "tar", "local", "registry"]
_TYPES: tuple[OutputType, ...] = ("image", "oci", "docker", "tar", "local", "registry")
_KEYS: dict[OutputType, tuple[str, ...]] = {
    "image": ("name", "push", "compression"),
    "registry": ("name", "push", "compression"),
    "oci": ("dest", "tar", "name"),
    "docker": ("dest", "name"),
    "tar": ("dest",),
    "local": ("dest",),
}
_COMPRESSIONS = ("auto", "gzip", "zstd", "none")
_BOOLEANS = {"true": "true", "1": "true", "false": "false", "0": "false"}


class BadOutput(LaminaError):
    """An `--output` value that means nothing, or cannot be written as asked."""

    code = "output/invalid"
    default_exit = 2


def parse_output(text: str, *, terminal: bool = False) -> Output:
    """One `--output` value. `terminal` says that standard output is one: binary data is then refused.

    `dest` of the result is None for standard output. attrs: `name` (image, registry, oci, docker), `compression`
    (registry), `tar` = "true" | "false" (oci:
    false, or a dest that ends in a slash, writes a directory).
    """
    try:
        fields = csv_fields(text)
    except ValueError as error:
        raise BadOutput(f"--output {text!r}: {error}") from None
    if len(fields) == 1 and "=" not in fields[0]:
        word = fields[0]
        if not word:
            raise BadOutput("--output is empty", hint="give a directory, '-', or type=…,dest=…")
        return _checked("tar", {"dest": "-"}, terminal) if word == "-" else _checked("local", {"dest": word}, terminal)
    values: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals:
            raise BadOutput(f"--output {text!r}: {field!r} is not key=value")
        if key in values:
            raise BadOutput(f"--output {text!r}: {key} is given twice")
        values[key] = value
    kind = values.pop("type", "")
    if not kind:
        raise BadOutput(f"--output {text!r} names no type", hint=f"types: {', '.join(_TYPES)}")
    known = next((t for t in _TYPES if t == kind), None)
    if known is None:
        near = nearest(kind, _TYPES)
        hint = f"did you mean {near}?" if near else f"types: {', '.join(_TYPES)}"
        raise BadOutput(f"--output {text!r}: there is no type {kind!r}", hint=hint)
    return _checked(known, values, terminal)


def _checked(kind: OutputType, values: dict[str, str], terminal: bool) -> Output:
    for key in values:
        if key not in _KEYS[kind]:
            near = nearest(key, ("type", *_KEYS[kind]))
            hint = f"did you mean {near}?" if near else f"keys of {kind}: {', '.join(_KEYS[kind])}"
            raise BadOutput(f"--output type={kind} has no key {key!r}", hint=hint)
    attrs = [(key, value) for key, value in values.items() if key not in ("dest", "tar")]
    dest = values.get("dest", "")
    as_tar = True
    if kind == "oci":
        as_tar = _boolean(values["tar"], "tar") if "tar" in values else not dest.endswith("/")
        attrs.append(("tar", "true" if as_tar else "false"))
    if kind in ("image", "registry"):
        if values.get("compression", "auto") not in _COMPRESSIONS:
            raise BadOutput(f"compression={values['compression']} is not known", hint=f"known: {', '.join(_COMPRESSIONS)}")
        pushed = _boolean(values["push"], "push") if "push" in values else kind == "registry"
        if kind == "registry" and not pushed:
            raise BadOutput("type=registry always pushes", hint="type=image keeps the image here")
        return Output("registry" if pushed else "image", None, tuple((key, value) for key, value in attrs if key != "push"))
    folder = kind == "local" or not as_tar
    if folder and dest in ("", "-"):
        raise BadOutput(f"--output type={kind} writes a directory and needs dest=DIR")
    if kind == "docker" and not dest:
        # docker's own meaning (load into the daemon) is the store here: no daemon runs.
        return Output("image", None, tuple(attrs))
    if dest in ("", "-"):
        if terminal:
            hint = "redirect it, or name a file with dest=FILE"
            raise BadOutput(f"--output type={kind} would write an archive to the terminal", hint=hint)
        return Output(kind, None, tuple(attrs))
    return Output(kind, Path(dest), tuple(attrs))


def _boolean(text: str, key: str) -> bool:
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise BadOutput(f"{key}={text} is neither true nor false")
    return value == "true"
