"""docker run, exec, ps, rm, logs, stop, kill, start, wait."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

from lamina.oci.reference import Reference
from lamina.pipelines.docker.api import PIECE, EngineError
from lamina.pipelines.docker.desk import CallGone
from lamina.pipelines.docker.options import HINT, Usage, parse
from lamina.pipelines.docker.printing import age, filled, table
from lamina.pipelines.docker.session import Session, obj, rows_of

_RUN = (
    "--name -e|--env --env-file -v|--volume --mount -w|--workdir -u|--user --entrypoint -p|--publish --expose --network|--net --platform --pull "
    "-l|--label --add-host -h|--hostname -m|--memory --cpus --shm-size --restart --cap-add --cap-drop --tmpfs --ulimit --stop-signal --cidfile "
    "-a|--attach --log-driver --pids-limit --security-opt --dns --userns --ipc --pid"
)
_RUN_SWITCHES = (
    "-d|--detach -i|--interactive -t|--tty --rm --privileged --init -P|--publish-all -q|--quiet --read-only --no-healthcheck --sig-proxy"
)
_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def run(session: Session, words: list[str]) -> int:
    given = parse("run", words, _RUN, _RUN_SWITCHES, mixed=False)
    if not given.rest:
        raise Usage("docker run: name an image")
    for option in ("--mount", "--dns", "--userns", "--ipc", "--pid", "--ulimit", "--log-driver"):
        if given.last(option):
            raise Usage(f"docker run: {option} is not known to lamina's docker", hint=HINT)
    image, *command = given.rest
    attached, interactive = not given.on("-d"), given.on("-i")
    host: dict[str, object] = {
        "Binds": [_volume(session, text) for text in given.every("-v")],
        "AutoRemove": given.on("--rm"),
        "NetworkMode": given.last("--network", "default"),
        "PortBindings": _ports(given.every("-p")),
        "PublishAllPorts": given.on("-P"),
        "Privileged": given.on("--privileged"),
        "Init": given.on("--init"),
        "ReadonlyRootfs": given.on("--read-only"),
        "ExtraHosts": given.every("--add-host"),
        "CapAdd": given.every("--cap-add"),
        "CapDrop": given.every("--cap-drop"),
        "SecurityOpt": given.every("--security-opt"),
        "Memory": _bytes(given.last("-m", "0")),
        "Tmpfs": dict(text.partition(":")[::2] for text in given.every("--tmpfs")),
    }
    if given.last("--shm-size"):
        host["ShmSize"] = _bytes(given.last("--shm-size"))
    if given.last("--restart"):
        name, _, count = given.last("--restart").partition(":")
        host["RestartPolicy"] = {"Name": name, "MaximumRetryCount": int(count or 0)}
    asked: dict[str, object] = {
        "Image": image,
        "Cmd": command or None,
        "Env": _environment(session, given.every("--env-file"), given.every("-e")),
        "WorkingDir": given.last("-w"),
        "User": given.last("-u"),
        "Hostname": given.last("-h"),
        "Tty": given.on("-t"),
        "OpenStdin": interactive,
        "StdinOnce": interactive and attached,
        "AttachStdin": interactive and attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "Labels": dict(text.partition("=")[::2] for text in given.every("-l")),
        "ExposedPorts": {_port(text): {} for text in given.every("--expose")} | {port: {} for port in _ports(given.every("-p"))},
        "HostConfig": host,
    }
    if given.last("--entrypoint") or "--entrypoint" in given.values:
        asked["Entrypoint"] = [given.last("--entrypoint")] if given.last("--entrypoint") else [""]
    if given.last("--stop-signal"):
        asked["StopSignal"] = given.last("--stop-signal")
    query = [(word, given.last(f"--{word}")) for word in ("name", "platform") if given.last(f"--{word}")]
    try:
        identity = _created(session, image, asked, query, given.last("--pull", "missing"), given.last("--platform"))
    except EngineError as error:
        session.call.err(f"docker: Error response from daemon: {error.message}\n")
        return 125
    if given.last("--cidfile"):
        with session.call.writing(given.last("--cidfile")) as write:
            write(identity.encode())
    if not attached:
        session.engine.document("POST", f"/containers/{identity}/start")
        session.call.out(identity + "\n")
        return 0
    return _attached(session, identity, interactive=interactive, tty=given.on("-t"))


def _created(session: Session, image: str, asked: dict[str, object], query: list[tuple[str, str]], pull: str, platform: str) -> str:
    if pull == "always":
        session.pull(image, platform=platform, quiet=True)
    while True:
        try:
            found = obj(session.engine.document("POST", "/containers/create", query, body=asked))
        except EngineError as error:
            if error.status != 404 or pull == "never":
                raise
            shown = Reference.parse(image).with_default_tag().familiar
            session.call.err(f"Unable to find image '{shown}' locally\n")
            if session.pull(image, platform=platform, quiet=True):
                raise
            pull = "never"
            continue
        for warning in found.get("Warnings") or []:  # type: ignore[attr-defined]  # a list of the answer
            session.call.err(f"WARNING: {warning}\n")
        return str(found["Id"])


def _attached(session: Session, identity: str, *, interactive: bool, tty: bool) -> int:
    query = [("stream", "1"), ("stdout", "1"), ("stderr", "1"), *([("stdin", "1")] if interactive else [])]
    link, first = session.engine.take_over("POST", f"/containers/{identity}/attach", query)

    def stop() -> None:
        with contextlib.suppress(EngineError):
            session.engine.document("POST", f"/containers/{identity}/kill", [("signal", "TERM")])

    # Asked for now: a container with --rm may be gone when its output has ended.
    try:
        waiting = session.engine.ask("POST", f"/containers/{identity}/wait", [("condition", "next-exit")])
    except EngineError:
        link.close()
        raise
    withdraw = session.call.on_stop(stop)
    try:
        try:
            session.engine.document("POST", f"/containers/{identity}/start")
        except EngineError as error:
            session.call.err(f"docker: Error response from daemon: {error.message}\n")
            return 127 if "not found" in error.message or "no such file" in error.message else 126 if "permission" in error.message else 125
        _talk(session, link, first, stdin=session.call.stdin() if interactive else None, tty=tty)
        return int(json.loads(waiting.read() or b"{}").get("StatusCode", 1))
    except CallGone:
        stop()
        raise
    finally:
        withdraw()
        waiting.close()
        link.close()


def _talk(session: Session, link: socket.socket, first: bytes, *, stdin: Iterator[bytes] | None, tty: bool) -> None:
    """Until the engine ends the stream."""
    if stdin is None:
        feeder = None
    else:
        feeder = threading.Thread(target=_feed, args=(link, stdin), daemon=True)
        feeder.start()
    for stream, data in _frames(link, first, tty):
        (session.call.err if stream == 2 else session.call.out)(data)


def _feed(link: socket.socket, stdin: Iterator[bytes]) -> None:
    try:
        for data in stdin:
            link.sendall(data)
        link.shutdown(socket.SHUT_WR)
    except (OSError, CallGone):
        return


def _frames(link: socket.socket, first: bytes, tty: bool) -> Iterator[tuple[int, bytes]]:
    """(1 or 2, bytes) of the multiplexed form; a terminal's is raw."""
    rest = first
    while True:
        if tty and rest:
            yield 1, rest
            rest = b""
        while not tty and len(rest) >= 8:
            stream, length = struct.unpack(">BxxxI", rest[:8])
            if len(rest) < 8 + length:
                break
            yield stream, rest[8 : 8 + length]
            rest = rest[8 + length :]
        try:
            data = link.recv(PIECE)
        except OSError:
            return
        if not data:
            return
        rest += data


