"""Attestations that BuildKit's clients ask for: what is made of them, and what is said of the rest."""

from __future__ import annotations

import pytest

from lamina.server.buildkit.asked import Export
from lamina.server.buildkit.attests import Attests, attests
from lamina.server.errors import BadRequest

PUSHED = [Export("image", {"name": "x", "push": "true"})]
KEPT = [Export("moby")]


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        ("", "min"),
        ("mode=min", "min"),
        ("mode=max", "max"),
        ("mode=min,inline-only=true", "min"),
        ('"mode=max"', "max"),
        ("disabled=true", None),
        ("disabled=false", "min"),
    ],
)
def test_provenance(value: str, mode: str | None) -> None:
    assert attests({"attest:provenance": value}, PUSHED) == Attests(provenance=mode)  # type: ignore[arg-type]  # one of the three


def test_nothing_is_asked_for() -> None:
    assert attests({"filename": "x"}, PUSHED) == Attests()


def test_a_list_of_packages() -> None:
    assert attests({"attest:sbom": ""}, [Export("oci")]) == Attests(sbom=("spdx",))
    found = attests({"attest:sbom": "generator=docker/scout-sbom-indexer"}, PUSHED)
    assert found.sbom == ("spdx",)
    assert found.notices == ("--sbom generator=docker/scout-sbom-indexer is not run: lamina reads the packages itself",)
    assert attests({"attest:sbom": "disabled=true"}, PUSHED) == Attests()


@pytest.mark.parametrize(
    ("attrs", "exports", "said"),
    [
        ({"attest:provenance": "mode=max"}, [], "--provenance left out: "),
        ({"attest:provenance": "mode=max", "attest:sbom": ""}, KEPT, "--provenance and --sbom left out of the image that is kept here: "),
        ({"attest:sbom": ""}, [Export("local"), Export("oci")], "--sbom left out of type=local: "),
        ({"attest:other": ""}, PUSHED, "--attest type=other is left out: "),
        ({"attest:provenance": "version=v0.2"}, PUSHED, "--provenance version=v0.2: SLSA v1 is written"),
        ({"attest:provenance": "builder-id=https://ci"}, PUSHED, "--provenance builder-id= has no meaning here"),
    ],
)
def test_what_is_left_out_is_said(attrs: dict[str, str], exports: list[Export], said: str) -> None:
    (notice,) = attests(attrs, exports).notices
    assert notice.startswith(said)


def test_what_the_client_adds_by_itself_is_not_spoken_of() -> None:
    assert attests({"attest:provenance": "mode=min,inline-only=true"}, KEPT).notices == ()
    assert attests({"attest:provenance": "mode=min,inline-only=true"}, [Export("local")]).notices == ()


def test_a_mode_that_is_not_known_is_refused() -> None:
    with pytest.raises(BadRequest, match="mode=all is not known: min and max are"):
        attests({"attest:provenance": "mode=all"}, PUSHED)
