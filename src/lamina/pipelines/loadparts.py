"""The parts that steps, options and definitions share: images, clones, runtimes, conditions, artifacts, script items."""

from __future__ import annotations

from typing import Literal, cast

from lamina.pipelines.expressions import ExpressionError, compile_expression
from lamina.pipelines.model import (
    Agent,
    Artifacts,
    AwsAccess,
    Clone,
    CloudRuntime,
    Command,
    Condition,
    Image,
    Pipe,
    Runtime,
    ScriptItem,
    SelfHostedRuntime,
    Text,
    Upload,
)
from lamina.pipelines.reading import Reader, places, take
from lamina.pipelines.tree import Mapping, Node, Scalar, Sequence, kind

SIZES = ("1x", "2x", "4x", "8x", "16x", "32x")
MAX_LABELS, MAX_LABEL, MAX_STATE = 10, 50, 1000
_IMAGE = ("name", "run-as-user", "username", "password", "email", "aws")
_PRIVATE = "a private image needs both, or aws with access-key and secret-key, or aws with oidc-role"


def image(reader: Reader, node: Node, path: str) -> Image | None:
    if not isinstance(node, Mapping):
        name = reader.text(node, path)
        return None if name is None else Image(name.value, name.span)
    reader.unknown(node, path, _IMAGE)
    name = take(node, "name", path, reader.text)
    username = take(node, "username", path, reader.string)
    password = take(node, "password", path, reader.string)
    written = {entry.key: entry.span for entry in node}
    if "name" not in written:
        reader.error(path, "an image needs a name", node.span)
    for one, other in (("username", "password"), ("password", "username")):
        if one in written and other not in written:
            reader.error(path, f"{one} is given without {other} ({_PRIVATE})", written[one])
    if "aws" in written and ("username" in written or "password" in written):
        reader.error(path, "aws and username/password exclude each other", written["aws"])
    access = take(node, "aws", path, lambda inner, at: _aws(reader, inner, at))
    user = take(node, "run-as-user", path, lambda inner, at: reader.number(inner, at, least=0))
    email = take(node, "email", path, reader.string)
    return None if name is None else Image(name.value, name.span, user, username, password, email, access)


def _aws(reader: Reader, node: Node, path: str) -> AwsAccess | None:
    found = reader.mapping(node, path)
    if found is None:
        return None
    reader.unknown(found, path, ("access-key", "secret-key", "oidc-role"))
    result = AwsAccess(*(take(found, key, path, reader.string) for key in ("access-key", "secret-key", "oidc-role")))
    written = {entry.key for entry in found}
    if "oidc-role" not in written and not {"access-key", "secret-key"} <= written:
        reader.error(path, "needs access-key and secret-key, or oidc-role", node.span)
    return result


def size(reader: Reader, node: Node, path: str) -> str | None:
    return reader.choice(node, path, SIZES)


def max_time(reader: Reader, node: Node, path: str) -> int | None:
    return reader.number(node, path, least=1, unit=" of minutes")


def labels(reader: Reader, node: Node, path: str) -> tuple[Text, ...]:
    if isinstance(node, Sequence):
        found = reader.texts(node, path, most=MAX_LABELS, what="labels")
    else:
        one = reader.text(node, path)
        found = () if one is None else (one,)
    for label in found:
        if len(label.value) > MAX_LABEL:
            reader.error(path, f"a label has at most {MAX_LABEL} characters, this one has {len(label.value)}", label.span)
    return found


def clone(reader: Reader, node: Node, path: str) -> Clone | None:
    found = reader.mapping(node, path, empty=True)
    if found is None:
        return None
    reader.unknown(found, path, ("enabled", "depth", "lfs", "skip-ssl-verify", "sparse-checkout"))
    sparse = found.entry("sparse-checkout")
    if sparse is not None:
        reader.warn(
            path,
            "sparse-checkout is not in the published schema; the whole tree is checked out here",
            sparse.span,
            code="pipeline/not-supported",
        )
    return Clone(
        enabled=take(found, "enabled", path, reader.flag),
        depth=take(found, "depth", path, lambda inner, at: _depth(reader, inner, at)),
        lfs=take(found, "lfs", path, reader.flag),
        skip_ssl_verify=take(found, "skip-ssl-verify", path, reader.flag),
        at=places(found),
    )


def _depth(reader: Reader, node: Node, path: str) -> int | None:
    if isinstance(node, Scalar) and node.text == "full":
        return 0
    if not isinstance(node, Scalar) or isinstance(node.value, bool) or not isinstance(node.value, int):
        reader.error(path, f'{kind(node)} where a number of commits or "full" belongs', node.span)
        return None
    return reader.number(node, path, least=1)


def runtime(reader: Reader, node: Node, path: str) -> Runtime | None:
    found = reader.mapping(node, path, empty=True)
    if found is None:
        return None
    reader.unknown(found, path, ("cloud", "self-hosted"))
    return Runtime(
        found.span,
        take(found, "cloud", path, lambda inner, at: _cloud(reader, inner, at)),
        take(found, "self-hosted", path, lambda inner, at: _self_hosted(reader, inner, at)),
    )


