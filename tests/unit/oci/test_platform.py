from __future__ import annotations

import pytest

from lamina.oci.platform import InvalidPlatform, Platform, best


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/amd64/v1", Platform("linux", "amd64")),
        ("linux/amd64/v3", Platform("linux", "amd64", "v3")),
        ("Linux/x86_64", Platform("linux", "amd64")),
        ("linux/x86-64", Platform("linux", "amd64")),
        ("linux/i386", Platform("linux", "386")),
        ("linux/aarch64", Platform("linux", "arm64")),
        ("linux/arm64/v8", Platform("linux", "arm64")),
        ("linux/arm64/v9", Platform("linux", "arm64", "v9")),
        ("linux/arm", Platform("linux", "arm", "v7")),
        ("linux/arm/7", Platform("linux", "arm", "v7")),
        ("linux/arm/v6", Platform("linux", "arm", "v6")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
        ("linux/armel/v7", Platform("linux", "arm", "v6")),
        ("macos/arm64", Platform("darwin", "arm64")),
        ("windows(10.0.17763)/amd64", Platform("windows", "amd64", "", "10.0.17763")),
        ("plan10/cpu9", Platform("plan10", "cpu9")),
        ("s390x", Platform("freebsd", "s390x")),
        ("arm64", Platform("freebsd", "arm64")),
        ("linux", Platform("linux", "riscv64")),
    ],
)
def test_read(text: str, want: Platform) -> None:
    found = Platform.parse(text, Platform("freebsd", "riscv64"))
    assert found == want
    assert found.normalised() == found


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "linux//v7", "linux/amd64/v1/x", "plan10", "linux/am d64", "linux/amd64\n", "windows(10/amd64", "*"]
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidPlatform):
        Platform.parse(text)


def test_without_a_default_the_other_half_is_linux_amd64() -> None:
    assert Platform.parse("arm64") == Platform("linux", "arm64")
    assert Platform.parse("windows") == Platform("windows", "amd64")


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm/v7", "linux/arm64/v9"])
def test_text_round_trip(text: str) -> None:
    assert str(Platform.parse(text)) == text


@pytest.mark.parametrize(
    ("wanted", "offers", "chosen"),
    [
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], 1),
        ("linux/arm/v5", ["linux/arm/v6", "linux/arm/v7"], None),
        ("linux/amd64", ["linux/amd64/v2", "linux/386", "linux/amd64"], 2),
        ("linux/amd64", ["linux/amd64/v2", "linux/386"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm/v6"], 0),
        ("linux/arm64/v9", ["linux/arm/v7", "linux/arm64"], 1),
        ("linux/arm64", ["darwin/arm64", "linux/amd64"], None),
        ("linux/386", ["linux/amd64"], None),
        ("linux/riscv64", [], None),
    ],
)
def test_best(wanted: str, offers: list[str], chosen: int | None) -> None:
    assert best(Platform.parse(wanted), [None, *(Platform.parse(o) for o in offers)]) == (None if chosen is None else chosen + 1)


def test_runs_takes_a_manifests_own_words() -> None:
    assert Platform("linux", "arm64").runs(Platform("linux", "aarch64", "v8"))
    assert Platform("linux", "arm", "v7").runs(Platform("linux", "arm"))
    assert not Platform("linux", "arm", "v6").runs(Platform("linux", "arm"))


def test_absurd_variants_cost_nothing() -> None:
    huge = Platform("linux", "amd64", "v" + "9" * 50)
    assert huge.runs(huge)
    assert not huge.runs(Platform("windows", "amd64"))
