"""RUN -> ExecOp."""

from __future__ import annotations

import posixpath
import re
from typing import Literal, cast

from lamina.diagnostics.errors import located
from lamina.dockerfile.instructions import Run
from lamina.dockerfile.lexer import heredoc_marker
from lamina.dockerfile.lower.config import DEFAULT_SHELL
from lamina.dockerfile.lower.scope import PROXIES
from lamina.dockerfile.lower.stage import Lowering
from lamina.dockerfile.lower.values import LoweringError
from lamina.dockerfile.mounts import Mount, evaluate
from lamina.graph.ops import ExecMount, ExecOp, FileOp, MkfileAction
from lamina.graph.vertex import Freshness, Step, Vertex

PIPES = "/dev/pipes/"


def lower_run(run: Run, stage: Lowering, step: Step, freshness: Freshness, name: str) -> Vertex:
    if run.devices:
        raise LoweringError("RUN --device needs a labs frontend and is not supported", spans=(run.span,), hint="remove --device")
    words, script = _words(run, stage)
    args = (*(stage.config.shell or DEFAULT_SHELL), " ".join(words)) if run.command.shell else words
    inputs: list[Vertex | None] = [stage.filesystem]
    mounts: list[ExecMount] = []
    if script is not None:
        inputs.append(script)
        mounts.append(ExecMount("bind", PIPES, input=1, readonly=True))
    for written in run.mounts:
        with located(written.span, run.span):
            value = evaluate(written, lambda text: stage.expander.word(text, stage.environment.values).result)
            mounts.append(_mount(value, stage, inputs, run, sum(m.type == "ssh" for m in mounts)))
    mounts.sort(key=_order)
    text = run.text + "\n" + "\n".join(h.content for h in run.command.heredocs)
    in_env = tuple(n for n in stage.arguments if n in stage.environment.values)
    named = {n for n in in_env if re.search(rf"(?<![A-Za-z0-9_]){re.escape(n)}(?![A-Za-z0-9_])", text)}
    for argument in in_env:
        stage.uses.setdefault(argument, []).append(argument in named)
    unnamed = tuple(n for n in in_env if n not in named)
    op = ExecOp(
        args=args,
        env=_with_agent(_environment(stage, unnamed), mounts),
        cwd=stage.directory(),
        hostname=stage.options.args.get("BUILDKIT_SANDBOX_HOSTNAME") or "",
        user=stage.config.user,
        platform=stage.platform,
        mounts=tuple(mounts),
        network=cast("Literal['default', 'none', 'host']", run.network if run.network not in ("", "default") else stage.options.network),
        security=cast("Literal['sandbox', 'insecure']", run.security or "sandbox"),
        extra_hosts=stage.options.extra_hosts,
        shm_size=stage.options.shm_size,
        ulimits=stage.options.ulimits,
        proxy_env=_proxies(stage),
        unnamed_args=unnamed,
        args_in_env=in_env,
    )
    vertex = stage.graph.add(op, tuple(inputs), freshness, step, name)
    stage.commit("RUN " + _command_string(args, stage) + " # buildkit", vertex, layer=True)
    stage.filesystem = vertex
    return vertex


def _words(run: Run, stage: Lowering) -> tuple[tuple[str, ...], Vertex | None]:
    """The command's words; a single here-document is the command itself, one that begins with #! a file that is run."""
    command = run.command
    if not command.heredocs:
        return command.words, None
    first = command.heredocs[0]
    if len(command.heredocs) == 1 and heredoc_marker(command.words[0]) is not None:
        if first.content.startswith("#!"):
            mkfile = MkfileAction(
                path=f"/{first.name}", data=_content(first.content, first.chomp).encode("utf-8", "surrogateescape"), mode=0o755
            )
            script = stage.graph.add(FileOp((mkfile,)), (None,), name="[internal] preparing inline document")
            return (posixpath.join(PIPES, first.name),), script
        return (_content(first.content, first.chomp),), None
    full = command.words[0] + "".join(f"\n{heredoc.raw}{heredoc.name}" for heredoc in command.heredocs)
    return (full,), None


def _content(text: str, chomp: bool) -> str:
    return re.sub(r"(?m)^\t+", "", text) if chomp else text


def _environment(stage: Lowering, unnamed: tuple[str, ...]) -> tuple[str, ...]:
    """With --arg-scope=named, arguments that the text does not name are left out (an ENV of the same name shows again)."""
    if stage.options.arg_scope == "declared":
        return stage.environment.lines()
    own = dict(line.partition("=")[::2] for line in stage.config.env or ())
    kept = {n: v for n, v in stage.environment.values.items() if n not in unnamed}
    return tuple(f"{n}={v}" for n, v in ({n: v for n, v in own.items() if n in unnamed} | kept).items())


