"""/containers/NAME/exec and /exec: commands in a container that runs."""

from __future__ import annotations

from lamina.server.containers import attaching, execs
from lamina.server.daemon import Daemon
from lamina.server.errors import Conflict
from lamina.server.http.messages import Hijack, Reply, Request, answer, nothing


def create(daemon: Daemon, request: Request, name: str) -> Reply:
    return answer({"Id": daemon.execs.create(daemon.containers.find(name), request.json()).id}, 201)


def start(daemon: Daemon, request: Request, name: str) -> Reply:
    made = daemon.execs.find(name)
    body = request.json()
    if made.started:
        raise Conflict(f"exec command {made.id} was started already")
    if not made.container.running:
        raise Conflict(f"Container {made.container.id} is not running")
    if body.get("Detach"):
        daemon.execs.run(made, None)
        return nothing(200)
    size = body.get("ConsoleSize") or (0, 0)
    made.size = (int(size[0]), int(size[1]))
    return Hijack(lambda duplex: daemon.execs.run(made, duplex), attaching.content_type(request.version, made.tty))


def inspect(daemon: Daemon, request: Request, name: str) -> Reply:
    made = daemon.execs.find(name)
    return answer(
        {
            "ID": made.id, "Running": made.running, "ExitCode": made.exit_code,
            "ProcessConfig": {"tty": made.tty, "entrypoint": made.argv[0], "arguments": made.argv[1:], "privileged": made.privileged, "user": made.user},
            "OpenStdin": made.stdin, "OpenStderr": made.stderr, "OpenStdout": made.stdout, "CanRemove": False, "ContainerID": made.container.id,
            "DetachKeys": "", "Pid": made.process.pid if made.process is not None and made.running else 0,
        }
    )  # fmt: skip


def resize(daemon: Daemon, request: Request, name: str) -> Reply:
    execs.resize(daemon.execs.find(name).process, request.query.integer("h"), request.query.integer("w"))
    return nothing(200)
