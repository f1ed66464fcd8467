"""One file of many edited: the new layer shares the others' bytes on disk with the old one, and is the layer that a copy would have made."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lamina.testing.project import Project


def layer_folders(root: Path) -> dict[str, Path]:
    return {path.name: path / "diff" for path in (root / "layers").iterdir() if (path / "diff" / "src").is_dir()}


def test_unchanged_files_are_shared_with_the_layer_before(project: Project, seeded_store: Path, tmp_path: Path) -> None:
    project.dockerfile("FROM base:1\nCOPY src /src\nRUN echo more >> /src/f1 && rm /src/f2\n")
    project.write({f"src/f{number}": f"{number}\n" for number in range(100)})
    project.write({"src/deep/x": "x"})
    os.link(project.folder / "src" / "f5", project.folder / "src" / "same-as-f5")
    first = project.build()
    before = layer_folders(project.root)
    project.write({"src/f50": "edited\n"})
    second = project.build()
    assert second.row("COPY").message.endswith("f50 changed in build context"), second.row("COPY")
    (new,) = [folder for name, folder in layer_folders(project.root).items() if name not in before and (folder / "src" / "f2").is_file()]
    (old,) = [folder for folder in before.values() if (folder / "src" / "f2").is_file()]
    shared = [
        name
        for name in os.listdir(new / "src")
        if (new / "src" / name).is_file() and os.path.samefile(new / "src" / name, old / "src" / name)
    ]
    assert len(shared) >= 98
    assert (new / "src" / "f50").read_text() == "edited\n"
    assert (old / "src" / "f50").read_text() == "50\n"
    assert (old / "src" / "f1").read_text() == "1\n", "a RUN on top must not write through"

    shutil.copytree(seeded_store, tmp_path / "other", symlinks=True)
    fresh = Project(project.folder, tmp_path / "other")
    alone = fresh.build()
    assert [step["state"] for step in alone.report["steps"] if "state" in step] == [
        step["state"] for step in second.report["steps"] if "state" in step
    ]
    assert first.stdout != second.stdout
    assert project.run("check").returncode == 0
