"""Steps on a machine without docker's CLI: lamina's own `docker`, in an image of sh and busybox."""

from __future__ import annotations

import base64
import json
import os
import textwrap
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the rung root is used"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture
def repository(tmp_path: Path, seeded_store: Path) -> Project:
    import shutil

    shutil.copytree(seeded_store, tmp_path / "store", symlinks=True)
    made = Project(tmp_path / "repo", tmp_path / "store")
    made.folder.mkdir()
    made.write(
        {"Dockerfile": 'FROM base:1\nCOPY told /told\nRUN cat /told > /out\nCMD ["cat", "/out"]\n', "told": "hello\n", "secret": "no\n"}
    )
    made.write({".dockerignore": "secret\n"})
    return made


def run(project: Project, script: str, code: int = 0) -> list[str]:
    """The lines that one step printed."""
    text = "image: base:1\npipelines:\n  default:\n    - step:\n        services: [docker]\n        script:\n          - |\n"
    project.write({"bitbucket-pipelines.yml": text + textwrap.indent(textwrap.dedent(script), " " * 12)})
    done = project.run("pipeline", "run", "--branch", "main", "--docker-cli", "own")
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return [line.partition("] ")[2] for line in done.stdout.decode().splitlines()]


def test_images_and_containers(repository: Project) -> None:
    lines = run(repository, """
        docker version -f 'server {{.Server.Version}}' | grep -q 'server [0-9]'
        docker build -t app:1 --iidfile id . > built && tail -1 built
        test "$(cat id)" = "$(docker inspect -f '{{.Id}}' app:1)" && echo same
        test "$(docker build -q .)" = "$(cat id)" && echo quiet
        docker run --rm app:1
        docker run --rm app:1 sh -c 'echo to-stderr >&2; exit 3' 2> err || echo "code $? $(cat err)"
        echo through | docker run -i --rm app:1 cat
        A='x y' docker run --rm -e A -e B=2 app:1 sh -c 'echo "$A $B"'
        docker run --rm -v "$PWD/told:/seen" app:1 cat /seen
        docker run -d --name web app:1 sh -c 'echo up; sleep 600' > /dev/null
        docker exec web echo inside; docker ps --format '{{.Names}}'; docker logs web; docker rm -f web
        printf 'FROM app:1\\nRUN echo more\\n' | docker build -t two - | grep '^more'
        docker save app:1 -o saved.tar; docker rmi app:1 two | grep -c Untagged
        docker load -i saved.tar | grep app; docker load < saved.tar > /dev/null; docker images -aq > /dev/null
        mkdir /tmp/ctx && echo far > /tmp/ctx/f && printf 'FROM base:1\\nCOPY f /f\\nRUN cat /f\\n' > /tmp/ctx/Dockerfile
        docker build /tmp/ctx | grep '^far'
        docker tag app:1 app:2 && docker image rm app:2
        printf 'FROM base:1\\nCOPY . /all\\nRUN ls /all\\n' > other && docker build -f other . | grep -x secret || echo ignored
    """)  # fmt: skip
    wanted = [
        "Successfully tagged app:1", "same", "quiet", "hello", "code 3 to-stderr", "through", "x y 2", "inside", "web", "up", "more",
        "2", "Loaded image: app:1", "far", "Untagged: app:2", "ignored",
    ]  # fmt: skip
    for line in wanted:
        assert line in lines, (line, lines)


def test_what_it_does_not_know_is_refused_in_one_line(repository: Project) -> None:
    lines = run(repository, """
        for words in 'buildx build .' 'compose up' 'build --secret a .' 'run --mount a b' 'build git@x:y' 'network ls' 'build nothere' 'load -i nothere'; do
          docker $words > told 2>&1 || echo "code $? lines $(wc -l < told) $words"
          cat told
        done
        docker build --build-arg X=1 -t 'Bad Name' . 2>&1 | wc -l
        ln -s / away; docker build away 2>&1 | tail -1
        docker --host tcp://x images 2>&1
    """, code=1)  # fmt: skip
    assert len([line for line in lines if line.startswith("code 125 lines 1 ")]) == 8
    assert "docker: 'buildx' is not known to lamina's docker (did you mean 'build'?)" in lines
    assert any("--host: only the step's own docker service can be asked" in line for line in lines)


def test_logins_of_the_step_go_with_its_requests(repository: Project) -> None:
    with FakeRegistry(users={"me": "pass-word"}, auth="token") as registry:
        auth = base64.b64encode(b"me:pass-word").decode()
        lines = run(repository, f"""
            docker tag base:1 {registry.host}/a:1
            docker push {registry.host}/a:1 2>&1 | grep -ci -e unauthorized -e denied -e authenticat -e login || true
            echo pass-word | docker login -u me --password-stdin {registry.host}
            docker push -q {registry.host}/a:1 && echo pushed
            docker logout {registry.host}
            mkdir -p ~/.docker && echo '{json.dumps({"auths": {registry.host: {"auth": auth}}})}' > ~/.docker/config.json
            docker rmi {registry.host}/a:1 > /dev/null
            docker pull {registry.host}/a:1 > /dev/null && echo pulled
            docker run --rm --pull always {registry.host}/a:1 echo ran
        """)  # fmt: skip
    for line in ("Login Succeeded", "pushed", "pulled", "ran"):
        assert line in lines


def test_one_that_the_image_brings_is_taken(repository: Project) -> None:
    repository.write({"mine": "FROM base:1\nRUN printf '#!/bin/sh\\necho mine\\n' > /usr/bin/docker; chmod +x /usr/bin/docker\n"})
    assert repository.run("build", "-f", "mine", "-t", "with:1", ".").returncode == 0
    text = "pipelines:\n  default:\n    - step: {image: 'with:1', services: [docker], script: [docker images]}\n"
    repository.write({"bitbucket-pipelines.yml": text})
    done = repository.run("pipeline", "run", "--branch", "main", "--docker-cli", "own")
    assert b"] mine\n" in done.stdout
