"""The docker commands that the shim knows, over the step's engine. What is not known is refused in one line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.oci.reference import Reference
from lamina.pipelines.docker import building, containers
from lamina.pipelines.docker.api import Engine, EngineError
from lamina.pipelines.docker.desk import Call
from lamina.pipelines.docker.options import HINT, Given, Usage, parse
from lamina.pipelines.docker.printing import age, filled, size, table
from lamina.pipelines.docker.session import Session, obj, rows_of, text_of


def serve(engine: Engine, clone: Path, logins: dict[str, dict[str, str]], call: Call) -> int:
    """One call; its exit code. What goes wrong is one line on its standard error. `logins`: of the step, by registry."""
    session = Session(engine, call, clone, logins)
    try:
        return _command(session, list(call.words))
    except EngineError as error:
        call.err(f"Error response from daemon: {error.message}\n")
        return 1
    except LaminaError as error:
        call.err(f"{error.message}" + (f" ({error.hint})" if error.hint else "") + "\n")
        return error.exit_code
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        call.err("docker: the docker service's answer is not understood\n")
        return 1


def _command(session: Session, words: list[str]) -> int:
    while words and words[0].startswith("-"):
        option = words.pop(0)
        name, equals, value = option.partition("=")
        if name in ("-v", "--version"):
            session.call.out("Docker version 0 (lamina)\n")
            return 0
        if name in ("-l", "--log-level", "-c", "--context", "--config", "-H", "--host"):
            value = value if equals else words.pop(0) if words else ""
            if name == "--config":
                session.call.config = value
            elif name in ("-H", "--host"):
                raise Usage("docker: --host: only the step's own docker service can be asked", hint=HINT)
        elif name not in ("-D", "--debug", "--help"):
            raise Usage(f"docker: {name} is not known to lamina's docker", hint=HINT)
        if name == "--help":
            words = []
            break
    if not words:
        session.call.out("lamina's own docker knows: " + " ".join(sorted(_COMMANDS)) + "\n")
        return 0
    name = words.pop(0)
    if name in _GROUPS:
        if not words or words[0] not in _GROUPS[name]:
            raise Usage(f"docker {name} {words[0] if words else ''}".rstrip() + " is not known to lamina's docker", hint=HINT)
        name = _GROUPS[name][words.pop(0)]
    if name not in _COMMANDS:
        near = nearest(name, sorted(_COMMANDS))
        raise Usage(f"docker: {name!r} is not known to lamina's docker", hint=f"did you mean {near!r}?" if near else HINT)
    return _COMMANDS[name](session, words)


# Images


def _images(session: Session, words: list[str]) -> int:
    given = parse("images", words, "-f|--filter --format", "-a|--all -q|--quiet --no-trunc --digests")
    wanted: dict[str, list[str]] = {}
    for text in given.every("-f"):
        name, _, value = text.partition("=")
        wanted.setdefault(name, []).append(value)
    if given.rest:
        wanted["reference"] = given.rest[:1]
    query = [("filters", json.dumps(wanted))] if wanted else []
    lines = []
    for row in rows_of(session.engine.document("GET", "/images/json", query)):
        identity = text_of(row["Id"]) if given.on("--no-trunc") else short(text_of(row["Id"]))
        tags = [str(tag) for tag in row.get("RepoTags") or ["<none>:<none>"]]  # type: ignore[attr-defined]  # a list of the answer
        for tag in tags:
            repository, _, version = tag.rpartition(":")
            lines.append(
                {
                    "Repository": repository, "Tag": version, "ID": identity, "Size": size(int(str(row["Size"]))),
                    "CreatedSince": age(time.time() - int(str(row["Created"]))), "CreatedAt": str(row["Created"]), "Digest": "<none>",
                }
            )  # fmt: skip
    if given.on("-q"):
        session.call.out("".join(line["ID"] + "\n" for line in lines))
    else:
        heads = ("Repository", "Tag", "ID", "CreatedSince", "Size")
        _print(session, given, lines, heads, ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"))
    return 0


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _print(session: Session, given: Given, lines: list[dict[str, str]], fields: tuple[str, ...], heads: tuple[str, ...]) -> None:
    form = given.last("--format")
    if form and not form.startswith("table"):
        session.call.out("".join(filled(form, line) + "\n" for line in lines))
    elif form:
        raise Usage("docker: --format table is not known to lamina's docker", hint=HINT)
    else:
        session.call.out(table(heads, [[line[field] for field in fields] for line in lines]) + "\n")


def _save(session: Session, words: list[str]) -> int:
    given = parse("save", words, "-o|--output --platform")
    if not given.rest:
        raise Usage("docker save: name the images")
    with session.engine.ask("GET", "/images/get", [("names", name) for name in given.rest]) as answer:
        if given.last("-o"):
            with session.call.writing(given.last("-o")) as write:
                for data in answer.pieces():
                    write(data)
        else:
            for data in answer.pieces():
                session.call.out(data)
    return 0


def _load(session: Session, words: list[str]) -> int:
    given = parse("load", words, "-i|--input --platform", "-q|--quiet")
    if given.rest:
        raise Usage("docker load takes no names")
    source: Iterator[bytes] | None = session.call.stdin() if not given.last("-i") else session.call.file(given.last("-i"))
    if source is None:
        raise Usage(f"open {given.last('-i')}: no such file or directory")
    query = [("quiet", "1")] if given.on("-q") else []
    with session.engine.ask("POST", "/images/load", query, body=source, kind="application/x-tar") as answer:
        return session.show(answer.rows())


def _pull(session: Session, words: list[str]) -> int:
    given = parse("pull", words, "--platform", "-q|--quiet -a|--all-tags --disable-content-trust")
    if len(given.rest) != 1 or given.on("-a"):
        raise Usage("docker pull takes one name" + (", without --all-tags" if given.on("-a") else ""))
    code = session.pull(given.rest[0], platform=given.last("--platform"), quiet=given.on("-q"))
    if not code:
        session.call.out(f"{Reference.parse(given.rest[0]).with_default_tag()}\n")
    return code


def _push(session: Session, words: list[str]) -> int:
    given = parse("push", words, "--platform", "-q|--quiet -a|--all-tags --disable-content-trust")
    if len(given.rest) != 1 or given.on("-a"):
        raise Usage("docker push takes one name" + (", without --all-tags" if given.on("-a") else ""))
    reference = Reference.parse(given.rest[0]).with_default_tag()
    name, _, tag = reference.familiar.rpartition(":")
    headers = {"X-Registry-Auth": session.login_for(reference.registry)}
    with session.engine.ask("POST", f"/images/{name}/push", [("tag", tag)], headers=headers) as answer:
        return session.show(answer.rows(), quiet=given.on("-q"))


def _tag(session: Session, words: list[str]) -> int:
    given = parse("tag", words, "")
    if len(given.rest) != 2:
        raise Usage("docker tag takes an image and its new name")
    reference = Reference.parse(given.rest[1]).with_default_tag()
    name, _, tag = str(reference).rpartition(":")
    session.engine.document("POST", f"/images/{given.rest[0]}/tag", [("repo", name), ("tag", tag)])
    return 0


def _rmi(session: Session, words: list[str]) -> int:
    given = parse("rmi", words, "", "-f|--force --no-prune")
    if not given.rest:
        raise Usage("docker rmi: name the images")
    code = 0
    for name in given.rest:
        try:
            found = rows_of(session.engine.document("DELETE", f"/images/{name}", [("force", "1")] if given.on("-f") else []))
        except EngineError as error:
            if not given.on("-f") or error.status != 404:
                session.call.err(f"Error response from daemon: {error.message}\n")
                code = 1
            continue
        for row in found:
            session.call.out("".join(f"{word}: {row[word]}\n" for word in ("Untagged", "Deleted") if row.get(word)))
    return code


def _inspect(session: Session, words: list[str], kinds: tuple[str, ...] = ("container", "image")) -> int:
    given = parse("inspect", words, "-f|--format --type", "-s|--size")
    if not given.rest:
        raise Usage("docker inspect: name an image or a container")
    if given.last("--type"):
        kinds = (given.last("--type"),)
    found: list[object] = []
    code = 0
    for name in given.rest:
        for kind in kinds:
            try:
                found.append(session.engine.document("GET", f"/{kind}s/{name}/json"))
                break
            except EngineError as error:
                if error.status != 404:
                    raise
        else:
            session.call.err(f"Error: No such {kinds[0] if len(kinds) == 1 else 'object'}: {name}\n")
            code = 1
    if given.last("-f"):
        session.call.out("".join(filled(given.last("-f"), obj(one)) + "\n" for one in found))
    else:
        session.call.out(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
    return code


def _image_inspect(session: Session, words: list[str]) -> int:
    return _inspect(session, words, ("image",))


def _container_inspect(session: Session, words: list[str]) -> int:
    return _inspect(session, words, ("container",))


def _history(session: Session, words: list[str]) -> int:
    given = parse("history", words, "", "-q|--quiet --no-trunc -H|--human")
    if len(given.rest) != 1:
        raise Usage("docker history takes one image")
    rows = rows_of(session.engine.document("GET", f"/images/{given.rest[0]}/history"))
    lines = []
    for row in rows:
        made = str(row["CreatedBy"])
        lines.append(
            [
                short(str(row["Id"])),
                age(time.time() - int(str(row["Created"]))),
                made if given.on("--no-trunc") else made[:45],
                size(int(str(row["Size"]))),
            ]
        )
    session.call.out(table(("IMAGE", "CREATED", "CREATED BY", "SIZE"), lines) + "\n")
    return 0


def _image_prune(session: Session, words: list[str]) -> int:
    given = parse("image prune", words, "--filter", "-a|--all -f|--force")
    filters = {"dangling": ["false"]} if given.on("-a") else {}
    found = obj(session.engine.document("POST", "/images/prune", [("filters", json.dumps(filters))] if filters else []))
    session.call.out(f"Total reclaimed space: {size(int(str(found.get('SpaceReclaimed') or 0)))}\n")
    return 0


# The engine


def _login(session: Session, words: list[str]) -> int:
    given = parse("login", words, "-u|--username -p|--password", "--password-stdin")
    server = given.rest[0] if given.rest else ""
    password = given.last("-p")
    if given.on("--password-stdin"):
        password = b"".join(session.call.stdin()).decode(errors="surrogateescape").rstrip("\r\n")
    if not given.last("-u") or not password:
        raise Usage("docker login: give -u and --password-stdin: there is nobody to ask")
    login = {"username": given.last("-u"), "password": password, "serveraddress": server or "https://index.docker.io/v1/"}
    session.engine.document("POST", "/auth", body=login)
    session.logins[session.host_of(server)] = login
    session.call.out("Login Succeeded\n")
    return 0


def _logout(session: Session, words: list[str]) -> int:
    given = parse("logout", words, "")
    host = session.host_of(given.rest[0] if given.rest else "")
    known = session.logins.pop(host, None)
    session.call.out(f"Removing login credentials for {host}\n" if known else f"Not logged in to {host}\n")
    return 0


def _version(session: Session, words: list[str]) -> int:
    given = parse("version", words, "-f|--format")
    server = obj(session.engine.document("GET", "/version"))
    client = {"Version": server["Version"], "ApiVersion": "1.41", "Os": "linux", "Arch": server["Arch"]}
    if given.last("-f"):
        session.call.out(filled(given.last("-f"), {"Client": client, "Server": server}) + "\n")
        return 0
    lines = [
        "Client: lamina", f" Version:      {client['Version']}", " API version:  1.41", "", "Server: lamina", " Engine:",
        f"  Version:      {server['Version']}", f"  API version:  {server['ApiVersion']}", f"  OS/Arch:      linux/{server['Arch']}",
    ]  # fmt: skip
    session.call.out("\n".join(lines) + "\n")
    return 0


def _info(session: Session, words: list[str]) -> int:
    given = parse("info", words, "-f|--format")
    found = obj(session.engine.document("GET", "/info"))
    if given.last("-f"):
        session.call.out(filled(given.last("-f"), found) + "\n")
        return 0
    names = ("Containers", "ContainersRunning", "Images", "ServerVersion", "Driver", "OperatingSystem", "Architecture", "Name")
    session.call.out("Server:\n" + "".join(f" {name}: {found.get(name, '')}\n" for name in names))
    return 0


_COMMANDS: dict[str, Callable[[Session, list[str]], int]] = {
    "build": building.build,
    "exec": containers.execute,
    "history": _history,
    "image inspect": _image_inspect,
    "image prune": _image_prune,
    "container inspect": _container_inspect,
    "images": _images,
    "info": _info,
    "inspect": _inspect,
    "kill": containers.kill,
    "load": _load,
    "login": _login,
    "logout": _logout,
    "logs": containers.logs,
    "ps": containers.ps,
    "pull": _pull,
    "push": _push,
    "rm": containers.rm,
    "rmi": _rmi,
    "run": containers.run,
    "save": _save,
    "start": containers.start,
    "stop": containers.stop,
    "tag": _tag,
    "version": _version,
    "wait": containers.wait,
}
_GROUPS: dict[str, dict[str, str]] = {
    "image": {
        "build": "build", "history": "history", "inspect": "image inspect", "list": "images", "load": "load", "ls": "images",
        "prune": "image prune", "pull": "pull", "push": "push", "rm": "rmi", "save": "save", "tag": "tag",
    },
    "container": {
        "exec": "exec", "inspect": "container inspect", "kill": "kill", "list": "ps", "logs": "logs", "ls": "ps", "ps": "ps", "rm": "rm",
        "run": "run", "start": "start", "stop": "stop", "wait": "wait",
    },
    "builder": {"build": "build"},
    "system": {"info": "info"},
}  # fmt: skip
