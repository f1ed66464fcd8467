"""Two machines, one shared cache: what the one built the other neither builds nor guesses."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lamina.testing.project import Project

DOCKERFILE = """
FROM base:1 AS tool
COPY tool.txt /in
RUN tr a-z A-Z < /in > /tool; dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null
FROM base:1
WORKDIR /app
COPY main.txt .
COPY --from=tool /tool /app/tool
RUN cat tool main.txt > made
"""


@pytest.fixture
def machines(project: Project, seeded_store: Path, tmp_path: Path) -> list[Project]:
    """Three machines with the same checkout and stores of their own."""
    project.dockerfile(DOCKERFILE)
    project.write({"tool.txt": "tool\n", "main.txt": "main\n"})
    others = []
    for name in ("second", "third"):
        shutil.copytree(seeded_store, tmp_path / name, symlinks=True)
        others.append(Project(project.folder, tmp_path / name))
    return [project, *others]


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return f"dir:{tmp_path}/cache"


def test_a_clean_machine_plans_and_builds_without_running(machines: list[Project], cache: str) -> None:
    one, two, _ = machines
    first = one.build("-t", "app:1", "--cache-to", cache)
    assert first.verdicts() == "xxxxxx"
    planned = two.run("plan", "--json", "--cache-from", cache, str(two.folder))
    assert planned.returncode == 0, planned.stderr.decode()
    plan = json.loads(planned.stdout)
    assert plan["complete"] is True
    assert plan["fetch_bytes"] > 0
    second = two.build("-t", "app:1", "--cache-from", cache)
    assert second.verdicts() == "CCCCCC", second.rows
    assert second.stdout == first.stdout, "the same image id"
    assert two.build("--output", f"type=tar,dest={two.root}/out.tar").verdicts() == "CCCCCC", "and it stays"


def test_only_what_is_needed_is_fetched(machines: list[Project], cache: str) -> None:
    """The stage `tool` has 3 MB that the image does not take: no machine that finds everything fetches them."""
    one, two, _ = machines
    one.build("--cache-to", cache)
    two.build("--cache-from", cache)
    layers = [path for path in (two.root / "layers").iterdir() if (path / "diff" / "big").exists()]
    assert layers == []


def test_a_miss_names_the_file_although_this_machine_never_built_it(machines: list[Project], cache: str) -> None:
    one, two, _ = machines
    one.build("--cache-to", cache)
    two.write({"main.txt": "changed\n"})
    outcome = two.build("--cache-from", cache)
    assert outcome.verdicts() == "CCCxxx", outcome.rows
    assert outcome.row("COPY main").message == "main.txt changed in build context"


def test_what_a_miss_stands_on_is_fetched(machines: list[Project], cache: str) -> None:
    one, two, three = machines
    one.build("--cache-to", cache)
    two.dockerfile(DOCKERFILE + "RUN cat made /app/tool > more\n")
    assert two.build("--cache-from", cache, "--cache-to", cache).verdicts() == "CCCCCCx"
    assert three.build("--cache-from", cache).verdicts() == "CCCCCCC"


def test_parallel_writers_lose_nothing(machines: list[Project], cache: str, tmp_path: Path) -> None:
    """The case that began it all: three steps build three images and save to one cache; each later build finds all of them."""
    folders = []
    for number, machine in enumerate(machines):
        folder = tmp_path / f"app{number}"
        folder.mkdir()
        (folder / "Dockerfile").write_text(f"FROM base:1\nRUN echo {number} > /n\nRUN cat /n > /m\n")
        folders.append(folder)
        machine.folder = folder
    threads = [threading.Thread(target=machine.build, args=("--cache-from", cache, "--cache-to", cache)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = Project(folders[0], tmp_path / "fresh")
    shutil.copytree(machines[0].root, fresh.root, symlinks=True)
    fresh.run("cache", "prune", "--all")
    for folder in folders:
        fresh.folder = folder
        assert fresh.build("--cache-from", cache).verdicts() == "CC"


def test_a_cache_that_is_not_there_costs_a_warning(machines: list[Project]) -> None:
    one = machines[0]
    outcome = one.build("--cache-from", "oci://127.0.0.1:9/cache")
    assert outcome.verdicts() == "xxxxxx"
    assert outcome.stderr.count("is left out") == 1
    one.write({"tool.txt": "another\n"})
    failed = one.build("--cache-from", "oci://127.0.0.1:9/cache,required=true", ok=False)
    assert failed.code == 69, failed.stderr


def test_a_layer_that_was_altered_is_not_used(machines: list[Project], cache: str, tmp_path: Path) -> None:
    one, two, _ = machines
    one.build("--cache-to", cache)
    blobs = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and "blobs" in path.parts]
    assert blobs
    for path in blobs:
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    outcome = two.build("-t", "app:1", "--cache-from", cache)
    assert "x" in outcome.verdicts()
    assert outcome.stdout.startswith("sha256:")
    assert two.run("check").returncode == 0


def test_a_scope_that_is_not_believed_is_a_reason(machines: list[Project], cache: str) -> None:
    one, two, _ = machines
    one.build("--cache-to", f"{cache},scope=pr/17")
    outcome = two.build("--cache-from", cache)
    assert outcome.verdicts() == "xxxxxx"
    assert outcome.row("COPY tool").code == "not-trusted"
    assert "pr/17" in outcome.row("COPY tool").message


def test_looking_after_a_shared_cache(machines: list[Project], cache: str) -> None:
    one, two, three = machines
    one.build("-t", "app:1")
    sent = one.run("cache", "push", cache, "app:1").stdout.decode()
    assert sent.startswith("6 records sent"), sent
    assert one.run("cache", "push", cache).stdout.decode().startswith("0 records sent")
    listed = two.run("cache", "ls", cache).stdout.decode()
    assert "COPY tool.txt" in listed
    assert "RUN cat tool" in listed
    measured = json.loads(two.run("cache", "du", "--json", cache).stdout)
    assert measured["records"] == 6
    assert measured["blob_bytes"] > 0
    assert two.run("cache", "verify", "--bytes", cache).stdout == b"0 problems\n"
    assert two.run("cache", "pull", "--records-only", cache).stdout.decode().startswith("6 records taken over, 0B")
    assert two.build("--cache-from", cache).verdicts() == "CCCCCC"
    assert three.run("cache", "pull", cache).returncode == 0
    assert three.build().verdicts() == "CCCCCC", "without the cache"
    explained = two.run("cache", "prune", "--older-than", "0s", "--explain", "--dry-run", cache).stdout.decode()
    assert "would free" in explained


def test_damage_is_named_and_removed(machines: list[Project], cache: str, tmp_path: Path) -> None:
    one = machines[0]
    one.build("--cache-to", cache)
    blob = next(path for path in (tmp_path / "cache").rglob("*") if path.is_file() and "blobs" in path.parts)
    blob.chmod(0o644)
    blob.write_bytes(b"nonsense")
    found = one.run("cache", "verify", "--bytes", cache)
    assert found.returncode == 1
    assert b"blob-altered" in found.stderr
    assert one.run("cache", "verify", "--bytes", "--repair", cache).returncode == 0
    one.run("cache", "verify", "--repair", cache)
    assert one.run("cache", "verify", "--bytes", cache).returncode == 0


def test_a_cache_over_http_with_a_token(machines: list[Project], tmp_path: Path) -> None:
    one, two, _ = machines
    token = "a-random-token-of-a-test"
    access = tmp_path / "access.toml"
    access.write_text(f'[tokens.ci]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nwrite = ["main"]\n')
    command = [
        sys.executable,
        "-m",
        "lamina",
        "serve",
        "--cache",
        str(tmp_path / "srv"),
        "--access",
        str(access),
        "--host",
        "tcp://127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            place = server.stderr.readline().rpartition(" at ")[2].strip()
            for machine in (one, two):
                machine.environment["CACHE_TOKEN"] = token
            one.build("--cache-to", f"{place},token-env=CACHE_TOKEN")
            assert two.build("--cache-from", f"{place},token-env=CACHE_TOKEN").verdicts() == "CCCCCC"
            refused = two.run("cache", "ls", place)
            assert refused.returncode == 77
            assert b"token" in refused.stderr
            assert token.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "srv").rglob("*") if path.is_file())
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(90) == 0


def test_a_served_cache_needs_to_know_who_comes(project: Project, tmp_path: Path) -> None:
    done = project.run("serve", "--cache", str(tmp_path / "srv"))
    assert done.returncode == 2
    assert b"--access" in done.stderr
    (tmp_path / "access.toml").write_text("")
    done = project.run("serve", "--cache", str(tmp_path / "srv"), "--access", str(tmp_path / "access.toml"), "--host", "tcp://0.0.0.0:1")
    assert done.returncode == 2
    assert b"in the clear" in done.stderr
