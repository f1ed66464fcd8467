"""Output strings, places, the files of an image as tar and as folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.engine.exporters.export import export, save
from lamina.engine.exporters.output import BadOutput, parse_output
from lamina.engine.exporters.place import CannotWrite, new_folder, replacing
from lamina.engine.exporters.rootfs import write_local
from lamina.engine.images.importing import load
from lamina.engine.request import Output
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.view import LayerView
from lamina.oci.platform import Platform
from lamina.store.local import LocalStore
from lamina.store.refs import Image
from lamina.testing.images import old_docker_archive, simple_image, tar_of

AMD = Platform("linux", "amd64")
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


@pytest.fixture
def image(store: LocalStore) -> Image:
    below = tar_of({"etc": None, "etc/gone": b"x", "etc/kept": b"below", "bin": None, "bin/tool": b"#!"})
    above = tar_of({"etc": None, "etc/.wh.gone": b"", "etc/new": b"above", "link": "etc/new"})
    (found,) = load(store, io.BytesIO(old_docker_archive([(simple_image([below, above]), ["app:1"])])), AMD)
    return found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("out", Output("local", Path("out"))),
        ("-", Output("tar", None)),
        ("type=local,dest=out", Output("local", Path("out"))),
        ("type=tar,dest=x.tar", Output("tar", Path("x.tar"))),
        ("type=tar", Output("tar", None)),
        ("type=image,name=a:1", Output("image", None, (("name", "a:1"),))),
        ("type=docker", Output("image", None)),
        ("type=docker,dest=-", Output("docker", None)),
        ("type=docker,dest=a.tar,name=b", Output("docker", Path("a.tar"), (("name", "b"),))),
        ("type=oci,dest=a.tar", Output("oci", Path("a.tar"), (("tar", "true"),))),
        ("type=oci,dest=a/", Output("oci", Path("a"), (("tar", "false"),))),
        ("type=oci,tar=false,dest=a", Output("oci", Path("a"), (("tar", "false"),))),
        ('type=local,"dest=a,b"', Output("local", Path("a,b"))),
        ("TYPE=local,Dest=a", Output("local", Path("a"))),
    ],
)
def test_output_strings(text: str, wanted: Output) -> None:
    assert parse_output(text) == wanted


@pytest.mark.parametrize(
    ("text", "word", "hint"),
    [
        ("", "empty", "give a directory"),
        ("dest=x", "names no type", "types:"),
        ("type=tra,dest=x", "'tra'", "did you mean tar?"),
        ("type=zip", "'zip'", "types: image"),
        ("type=local,dst=x", "'dst'", "did you mean dest?"),
        ("type=local,dest=x,push=true", "'push'", "keys of local: dest"),
        ("type=local", "needs dest", None),
        ("type=oci,tar=false", "needs dest", None),
        ("type=oci,tar=maybe,dest=x", "neither true nor false", None),
        ("type=tar,dest=a,dest=b", "twice", None),
        ("type=tar,nonsense", "not key=value", None),
        ('type=tar,"dest=a', "quote", None),
    ],
)
def test_bad_output_strings(text: str, word: str, hint: str | None) -> None:
    with pytest.raises(BadOutput, match=word) as caught:
        parse_output(text)
    assert (caught.value.hint or "").startswith(hint or "")
    assert caught.value.exit_code == 2


def test_no_archive_on_a_terminal() -> None:
    with pytest.raises(BadOutput, match="terminal"):
        parse_output("-", terminal=True)
    assert parse_output("type=tar,dest=x", terminal=True).dest == Path("x")


def test_files_appear_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fails() -> None:
        with replacing(path) as out:
            out.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert path.read_bytes() == b"old"
    with replacing(path) as out:
        out.write(b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    with pytest.raises(CannotWrite, match="No such file"), replacing(tmp_path / "no" / "f"):
        pass


def test_folders_appear_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "d"

    def fails() -> None:
        with new_folder(path) as made:
            (made / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert list(tmp_path.iterdir()) == []
    with new_folder(path) as made:
        (made / "f").touch()
    assert (path / "f").exists()
    with pytest.raises(CannotWrite, match="not empty"), new_folder(path):
        pass


def test_tar_of_the_files(store: LocalStore, image: Image) -> None:
    out = io.BytesIO()
    assert export(store, [image], Output("tar", None), out) == ()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == ["bin", "bin/tool", "etc", "etc/kept", "etc/new", "link"]
        assert tar.getmember("bin/tool").mode == 0o755
        assert tar.getmember("link").linkname == "etc/new"
        member = tar.extractfile("etc/new")
        assert member is not None
        assert member.read() == b"above"


def test_local(store: LocalStore, image: Image, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    (dest / "etc").mkdir(parents=True)
    (dest / "etc" / "own").write_bytes(b"stays")
    (dest / "etc" / "kept").write_bytes(b"replaced")
    for _ in range(2):
        assert export(store, [image], Output("local", dest), io.BytesIO()) == ()
    assert (dest / "etc" / "own").read_bytes() == b"stays"
    assert (dest / "etc" / "kept").read_bytes() == b"below"
    assert not (dest / "etc" / "gone").exists()
    assert os.readlink(dest / "link") == "etc/new"
    assert stat.S_IMODE((dest / "bin" / "tool").stat().st_mode) == 0o755
    assert not list(dest.rglob(".lamina*"))


def test_local_follows_no_link_of_the_destination(store: LocalStore, image: Image, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"safe")
    dest = tmp_path / "out"
    dest.mkdir()
    (dest / "link").symlink_to(outside / "victim")
    (dest / "etc").symlink_to(outside)
    with pytest.raises(CannotWrite, match="folder etc"):
        export(store, [image], Output("local", dest), io.BytesIO())
    (dest / "etc").unlink()
    (dest / "etc").mkdir()
    (dest / "etc" / "new").symlink_to(outside / "victim")
    export(store, [image], Output("local", dest), io.BytesIO())
    assert sorted(p.name for p in outside.iterdir()) == ["victim"]
    assert (outside / "victim").read_bytes() == b"safe"
    assert (dest / "etc" / "new").read_bytes() == b"above"


def test_local_of_folders_in_folders(tmp_path: Path) -> None:
    """A few hundred of them, which any image may have, were too many for Python's stack."""
    depth = 400
    (tmp_path / "layer" / "diff").mkdir(parents=True)
    here = os.open(tmp_path / "layer" / "diff", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", 0o750, dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    before = len(os.listdir("/proc/self/fd"))
    assert write_local(LayerView([tmp_path / "layer"], FLAVOUR), tmp_path / "out") == ()
    assert len(os.listdir("/proc/self/fd")) == before
    assert stat.S_IMODE(os.stat(tmp_path / "out" / ("d/" * depth)).st_mode) == 0o750


def test_local_where_a_folder_stands_for_a_file(store: LocalStore, image: Image, tmp_path: Path) -> None:
    (tmp_path / "out" / "etc" / "new").mkdir(parents=True)
    with pytest.raises(CannotWrite, match="etc/new"):
        export(store, [image], Output("local", tmp_path / "out"), io.BytesIO())


def test_archives(store: LocalStore, image: Image, tmp_path: Path) -> None:
    export(store, [image], parse_output(f"type=docker,dest={tmp_path}/d.tar,name=other"), io.BytesIO())
    export(store, [image], parse_output(f"type=oci,dest={tmp_path}/o.tar"), io.BytesIO())
    export(store, [image], parse_output(f"type=oci,dest={tmp_path}/o/"), io.BytesIO())
    assert load(store, tmp_path / "d.tar", AMD)[0].names == ("docker.io/library/other:latest",)
    assert load(store, tmp_path / "o.tar", AMD)[0].id == image.id
    assert load(store, tmp_path / "o", AMD)[0].names == ("docker.io/library/app:1",)
    out = io.BytesIO()
    save(store, [(image, ["docker.io/library/app:1"]), (image, [])], out)
    out.seek(0)
    assert [i.id for i in load(store, out, AMD)] == [image.id] * 2


def test_several_images_are_no_folder(store: LocalStore, image: Image, tmp_path: Path) -> None:
    with pytest.raises(BadOutput, match="one image, not 2"):
        export(store, [image, image], Output("local", tmp_path / "x"), io.BytesIO())


def test_a_name_of_an_open_file_is_written_and_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as out:
        out.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    with (tmp_path / "log").open("wb") as log:
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{log.fileno()}")  # as /dev/stdout
        before = (tmp_path / "log").stat().st_ino
        for name in (tmp_path / "stdout", Path(f"/dev/fd/{log.fileno()}")):
            with replacing(name, sync=False) as out:
                out.write(b"said")
    assert (tmp_path / "stdout").is_symlink()
    assert ((tmp_path / "log").read_text(), (tmp_path / "log").stat().st_ino) == ("said", before)
    with pytest.raises(CannotWrite, match="Is a directory"), replacing(tmp_path):
        pass
