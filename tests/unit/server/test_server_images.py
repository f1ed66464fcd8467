"""Handlers of images over a real store, without a socket."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer
from lamina.testing.engineapi import call, daemon_at, document, rows, stream


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="the files of a context are given to root")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with daemon_at(tmp_path / "root") as daemon:
        yield daemon


def imported(daemon: Daemon, name: str = "app", files: dict[str, bytes] | None = None, changes: str = "") -> str:
    found = rows(daemon, "POST", f"/images/create?fromSrc=-&repo={name}&message=note{changes}", tar(files or {"f": b"data"}))
    return str(found[0]["status"])


def test_an_imported_image_is_listed_inspected_and_has_its_history(daemon: Daemon) -> None:
    identifier = imported(daemon, "app:1", changes='&changes=CMD ["x"]&changes=ENV A=1')
    listed = document(daemon, "GET", "/images/json")
    assert [(row["Id"], row["RepoTags"]) for row in listed] == [(identifier, ["app:1"])]
    assert listed[0]["VirtualSize"] == listed[0]["Size"]
    found = document(daemon, "GET", "/images/app:1/json")
    assert found["Config"]["Cmd"] == ["x"]
    assert found["Config"]["Env"] == ["A=1"]
    assert found["Config"]["Entrypoint"] is None
    assert document(daemon, "GET", "/images/app:1/history")[0]["Comment"] == "note"


@pytest.mark.parametrize("spelling", ["{id}", "{hex}", "{short}", "team/deep/app:x", "docker.io/team/deep/app:x"])
def test_an_image_is_found_by_name_and_id(daemon: Daemon, spelling: str) -> None:
    identifier = imported(daemon)
    call(daemon, "POST", "/images/app/tag?repo=team/deep/app&tag=x")
    name = spelling.format(id=identifier, hex=identifier[7:], short=identifier[7:19])
    assert document(daemon, "GET", f"/images/{name}/json")["Id"] == identifier


def test_missing_and_bad_names(daemon: Daemon) -> None:
    for target, status in (("/images/nosuch/json", 404), ("/images/UPPER/json", 400), ("/images/app@sha256:" + "0" * 64 + "/json", 404)):
        reply = call(daemon, "GET", target)
        assert isinstance(reply, Answer)
        assert reply.status == status
        assert json.loads(reply.body)["message"]


def test_removing_a_name_and_then_the_image(daemon: Daemon) -> None:
    identifier = imported(daemon, "app:1")
    call(daemon, "POST", "/images/app:1/tag?repo=app&tag=2")
    assert document(daemon, "DELETE", "/images/app:2") == [{"Untagged": "app:2"}]
    assert document(daemon, "DELETE", "/images/app:1") == [{"Untagged": "app:1"}, {"Deleted": identifier}]
    assert document(daemon, "GET", "/images/json") == []


def test_an_image_of_several_repositories_is_not_removed_by_id_without_force(daemon: Daemon) -> None:
    identifier = imported(daemon, "app:1")
    call(daemon, "POST", "/images/app:1/tag?repo=other")
    document(daemon, "DELETE", f"/images/{identifier}", status=409)
    removed = document(daemon, "DELETE", f"/images/{identifier}?force=1")
    assert {"Deleted": identifier} in removed


def test_a_digest_of_another_name_removes_nothing(daemon: Daemon) -> None:
    """A digest belongs to the repository that it was pulled from; by it alone no other name goes."""
    identifier = imported(daemon, "app:1")
    manifest = document(daemon, "GET", "/images/app:1/json")["Descriptor"]["digest"]
    document(daemon, "DELETE", f"/images/team/other@{manifest}?force=1", status=404)
    assert document(daemon, "GET", "/images/app:1/json")["Id"] == identifier


def test_filters_of_the_list(daemon: Daemon) -> None:
    imported(daemon, "team/a:1", changes="&changes=LABEL k=v")
    imported(daemon, "team/b:2", {"g": b"other"})

    def names(filters: str) -> list[str]:
        return sorted(tag for row in document(daemon, "GET", f"/images/json?filters={filters}") for tag in row["RepoTags"])

    assert names('{"reference":["team/*:2"]}') == ["team/b:2"]
    assert names('{"label":{"k=v":true}}') == ["team/a:1"]
    assert names('{"dangling":["true"]}') == []
    document(daemon, "GET", '/images/json?filters={"nope":["1"]}', status=400)


def test_what_is_saved_can_be_loaded(daemon: Daemon) -> None:
    imported(daemon, "app:1")
    data = stream(daemon, "GET", "/images/get?names=app:1")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        assert json.load(manifest)[0]["RepoTags"] == ["app:1"]
    call(daemon, "DELETE", "/images/app:1")
    assert rows(daemon, "POST", "/images/load", data) == [{"stream": "Loaded image: app:1\n"}]


def test_an_image_saved_by_id_is_loaded_without_a_name(daemon: Daemon) -> None:
    identifier = imported(daemon, "app:1")
    data = stream(daemon, "GET", f"/images/get?names={identifier}")
    call(daemon, "DELETE", "/images/app:1")
    assert rows(daemon, "POST", "/images/load", data)[0] == {"stream": f"Loaded image ID: {identifier}\n"}


def test_what_is_no_archive_is_refused_before_the_stream(daemon: Daemon) -> None:
    document(daemon, "POST", "/images/load", b"not a tar\n", status=400)
    document(daemon, "GET", "/images/get?names=nosuch", status=404)


def test_pruning_takes_images_without_a_name(daemon: Daemon) -> None:
    identifier = imported(daemon, "app")
    imported(daemon, "app", {"g": b"newer"})
    found = document(daemon, "POST", "/images/prune")
    assert found["ImagesDeleted"] == [{"Deleted": identifier}]
    assert len(document(daemon, "GET", "/images/json")) == 1


def test_volumes(daemon: Daemon) -> None:
    assert document(daemon, "POST", "/volumes/create", {"Name": "v", "Labels": {"a": "b"}}, 201)["Name"] == "v"
    assert [v["Name"] for v in document(daemon, "GET", '/volumes?filters={"name":["v"]}')["Volumes"]] == ["v"]
    document(daemon, "GET", "/volumes/none", status=404)
    document(daemon, "POST", "/volumes/create", {"Name": "../up"}, 400)
    document(daemon, "GET", "/volumes/..", status=404)
    reply = call(daemon, "DELETE", "/volumes/v")
    assert isinstance(reply, Answer)
    assert reply.status == 204


def test_networks(daemon: Daemon) -> None:
    assert {n["Name"] for n in document(daemon, "GET", "/networks")} == {"bridge", "host", "none"}
    identifier = document(daemon, "POST", "/networks/create", {"Name": "n"}, 201)["Id"]
    assert document(daemon, "GET", f"/networks/{identifier[:12]}")["Name"] == "n"
    document(daemon, "POST", "/networks/create", {"Name": "n"}, 409)
    document(daemon, "DELETE", "/networks/bridge", status=403)


def test_system(daemon: Daemon) -> None:
    assert document(daemon, "GET", "/version")["ApiVersion"] == "1.41"
    assert document(daemon, "GET", "/info")["OSType"] == "linux"
    assert document(daemon, "GET", "/system/df")["Images"] == []
    document(daemon, "GET", "/swarm", status=503)


@pytest.mark.root
@AS_ROOT
def test_a_build_answers_in_rows(daemon: Daemon) -> None:
    context = tar({"Dockerfile": b"FROM scratch\nCOPY a.txt /\nLABEL k=v\n", "a.txt": b"a"})
    found = rows(daemon, "POST", "/build?t=made:1", context)
    assert found[0] == {"stream": "Step 1/3 : FROM scratch\n"}
    assert found[-1] == {"stream": "Successfully tagged made:1\n"}
    identifier = next(row["aux"]["ID"] for row in found if "aux" in row)
    assert document(daemon, "GET", "/images/made:1/json")["Id"] == identifier
    assert rows(daemon, "POST", "/build?q=1", context) == [{"stream": identifier + "\n"}]


@pytest.mark.root
@AS_ROOT
@pytest.mark.parametrize(
    ("query", "files", "message"),
    [
        ("", {"Dockerfile": b"FROM scratch\nNOSUCH\n"}, "line 2: unknown instruction: NOSUCH"),
        ("", {"Dockerfile": b" \n"}, "cannot be empty"),
        ("", {"other": b""}, "Cannot locate specified Dockerfile"),
        ("?dockerfile=../../etc/passwd", {"Dockerfile": b"FROM scratch\n"}, "Cannot locate"),
        ("?target=nosuch", {"Dockerfile": b"FROM scratch\n"}, "nosuch"),
        ("?t=UPPER", {"Dockerfile": b"FROM scratch\n"}, "lowercase"),
        ("?version=3", {"Dockerfile": b"FROM scratch\n"}, "there is no builder of version '3'"),
        ("?remote=file:///etc/hostname", {"Dockerfile": b"FROM scratch\n"}, "neither a repository nor a URL"),
        ("?remote=/etc", {"Dockerfile": b"FROM scratch\n"}, "neither a repository nor a URL"),
    ],
)  # fmt: skip
def test_a_build_that_cannot_begin_is_an_ordinary_error(daemon: Daemon, query: str, files: dict[str, bytes], message: str) -> None:
    reply = call(daemon, "POST", "/build" + query, tar(files))
    assert isinstance(reply, Answer)
    assert reply.status >= 400
    assert message in json.loads(reply.body)["message"]
    assert not list((daemon.engine.store.scratch()).glob("context-*"))


@pytest.mark.root
@AS_ROOT
def test_a_build_that_fails_ends_with_an_error_row(daemon: Daemon) -> None:
    found = rows(daemon, "POST", "/build", tar({"Dockerfile": b"FROM scratch\nCOPY absent.txt /\n"}))
    assert "absent.txt" in found[-1]["error"]
    assert found[-1]["errorDetail"]["message"] == found[-1]["error"]


@pytest.mark.root
@AS_ROOT
def test_a_context_without_the_last_padding_is_taken(daemon: Daemon) -> None:
    """As the docker CLI of 20.10 sends it with `-f -`."""
    data = tar({"a": b"x", "Dockerfile": b"FROM scratch\nCOPY a /\n"}).rstrip(b"\0")
    assert rows(daemon, "POST", "/build", data)[-1]["stream"].startswith("Successfully built")


def test_two_daemons_on_one_root_have_containers_of_their_own(tmp_path: Path) -> None:
    with daemon_at(tmp_path / "root") as one, daemon_at(tmp_path / "root") as other:
        assert one.folder != other.folder
        document(one, "POST", "/volumes/create", {"Name": "v"}, 201)
        assert document(other, "GET", "/volumes")["Volumes"] == []


def test_what_was_removed_leaves_the_disk_while_the_engine_runs(daemon: Daemon) -> None:
    """The engine's lease must not hold for ever what a client once looked at."""
    imported(daemon, "app", {"f": os.urandom(100_000)})
    layer = document(daemon, "GET", "/images/app/json")["RootFS"]["Layers"][0]
    blob = daemon.engine.store.layout.blobs / "sha256" / layer[7:]
    assert blob.exists()
    call(daemon, "DELETE", "/images/app")
    assert not blob.exists()


def test_nothing_is_collected_under_a_request_that_goes_on(daemon: Daemon) -> None:
    imported(daemon, "app", {"f": os.urandom(1000)})
    with daemon.store() as store:
        image = store.images.all()[0]
        assert store.images.by_id(image.id) is not None
        call(daemon, "DELETE", "/images/app")
        assert not store.blobs.missing([image.id])
