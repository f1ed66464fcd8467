"""Pipes: containers that a step's script asks for. The script writes a request into its mailbox and waits; the container runs beside it."""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from concurrent.futures import Future
from pathlib import Path

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.model import Pipe
from lamina.pipelines.plan import PlannedStep
from lamina.pipelines.run import shell
from lamina.pipelines.run.around import Around
from lamina.pipelines.run.log import StepLog
from lamina.pipelines.run.services import Services
from lamina.pipelines.variables import Variables
from lamina.sandbox.protocols import Bind, Overlay, SandboxSpec
from lamina.solver.cancel import CancelToken

_LARGEST = 1 << 20


class Pipes:
    """Of one step. The mailbox `folder` is written by the step: nothing in it is believed but numbers and variables."""

    def __init__(
        self,
        around: Around,
        planned: PlannedStep,
        variables: Variables,
        log: StepLog,
        clone: Path,
        folder: Path,
        services: Services,
        cancel: CancelToken,
    ) -> None:
        self._around, self._planned, self._variables, self._log = around, planned, variables, log
        self._clone, self._folder, self._services, self._cancel = clone, folder, services, cancel
        self._pipes = [item for item in (*planned.step.script, *planned.step.after_script) if isinstance(item, Pipe)]
        self._listener: Future[None] | None = None
        self._stop = threading.Event()
        self._wake = (-1, -1)

    def begin(self) -> None:
        """Fetch the images, then listen. A pipe that cannot be fetched fails the step before its script begins."""
        if not self._pipes:
            return
        for pipe in self._pipes:
            self._around.images.get(image_of(pipe.name))
        os.mkfifo(self._folder / "ask", 0o666)
        (self._folder / "ask").chmod(0o666)
        for number in range(len(self._pipes)):
            os.mkfifo(self._folder / f"{number}.answer", 0o666)
            (self._folder / f"{number}.answer").chmod(0o666)
        self._wake = os.pipe2(os.O_CLOEXEC)
        # Opened for both ways: it never reaches its end when a writer leaves.
        ask = os.open(self._folder / "ask", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._listener = self._around.pool.submit(self._listen, ask)

    def end(self) -> None:
        """Idempotent."""
        if self._listener is not None:
            self._stop.set()
            os.write(self._wake[1], b"x")
            self._listener.result()
            self._listener = None
            for descriptor in self._wake:
                os.close(descriptor)

    def _listen(self, ask: int) -> None:
        poll = select.poll()
        poll.register(ask, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        rest = b""
        try:
            while not self._stop.is_set():
                poll.poll()
                if self._stop.is_set():
                    return
                rest += os.read(ask, 4096)
                *lines, rest = rest[-4096:].split(b"\n")
                for line in lines:
                    if line.isdigit() and len(line) < 5 and int(line) < len(self._pipes):
                        self._answer(int(line), self._run(int(line)))
        finally:
            os.close(ask)

    def _answer(self, number: int, code: int) -> None:
        try:
            writing = os.open(self._folder / f"{number}.answer", os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        if stat.S_ISFIFO(os.fstat(writing).st_mode):
            os.write(writing, f"{code}\n".encode())
            # The reader ends with our end; it must have begun to read before we leave, or it would wait for ever.
            self._drained(writing)
        os.close(writing)

    def _drained(self, writing: int) -> None:
        import fcntl
        import struct
        import termios

        while not self._stop.is_set() and not self._cancel.cancelled():
            (left,) = struct.unpack("i", fcntl.ioctl(writing, termios.FIONREAD, b"\0" * 4))
            if not left:
                return
            self._stop.wait(0.005)

    def _run(self, number: int) -> int:
        pipe = self._pipes[number]
        try:
            values = self._request(number)
            image = self._around.images.get(image_of(pipe.name))
            config = image.config.config
            scratch = self._clone.parent / f"pipe{number}-{os.urandom(4).hex()}"
            for name in ("layer/diff", "work"):
                (scratch / name).mkdir(parents=True)
            own = {
                name: value
                for name, value in self._variables.values().items()
                if name.startswith("BITBUCKET_") or name in ("CI", "BUILD_DIR")
            }
            environment = dict(one.partition("=")[::2] for one in config.env or ()) | self._services.environment | own | values
            cwd = values.pop("PWD", shell.CLONE)
            environment.pop("PWD", None)
            environment |= {
                "BITBUCKET_PIPE_STORAGE_DIR": f"{shell.TOOLS}/pipes",
                "BITBUCKET_PIPE_SHARED_STORAGE_DIR": f"{shell.TOOLS}/pipes",
            }
            argv = (*(config.entrypoint or ()), *(config.cmd or ()))
            if not argv:
                self._log.say(f"pipe {pipe.name}: its image has neither ENTRYPOINT nor CMD")
                return 125
            spec = SandboxSpec(
                root=Overlay(image.lowers, scratch / "layer" / "diff", scratch / "work"),
                argv=argv,
                env=tuple(f"{name}={value}" for name, value in environment.items()),
                cwd=cwd if cwd == shell.CLONE or cwd.startswith(shell.CLONE + "/") else shell.CLONE,
                user=config.user,
                hostname=f"pipe{number}",
                network="none" if self._services.network_of else "host",
                network_of=self._services.network_of,
                binds=(Bind(self._clone, shell.CLONE, readonly=False), Bind(self._folder, f"{shell.TOOLS}/pipes", readonly=False)),
            )
            return self._around.sandbox().run(spec, self._log.output, self._cancel).exit_code
        except LaminaError as error:
            self._log.say(f"pipe {pipe.name}: {error.message}")
            return 125
        except OSError as error:
            self._log.say(f"pipe {pipe.name}: {error.strerror}")
            return 125

    def _request(self, number: int) -> dict[str, str]:
        descriptor = os.open(self._folder / f"{number}.request", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "the request is no file")
            data = file.read(_LARGEST)
        pairs = (part.partition(b"=") for part in data.split(b"\0") if b"=" in part)
        return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def image_of(pipe: str) -> str:
    """`docker://IMAGE` as it is; `atlassian/NAME:V` is published as bitbucketpipelines/NAME:V; others carry their own account's name."""
    if pipe.startswith("docker://"):
        return pipe.removeprefix("docker://")
    return pipe.replace("atlassian/", "bitbucketpipelines/", 1) if pipe.startswith("atlassian/") else pipe