def _proxies(stage: Lowering) -> tuple[str, ...]:
    """Predefined proxy arguments that were given: passed on in both spellings, never in the key. One that an ARG declares is in the
    environment, and thereby in the key, like any other."""
    given = {n.lower(): v for n, v in sorted(stage.options.args.items()) if n.lower() in PROXIES and v}
    names = ((spelling, value) for name, value in given.items() for spelling in (name.upper(), name))
    return tuple(f"{n}={v}" for n, v in names if n not in stage.environment.values)


def _command_string(args: tuple[str, ...], stage: Lowering) -> str:
    """docker's history form: `|2 A=1 B=2 /bin/sh -c …`."""
    values = [f"{n}={stage.environment.values.get(n, v or '')}" for n, v in stage.arguments.items()]
    return " ".join([*([f"|{len(values)}", *values] if values else []), *args])


def _order(mount: ExecMount) -> tuple[int, str]:
    """By target, so that what lies inside of another mount comes after it; then secrets, then agents, as they were written."""
    late = {"secret": 1, "ssh": 2}.get(mount.type, 0)
    return (late, "" if late else mount.target)


def _with_agent(env: tuple[str, ...], mounts: list[ExecMount]) -> tuple[str, ...]:
    """The first agent's socket is $SSH_AUTH_SOCK, unless the variable is set."""
    agent = next((mount.target for mount in mounts if mount.type == "ssh"), None)
    if agent is None or any(line.startswith("SSH_AUTH_SOCK=") for line in env):
        return env
    return (*env, f"SSH_AUTH_SOCK={agent}")


def _clean(path: str) -> str:
    """Go's path.Clean."""
    return posixpath.normpath(path).replace("//", "/") if path else "."


def _mount(mount: Mount, stage: Lowering, inputs: list[Vertex | None], run: Run, agents: int) -> ExecMount:
    target = mount.target  # of secrets and agents as written; a relative one is below the working directory
    if mount.type in ("bind", "cache", "tmpfs"):
        if not target.startswith("/"):
            target = _clean(posixpath.join(stage.workdir(), target))
        if _clean(target) == "/":
            raise LoweringError(f"invalid mount target {target or mount.target!r}", hint="name a path inside the image: target=/src")
    match mount.type:
        case "bind" | "cache":
            return _shown(mount, target, stage, inputs, run)
        case "tmpfs":
            return ExecMount("tmpfs", target, size=mount.size)
        case "secret":
            identifier = mount.source or mount.id or posixpath.basename(target)
            if not identifier:
                raise LoweringError("a secret mount needs id= or target=")
            if not target and mount.env is None:
                target = f"/run/secrets/{posixpath.basename(identifier)}"
            return ExecMount(
                "secret",
                target,
                id=identifier,
                env=mount.env,
                required=mount.required,
                mode=mount.mode,
                uid=mount.uid,
                gid=mount.gid,
            )
        case _:
            if mount.source:
                raise LoweringError("an ssh mount has no source", hint="--mount=type=ssh,id=NAME")
            return ExecMount(
                "ssh",
                target or f"/run/buildkit/ssh_agent.{agents}",
                id=mount.id or "default",
                required=mount.required,
                mode=mount.mode,
                uid=mount.uid,
                gid=mount.gid,
            )


def _shown(mount: Mount, target: str, stage: Lowering, inputs: list[Vertex | None], run: Run) -> ExecMount:
    index: int | None = None
    selector = "/"
    if mount.type == "bind" or mount.from_:
        source = stage.find_source(mount.from_, run.span, True)
        if source is not None:
            if source in inputs[1:]:
                index = inputs.index(source, 1)
            else:
                inputs.append(source)
                index = len(inputs) - 1
        selector = posixpath.normpath("/" + mount.source.lstrip("/")) if mount.source else "/"
    if mount.type == "bind":
        return ExecMount("bind", target, index, selector, mount.readonly)
    namespace = stage.options.args.get("BUILDKIT_CACHE_MOUNT_NS")
    identifier = mount.id or _clean(mount.target)
    whole = selector == "/"  # only the folder that is made for the mount gets an owner and a mode
    return ExecMount(
        "cache",
        target,
        index,
        selector,
        mount.readonly,
        cache_id=f"{namespace}/{identifier}" if namespace else identifier,
        sharing=cast("Literal['shared', 'private', 'locked']", mount.sharing or "shared"),
        mode=mount.mode if whole else None,
        uid=mount.uid if whole else None,
        gid=mount.gid if whole else None,
    )
