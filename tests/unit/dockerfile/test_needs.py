"""Which files of the project a RUN reads: what is not known for sure is None."""

from __future__ import annotations

import pytest

from lamina.dockerfile import parse
from lamina.dockerfile.instructions import Run
from lamina.dockerfile.needs import needed


def of(command: str) -> tuple[str, ...] | None:
    run = parse(f"FROM a\nRUN {command}\n").stages[0].instructions[0]
    assert isinstance(run, Run)
    return needed(run)


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("npm ci", ("package.json", "package-lock.json")),
        ('["npm", "ci"]', ("package.json", "package-lock.json")),
        ("npm install --production", ("package.json", "package-lock.json")),
        ("npm install -g pnpm", ()),
        ("yarn --frozen-lockfile", ("package.json", "yarn.lock")),
        ("pip install --no-cache-dir -r requirements.txt -c constraints.txt", ("requirements.txt", "constraints.txt")),
        ("python3 -m pip install -rreq/dev.txt", ("req/dev.txt",)),
        ("pip install flask==3", ()),
        ("go mod download", ("go.mod", "go.sum")),
        ("poetry install --no-root", ("pyproject.toml", "poetry.lock")),
        ("mvn -B dependency:go-offline", ("pom.xml",)),
        ("apt-get update \\\n && DEBIAN_FRONTEND=x apt-get install -y gcc && rm -rf /var/lib/apt/lists/*", ()),
        ("apk add --no-cache git; npm ci", ("package.json", "package-lock.json")),
        ("set -eux; useradd app", ()),
    ],
)
def test_known(command: str, files: tuple[str, ...]) -> None:
    assert of(command) == files


@pytest.mark.parametrize(
    "command",
    [
        "make",
        "npm run build",
        "npm ci && npm run build",
        "npm install ./local",
        "npm install lodash",
        "pip install .",
        "pip install -e .",
        "pip install ./dist/x.whl",
        "pip install -r $FILE",
        "poetry install",
        "go mod tidy",
        "go build ./...",
        "apt-get install -y ./x.deb",
        "apt-get install $(cat list)",
        "mkdir x < list",
        "rm -rf build",
        "--mount=type=bind,target=/x npm ci",
        "--network=none npm ci",
        "<<eof\nnpm ci\neof",
    ],
)
def test_unknown(command: str) -> None:
    assert of(command) is None
