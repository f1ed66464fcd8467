"""One step from setup to teardown."""

from __future__ import annotations

import os
import posixpath
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.caches.keeping import DOCKER, Held, Told, identify
from lamina.pipelines.docker.api import Engine
from lamina.pipelines.docker.commands import serve
from lamina.pipelines.docker.desk import Desk
from lamina.pipelines.docker.shim import shim
from lamina.pipelines.model import Cache
from lamina.pipelines.run import shell
from lamina.pipelines.run.around import Around, DockerService, DueStep, RunError, StepResult
from lamina.pipelines.run.hostimage import host_mounts
from lamina.pipelines.run.images import Fetched
from lamina.pipelines.run.log import StepLog
from lamina.pipelines.run.outputs import read_outputs
from lamina.pipelines.run.passwd import home_of
from lamina.pipelines.run.pipes import Pipes
from lamina.pipelines.run.record import summary_of
from lamina.pipelines.run.services import Services
from lamina.pipelines.run.testreports import Tests, read_tests
from lamina.pipelines.run.testreports import told as test_lines
from lamina.pipelines.show import visible
from lamina.pipelines.variables import Variables, layer, own_of_step
from lamina.sandbox.protocols import Bind, Overlay, SandboxReport, SandboxSpec, SubMount
from lamina.solver.cancel import CancelToken
from lamina.store.removal import remove

_Kept = tuple[Held, Path, Cache, Told]
MINUTE = 60.0  # seconds
_PIDS = 16384  # processes and threads of one container: more than builds need, less than what a machine can bear
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DOCKER_SOCKET = "/var/run/docker.sock"
_DOCKER = "/usr/bin/docker"
_DOCKER_PLACES = ("usr/bin/docker", "usr/local/bin/docker", "bin/docker")