def _cloud(reader: Reader, node: Node, path: str) -> CloudRuntime | None:
    found = reader.mapping(node, path, empty=True)
    if found is None:
        return None
    reader.unknown(found, path, ("version", "arch", "platform", "instance-type", "atlassian-ip-ranges"))
    return CloudRuntime(
        version=take(found, "version", path, lambda inner, at: _version(reader, inner, at)),
        arch=take(found, "arch", path, lambda inner, at: reader.choice(inner, at, ("x86", "arm"))),
        platform=take(found, "platform", path, lambda inner, at: reader.choice(inner, at, ("linux", "windows"))),
        instance_type=take(found, "instance-type", path, reader.string),
        atlassian_ip_ranges=take(found, "atlassian-ip-ranges", path, reader.flag),
    )


def _version(reader: Reader, node: Node, path: str) -> str | None:
    """The schema wants "3", Atlassian's own page shows 3."""
    if isinstance(node, Scalar) and isinstance(node.value, int) and not isinstance(node.value, bool):
        reader.warn(
            path,
            f'the number {node.text}, where the published schema wants the text "{node.text}"',
            node.span,
            f'write it quoted: "{node.text}"',
        )
        return node.text
    return reader.string(node, path)


def _self_hosted(reader: Reader, node: Node, path: str) -> SelfHostedRuntime | None:
    found = reader.mapping(node, path, empty=True)
    if found is None:
        return None
    reader.unknown(found, path, ("cpu", "memory", "volumes", "storage"))
    storage = take(found, "storage", path, lambda inner, at: _storage(reader, inner, at))
    return SelfHostedRuntime(
        cpu=take(found, "cpu", path, lambda inner, at: reader.number(inner, at, least=1)),
        memory=take(found, "memory", path, lambda inner, at: reader.number(inner, at, least=1, unit=" of MB")),
        volumes=take(found, "volumes", path, lambda inner, at: reader.texts(inner, at, least=0)) or (),
        storage=storage,
    )


def _storage(reader: Reader, node: Node, path: str) -> str | None:
    found = reader.mapping(node, path)
    if found is None:
        return None
    named = [entry for entry in found if entry.key in ("aws", "gcp")]
    if len(named) != 1:
        reader.error(path, "needs exactly one of aws and gcp", node.span)
        return None
    inner = reader.mapping(named[0].value, f"{path}.{named[0].key}")
    if inner is not None:
        written = {entry.key for entry in inner}
        for entry in inner:
            reader.string(entry.value, f"{path}.{named[0].key}.{entry.key}")
        needed = ("bucket", "region") if named[0].key == "aws" else ("bucket", "key-file")
        for key in needed:
            if key not in written:
                reader.error(f"{path}.{named[0].key}", f"{key} is missing", named[0].span)
        if named[0].key == "aws" and ({"access-key", "secret-key"} <= written) == ("oidc-role" in written):
            reader.error(f"{path}.aws", "needs either access-key and secret-key, or oidc-role", named[0].span)
    return named[0].key


def condition(reader: Reader, node: Node, path: str) -> Condition | None:
    found = reader.mapping(node, path)
    if found is None:
        return None
    reader.unknown(found, path, ("changesets", "state"))
    include, exclude = take(found, "changesets", path, lambda inner, at: _changesets(reader, inner, at)) or ((), ())
    state = take(found, "state", path, reader.text)
    if state is not None:
        check_expression(reader, state, f"{path}.state", limit=MAX_STATE)
    return Condition(found.span, include, exclude, state)


def check_expression(reader: Reader, text: Text, path: str, *, limit: int | None = None) -> None:
    """Finds what is wrong with the expression now, not when it is needed."""
    if limit is not None and len(text.value) > limit:
        reader.error(path, f"the expression has {len(text.value)} characters, at most {limit} are allowed", text.span)
        return
    try:
        compile_expression(text.value)
    except ExpressionError as error:
        reader.error(path, error.message, text.span, error.hint, code="pipeline/expression")


def _changesets(reader: Reader, node: Node, path: str) -> tuple[tuple[Text, ...], tuple[Text, ...]] | None:
    found = reader.mapping(node, path, empty=True)
    if found is None:
        return None
    known = ("includePaths", "excludePaths")
    for entry in found:
        if entry.key not in known:
            near = reader.near(entry.key, known)
            reader.error(
                path, f'"{entry.key}" is not one of {" and ".join(known)}', entry.span, f'did you mean "{near}"?' if near else None
            )
    written = [entry for entry in found if entry.key in known]
    if len(written) != 1 and len(written) == len(found.entries):
        told = "includePaths and excludePaths exclude each other" if written else "needs includePaths or excludePaths"
        reader.error(path, told, written[1].span if written else node.span)
    include = take(found, "includePaths", path, reader.texts) or ()
    exclude = take(found, "excludePaths", path, reader.texts) or ()
    return include, exclude


