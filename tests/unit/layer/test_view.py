"""LayerView shows what an overlay of the same layers shows."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from lamina.layer.apply import apply_tar
from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.paths import LayerFault
from lamina.layer.view import LayerView, NotThere
from lamina.layer.writer import EntryWriter
from lamina.testing.tars import archive, folder, member, symlink

ROOT = os.geteuid() == 0
PLAIN = Flavour("plain", IdMap("single"))
FLAVOURS = [Flavour("trusted"), Flavour("user"), PLAIN] if ROOT else [PLAIN]
every_flavour = pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
OPAQUE = ".wh..wh..opq"


def stack(tmp_path: Path, flavour: Flavour, *layers: list[bytes]) -> list[Path]:
    made = []
    for number, members in enumerate(layers):
        where = tmp_path / f"layer{number}"
        (where / "diff").mkdir(parents=True)
        apply_tar(io.BytesIO(archive(members)), where, flavour)
        made.append(where)
    return made


def names(view: LayerView) -> list[bytes]:
    return [path for path, _ in view.walk()]


LAYERS = [
    [
        folder("etc", 0o750),
        member("etc/passwd", b"root"),
        folder("gone"),
        member("gone/in", b""),
        folder("opaque"),
        member("opaque/old", b""),
        folder("was-folder"),
        member("was-folder/in", b""),
        member("was-file", b""),
        folder("back"),
        member("back/old", b""),
        folder("deep/er"),
        member("deep/er/a", b""),
        symlink("lib", "usr/lib"),
        folder("usr/lib"),
        member("usr/lib/x", b"x"),
    ],
    [
        folder("etc", 0o711),
        member("etc/hosts", b"hosts"),
        member(".wh.gone", b""),
        folder("opaque"),
        member(f"opaque/{OPAQUE}", b""),
        member("opaque/new", b""),
        member("was-folder", b"now a file"),
        folder("was-file"),
        member("was-file/in", b""),
        member(".wh.back", b""),
        member("deep/er/.wh.a", b""),
        member("deep/er/b", b""),
    ],
    [
        folder("back"),
        member("back/new", b""),
        folder("was-folder"),
        member("was-folder/newer", b""),
        member("etc/.wh.nothing", b""),
        member("opaque/newest", b""),
    ],
]
SHOWN = [
    b"back",
    b"back/new",
    b"deep",
    b"deep/er",
    b"deep/er/b",
    b"etc",
    b"etc/hosts",
    b"etc/passwd",
    b"lib",
    b"opaque",
    b"opaque/new",
    b"opaque/newest",
    b"usr",
    b"usr/lib",
    b"usr/lib/x",
    b"was-file",
    b"was-file/in",
    b"was-folder",
    b"was-folder/newer",
]


@every_flavour
def test_layers_are_merged(flavour: Flavour, tmp_path: Path) -> None:
    with LayerView(stack(tmp_path, flavour, *LAYERS), flavour) as view:
        assert names(view) == SHOWN
        assert view.entry(b"gone") is None
        assert view.entry(b"gone/in") is None
        assert view.children(b"opaque") == [b"new", b"newest"]
        etc = view.entry(b"etc")
        assert etc is not None
        assert etc.mode == 0o755, "a folder is the topmost layer's (here one that its tar did not name)"


@every_flavour
def test_every_prefix_of_a_stack_is_a_view(flavour: Flavour, tmp_path: Path) -> None:
    layers = stack(tmp_path, flavour, *LAYERS)
    assert names(LayerView(layers[:1], flavour)).count(b"gone/in") == 1
    two = LayerView(layers[:2], flavour)
    entry = two.entry(b"was-folder")
    assert entry is not None
    assert entry.kind is Kind.FILE
    assert two.entry(b"was-folder/in") is None
    assert names(LayerView([], flavour)) == []
    assert LayerView([], flavour).entry(b"") == Entry(b"", Kind.DIRECTORY, 0o755)


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="mounting needs root")
@pytest.mark.parametrize("flavour", FLAVOURS[:2], ids=str)
def test_the_view_is_what_an_overlay_shows(flavour: Flavour, tmp_path: Path) -> None:
    layers = stack(tmp_path, flavour, *LAYERS)
    (tmp_path / "m").mkdir()
    lowers = ":".join(str(layer / "diff") for layer in reversed(layers))
    options = f"lowerdir={lowers}" + (",userxattr" if flavour.whiteouts == "user" else "")
    script = (
        f'mount -t overlay none -o "{options}" {tmp_path}/m && cd {tmp_path}/m && find . -mindepth 1 -printf "%P %m %y\\n" | LC_ALL=C sort'
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no overlay can be mounted here: {done.stderr.strip()}")
    with LayerView(layers, flavour) as view:
        ours = [f"{path.decode()} {entry.mode:o} {entry.kind.value}" for path, entry in view.walk()]
    assert sorted(ours) == sorted(done.stdout.splitlines())


@every_flavour
def test_links_are_followed_inside(flavour: Flavour, tmp_path: Path) -> None:
    layers = stack(
        tmp_path,
        flavour,
        LAYERS[0],
        [symlink("abs", "/usr/lib/x"), symlink("up", "../../../../etc/passwd"), symlink("loop", "loop"), symlink("usr/ln", "../lib")],
    )
    view = LayerView(layers, flavour)
    assert view.resolve(b"abs") == b"usr/lib/x"
    assert view.resolve(b"up") == b"etc/passwd"
    assert view.resolve(b"loop") is None
    assert view.resolve(b"usr/ln/x") == b"usr/lib/x"
    assert view.resolve(b"nothing") is None
    through = view.entry(b"lib/x")
    assert through is not None
    assert (through.path, through.kind) == (b"usr/lib/x", Kind.FILE)
    assert view.children(b"lib") == [b"x"]
    with view.open(b"lib/x") as file:
        assert file.read() == b"x"
    link = view.entry(b"abs")
    assert link is not None
    assert (link.kind, link.link) == (Kind.SYMLINK, b"/usr/lib/x")


@every_flavour
def test_bytes_and_content_ids(flavour: Flavour, tmp_path: Path) -> None:
    view = LayerView(stack(tmp_path, flavour, LAYERS[0], [member("etc/passwd", b"changed")]), flavour)
    with view.open(b"etc/passwd") as file:
        assert file.read() == b"changed"
    assert view.content(b"etc/passwd") == sha256(b"changed").hexdigest()
    for path in (b"etc", b"lib", b"nothing", b"etc/passwd/x"):
        with pytest.raises(NotThere):
            view.open(path)


@every_flavour
def test_owners_devices_and_attributes_are_the_images(flavour: Flavour, tmp_path: Path) -> None:
    where = tmp_path / "layer"
    (where / "diff").mkdir(parents=True)
    made = [
        Entry(b"d", Kind.DIRECTORY, 0o700, 5, 6, 0, 1.0),
        Entry(b"d/f", Kind.FILE, 0o4755, 1000, 1001, 1, 1.0, xattrs=((b"user.a", b"b"),)),
        Entry(b"d/null", Kind.CHARACTER, 0o666, 7, 8, 0, 1.0, b"", 1, 3),
        Entry(b"ln", Kind.SYMLINK, 0o777, 9, 10, 0, 1.0, b"d"),
    ]
    with EntryWriter(where, flavour) as writer:
        for entry in made:
            writer.put(entry, io.BytesIO(b"x") if entry.kind is Kind.FILE else None)
        writer.put(Entry(b"hard", Kind.HARDLINK, link=b"d/f"))
    view = LayerView([where], flavour)
    found = dict(view.walk())
    assert [found[entry.path] for entry in made] == made
    assert found[b"hard"] == Entry(b"hard", Kind.FILE, 0o4755, 1000, 1001, 1, 1.0, xattrs=((b"user.a", b"b"),))


def test_deep_trees_and_many_layers_need_few_descriptors(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 100)
    layers = stack(tmp_path, PLAIN, *([member(f"{deep}/{number}", b"")] for number in range(40)))
    gc.collect()  # what earlier tests left must not be closed in between
    before = len(os.listdir("/proc/self/fd"))
    view = LayerView(layers, PLAIN)
    assert len(view.children(deep.encode())) == 40
    assert len(os.listdir("/proc/self/fd")) - before < 60
    view.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert view.content(f"{deep}/7".encode()) == sha256(b"").hexdigest()
    del view
    assert len(os.listdir("/proc/self/fd")) <= before


def test_threads_may_share_a_view(tmp_path: Path) -> None:
    view = LayerView(stack(tmp_path, PLAIN, [member(f"{a}/{b}/{c}", b"x") for a in range(9) for b in range(9) for c in range(2)]), PLAIN)
    failed: list[BaseException] = []

    def read() -> None:
        try:
            assert sum(entry.kind is Kind.FILE and view.content(path) != "" for path, entry in view.walk()) == 162
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_layer_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(LayerFault):
        LayerView([tmp_path / "nothing"], PLAIN).children(b"")
