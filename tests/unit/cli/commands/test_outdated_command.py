"""`lamina outdated`: a registry that counts, images on its bases, images on those images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.testing.collector import collecting
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import push, simple_image, tar_of

Lamina = Callable[..., Any]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        yield found


def base(registry: FakeRegistry, content: bytes, *, name: str = "base", env: str = "A=1", history: str = "one") -> str:
    image = simple_image([tar_of({"etc": None, "etc/release": content, "same": b"same"})], config={"Env": [env], "Labels": {}})
    if history != "one":
        config = json.loads(image.config)
        config["history"] = [{"created_by": history}]
        raw = json.dumps(config).encode()
        manifest = json.loads(image.manifest)
        from lamina.testing.images import SimpleImage, digest_of

        manifest["config"] = {**manifest["config"], "digest": digest_of(raw), "size": len(raw)}
        image = SimpleImage(raw, json.dumps(manifest).encode(), image.layers)
    return push(registry.host, name, "1", image)


@pytest.fixture
def contexts(tmp_path: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`low` stands on the registry's base, `high` on `low`, `side` takes one file of the base that never changes."""
    base(registry, b"1\n")
    for name, text in {
        "low": f"FROM {registry.host}/base:1 AS deps\nCOPY a /a\nFROM scratch\nCOPY --from=deps /a /a\nCOPY --from=deps /etc/release /r\n",
        "high": "FROM low:1\nCOPY b /b\n",
        "side": f"FROM scratch\nCOPY --from={registry.host}/base:1 /same /same\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("a")
        (tmp_path / name / "b").write_text("b")
        (tmp_path / name / "Dockerfile").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(lamina: Lamina, *names: str) -> None:
    for name in names:
        said = lamina("build", "-q", "-t", f"{name}:1", name)
        assert said.code == 0, said.err


def asked(lamina: Lamina, *arguments: str) -> tuple[int, dict[str, Any]]:
    said = lamina("outdated", "--json", *arguments)
    return said.code, json.loads(said.out)


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {image["names"][0].split("/")[-1]: image["verdict"] for image in document["images"]}


def test_one_head_request_for_each_base_however_many_images(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    built(lamina, "low", "high", "side")
    for number in range(5):
        assert lamina("build", "-q", "-t", f"more{number}:1", "--label", f"n={number}", "side").code == 0
    registry.asked.clear()
    code, document = asked(lamina)
    assert (code, document["asked"]) == (0, 1)
    assert [(each.method, each.path) for each in registry.asked if each.path != "/v2/"] == [("HEAD", "/v2/base/manifests/1")]
    assert set(verdicts(document).values()) == {"current"}
    assert len(document["images"]) == 8


def test_what_moved_what_follows_and_what_is_cut_off(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    built(lamina, "low", "high", "side")
    base(registry, b"2\n")
    code, document = asked(lamina)
    assert code == 3
    assert verdicts(document) == {"low:1": "outdated", "high:1": "follows", "side:1": "outdated"}
    stages = {image["names"][0].split("/")[-1]: {s["stage"]: s["verdict"] for s in image["stages"]} for image in document["images"]}
    assert stages == {"low:1": {"deps": "follows", "1": "if-changed"}, "high:1": {"0": "follows"}, "side:1": {"0": "if-changed"}}
    said = lamina("outdated")
    assert "OUTDATED low:1" in said.out
    assert "FOLLOWS  high:1" in said.out
    assert "stage deps: follows" in said.out
    assert "3 of 3 images outdated; 1 base asked" in said.err
    assert lamina("outdated", "-q").out.splitlines() == ["low:1", "high:1", "side:1"]


def test_rebuild_goes_upwards_and_stops_at_what_comes_out_equal(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    built(lamina, "low", "high", "side")
    base(registry, b"2\n")
    code, document = asked(lamina, "--rebuild")
    assert code == 0
    done = {each["names"][0].split("/")[-1]: each for each in document["rebuilt"]}
    assert {name: each["outcome"] for name, each in done.items()} == {"low:1": "rebuilt", "high:1": "rebuilt", "side:1": "same"}
    assert done["side:1"].get("ran", 0) == 0, "the file that it takes is the same: cut off"
    assert asked(lamina)[0] == 0
    assert set(verdicts(asked(lamina)[1]).values()) == {"current"}


def test_rebuilds_are_traced(lamina: Lamina, contexts: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    built(lamina, "low", "high")
    base(registry, b"2\n")
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
        monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        code, _ = asked(lamina, "--rebuild")
        assert code == 0
        found = [json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"][0] for _, _, body in collector.got]
    tags = [next(a["value"]["stringValue"] for a in span["attributes"] if a["key"] == "lamina.build.tags") for span in found]
    assert tags == ["docker.io/library/low:1", "docker.io/library/high:1"]
    assert {span["parentSpanId"] for span in found} == {"b7ad6b7169203331"}


def test_a_base_with_the_same_layers_and_settings_rebuilds_nothing(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    built(lamina, "low", "high")
    base(registry, b"1\n", history="pushed again")
    code, document = asked(lamina)
    assert (code, verdicts(document)) == (0, {"low:1": "cut-off", "high:1": "current"})
    assert "same layers and settings: cut off" in lamina("outdated").out
    code, document = asked(lamina, "--rebuild")
    assert (code, document.get("rebuilt")) == (0, None)
    assert verdicts(asked(lamina)[1])["low:1"] == "current", "what is settled is not told again"


def test_what_stands_on_an_equal_rebuild_is_cut_off(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    (contexts / "low" / "Dockerfile").write_text(f"FROM {registry.host}/base:1 AS deps\nFROM scratch\nCOPY --from=deps /same /same\n")
    built(lamina, "low", "high")
    base(registry, b"2\n")
    code, document = asked(lamina, "--rebuild")
    assert code == 0
    assert [each["outcome"] for each in document["rebuilt"]] == ["same", "cut-off"]


def test_what_cannot_be_rebuilt_is_said_and_holds_what_stands_on_it(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    built(lamina, "low", "high")
    base(registry, b"2\n")
    shutil.rmtree(contexts / "low")
    _, document = asked(lamina)
    assert document["images"][0]["cannot"] == f"its context {contexts}/low is gone"
    said = lamina("outdated", "--rebuild")
    assert said.code == 1
    assert "IMPOSSIBLE low:1" in said.out
    assert "is gone" in said.out
    assert "STOPPED    high:1  low:1 was not rebuilt" in said.out


def test_a_secret_build_argument_is_not_kept(lamina: Lamina, contexts: Path, registry: FakeRegistry, tmp_path: Path) -> None:
    (contexts / "low" / "Dockerfile").write_text(f"FROM {registry.host}/base:1\nARG NPM_TOKEN\nCOPY a /a\n")
    said = lamina("build", "-q", "-t", "low:1", "--build-arg", "NPM_TOKEN=hunter22", "low")
    assert said.code == 0, said.err
    base(registry, b"2\n")
    assert "--build-arg NPM_TOKEN looks like a secret and is not kept" in lamina("outdated").out
    stored = b"".join(path.read_bytes() for path in (tmp_path / "store").glob("state.db*"))
    assert b"hunter22" not in stored


def test_a_registry_that_does_not_answer_makes_images_unknown(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    built(lamina, "low")
    registry.tags["base"].clear()
    code, document = asked(lamina)
    assert (code, verdicts(document)) == (0, {"low:1": "unknown"})
    assert document["images"][0]["bases"][0]["why"]


def test_one_image_is_asked_for_by_name(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    built(lamina, "low", "side")
    base(registry, b"2\n")
    assert verdicts(asked(lamina, "side:1")[1]) == {"side:1": "outdated"}
    said = lamina("outdated", "other:1")
    assert said.code == 66
    assert "nothing is known of how other:1 was built" in said.err


def test_a_base_given_by_digest_is_never_asked_about(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    digest = base(registry, b"1\n")
    (contexts / "low" / "Dockerfile").write_text(f"FROM {registry.host}/base:1@{digest}\nCOPY a /a\n")
    built(lamina, "low")
    base(registry, b"2\n")
    code, document = asked(lamina)
    assert (code, document["asked"], verdicts(document)) == (0, 0, {"low:1": "current"})


def test_a_base_that_was_built_again_by_hand_is_noticed(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    built(lamina, "low", "high")
    (contexts / "low" / "a").write_text("changed")
    built(lamina, "low")
    code, document = asked(lamina, "high:1")
    assert (code, verdicts(document)) == (3, {"high:1": "outdated"})
    assert document["images"][0]["bases"][0]["why"] == "it was built again since"


def test_several_platforms_are_one_build(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    from lamina.testing.images import OCI_INDEX, index_of
    from lamina.testing.registry import push_blob, push_manifest

    def both(content: bytes) -> None:
        images = [simple_image([tar_of({"release": content})], architecture=machine) for machine in ("amd64", "arm64")]
        for image in images:
            for data in image.blobs().values():
                push_blob(registry.host, "base", data)
            push_manifest(registry.host, "base", image.digest, image.manifest, "application/vnd.oci.image.manifest.v1+json")
        platforms = [{"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64"}]
        push_manifest(registry.host, "base", "both", index_of(list(zip(images, platforms))), OCI_INDEX)

    both(b"1")
    (contexts / "low" / "Dockerfile").write_text(f"FROM {registry.host}/base:both\nCOPY a /a\n")
    name = f"{registry.host}/made:1"
    said = lamina("build", "-q", "-t", name, "--platform", "linux/amd64,linux/arm64", "--push", "--load", "--sbom", "spdx", "low")
    assert said.code == 0, said.err
    before = registry.tags["made"]["1"]
    both(b"2")
    registry.asked.clear()
    assert asked(lamina)[1]["asked"] == 1
    code, document = asked(lamina, "--rebuild", "--push")
    assert code == 0
    assert [(each["outcome"]) for each in document["rebuilt"]] == ["rebuilt", "rebuilt"]
    assert len({each["image"] for each in document["rebuilt"]}) == 2
    assert registry.tags["made"]["1"] != before
    index = json.loads(registry.manifests["made", registry.tags["made"]["1"]][1])
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64", "unknown", "unknown"]
    assert asked(lamina)[0] == 0


def test_a_locked_build_is_rebuilt_when_its_lock_is_new(lamina: Lamina, contexts: Path, registry: FakeRegistry) -> None:
    assert lamina("build", "-q", "-t", "low:1", "--lock", "low").code == 0
    assert lamina("build", "-q", "-t", "low:1", "--locked", "low").code == 0
    base(registry, b"2\n")
    said = lamina("outdated", "--rebuild")
    assert said.code == 1
    assert "lamina.lock holds what it was built from: `lamina lock` first" in said.out
    assert lamina("lock", "low").code == 0
    code, document = asked(lamina, "--rebuild")
    assert (code, document["rebuilt"][0]["outcome"]) == (0, "rebuilt")
    assert asked(lamina)[0] == 0