def _environment(session: Session, files: list[str], values: list[str]) -> list[str]:
    found = []
    for file in files:
        text = session.call.text(file)
        if text is None:
            raise Usage(f"docker: open {file}: no such file or directory")
        values = [*(line for line in text.splitlines() if line.strip() and not line.startswith("#")), *values]
    for text in values:
        if "=" in text:
            found.append(text)
            continue
        value = session.call.variable(text)
        if value is not None:
            found.append(f"{text}={value}")
    return found


def _volume(session: Session, text: str) -> str:
    source, colon, rest = text.partition(":")
    return f"{os.path.normpath(session.call.absolute(source))}:{rest}" if colon and source.startswith(".") else text


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


def _ports(texts: list[str]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for text in texts:
        ahead, _, inside = text.rpartition(":")
        address, _, port = ahead.rpartition(":")
        found.setdefault(_port(inside), []).append({"HostIp": address.strip("[]"), "HostPort": port})
    return found


def _bytes(text: str) -> int:
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "b")
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, KeyError):
        raise Usage(f"docker run: {text!r} is no size") from None


def execute(session: Session, words: list[str]) -> int:
    given = parse(
        "exec", words, "-e|--env --env-file -w|--workdir -u|--user", "-d|--detach -i|--interactive -t|--tty --privileged", mixed=False
    )
    if len(given.rest) < 2:
        raise Usage("docker exec takes a container and a command")
    interactive, tty = given.on("-i"), given.on("-t")
    body = {
        "Cmd": given.rest[1:], "AttachStdin": interactive, "AttachStdout": not given.on("-d"), "AttachStderr": not given.on("-d"), "Tty": tty,
        "Env": _environment(session, given.every("--env-file"), given.every("-e")), "WorkingDir": given.last("-w"), "User": given.last("-u"),
        "Privileged": given.on("--privileged"),
    }  # fmt: skip
    identity = str(obj(session.engine.document("POST", f"/containers/{given.rest[0]}/exec", body=body))["Id"])
    if given.on("-d"):
        session.engine.document("POST", f"/exec/{identity}/start", body={"Detach": True})
        return 0
    link, first = session.engine.take_over("POST", f"/exec/{identity}/start", body={"Detach": False, "Tty": tty})
    try:
        _talk(session, link, first, stdin=session.call.stdin() if interactive else None, tty=tty)
    finally:
        link.close()
    return int(str(obj(session.engine.document("GET", f"/exec/{identity}/json")).get("ExitCode") or 0))


