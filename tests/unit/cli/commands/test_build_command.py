"""`lamina build`: outputs, files that it writes, what it refuses."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.oci.digest import Digest
from lamina.store.blobs import LocalBlobs
from lamina.store.protocols import StoreError

Lamina = Callable[..., Any]


def test_it_prints_the_id_and_what_it_did(lamina: Lamina, app: Path) -> None:
    said = lamina("build", "--progress", "plain", "-t", "app:1", ".")
    assert said.code == 0
    assert said.out.startswith("sha256:")
    assert len(said.out.splitlines()) == 1
    assert "START  [parts 1/2] COPY a /a" in said.err
    assert "RAN    [stage-1 1/2] COPY --from=parts /a /copied" in said.err
    assert "image docker.io/library/app:1" in said.err
    again = lamina("build", "--progress", "plain", "-t", "app:1", ".")
    assert again.out == said.out
    assert "START" not in again.err


def test_quiet_says_the_id_only(lamina: Lamina, app: Path) -> None:
    said = lamina("build", "-q", ".")
    assert said.err == ""
    assert said.out.startswith("sha256:")


def test_files_beside_the_image(lamina: Lamina, app: Path, tmp_path: Path) -> None:
    names = {name: tmp_path / name for name in ("id", "meta", "report")}
    said = lamina(
        "build",
        "-q",
        "-t",
        "app:1",
        "--iidfile",
        str(names["id"]),
        "--metadata-file",
        str(names["meta"]),
        "--report",
        str(names["report"]),
        ".",
    )
    assert names["id"].read_text() == said.out.strip()
    assert json.loads(names["meta"].read_text())["image.name"] == "docker.io/library/app:1"
    assert json.loads(names["report"].read_text())["image"]["id"] == said.out.strip()


def test_json_is_the_report(lamina: Lamina, app: Path) -> None:
    document = json.loads(lamina("build", "--json", "-q", ".").out)
    assert [step["verdict"] for step in document["steps"] if step["verdict"] != "none"] == ["ran", "ran", "ran", "ran"]


def test_outputs(lamina: Lamina, app: Path, tmp_path: Path) -> None:
    assert lamina("build", "-q", "-o", f"type=tar,dest={tmp_path}/a.tar", "-o", str(tmp_path / "out"), ".").code == 0
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert {"copied", "work"} <= {name.strip("/") for name in archive.getnames()}
    assert (tmp_path / "out/copied").read_text() == "one\n"


def test_a_report_of_a_failure(lamina: Lamina, app: Path, tmp_path: Path) -> None:
    (app / "Dockerfile").write_text("FROM scratch AS only\nCOPY a /a\nRUN true\n")
    said = lamina("build", "--progress", "plain", "--report", str(tmp_path / "r"), ".")
    assert said.code == 69
    assert "FAILED [only 2/2] RUN true" in said.err, "a single stage with a name shows it"
    line = said.err[said.err.index("FAILED") :].splitlines()[1]
    assert "RUN cannot be executed here" in line
    assert "first build" not in line
    assert [s.get("failed", False) for s in json.loads((tmp_path / "r").read_text())["steps"]] == [False, False, True]
    why = lamina("why").out
    assert "RUN cannot be executed here" in why
    assert why.count("RUN cannot be executed here") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "there is no directory none"),
        (["--push", "."], "nothing says where"),
        (["--cache-from", "x", "."], "is no shared cache"),
        (["--platform", "linux/amd64,linux/arm64", "-o", "out", "."], "takes one platform"),
        (["--label", "x", "."], "NAME=VALUE"),
        (["--refresh", "prats", "."], "did you mean 'parts'"),
        (["--target", "nothing", "."], "nothing"),
        (["-f", "none", "."], "none"),
        (["--registry-ca", "none", "."], "none"),
        (["-o", "type=nonsense", "."], "nonsense"),
    ],
)
def test_mistakes(lamina: Lamina, app: Path, arguments: list[str], said: str) -> None:
    found = lamina("build", "-q", *arguments)
    assert found.code not in (0, 70), found.err
    assert said in found.err
    assert "Traceback" not in found.err


def test_an_archive_does_not_go_to_a_terminal(lamina: Lamina, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "terminal" in lamina("build", "-o", "type=oci,dest=-", ".").err


def test_check_is_lint(lamina: Lamina, app: Path) -> None:
    (app / "Dockerfile").write_text("FROM scratch\nCPOY a /a\n")
    said = lamina("build", "--check", ".")
    assert said.code == 1
    assert "CPOY" in said.out


def test_a_private_key_as_argument_is_warned_of(lamina: Lamina, app: Path) -> None:
    (app / "Dockerfile").write_text("FROM scratch\nARG DEPLOY\nCOPY a /a\n")
    said = lamina("build", "--progress", "plain", "--build-arg", "DEPLOY=-----BEGIN OPENSSH PRIVATE KEY-----\nhidden", ".")
    assert said.code == 0
    assert "--build-arg DEPLOY is a private key" in said.err
    assert "--mount=type=ssh" in said.err
    assert "--mount=type=secret" in said.err
    assert "hidden" not in said.err + said.out


def test_a_listing_that_cannot_be_kept_fails_the_build_before_the_image_has_its_name(
    lamina: Lamina, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written beside the steps: what went wrong there must not be lost, nor come when the image is there already."""
    put = LocalBlobs.put

    def full(blobs: LocalBlobs, data: bytes) -> Digest:
        if data.startswith(b"\x78\x01"):
            raise StoreError("no space left on the device")
        return put(blobs, data)

    monkeypatch.setattr(LocalBlobs, "put", full)
    done = lamina("build", "-t", "app:1", str(app))
    assert done.code != 0
    assert "no space left" in done.err
    assert lamina("images", "-q").out == ""
