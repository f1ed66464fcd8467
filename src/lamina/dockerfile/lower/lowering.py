"""Walks a document: stages in the order of need, instructions in the order of the file."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

import msgspec

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import located
from lamina.diagnostics.span import Span
from lamina.dockerfile.instructions import (
    AnyInstruction,
    Arg,
    Cmd,
    Copy,
    Document,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from lamina.dockerfile.lower import config as configs
from lamina.dockerfile.lower.copy import lower_copy
from lamina.dockerfile.lower.freshness import declared
from lamina.dockerfile.lower.graph import Graph
from lamina.dockerfile.lower.names import SCRATCH, Contexts, base_key
from lamina.dockerfile.lower.run import lower_run
from lamina.dockerfile.lower.scope import NOT_IN_ENVIRONMENT, PROXIES, Environment, meta_scope, platform_args
from lamina.dockerfile.lower.stage import Lowering, empty_image, one_line, owner, set_env, step_name
from lamina.dockerfile.lower.stages import StageState, choose_target, find, reachable, sources
from lamina.dockerfile.lower.values import ArgUse, BaseKey, Lowered, LoweredStep, LoweringError, Needs, Options, ResolvedBase
from lamina.dockerfile.parser import parse_trigger
from lamina.dockerfile.words import Expander
from lamina.graph.ops import ContextOp, CopyAction, FileOp, ImageOp, MkdirAction
from lamina.graph.vertex import Freshness, Step, Vertex
from lamina.oci.config import ContainerConfig, ImageConfig
from lamina.oci.platform import Platform

_LAYERED = (Run, Copy, Workdir)
_NUMBER = r"[-+]?[0-9]{1,9}\Z"


def lower(document: Document, options: Options, bases: Mapping[BaseKey, ResolvedBase]) -> Lowered | Needs:
    """The graph and config of `options.target`. `document` has no errors. Raises LoweringError and other LaminaErrors with spans."""
    return _Walk(document, options, bases).result()


class _Walk:
    def __init__(self, document: Document, options: Options, bases: Mapping[BaseKey, ResolvedBase]) -> None:
        self.document, self.options, self.bases = document, options, bases
        self.graph = Graph()
        self.expander = Expander(document.escape)
        self.needs: set[BaseKey] = set()
        self.done: dict[int, Lowering] = {}
        self.rows: dict[int, list[LoweredStep]] = {}
        _check_directive(document)
        if not document.stages:
            raise LoweringError(f"{document.source.name} has no FROM", hint="a Dockerfile begins with FROM")
        self.contexts = Contexts(options)
        self.meta = self._meta()
        self.states = self._states()
        self.target = choose_target(document, self.states, options.target or None)

    def _meta(self) -> dict[str, str]:
        stages = self.document.stages
        named = next((s.name for s in stages if s.name and s.name == (self.options.target or "").lower()), None)
        stage = named or self.options.target or stages[-1].name or "default"
        predefined = platform_args(self.options, stage)
        return meta_scope(self.document.meta_args, self.options, predefined, self.expander)

    # FROM lines

    def _states(self) -> list[StageState]:
        states: list[StageState] = []
        for stage in self.document.stages:
            line = stage.from_
            state = StageState(stage, self.options.platform)
            with located(line.span):
                base = self.expander.word(line.base, self.meta).result
                if not base:
                    raise LoweringError(
                        f"FROM {line.base}: the base name comes out empty", hint="give the ARG a default before the first FROM"
                    )
                if line.platform:
                    text = self.expander.word(line.platform, self.meta).result
                    if not text:
                        raise LoweringError(
                            f"--platform={line.platform} comes out empty", hint="give the ARG a default before the first FROM"
                        )
                    state.platform = Platform.parse(text, self.options.platform)
            if stage.name and self.contexts.replaces(stage.name):
                state.image, state.replaced = stage.name, True
            else:
                state.base = find(states, base, len(states))
                if state.base is not None:
                    state.platform = state.base.platform
                else:
                    state.image = base
                    if base == SCRATCH:
                        state.platform = self.options.platform
            states.append(state)
        for state in states:  # after all of them: an empty name is the plainer error
            if state.image is not None:
                self._check_name(state.image, state.stage.from_.span)
        return states

    # Which stages, and which images they need

    def _triggers_and_needs(self) -> list[StageState] | None:
        """Stages that the target reaches, in order; None while configs of bases are missing (ONBUILD triggers may name further stages)."""
        reachable(self.states, self._depends)  # a circle is refused wherever it is
        for state in self.states:
            for name, span in self._foreign(state):
                self._check_name(name, span)
        found = True
        while found:
            found = False
            order = reachable((self.target,), self._depends)
            for state in order:
                found = self._add_triggers(state) or found
        for state in order:
            for name, span in self._foreign(state):
                self._base(name, span, self.options.platform)
        return None if self.needs else order

    def _add_triggers(self, state: StageState) -> bool:
        """Read the ONBUILD triggers that the base hands to this stage, once. True if there are new ones."""
        if state.triggered:
            return False
        texts: Iterable[str] = ()
        if state.base is not None:
            texts = [i.expression for i in state.base.instructions if isinstance(i, Onbuild)]
        elif state.image is not None and not self._is_plain(state.image):
            base = self._base(state.image, state.stage.from_.span, state.platform)
            if base is None:
                return False
            texts = () if state.replaced else base.config.config.on_build or ()
        state.triggered = True
        state.triggers = tuple(parse_trigger(text, state.stage.from_.span) for text in texts)
        return bool(state.triggers)

    def _depends(self, state: StageState) -> list[tuple[StageState, Span]]:
        """Each stage that this one needs, with the instruction that names it."""
        found = [(state.base, state.stage.from_.span)] if state.base is not None else []
        for instruction in state.instructions:
            for name, span in sources(instruction):
                with located(span):
                    other = self._stage_of(name, isinstance(instruction, Copy))
                if other is not None:
                    found.append((other, instruction.span))
        return found

    def _foreign(self, state: StageState) -> list[tuple[str, Span]]:
        """Names in COPY --from and from= that are no stage."""
        return [
            (name, span)
            for instruction in state.instructions
            for name, span in sources(instruction)
            if self._stage_of(name, isinstance(instruction, Copy)) is None
        ]

    def _stage_of(self, name: str, numbers: bool) -> StageState | None:
        if numbers and re.match(_NUMBER, name):
            index = int(name)
            if not 0 <= index < len(self.states):
                raise LoweringError(f"there is no stage {index}", hint=f"stages are numbered 0 to {len(self.states) - 1}")
            return self.states[index]
        return find(self.states, name.lower(), len(self.states))

    def _is_plain(self, name: str) -> bool:
        """Nothing has to be resolved for it: an empty filesystem, or a directory that is given as a named context."""
        return self.contexts.directory(name) is not None or self.contexts.image(name) == SCRATCH

    def _check_name(self, name: str, span: Span) -> None:
        if not self._is_plain(name):
            with located(span):
                base_key(self.contexts.image(name), self.options.platform)

    def _base(self, name: str, span: Span, platform: Platform) -> ResolvedBase | None:
        """The image that a name comes down to; None for one that needs none, and for one that is asked for in `needs`."""
        if self._is_plain(name):
            return None
        with located(span):
            key = base_key(self.contexts.image(name), platform)
        if key not in self.bases:
            self.needs.add(key)
            return None
        return self.bases[key]

    # The walk

    def result(self) -> Lowered | Needs:
        order = self._triggers_and_needs()
        if order is None:
            return Needs(frozenset(self.needs))
        for state in order:
            self._stage(state)
        final = self.done[self.target.stage.index]
        image = self._final(final.image)
        return Lowered(
            target=final.filesystem,
            config=image,
            steps=tuple(self._all_steps()),
            warnings=tuple(self._unused_args()),
            arg_uses=self._arg_uses(order),
            base_layers=len(image.rootfs.diff_ids),
            history_vertices=tuple(final.made),
        )

    def _final(self, image: ImageConfig) -> ImageConfig:
        """Labels of the request, and the platform: a requested one holds, whatever the base says."""
        if self.options.labels:
            labels = {**(image.config.labels or {}), **self.options.labels}
            image = msgspec.structs.replace(image, config=msgspec.structs.replace(image.config, labels=labels))
        if self.options.platform_given:
            asked = self.options.platform
            if asked.variant or (asked.os, asked.architecture) != (image.os, image.architecture):
                image = msgspec.structs.replace(image, variant=asked.variant)
            if asked.os_version or (asked.os, asked.architecture) != (image.os, image.architecture):
                image = msgspec.structs.replace(image, os_version=asked.os_version)
            image = msgspec.structs.replace(image, os=asked.os, architecture=asked.architecture)
        normal = Platform(image.os, image.architecture, image.variant).normalised()
        return msgspec.structs.replace(image, os=normal.os, architecture=normal.architecture, variant=normal.variant)

    def _stage(self, state: StageState) -> None:
        lowering = self._begin(state)
        self.done[state.stage.index] = lowering
        rows: list[LoweredStep] = []
        total = (0 if state.base is not None else int(state.image != "scratch")) + sum(isinstance(i, _LAYERED) for i in state.instructions)
        line = state.stage.from_
        index = 0 if state.base is not None or state.image == "scratch" else 1
        rows.append(
            LoweredStep(
                Step(state.stage.index, state.stage.name, index, total, line.span.line, line.text, span=line.span),
                None,
                True,
                "FROM",
            )
        )
        for number, instruction in enumerate(state.instructions):
            trigger = number < len(state.triggers)
            index += isinstance(instruction, _LAYERED)
            step = Step(
                state.stage.index,
                state.stage.name,
                index,
                total,
                line.span.line if trigger else instruction.span.line,
                one_line(
                    instruction.text.split("\n", 1)[0]
                    if isinstance(instruction, (Run, Copy)) and _heredocs(instruction)
                    else instruction.text
                ),
                trigger,
                instruction.span,
            )
            with located(instruction.span):
                vertex = self._instruction(instruction, lowering, step)
            rows.append(LoweredStep(step, vertex, True, _kind(instruction)))
        if state.replaced:
            rows.extend(_unneeded(state, instruction) for instruction in state.stage.instructions)
        self.rows[state.stage.index] = rows

    def _begin(self, state: StageState) -> Lowering:
        if state.base is not None:
            below = self.done[state.base.stage.index]
            inherited = msgspec.structs.replace(below.image, config=msgspec.structs.replace(below.config, on_build=None))
            lowering = Lowering(
                self.graph, self.options, self.expander, self.meta, inherited, below.filesystem, below.platform, below.environment.copy(),
                dict(below.arguments), list(below.made), self._find_source,
            )  # fmt: skip
        else:
            image, filesystem, platform = self._base_of(state)
            lowering = Lowering(
                self.graph, self.options, self.expander, self.meta, image, filesystem, platform, Environment({}), {}, [], self._find_source
            )  # fmt: skip
        if not state.replaced:
            lowering.begin()
        return lowering

    def _base_of(self, state: StageState) -> tuple[ImageConfig, Vertex | None, Platform]:
        """Config, filesystem and platform that a stage without a stage below begins with."""
        name, platform = state.image, state.platform
        assert name is not None
        folder = self.contexts.directory(name)
        if folder is not None:
            source = self.graph.add(ContextOp(folder), name=f"[context {folder}]")
            copied = FileOp((CopyAction(1, "/", "/", wildcard=False),))
            image = empty_image(platform)
            if state.replaced:
                image = msgspec.structs.replace(image, config=ContainerConfig())
            return image, self.graph.add(copied, (None, source), name=f"FROM context {folder}"), platform
        base = self._base(name, state.stage.from_.span, platform)
        if base is None:
            return empty_image(platform), None, platform
        image = msgspec.structs.replace(
            base.config,
            created=None,
            config=msgspec.structs.replace(base.config.config, on_build=None),
            architecture=base.config.architecture or platform.architecture,
            os=base.config.os or platform.os,
        )
        vertex = self._image(base, platform, f"FROM {base.reference}")
        if state.replaced:
            platform = Platform(image.os, image.architecture, image.variant, image.os_version)
        return image, vertex, platform

    def _image(self, base: ResolvedBase, platform: Platform, name: str) -> Vertex:
        """A digest that was written gives way to the one that was resolved: `reference@digest` names one digest."""
        reference = base.reference if "://" in base.reference else base.reference.partition("@")[0]
        return self.graph.add(ImageOp(reference, base.digest, platform), name=name)

    def _find_source(self, name: str, span: Span, mount: bool) -> Vertex | None:
        """What COPY --from or a mount's from= names: a stage, a named context, an image of the target's platform; the build context for ""."""
        if not name:
            return self.graph.add(ContextOp("context"), name="[internal] load build context")
        state = self._stage_of(name, not mount)
        if state is not None:
            if state.stage.index not in self.done:
                raise LoweringError(
                    f"stage {state.display} stands below the instruction that takes files from it",
                    spans=(span,),
                    hint="move the stage up",
                )
            return self.done[state.stage.index].filesystem
        folder = self.contexts.directory(name)
        if folder is not None:
            return self.graph.add(ContextOp(folder), name=f"[context {folder}]")
        base = self._base(name, span, self.options.platform)
        return None if base is None else self._image(base, self.options.platform, f"FROM {base.reference}")

    # Instructions

    def _instruction(self, instruction: AnyInstruction, stage: Lowering, step: Step) -> Vertex | None:
        comments = declared(instruction.comments, instruction.span)
        freshness = Freshness(max_age=comments.max_age, watch=comments.watch)
        name = step_name(step, len(self.states))
        match instruction:
            case Run():
                return lower_run(instruction, stage, step, freshness, name)
            case Copy():
                return lower_copy(instruction, stage, step, freshness, name)
            case Workdir():
                return self._workdir(instruction, stage, step, freshness, name)
            case Arg():
                self._arg(instruction, stage)
            case Env():
                self._env(instruction, stage)
            case Label():
                self._label(instruction, stage)
            case _:
                self._metadata(instruction, stage)
        return None

    def _workdir(self, line: Workdir, stage: Lowering, step: Step, freshness: Freshness, name: str) -> Vertex | None:
        written = stage.expand(line.path, line.span)
        if not written:
            path = stage.directory()
        elif written.startswith("/"):
            path = written
        else:
            path = posixpath.normpath(posixpath.join(stage.workdir(), written))
        stage.set_config(working_dir=path)
        made = stage.workdir()
        vertex: Vertex | None = None
        if made != "/":
            action = MkdirAction(made, owner=owner(stage.config.user) if stage.config.user else None)
            vertex = stage.graph.add(FileOp((action,)), (stage.filesystem,), freshness, step, name)
            stage.filesystem = vertex
        stage.commit(f"WORKDIR {path}", vertex, layer=vertex is not None)
        return vertex

    def _arg(self, line: Arg, stage: Lowering) -> None:
        shown = []
        for name, default in line.pairs:
            value = self.options.args.get(name)
            if value is None:
                value = self.meta.get(name) if default is None else stage.expand(default, line.span)
            if value is not None and name not in NOT_IN_ENVIRONMENT:
                stage.environment.set(name, value)
            stage.arguments[name] = value
            shown.append(name if value is None else f"{name}={value}")
        stage.commit("ARG " + " ".join(shown))

    def _env(self, line: Env, stage: Lowering) -> None:
        pairs = [(stage.expand(name, line.span), stage.expand(value, line.span)) for name, value in line.pairs]
        env = stage.config.env or ()
        for name, value in pairs:
            stage.environment.set(name, value)
            env = set_env(env, name, value)
        stage.set_config(env=env)
        stage.commit("ENV " + " ".join(f"{name}={value}" for name, value in pairs))

    def _label(self, line: Label, stage: Lowering) -> None:
        pairs = [(stage.expand(name, line.span), stage.expand(value, line.span)) for name, value in line.pairs]
        stage.set_config(labels={**(stage.config.labels or {}), **dict(pairs)})
        stage.commit("LABEL " + " ".join(f"{name}={value}" for name, value in pairs))

    def _metadata(self, line: AnyInstruction, stage: Lowering) -> None:
        match line:
            case Cmd():
                words = configs.command(line.command.words, line.command.shell, stage.config)
                stage.set_config(cmd=words or None, args_escaped=True)
                stage.command_set = True
                stage.commit(f"CMD {configs.quoted_list(words)}")
            case Entrypoint():
                words = configs.command(line.command.words, line.command.shell, stage.config)
                stage.set_config(entrypoint=words or None, **({} if stage.command_set else {"cmd": None}))
                stage.commit(f"ENTRYPOINT {configs.quoted_list(words)}")
            case Shell():
                stage.set_config(shell=line.words)
                stage.commit(f"SHELL [{' '.join(line.words)}]")
            case User():
                user = stage.expand(line.user, line.span)
                stage.set_config(user=user)
                stage.commit(f"USER {user}")
            case Expose():
                words_ = [word for text in line.ports for word in stage.expand_words(text, line.span)]
                ports = configs.ports(words_)
                stage.set_config(exposed_ports={**(stage.config.exposed_ports or {}), **{port: {} for port in ports}})
                stage.commit(f"EXPOSE [{' '.join(sorted(dict.fromkeys(ports)))}]")
            case Volume():
                paths = [stage.expand(path, line.span) for path in line.paths]
                if not all(paths):
                    raise LoweringError("VOLUME: a path comes out empty")
                stage.set_config(volumes={**(stage.config.volumes or {}), **{path: {} for path in paths}})
                stage.commit(f"VOLUME [{' '.join(paths)}]")
            case StopSignal():
                signal = stage.expand(line.signal, line.span)
                configs.check_signal(signal)
                stage.set_config(stop_signal=signal)
                stage.commit(f"STOPSIGNAL {signal}")
            case Healthcheck():
                check, text = configs.healthcheck(line)
                stage.set_config(healthcheck=check)
                stage.commit(text)
            case Onbuild():
                stage.set_config(on_build=(*(stage.config.on_build or ()), line.expression))
            case Maintainer():
                stage.image = msgspec.structs.replace(stage.image, author=line.name)
                stage.commit(f"MAINTAINER {line.name}")
            case _:
                raise AssertionError(line)

    # Reports

    def _all_steps(self) -> list[LoweredStep]:
        found: list[LoweredStep] = [
            LoweredStep(Step(-1, "", 0, 0, line.span.line, one_line(line.text), span=line.span), None, True, "ARG")
            for line in self.document.meta_args
        ]
        for stage in self.document.stages:
            rows = self.rows.get(stage.index)
            if rows is None:
                state = self.states[stage.index]
                rows = [_unneeded(state, instruction) for instruction in (stage.from_, *stage.instructions)]
            found.extend(rows)
        return found

    def _unused_args(self) -> list[Diagnostic]:
        known = set(PROXIES) | platform_args(self.options, "").keys() | {name for line in self.document.meta_args for name, _ in line.pairs}
        for state in self.states:
            known |= {name for i in state.instructions if isinstance(i, Arg) for name, _ in i.pairs}
        unused = [n for n in self.options.args if n not in known and not n.startswith("BUILDKIT_") and n != "SOURCE_DATE_EPOCH"]
        return [Diagnostic("warning", "dockerfile/unused-build-arg", f"--build-arg {name} is declared by no ARG") for name in unused]

    def _arg_uses(self, order: list[StageState]) -> tuple[ArgUse, ...]:
        uses: dict[str, list[bool]] = {}
        for state in order:
            for name, named in self.done[state.stage.index].uses.items():
                uses.setdefault(name, []).extend(named)
        return tuple(ArgUse(name, len(named), sum(named)) for name, named in uses.items())


def _check_directive(document: Document) -> None:
    if any(name == "check" for name, _, _ in document.directives):
        from lamina.dockerfile.lint import check_options

        for problem in check_options(document)[1]:
            raise LoweringError(problem.message, hint=problem.hint, spans=(problem.span,) if problem.span else ())


def _kind(instruction: AnyInstruction) -> str:
    return "ADD" if isinstance(instruction, Copy) and instruction.add else type(instruction).__name__.upper()


def _unneeded(state: StageState, instruction: AnyInstruction) -> LoweredStep:
    span = instruction.span
    step = Step(state.stage.index, state.stage.name, 0, 0, span.line, one_line(instruction.text), span=span)
    return LoweredStep(step, None, False, _kind(instruction))


def _heredocs(instruction: Run | Copy) -> bool:
    return bool(instruction.command.heredocs if isinstance(instruction, Run) else instruction.heredocs)