class StepRun:
    """Use `run` once."""

    def __init__(self, around: Around, due: DueStep, cancel: CancelToken) -> None:
        planned = due.planned
        self._around = around
        self._planned = planned
        self._before = due.before
        self._cancel = cancel
        own = own_of_step(step_uuid="{" + str(uuid.uuid4()) + "}", run_number=due.attempt, parallel=planned.parallel,
                          environment=planned.environment, variables_path=shell.VARIABLES)  # fmt: skip
        self._variables: Variables = layer((*planned.variables.winners, *own, *due.given), planned.environment)
        self._scratch = around.scratch / f"step{planned.number}"
        self._desk: Desk | None = None
        self._service: DockerService | None = None
        self._caches: list[Told] = []
        self._image = ""
        self._filled = ""  # why it was ended, when it filled the disk
        self._tests: Tests | None = None
        self.log = StepLog(
            around.terminal, due.prefix, around.folder / "logs" / f"{planned.number}.log", self._variables.secrets(), planned.number
        )

    def run(self) -> StepResult:
        """Never raises for what the step does."""
        planned = self._planned
        started = self._around.now()
        begun = time.monotonic()
        status, code, reason = "failed", 1, ""
        outputs: tuple[tuple[str, str], ...] = ()
        name = visible(self.log.mask(planned.name))
        self._around.terminal.begun(planned.number, f"{planned.number}. {name}", parallel=planned.parallel is not None)
        try:
            status, code, reason, outputs = self._run()
        except LaminaError as error:
            reason = visible(self.log.mask(error.message))
            self.log.say(f"error: {reason}" + (f" ({self.log.mask(error.hint)})" if error.hint else ""))
            code = error.exit_code
            if self._cancel.cancelled():
                status = "stopped"
        except OSError as error:
            reason = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
            self.log.say(f"error: {reason}")
        finally:
            self._clean()
            self.log.close()
        caches = tuple(told.use() for told in self._caches)
        seconds = time.monotonic() - begun
        result = StepResult(planned.number, name, status, code, seconds, started, reason, outputs, self._image, caches, self._tests)
        self._around.terminal.ended(planned.number, summary_of(result), bad=result.bad)
        return result

    def _clean(self) -> None:
        if self._scratch.exists():
            remove(self._scratch)

    def _run(self) -> tuple[str, int, str, tuple[tuple[str, str], ...]]:
        planned, around, say = self._planned, self._around, self.log.say
        self._scratch.mkdir(parents=True)
        with ExitStack() as stack:
            say("Build setup")
            image = around.images.of(planned.image)
            self._image = visible(self.log.mask(image.name))
            say(f"Image {image.name}: {image.said}")
            services = Services(around, planned, self._scratch, self.log)
            stack.callback(services.end)
            services.begin(self._variables.secrets())
            clone = self._scratch / "build"
            say(around.checkouts.put(planned.clone, clone))
            for line in around.artifacts.download(planned.step.artifacts, clone, self._before):
                say(line)
            tools = self._tools()
            stack.callback(self._join_desk)  # after the engine has ended, and with it all its answers
            docker = self._docker(stack)
            docker_cli = self._docker_cli(image, docker, clone, tools)
            held, cache_binds = self._restore(image, clone, docker)
            self._show_variables()
            pipes = Pipes(around, planned, self._variables, self.log, clone, tools / "pipes", services, self._cancel)
            stack.callback(pipes.end)
            pipes.begin()
            binds = [*cache_binds, *docker_cli]
            report = self._script(image, clone, tools, binds, services, docker)
            if self._desk is not None:
                self._desk.end()
            self.log.flush()
            pipes.end()
            return self._teardown(report, clone, tools, held)

    def _tools(self) -> Path:
        """The folder that the step sees as TOOLS: its scripts, the file for output variables, the mailbox of pipes."""
        step = self._planned.step
        tools = self._scratch / "tools"
        for name in ("", "variables", "pipes", "docker"):
            (tools / name).mkdir(mode=0o777)
            (tools / name).chmod(0o777)
        after = bool(step.after_script)
        pipes = sum(1 for item in step.script if not hasattr(item, "text"))
        for name, text in (
            ("script.sh", shell.script(step.script)),
            ("after.sh", shell.script(step.after_script, pipes) if after else ""),
            ("step.sh", shell.wrapper(after=after)),
        ):
            (tools / name).write_bytes(text.encode(errors="surrogateescape"))
            (tools / name).chmod(0o755)
        if step.output_variables:
            (tools / "variables" / "output").touch(mode=0o666)
            (tools / "variables" / "output").chmod(0o666)
        return tools

    def _docker(self, stack: ExitStack) -> Path | None:
        """The socket of the step's own engine."""
        if not self._planned.docker:
            return None
        if self._around.docker is None:
            raise RunError("the docker service cannot be started from here", hint="use `lamina pipeline run`")
        root = self._scratch / "docker-store" if self._around.docker_apart else None
        number = self._planned.number
        wanted = next(service for service in self._planned.services if service.docker)
        log = self._around.folder / "logs" / f"{number}-docker.log"
        service = self._around.docker(f"step{number}", root, log, self._scratch / "build", wanted.memory)
        stack.callback(service.close)
        self._service = service
        service.socket.chmod(0o666)
        where = "a store of its own" if root is not None else "this machine's store, shared by all steps"
        self.log.say(f'Service "{wanted.name}": lamina\'s engine over {where}, {wanted.memory} MB')
        return service.socket

    def _docker_cli(self, image: Fetched, docker: Path | None, clone: Path, tools: Path) -> list[Bind]:
        """What the step calls as `docker`: the machine's own program, or lamina's where image and machine have none."""
        if docker is None:
            return []
        if self._around.docker_cli is not None:
            return [] if image.host else [Bind(self._around.docker_cli, _DOCKER)]
        roots = [Path("/")] if image.host else image.lowers
        if any(os.path.lexists(root / place) for root in roots for place in _DOCKER_PLACES):
            return []
        engine = Engine(docker)
        logins: dict[str, dict[str, str]] = {}
        self._desk = Desk(tools / "docker", self._around.pool, lambda call: serve(engine, clone, logins, call))
        (tools / "docker.sh").write_bytes(shim(f"{shell.TOOLS}/docker"))
        (tools / "docker.sh").chmod(0o755)
        self.log.say("docker: lamina's own command; docker's own CLI is taken where machine or image have it")
        return [Bind(tools / "docker.sh", _DOCKER)]

    def _join_desk(self) -> None:
        if self._desk is not None:
            self._desk.end()
            self._desk.join()

    # Caches

    def _restore(self, image: Fetched, clone: Path, docker: Path | None) -> tuple[list[_Kept], list[Bind]]:
        """Folders inside the clone directory are filled in place; others lie beside it and are shown where they belong."""
        held: list[_Kept] = []
        binds: list[Bind] = []
        for number, cache in enumerate(self._planned.caches):
            say = Told(cache.name, self.log.say)
            self._caches.append(say)
            if cache.name == DOCKER and not cache.path:
                kept = self._around.docker_cache.restore(docker, self._scratch, say)
                if kept is not None:
                    held.append((kept, self._scratch, cache, say))
                continue
            target = self._cache_target(cache, image)
            if target is None:
                say(f'Cache "{cache.name}": its path {cache.path} leads out of the clone directory; it is left out')
                continue
            inside = posixpath.relpath(target, shell.CLONE) if target.startswith(shell.CLONE + "/") else None
            folder = clone / inside if inside is not None else self._scratch / f"cache{number}"
            if not real_folder(clone if inside is not None else self._scratch, folder):
                say(f'Cache "{cache.name}": {cache.path} is reached through a link; it is left out')
                continue
            if inside is None:
                binds.append(Bind(folder, target, readonly=False))
            kept = self._around.caches.restore(identify(cache, clone), folder, visible(self._planned.name), say)
            held.append((kept, folder, cache, say))
        return held, binds

    def _cache_target(self, cache: Cache, image: Fetched) -> str | None:
        home = home_of(image, self._user(image))
        path = cache.path
        for begin in ("$HOME", "${HOME}", "~"):
            if path == begin or path.startswith(begin + "/"):
                return posixpath.normpath(home + path[len(begin) :])
        if path.startswith("/"):
            return posixpath.normpath(path)
        target = posixpath.normpath(f"{shell.CLONE}/{path}")
        return target if target.startswith(shell.CLONE + "/") else None

    # The script

    def _user(self, image: Fetched) -> str:
        asked = self._planned.image.run_as_user
        return image.config.config.user if asked is None else str(asked)

    def _show_variables(self) -> None:
        outputs = [one for one in self._variables.winners if one.level == "output"]
        for one in outputs:
            self.log.say(f"Output variable {one.name}={visible(one.value)}")

    def _environment(self, image: Fetched, docker: Path | None, services: Services) -> dict[str, str]:
        found = dict(one.partition("=")[::2] for one in image.config.config.env or ())
        found.setdefault("PATH", _PATH)
        found.setdefault("HOME", home_of(image, self._user(image)))
        found |= services.environment or self._around.proxies
        if docker is not None:
            found |= {"DOCKER_HOST": f"unix://{_DOCKER_SOCKET}", "DOCKER_BUILDKIT": "0"}
        return found | self._variables.values()

    def _script(
        self, image: Fetched, clone: Path, tools: Path, cache_binds: Sequence[Bind], services: Services, docker: Path | None
    ) -> SandboxReport:
        upper, work = self._scratch / "layer" / "diff", self._scratch / "work"  # the form of a layer: rungs without mounts write one
        upper.mkdir(parents=True)
        upper.chmod(0o755)
        work.mkdir()
        binds = [Bind(clone, shell.CLONE, readonly=False), Bind(tools, shell.TOOLS, readonly=False), *cache_binds]
        submounts: tuple[SubMount, ...] = ()
        if image.host:
            submounts = host_mounts(upper, self._scratch / "host", self._around.sandbox().name)
        if docker is not None:
            binds.append(Bind(docker, _DOCKER_SOCKET, readonly=False))
        environment = self._environment(image, docker, services)
        spec = SandboxSpec(
            root=Overlay(image.lowers, upper, work),
            argv=("/bin/sh", shell.WRAPPER),
            env=tuple(f"{name}={value}" for name, value in environment.items()),
            cwd=shell.CLONE,
            user=self._user(image),
            hostname=f"step{self._planned.number}",
            network="none" if services.network_of else "host",
            network_of=services.network_of,
            binds=tuple(binds),
            submounts=submounts,
            shm_size=64 << 20,
            memory=max(0, self._planned.memory.build) << 20,
            pids=_PIDS,
            timeout=self._planned.minutes * MINUTE,
        )
        self.log.say("Build")
        token = self._cancel.child()

        def full(told: str) -> None:
            self._filled = told
            token.cancel()

        try:
            with self._around.room.watch(self._scratch, full):
                return self._around.sandbox().run(spec, self.log.output, token)
        finally:
            token.close()

    # Afterwards

    def _teardown(
        self, report: SandboxReport, clone: Path, tools: Path, held: Sequence[_Kept]
    ) -> tuple[str, int, str, tuple[tuple[str, str], ...]]:
        say = self.log.say
        say("Build teardown")
        code, reason = report.exit_code, ""
        if self._cancel.cancelled():
            return "stopped", code or 130, "stopped", ()
        if self._filled:
            code, reason = code or 137, self._filled
        elif report.oom:
            reason = "Container 'Build' exceeded memory limit."
        elif report.timed_out:
            code = code or 143
            reason = f"exceeded the maximum time of {self._planned.minutes} minutes"
        elif code:
            reason = f"exit code {code}"
        if self._service is not None and self._service.starved():
            starved = "Service 'docker' exceeded memory limit."
            reason = f"{reason}; {starved}" if reason else ""
            if not reason:
                say(starved)
        passed = not code and not reason
        outputs: tuple[tuple[str, str], ...] = ()
        if passed:
            outputs, problem = read_outputs(tools / "variables" / "output", self._planned.step.output_variables)
            if problem:
                passed, code, reason = False, 1, problem
        self._tests = read_tests(clone, self._planned.step.artifacts, self.log.mask)
        for line in test_lines(self._tests) if self._tests is not None else ():
            say(line)
        for line in self._around.artifacts.capture(
            self._planned.step.artifacts, clone, self._planned.number, visible(self._planned.name), passed=passed
        ):
            say(line)
        for kept, folder, cache, told in held:
            if not passed and not self._around.save_on_failure:
                told(f'Cache "{cache.name}": not saved because the step failed')
            elif folder != self._scratch and not real_folder(clone if folder.is_relative_to(clone) else self._scratch, folder):
                told(f'Cache "{cache.name}": not saved: {cache.path} is a link now')
            else:
                if not passed:
                    say(f'Cache "{cache.name}": the step failed; it is saved because of --save-on-failure')
                try:
                    kept.save(folder, told)
                except OSError as error:
                    told(f'Cache "{cache.name}": not saved: {error.strerror}')
        if reason:
            say(reason)
        return ("passed" if passed else "failed"), code if not passed else 0, reason, outputs


def real_folder(root: Path, folder: Path) -> bool:
    """Make `folder` below `root` where it is missing; False when a name on the way is a link or a file."""
    here = root
    for part in folder.relative_to(root).parts:
        here = here / part
        if os.path.islink(here) or (here.exists() and not here.is_dir()):
            return False
        here.mkdir(exist_ok=True)
    return True
