from __future__ import annotations

from pathlib import Path

import pytest

from lamina.sandbox.containers import DEFAULT_CAPABILITIES
from lamina.server.containers import capabilities, shapes
from lamina.server.containers.container import MountPoint, duration
from lamina.server.containers.creating import Rules, allowed, check_name, host_config, merged_config, mounts
from lamina.server.errors import ApiError, BadRequest

ID = "ab" * 32


def words(asked: dict[str, object], image: dict[str, object]) -> tuple[object, object]:
    config = merged_config(asked, image, "app", ID)
    return config["Entrypoint"], config["Cmd"]


def test_words_come_from_the_image_where_none_are_asked_for() -> None:
    image: dict[str, object] = {"Entrypoint": ["ep"], "Cmd": ["a"]}
    assert words({}, image) == (["ep"], ["a"])
    assert words({"Cmd": ["b"]}, image) == (["ep"], ["b"])
    assert words({"Cmd": "b"}, image) == (["ep"], ["b"])


def test_an_entrypoint_of_one_s_own_drops_the_image_s_command() -> None:
    image: dict[str, object] = {"Entrypoint": ["ep"], "Cmd": ["a"]}
    assert words({"Entrypoint": ["mine"]}, image) == (["mine"], None)
    assert words({"Entrypoint": [""], "Cmd": ["b"]}, image) == (None, ["b"])


def test_no_command_at_all_is_refused() -> None:
    with pytest.raises(BadRequest, match="No command"):
        merged_config({}, {}, "app", ID)


def test_environment_is_merged_by_name_and_has_a_path() -> None:
    config = merged_config({"Cmd": ["x"], "Env": ["A=2", "GONE"]}, {"Env": ["A=1", "B=1", "GONE=1"]}, "app", ID)
    assert config["Env"][1:] == ["B=1", "A=2"]
    assert config["Env"][0].startswith("PATH=")


def test_unset_maps_are_null_as_in_go() -> None:
    config = merged_config({"Cmd": ["x"], "Volumes": {}}, {}, "app", ID)
    assert config["Volumes"] is None
    assert config["Entrypoint"] is None
    assert config["Hostname"] == ID[:12]


@pytest.mark.parametrize(
    "asked",
    [
        {"Privileged": True}, {"CapAdd": ["NOPE"]}, {"PidMode": "host"}, {"NetworkMode": "container:x", "PublishAllPorts": True}, {"Devices": [{"PathOnHost": "/dev/kmsg"}]},
        {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}, {"RestartPolicy": {"Name": "sometimes"}},
    ],
)  # fmt: skip
def test_what_this_engine_cannot_do_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises(ApiError):
        host_config(asked, Rules())


def test_zero_values_of_every_client_are_ignored_and_limits_warn() -> None:
    host, warnings = host_config({"MemorySwappiness": -1, "ConsoleSize": [0, 0], "RestartPolicy": {"Name": ""}, "ShmSize": 0}, Rules())
    assert not warnings
    assert host["ShmSize"] == 64 << 20
    assert host_config({"Memory": 1 << 25}, Rules())[1]


def test_binds_volumes_and_tmpfs(tmp_path: Path) -> None:
    made: list[str] = []

    def volume(name: str) -> str:
        made.append(name)
        return name or "new"

    host = {"Binds": [f"{tmp_path}:/m:ro", "named:/n"], "Mounts": [{"Type": "tmpfs", "Target": "/t"}], "Tmpfs": {"/u": "size=1m,mode=700"}}
    found = {m.target: m for m in mounts({"Volumes": {"/data": {}, "/n": {}}}, host, Rules(), volume)}
    assert found["/m"] == MountPoint("bind", "/m", str(tmp_path), readonly=True)
    assert found["/n"].name == "named"
    assert (found["/u"].size, found["/u"].mode) == (1 << 20, 0o700)
    assert found["/data"].anonymous
    assert made == ["named", ""]


def test_a_part_of_a_volume_is_refused_and_not_the_whole_mounted() -> None:
    mount = {"Type": "volume", "Source": "v", "Target": "/m", "VolumeOptions": {"Subpath": "part"}}
    with pytest.raises(BadRequest, match="volume-subpath"):
        mounts({}, {"Mounts": [mount]}, Rules(), lambda name: name)
    assert mounts({}, {"Mounts": [{**mount, "VolumeOptions": {"Subpath": ""}}]}, Rules(), lambda name: name)


def test_a_bind_s_missing_folder_is_made_as_docker_does(tmp_path: Path) -> None:
    mounts({}, {"Binds": [f"{tmp_path}/new:/m"]}, Rules(), lambda name: name)
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize("name", ["a" * 300, "file/below"])
def test_a_folder_that_cannot_be_made_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="invalid volume specification"):
        mounts({}, {"Binds": [f"{tmp_path}/{name}:/m"]}, Rules(), lambda name: name)
    with pytest.raises(BadRequest, match="does not exist"):
        mounts({}, {"Mounts": [{"Type": "bind", "Source": f"{tmp_path}/{name}", "Target": "/m"}]}, Rules(), lambda name: name)


def test_binds_stay_below_the_allowed_folders_also_through_links(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to("/etc")
    rules = Rules(roots=(inside,))
    assert allowed(str(inside), rules) == inside
    for path in (str(inside / "link"), str(inside / ".." / "x"), "/etc", "relative"):
        with pytest.raises(BadRequest):
            allowed(path, rules)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "x", "../up", "a b"])
def test_names(name: str) -> None:
    with pytest.raises(BadRequest):
        check_name(name)


def test_capabilities() -> None:
    assert capabilities.mask((), ()) == DEFAULT_CAPABILITIES
    assert capabilities.mask((), ("ALL",)) == 0
    assert capabilities.mask(("cap_sys_admin",), ("ALL",)) == 1 << 21
    assert capabilities.mask(("ALL",), ("CHOWN",)) == capabilities.ALL & ~1


@pytest.mark.parametrize(("seconds", "text"), [(0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (3600, "About an hour"), (7200, "2 hours"), (86400 * 3, "3 days")])  # fmt: skip
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "body",
    [
        {"Env": 5}, {"Env": [5]}, {"Labels": []}, {"Cmd": {}}, {"Volumes": "/"}, {"HostConfig": []}, {"HostConfig": {"Binds": [None]}},
        {"HostConfig": {"RestartPolicy": "always"}}, {"HostConfig": {"Memory": "1g"}}, {"HostConfig": {"Ulimits": [{}]}}, {"StopTimeout": "x"},
        {"NetworkingConfig": {"EndpointsConfig": [1]}}, {"Healthcheck": {"StartInterval": "1s"}},
        {"HostConfig": {"Mounts": [{"VolumeOptions": {"Subpath": 5}}]}},
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_refused_at_the_door(body: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="invalid JSON"):
        shapes.checked_body(body)


def test_what_clients_send_passes() -> None:
    body: dict[str, object] = {
        "Entrypoint": None, "Cmd": "x", "Shell": None, "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": None}, "Unknown": [1],
        "HostConfig": {"MemorySwappiness": -1, "OomKillDisable": False, "PortBindings": {"80/tcp": None}, "ConsoleSize": [0, 0], "Binds": None},
    }  # fmt: skip
    assert shapes.checked_body(body) is body


@pytest.mark.parametrize("place", ["/nowhere/\0", "/nowhere/\ud800"])
def test_a_bind_of_an_impossible_name_is_refused(place: str) -> None:
    with pytest.raises(BadRequest, match="invalid mount path"):
        allowed(place, Rules())