def ps(session: Session, words: list[str]) -> int:
    given = parse("ps", words, "-f|--filter --format -n|--last", "-a|--all -q|--quiet --no-trunc -l|--latest -s|--size")
    wanted: dict[str, list[str]] = {}
    for text in given.every("-f"):
        name, _, value = text.partition("=")
        wanted.setdefault(name, []).append(value)
    query = [("all", "1")] if given.on("-a") else []
    query += [("filters", json.dumps(wanted))] if wanted else []
    query += [("limit", "1" if given.on("-l") else given.last("-n"))] if given.on("-l") or given.last("-n") else []
    lines = []
    for row in rows_of(session.engine.document("GET", "/containers/json", query)):
        names = row.get("Names")
        lines.append(
            {
                "ID": str(row["Id"]) if given.on("--no-trunc") else str(row["Id"])[:12],
                "Image": str(row["Image"]),
                "Command": json.dumps(str(row["Command"])[:20]),
                "CreatedAt": age(time.time() - int(str(row["Created"]))),
                "Status": str(row["Status"]),
                "State": str(row.get("State", "")),
                "Names": ",".join(str(name).lstrip("/") for name in names) if isinstance(names, list) else "",
            }
        )
    if given.on("-q"):
        session.call.out("".join(line["ID"] + "\n" for line in lines))
    elif given.last("--format"):
        session.call.out("".join(filled(given.last("--format"), line) + "\n" for line in lines))
    else:
        heads = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES")
        fields = ("ID", "Image", "Command", "CreatedAt", "Status", "Names")
        session.call.out(table(heads, [[line[field] for field in fields] for line in lines]) + "\n")
    return 0


def _each(session: Session, names: list[str], method: str, path: str, query: list[tuple[str, str]]) -> int:
    """One request for each container, its name printed when it went well."""
    code = 0
    for name in names:
        try:
            session.engine.document(method, path.format(name), query)
            session.call.out(name + "\n")
        except EngineError as error:
            session.call.err(f"Error response from daemon: {error.message}\n")
            code = 1
    return code


def rm(session: Session, words: list[str]) -> int:
    given = parse("rm", words, "", "-f|--force -v|--volumes -l|--link")
    query = [*([("force", "1")] if given.on("-f") else []), *([("v", "1")] if given.on("-v") else [])]
    return _each(session, given.rest, "DELETE", "/containers/{}", query)


def stop(session: Session, words: list[str]) -> int:
    given = parse("stop", words, "-t|--time|--timeout -s|--signal")
    return _each(session, given.rest, "POST", "/containers/{}/stop", [("t", given.last("-t"))] if given.last("-t") else [])


def kill(session: Session, words: list[str]) -> int:
    given = parse("kill", words, "-s|--signal")
    return _each(session, given.rest, "POST", "/containers/{}/kill", [("signal", given.last("-s", "KILL"))])


def start(session: Session, words: list[str]) -> int:
    given = parse("start", words, "", "-a|--attach -i|--interactive")
    if given.on("-a") and len(given.rest) == 1:
        return _attached(session, given.rest[0], interactive=given.on("-i"), tty=False)
    return _each(session, given.rest, "POST", "/containers/{}/start", [])


def wait(session: Session, words: list[str]) -> int:
    given = parse("wait", words, "")
    for name in given.rest:
        found = obj(session.engine.document("POST", f"/containers/{name}/wait"))
        session.call.out(f"{found.get('StatusCode', 1)}\n")
    return 0


def logs(session: Session, words: list[str]) -> int:
    given = parse("logs", words, "-n|--tail --since --until", "-f|--follow -t|--timestamps --details")
    if len(given.rest) != 1:
        raise Usage("docker logs takes one container")
    tty = bool(obj(obj(session.engine.document("GET", f"/containers/{given.rest[0]}/json")).get("Config")).get("Tty"))
    query = [("stdout", "1"), ("stderr", "1"), ("follow", "1" if given.on("-f") else "0"), ("timestamps", "1" if given.on("-t") else "0")]
    query += [(option.strip("-"), given.last(option)) for option in ("--since", "--until") if given.last(option)]
    query += [("tail", given.last("-n"))] if given.last("-n") else []
    with session.engine.ask("GET", f"/containers/{given.rest[0]}/logs", query) as answer:
        withdraw = session.call.on_stop(answer.close)
        try:
            rest = b""
            for data in answer.pieces():
                if tty:
                    session.call.out(data)
                    continue
                rest += data
                while len(rest) >= 8 and len(rest) >= 8 + (length := struct.unpack(">I", rest[4:8])[0]):
                    (session.call.err if rest[0] == 2 else session.call.out)(rest[8 : 8 + length])
                    rest = rest[8 + length :]
        finally:
            withdraw()
    return 0
