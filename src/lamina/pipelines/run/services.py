"""Services of a step: containers that share its network, from their images with entrypoint and command, killed when the step is over."""

from __future__ import annotations

from concurrent.futures import Future, wait
from pathlib import Path

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.plan import PlannedService, PlannedStep
from lamina.pipelines.run.around import Around, RunError
from lamina.pipelines.run.log import StepLog, Terminal
from lamina.pipelines.run.outward import Outward
from lamina.sandbox.networks import SharedNetwork
from lamina.sandbox.protocols import Overlay, SandboxReport, SandboxSpec
from lamina.solver.cancel import CancelToken


class Services:
    """Those of one step that are not docker. `begin`, then `end`."""

    def __init__(self, around: Around, planned: PlannedStep, scratch: Path, log: StepLog) -> None:
        self._around = around
        self._planned = planned
        self._scratch = scratch
        self._log = log
        self._cancel = CancelToken()
        self._runs: list[Future[SandboxReport | None]] = []
        self._network: SharedNetwork | None = None
        self._outward: Outward | None = None
        self._logs: list[StepLog] = []

    @property
    def network_of(self) -> str:
        """For the build container; empty: the machine's network."""
        return self._network.path if self._network is not None else ""

    @property
    def environment(self) -> dict[str, str]:
        """What programs of the step need to reach out of that network."""
        return self._outward.environment() if self._outward is not None else {}

    def begin(self, secrets: tuple[tuple[str, str], ...]) -> None:
        """Fetch the images, then start all. Nobody waits until a service is ready: Bitbucket does not either."""
        services = [service for service in self._planned.services if not service.docker]
        if not services:
            return
        name = self._around.sandbox().name
        if name not in ("root", "userns", "userns-single"):
            raise RunError(f"services need namespaces, which the rung {name} does not have", hint="lamina doctor tells what would help")
        if self._around.own_network:
            self._network = SharedNetwork()
            self._outward = Outward(self._network, self._around.proxies)
        for service in services:
            self._start(service, secrets)

    def _start(self, service: PlannedService, secrets: tuple[tuple[str, str], ...]) -> None:
        assert service.image is not None  # the file was refused otherwise
        image = self._around.images.of(service.image)
        config = image.config.config
        argv = (*(config.entrypoint or ()), *(config.cmd or ()))
        if image.host or not argv:
            raise RunError(f"the service {service.name} has no command: its image {image.name} has neither ENTRYPOINT nor CMD")
        folder = self._scratch / f"service-{service.name}"
        upper, work = folder / "upper", folder / "work"
        for one in (upper, work):
            one.mkdir(parents=True)
        environment = dict(one.partition("=")[::2] for one in config.env or ()) | self.environment | dict(service.variables)
        spec = SandboxSpec(
            root=Overlay(image.lowers, upper, work),
            argv=argv,
            env=tuple(f"{name}={value}" for name, value in environment.items()),
            cwd=config.working_dir or "/",
            user=config.user if service.image.run_as_user is None else str(service.image.run_as_user),
            hostname="localhost",
            network="none" if self._network is not None else "host",
            network_of=self.network_of,
            memory=service.memory << 20,
        )
        file = self._around.folder / "logs" / f"{self._planned.number}-{service.name}.log"
        log = StepLog(Terminal(lambda line: None), "", file, secrets)
        self._logs.append(log)
        self._runs.append(self._around.pool.submit(self._run, service.name, spec, log))
        self._log.say(f'Service "{service.name}": {image.name} ({image.said}), {service.memory} MB, log {file.name}')

    def _run(self, name: str, spec: SandboxSpec, log: StepLog) -> SandboxReport | None:
        try:
            report = self._around.sandbox().run(spec, log.output, self._cancel)
        except LaminaError as error:
            self._log.say(f'Service "{name}" did not start: {error.message}')
            return None
        finally:
            log.flush()
        if not self._cancel.cancelled():
            why = "exceeded memory limit." if report.oom else f"ended with exit code {report.exit_code} while the step ran"
            self._log.say(f"Service '{name}' {why}")
        return report

    def end(self) -> None:
        self._cancel.cancel()
        wait(self._runs)
        for log in self._logs:
            log.close()
        if self._outward is not None:
            self._outward.close()
        if self._network is not None:
            self._network.close()
