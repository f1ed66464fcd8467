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
from lamina.dockerfile.lower.run import lower_run
from lamina.dockerfile.lower.scope import NOT_IN_ENVIRONMENT, PROXIES, Environment, meta_scope, platform_args
from lamina.dockerfile.lower.stage import Lowering, empty_image, one_line, owner, set_env, step_name
from lamina.dockerfile.lower.stages import StageState, choose_target, find, reachable, sources
from lamina.dockerfile.lower.values import ArgUse, BaseKey, Lowered, LoweredStep, LoweringError, Needs, Options, ResolvedBase
from lamina.dockerfile.parser import parse_trigger
from lamina.dockerfile.words import Expander
from lamina.graph.ops import ContextOp, CopyAction, FileOp, ImageOp, MkdirAction
from lamina.graph.vertex import Freshness, Step, Vertex
from lamina.oci.config import ImageConfig
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference

_LAYERED = (Run, Copy, Workdir)


def lower(document: Document, options: Options, bases: Mapping[BaseKey, ResolvedBase]) -> Lowered | Needs:
    """The graph and config of `options.target`. `document` has no errors. Raises LoweringError and other LaminaErrors with spans."""
    return _Walk(document, options, bases).result()


class _Walk:
    def __init__(self, document: Document, options: Options, bases: Mapping[BaseKey, ResolvedBase]) -> None:
        self.document, self.options, self.bases = document, options, bases
        self.graph = Graph()
        self.expander = Expander(document.escape)
        self.warnings: list[Diagnostic] = []
        self.needs: set[BaseKey] = set()
        self.done: dict[int, Lowering] = {}
        self.steps: list[LoweredStep] = []
        self.rows: dict[int, list[LoweredStep]] = {}
        _check_directive(document)
        if not document.stages:
            raise LoweringError(f"{document.source.name} has no FROM", hint="a Dockerfile begins with FROM")
        self.target_name = options.target or ""
        self.meta = self._meta()
        self.states = self._states()
        self.target = choose_target(document, self.states, options.target)

    def _meta(self) -> dict[str, str]:
        stages = self.document.stages
        named = next((s.name for s in stages if s.name and s.name == (self.options.target or "").lower()), None)
        stage = named or (stages[-1].name if self.options.target is None else self.options.target) or "default"
        predefined = platform_args(self.options, stage)
        return meta_scope(self.document.meta_args, self.options, predefined, self.expander)

    # FROM lines

    def _states(self) -> list[StageState]:
        states: list[StageState] = []
        for stage in self.document.stages:
            line = stage.from_
            state = StageState(stage, platform=self.options.platform)
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
            earlier = find(states, base, len(states))
            if stage.name and stage.name in self.options.contexts | self.options.images.keys():
                base, earlier = stage.name, None  # a named context replaces the stage
            if earlier is not None:
                state.base = earlier
                state.triggers = _parsed(state, [i.expression for i in earlier.stage.instructions if isinstance(i, Onbuild)])
                if not line.platform:
                    state.platform = earlier.platform
            else:
                state.image = base
            states.append(state)
        for state in states:  # after all of them: an empty name is the plainer error
            if state.image is not None and state.image not in ("scratch", *self.options.contexts, *self.options.images):
                with located(state.stage.from_.span):
                    Reference.parse(state.image)
        return states

    # Which stages, and which images they need

    def _triggers_and_needs(self) -> list[StageState] | None:
        """Stages that the target reaches, in order; None while configs of bases are missing (ONBUILD triggers may name further stages)."""
        for state in self.states:
            reachable(state, self._depends)  # a circle is refused wherever it is
        order = reachable(self.target, self._depends)
        for state in order:
            base = self._resolved(state)
            if base is not None and not state.triggers and base.config.config.on_build:
                state.triggers = _parsed(state, base.config.config.on_build)
        order = reachable(self.target, self._depends)
        for state in order:
            self._resolved(state)
            for instruction in (*state.triggers, *state.stage.instructions):
                for name, span in sources(instruction):
                    if self._stage_of(name, isinstance(instruction, Copy)) is None and name not in self.options.contexts:
                        self._need(name, span, _platform(state))
        return None if self.needs else order

    def _depends(self, state: StageState) -> list[tuple[StageState, Span]]:
        """Each stage that this one needs, with the instruction that names it."""
        found = [(state.base, state.stage.from_.span)] if state.base is not None else []
        for instruction in (*state.triggers, *state.stage.instructions):
            for name, span in sources(instruction):
                with located(span):
                    other = self._stage_of(name, isinstance(instruction, Copy))
                if other is not None:
                    found.append((other, instruction.span))
        return found

    def _stage_of(self, name: str, numbers: bool) -> StageState | None:
        if name in self.options.contexts or name in self.options.images:
            return None
        if numbers and re.fullmatch(r"[-+]?[0-9]+", name):
            index = int(name)
            if not 0 <= index < len(self.states):
                raise LoweringError(f"there is no stage {index}", hint=f"stages are numbered 0 to {len(self.states) - 1}")
            return self.states[index]
        return find(self.states, name.lower(), len(self.states))

    def _resolved(self, state: StageState) -> ResolvedBase | None:
        if state.image is None or state.image == "scratch" or state.image in self.options.contexts:
            return None
        return self._need(state.image, state.stage.from_.span, _platform(state))

    def _need(self, name: str, span: Span, platform: Platform) -> ResolvedBase | None:
        with located(span):
            text = self.options.images.get(name, name)
            key = (str(Reference.parse(text).with_default_tag()), platform)
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
        final = self.done[id(self.target)]
        image = final.image
        if self.options.labels:
            labels = {**(image.config.labels or {}), **self.options.labels}
            image = msgspec.structs.replace(image, config=msgspec.structs.replace(image.config, labels=labels))
        return Lowered(
            target=final.filesystem,
            config=image,
            steps=tuple(self._all_steps()),
            warnings=tuple(self._unused_args()),
            arg_uses=self._arg_uses(order),
            base_layers=len(image.rootfs.diff_ids),
            history_vertices=tuple(final.made),
        )

    def _stage(self, state: StageState) -> None:
        lowering = self._begin(state)
        self.done[id(state)] = lowering
        rows: list[LoweredStep] = []
        total = (0 if state.base is not None else int(state.image != "scratch")) + sum(
            isinstance(i, _LAYERED) for i in (*state.triggers, *state.stage.instructions)
        )
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
        for number, instruction in enumerate((*state.triggers, *state.stage.instructions)):
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
            rows.append(LoweredStep(step, vertex, True, type(instruction).__name__.upper()))
        self.rows[state.stage.index] = rows

    def _begin(self, state: StageState) -> Lowering:
        platform = _platform(state)
        if state.base is not None:
            below = self.done[id(state.base)]
            inherited = msgspec.structs.replace(below.image, config=msgspec.structs.replace(below.config, on_build=None))
            lowering = Lowering(
                self.graph, self.options, self.expander, self.meta, inherited, below.filesystem, platform, below.environment.copy(),
                dict(below.arguments), list(below.made), self._find_source,
            )  # fmt: skip
        else:
            image, filesystem = self._base_of(state, platform)
            lowering = Lowering(
                self.graph,
                self.options,
                self.expander,
                self.meta,
                image,
                filesystem,
                platform,
                Environment({}),
                {},
                [],
                self._find_source,
            )
        lowering.begin()
        return lowering

    def _base_of(self, state: StageState, platform: Platform) -> tuple[ImageConfig, Vertex | None]:
        if state.image == "scratch":
            return empty_image(platform), None
        assert state.image is not None
        if state.image in self.options.contexts:
            source = self.graph.add(ContextOp(state.image), name=f"[context {state.image}]")
            copied = FileOp((CopyAction(1, "/", "/", wildcard=False),))
            return empty_image(platform), self.graph.add(copied, (None, source), name=f"FROM context {state.image}")
        base = self._resolved(state)
        assert base is not None
        config = msgspec.structs.replace(base.config.config, on_build=None)
        if not any(line.startswith("PATH=") for line in config.env or ()) and not config.env:
            config = msgspec.structs.replace(config, env=empty_image(platform).config.env)
        image = msgspec.structs.replace(
            base.config,
            config=config,
            architecture=base.config.architecture or platform.architecture,
            os=base.config.os or platform.os,
        )
        return image, self._image(base, platform, f"FROM {base.reference}")

    def _image(self, base: ResolvedBase, platform: Platform, name: str) -> Vertex:
        """A digest that was written gives way to the one that was resolved: `reference@digest` names one digest."""
        return self.graph.add(ImageOp(base.reference.partition("@")[0], base.digest, platform), name=name)

    def _find_source(self, name: str, span: Span, mount: bool, platform: Platform) -> Vertex | None:
        """What COPY --from or a mount's from= names: a stage, a named context, an image; the build context for ""."""
        if not name:
            return self.graph.add(ContextOp("context"), name="[internal] load build context")
        if name in self.options.contexts:
            return self.graph.add(ContextOp(name), name=f"[context {name}]")
        state = self._stage_of(name, not mount)
        if state is not None:
            return self.done[id(state)].filesystem
        base = self._need(name, span, platform)
        assert base is not None
        return self._image(base, platform, f"FROM {base.reference}")

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
            expanded = None if default is None else stage.expand(default, line.span)
            given = self.options.args.get(name)
            text, value = name, expanded
            if given is not None:
                value = given
            if expanded is not None:
                text = f"{name}={expanded}"
            elif given is None and name in self.meta:
                value = self.meta[name]
                text = f"{name}={value}"
            if value is not None and name not in NOT_IN_ENVIRONMENT:
                stage.environment.set(name, value)
            if name not in PROXIES or value is not None:
                stage.arguments[name] = value
            shown.append(text)
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
                rows = [
                    LoweredStep(
                        Step(stage.index, stage.name, 0, 0, i.span.line, one_line(i.text), span=i.span),
                        None,
                        False,
                        type(i).__name__.upper(),
                    )
                    for i in (stage.from_, *stage.instructions)
                ]
            found.extend(rows)
        return found

    def _unused_args(self) -> list[Diagnostic]:
        known = set(PROXIES) | {name for line in self.document.meta_args for name, _ in line.pairs}
        for state in self.states:
            known |= {name for i in (*state.triggers, *state.stage.instructions) if isinstance(i, Arg) for name, _ in i.pairs}
        unused = [n for n in self.options.args if n not in known and not n.startswith("BUILDKIT_") and n != "SOURCE_DATE_EPOCH"]
        return [Diagnostic("warning", "dockerfile/unused-build-arg", f"--build-arg {name} is declared by no ARG") for name in unused]

    def _arg_uses(self, order: list[StageState]) -> tuple[ArgUse, ...]:
        uses: dict[str, list[bool]] = {}
        for state in order:
            for name, named in self.done[id(state)].uses.items():
                uses.setdefault(name, []).extend(named)
        return tuple(ArgUse(name, len(named), sum(named)) for name, named in uses.items())


def _check_directive(document: Document) -> None:
    if any(name == "check" for name, _, _ in document.directives):
        from lamina.dockerfile.lint import check_options

        for problem in check_options(document)[1]:
            raise LoweringError(problem.message, hint=problem.hint, spans=(problem.span,) if problem.span else ())


def _parsed(state: StageState, triggers: Iterable[str]) -> tuple[AnyInstruction, ...]:
    return tuple(parse_trigger(text, state.stage.from_.span) for text in triggers)


def _platform(state: StageState) -> Platform:
    assert isinstance(state.platform, Platform)
    return state.platform


def _heredocs(instruction: Run | Copy) -> bool:
    return bool(instruction.command.heredocs if isinstance(instruction, Run) else instruction.heredocs)