def artifacts(reader: Reader, node: Node, path: str) -> Artifacts | None:
    if isinstance(node, Sequence):
        return Artifacts(node.span, reader.texts(node, path))
    found = reader.mapping(node, path)
    if found is None:
        return None
    reader.unknown(found, path, ("paths", "download", "upload"))
    uploads: list[Upload] = []
    names: list[Text] = []
    node_of_uploads = found.get("upload")
    if node_of_uploads is not None:
        for index, item in enumerate(reader.items(node_of_uploads, f"{path}.upload")):
            at = f"{path}.upload[{index}]"
            if isinstance(item, Mapping):
                one = _upload(reader, item, at)
                uploads += () if one is None else (one,)
            else:
                name = reader.text(item, at)
                names += () if name is None else (name,)
        if uploads and names:
            reader.error(f"{path}.upload", "either names or definitions, not both", node_of_uploads.span)
    written = found.get("download")
    download = None if written is None else _download(reader, written, f"{path}.download")
    return Artifacts(
        found.span, take(found, "paths", path, reader.texts) or (), True if download is None else download, tuple(uploads), tuple(names)
    )


def _download(reader: Reader, node: Node, path: str) -> bool | tuple[Text, ...] | None:
    if isinstance(node, Sequence):
        return reader.texts(node, path)
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return node.value
    reader.error(path, f"{kind(node)} where true, false or a list of names belongs", node.span)
    return None


def _upload(reader: Reader, found: Mapping, path: str) -> Upload | None:
    reader.unknown(found, path, ("name", "paths", "type", "ignore-paths", "depth", "capture-on"))
    for key in ("name", "paths"):
        if found.get(key) is None:
            reader.error(path, f"{key} is missing", found.span)
    name = take(found, "name", path, reader.text)
    kinds = take(found, "type", path, lambda inner, at: reader.choice(inner, at, ("shared", "scoped", "test-reports")))
    capture = take(found, "capture-on", path, lambda inner, at: reader.choice(inner, at, ("success", "failed", "always")))
    result = Upload(
        name="" if name is None else name.value,
        span=found.span if name is None else name.span,
        paths=take(found, "paths", path, reader.texts) or (),
        type=cast('Literal["shared", "scoped", "test-reports"]', kinds or "shared"),
        ignore_paths=take(found, "ignore-paths", path, lambda inner, at: reader.texts(inner, at, least=0)) or (),
        depth=take(found, "depth", path, lambda inner, at: reader.number(inner, at, least=1)),
        capture_on=cast('Literal["success", "failed", "always"]', capture or "success"),
    )
    return None if name is None else result


def script(reader: Reader, node: Node, path: str) -> tuple[ScriptItem, ...]:
    found = (_script_item(reader, item, path, index) for index, item in enumerate(reader.items(node, path)))
    return tuple(item for item in found if item is not None)


def _script_item(reader: Reader, node: Node, path: str, index: int) -> ScriptItem | None:
    at = f"{path}[{index}]"
    if isinstance(node, Scalar):
        if node.value is None:
            reader.error(at, f"script item {index + 1} is empty", node.span, "a comment after `-` leaves nothing; remove the item")
            return None
        if not isinstance(node.value, str):
            reader.warn(
                "",
                f"line {node.span.line}: script item {index + 1} is {kind(node)}, not a string (the published schema rejects it, the service may coerce it)",
                node.span,
                f'write it quoted ("{node.text}")',
                code="pipeline/script-item-not-text",
            )
        return Command(node.text, node.span)
    if not isinstance(node, Mapping):
        reader.error(
            at, "a list where a command belongs", node.span, "one `-` too many, or the list of an anchor; YAML cannot splice lists"
        )
        return None
    if node.get("pipe") is not None:
        reader.unknown(node, at, ("pipe", "variables", "name"))
        name = take(node, "pipe", at, reader.text)
        variables = take(node, "variables", at, lambda inner, where: reader.assignments(inner, where, lists=True, least=0)) or ()
        return None if name is None else Pipe(name.value, name.span, variables)
    if node.get("agent") is not None:
        reader.unknown(node, at, ("agent", "provider", "prompt", "permissions", "config"))
        name = take(node, "agent", at, reader.text)
        prompt = take(node, "prompt", at, reader.string)
        provider = take(node, "provider", at, lambda inner, where: reader.choice(inner, where, ("rovodev", "claude")))
        return None if name is None else Agent(name.value, name.span, prompt, provider)
    near = next((reader.near(entry.key, ("pipe", "agent")) for entry in node if reader.near(entry.key, ("pipe", "agent"))), None)
    hint = reader.colon_hint(node) or (f'did you mean "{near}"?' if near else "a text that holds `: ` must be quoted as a whole")
    reader.error(at, f"script item {index + 1} is a mapping that is neither a pipe nor an agent", node.span, hint)
    return None
