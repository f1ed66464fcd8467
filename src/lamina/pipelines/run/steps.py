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
from lamina.pipelines.caches.keeping import DOCKER, Held, identify
from lamina.pipelines.model import Cache
from lamina.pipelines.plan import PlannedStep
from lamina.pipelines.run import shell
from lamina.pipelines.run.around import Around, RunError, StepResult
from lamina.pipelines.run.hostimage import host_mounts
from lamina.pipelines.run.images import Fetched
from lamina.pipelines.run.log import StepLog
from lamina.pipelines.run.outputs import read_outputs
from lamina.pipelines.run.passwd import home_of
from lamina.pipelines.run.pipes import Pipes
from lamina.pipelines.run.services import Services
from lamina.pipelines.show import visible
from lamina.pipelines.variables import Variable, Variables, layer, own_of_step
from lamina.sandbox.protocols import Bind, Overlay, SandboxReport, SandboxSpec, SubMount
from lamina.solver.cancel import CancelToken
from lamina.store.removal import remove

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DOCKER_SOCKET = "/var/run/docker.sock"


class StepRun:
    """Use `run` once. `before`: numbers of the steps whose artifacts this one may see, in order; `given`: output variables of those."""

    def __init__(
        self,
        around: Around,
        planned: PlannedStep,
        given: Sequence[Variable],
        before: Sequence[int],
        prefix: str,
        cancel: CancelToken,
        attempt: int = 1,
    ) -> None:
        self._around = around
        self._planned = planned
        self._before = before
        self._cancel = cancel
        own = own_of_step(step_uuid="{" + str(uuid.uuid4()) + "}", run_number=attempt, parallel=planned.parallel,
                          environment=planned.environment, variables_path=shell.VARIABLES)  # fmt: skip
        self._variables: Variables = layer((*planned.variables.winners, *own, *given), planned.environment)
        self._scratch = around.scratch / f"step{planned.number}"
        self.log = StepLog(around.terminal, prefix, around.folder / "logs" / f"{planned.number}.log", self._variables.secrets())

    def run(self) -> StepResult:
        """Never raises for what the step does."""
        planned = self._planned
        started = self._around.now()
        begun = time.monotonic()
        status, code, reason = "failed", 1, ""
        outputs: tuple[tuple[str, str], ...] = ()
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
        name = visible(self.log.mask(planned.name))
        return StepResult(planned.number, name, status, code, time.monotonic() - begun, started, reason, outputs)

    def _clean(self) -> None:
        if self._scratch.exists():
            remove(self._scratch)

    def _run(self) -> tuple[str, int, str, tuple[tuple[str, str], ...]]:
        planned, around, say = self._planned, self._around, self.log.say
        self._scratch.mkdir(parents=True)
        with ExitStack() as stack:
            say("Build setup")
            image = around.images.get(planned.image.name)
            say(f"Image {image.name}: {image.said}")
            services = Services(around, planned, self._scratch, self.log)
            stack.callback(services.end)
            services.begin(self._variables.secrets())
            clone = self._scratch / "build"
            say(around.checkouts.put(planned.clone, clone))
            for line in around.artifacts.download(planned.step.artifacts, clone, self._before):
                say(line)
            tools = self._tools()
            docker = self._docker(stack)
            held, cache_binds = self._restore(image, clone, docker)
            self._show_variables()
            pipes = Pipes(around, planned, self._variables, self.log, clone, tools / "pipes", services, self._cancel)
            stack.callback(pipes.end)
            pipes.begin()
            report = self._script(image, clone, tools, cache_binds, services, docker)
            self.log.flush()
            pipes.end()
            return self._teardown(report, clone, tools, held)

    def _tools(self) -> Path:
        """The folder that the step sees as TOOLS: its scripts, the file for output variables, the mailbox of pipes."""
        step = self._planned.step
        tools = self._scratch / "tools"
        for name in ("", "variables", "pipes"):
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
        service = self._around.docker(f"step{number}", root, self._around.folder / "logs" / f"{number}-docker.log", self._scratch / "build")
        stack.callback(service.close)
        service.socket.chmod(0o666)
        where = "a store of its own" if root is not None else "this machine's store, shared by all steps"
        self.log.say(f'Service "docker": lamina\'s engine over {where}')
        return service.socket

    # Caches

    def _restore(self, image: Fetched, clone: Path, docker: Path | None) -> tuple[list[tuple[Held, Path, Cache]], list[Bind]]:
        """Folders inside the clone directory are filled in place; others lie beside it and are shown where they belong."""
        held: list[tuple[Held, Path, Cache]] = []
        binds: list[Bind] = []
        for number, cache in enumerate(self._planned.caches):
            if cache.name == DOCKER and not cache.path:
                kept = self._around.docker_cache.restore(docker, self._scratch, self.log.say)
                if kept is not None:
                    held.append((kept, self._scratch, cache))
                continue
            target = self._cache_target(cache, image)
            if target is None:
                self.log.say(f'Cache "{cache.name}": its path {cache.path} leads out of the clone directory; it is left out')
                continue
            inside = posixpath.relpath(target, shell.CLONE) if target.startswith(shell.CLONE + "/") else None
            folder = clone / inside if inside is not None else self._scratch / f"cache{number}"
            if not real_folder(clone if inside is not None else self._scratch, folder):
                self.log.say(f'Cache "{cache.name}": {cache.path} is reached through a link; it is left out')
                continue
            if inside is None:
                binds.append(Bind(folder, target, readonly=False))
            kept = self._around.caches.restore(identify(cache, clone), folder, visible(self._planned.name), self.log.say)
            held.append((kept, folder, cache))
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
            if self._around.docker_cli is not None and not image.host:
                binds.append(Bind(self._around.docker_cli, "/usr/bin/docker"))
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
            timeout=self._planned.minutes * 60.0,
        )
        self.log.say("Build")
        return self._around.sandbox().run(spec, self.log.output, self._cancel)

    # Afterwards

    def _teardown(
        self, report: SandboxReport, clone: Path, tools: Path, held: Sequence[tuple[Held, Path, Cache]]
    ) -> tuple[str, int, str, tuple[tuple[str, str], ...]]:
        say = self.log.say
        say("Build teardown")
        code, reason = report.exit_code, ""
        if self._cancel.cancelled():
            return "stopped", code or 130, "stopped", ()
        if report.oom:
            reason = "Container 'Build' exceeded memory limit."
        elif report.timed_out:
            code = code or 143
            reason = f"exceeded the maximum time of {self._planned.minutes} minutes"
        elif code:
            reason = f"exit code {code}"
        passed = not code and not reason
        outputs: tuple[tuple[str, str], ...] = ()
        if passed:
            outputs, problem = read_outputs(tools / "variables" / "output", self._planned.step.output_variables)
            if problem:
                passed, code, reason = False, 1, problem
        for line in self._around.artifacts.capture(
            self._planned.step.artifacts, clone, self._planned.number, visible(self._planned.name), passed=passed
        ):
            say(line)
        for kept, folder, cache in held:
            if not passed:
                say(f'Cache "{cache.name}": not saved because the step failed')
            elif folder != self._scratch and not real_folder(clone if folder.is_relative_to(clone) else self._scratch, folder):
                say(f'Cache "{cache.name}": not saved: {cache.path} is a link now')
            else:
                kept.save(folder, say)
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
