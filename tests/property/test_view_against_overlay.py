"""Any stack of layers: LayerView shows what the kernel's overlay shows."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.layer.apply import apply_tar
from lamina.layer.entry import Kind
from lamina.layer.flavour import Flavour
from lamina.layer.tarread import BadTar
from lamina.layer.view import LayerView
from lamina.testing.tars import archive, folder, member, symlink

NAMES = ["a", "b", "ln", "a/b", "a/b/c", "ln/x", "b/ln", "c/d/e", "c/d"]
MARKS = [".wh.a", ".wh.b", "a/.wh.b", "a/b/.wh.c", "a/.wh..wh..opq", "a/b/.wh..wh..opq"]
MEMBERS = st.one_of(
    st.builds(lambda name, body: member(name, body), st.sampled_from(NAMES), st.binary(max_size=3)),
    st.builds(folder, st.sampled_from(NAMES), st.sampled_from([0o755, 0o700])),
    st.builds(symlink, st.sampled_from(NAMES), st.sampled_from(["a", "/", "..", "a/b"])),
    st.builds(lambda name: member(name, kind=tarfile.FIFOTYPE), st.sampled_from(NAMES)),
    st.builds(lambda name: member(name, b""), st.sampled_from(MARKS)),
)
STACKS = st.lists(st.lists(MEMBERS, min_size=1, max_size=6), min_size=1, max_size=4)


def overlay(lowers: list[Path], flavour: Flavour, at: Path) -> subprocess.CompletedProcess[str]:
    """`PATH MODE TYPE` lines. Whiteouts that hide nothing are listed by the kernel but cannot be looked up: find warns and leaves them out."""
    options = "lowerdir=" + ":".join(map(str, lowers)) + (",userxattr" if flavour.whiteouts == "user" else "")
    script = f'mount -t overlay none -o "{options}" {at} || exit 99; cd {at}; find . -mindepth 1 -printf "%P %m %y\\n"'
    return subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("flavour", [Flavour("trusted"), Flavour("user")], ids=str)
@settings(max_examples=60, deadline=None)
@given(stack=STACKS)
def test_the_view_is_what_an_overlay_shows(flavour: Flavour, stack: list[list[bytes]]) -> None:
    with TemporaryDirectory(prefix="lamina-test-") as name:
        where = Path(name)
        # An overlay needs two lower folders where there is no upper: the lowest stays empty.
        layers = []
        for number, members in enumerate([[], *stack]):
            layer = where / f"layer{number}"
            (layer / "diff").mkdir(parents=True)
            try:
                apply_tar(io.BytesIO(archive(members)), layer, flavour)
            except BadTar:
                continue
            layers.append(layer)
        (where / "merged").mkdir()
        if len(layers) < 2:
            return
        done = overlay([layer / "diff" for layer in reversed(layers)], flavour, where / "merged")
        if done.returncode == 99:
            pytest.skip(f"no overlay can be mounted here: {done.stderr.strip()}")
        with LayerView(layers, flavour) as view:
            ours = [f"{path.decode()} {entry.mode:o} {entry.kind.value}" for path, entry in view.walk()]
            assert all(view.entry(path) == entry for path, entry in view.walk())
            assert not any(entry.kind in (Kind.WHITEOUT, Kind.OPAQUE) for _, entry in view.walk())
    assert sorted(ours) == sorted(done.stdout.splitlines())
