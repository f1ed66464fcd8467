"""What a trial counts as sound, and what its images share; the trials themselves are in tests/e2e/test_many_writers.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.testing import machines
from lamina.testing.writers.__main__ import main, table
from lamina.testing.writers.images import STEPS, images
from lamina.testing.writers.trial import Result, Seen, Settings


def good() -> Result:
    result = Result(Settings("oci", writers=4), {0: "completed", 1: "completed", 2: "killed", 3: "cut off"}, restarted=True)
    result.completed, result.again = Seen(2 * STEPS), Seen(2 * STEPS)
    return result


def test_a_trial_is_sound_when_everything_is_found() -> None:
    assert good().sound
    assert Result(Settings("oci", writers=4)).sound is False, "nothing was looked at"


@pytest.mark.parametrize("part", ["planned", "completed", "again"])
def test_one_step_that_is_missed_is_a_loss(part: str) -> None:
    result = good()
    setattr(result, part, Seen(2 * STEPS - 1, 1))
    assert not result.sound


@pytest.mark.parametrize("part", ["verified", "verified_again", "trouble"])
def test_so_is_a_complaint(part: str) -> None:
    result = good()
    setattr(result, part, ["blob-altered: blobs/sha256/00"])
    assert not result.sound


def test_the_table_has_a_row_for_each_backend() -> None:
    folder = good()
    folder.settings = Settings("dir", writers=4)
    folder.restarted = False
    head, one, two = table([good(), folder]).splitlines()
    assert head.split()[:3] == ["backend", "completed", "killed"]
    assert one.split()[:5] == ["oci", "2", "1", "1", "yes"]
    assert "no server" in two
    assert one.endswith("yes")


def test_images_of_a_group_share_a_file_and_all_share_one(tmp_path: Path) -> None:
    made = images(tmp_path, 32, size=100)

    def kinds(name: str) -> int:
        return len({(image.context / name).read_text() for image in made})

    assert (kinds("shared.txt"), kinds("group.txt"), kinds("own.txt")) == (1, 4, 32)
    assert (made[0].context / "group.txt").read_text() == (made[1].context / "group.txt").read_text(), "on another machine"


def test_a_machine_that_cannot_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machines, "why_not", lambda: "network namespaces need root")
    assert main(["--backend", "dir"]) == 2
    assert capsys.readouterr().err == "no trial here: network namespaces need root\n"
