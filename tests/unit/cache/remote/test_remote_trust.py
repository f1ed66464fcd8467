from __future__ import annotations

from pathlib import Path

import pytest

from lamina.cache.remote.envelope import BadEnvelope, Envelope, Signature, Statement, seal, unseal
from lamina.cache.remote.errors import BadCacheSpec
from lamina.cache.remote.names import record_name
from lamina.cache.remote.trust import Belief, MacKey, PrivateKey, PublicKey, Trust, read_policy, read_signer
from lamina.testing.conformance.recordcache import key, record

CI, PR = MacKey("ci", b"c" * 32, ("main", "release/*")), MacKey("pr", b"p" * 32, ("pr/*",))


def made(scope: str, trust: Trust) -> Envelope:
    return unseal(*seal(Statement(record(1), scope), trust.sign))


def test_without_keys_and_policy() -> None:
    plain = made("main", Trust())
    assert Trust("main").refusal(plain) is None
    assert Trust("pr/17").refusal(plain) is None
    assert "pr/17" in (Trust("main").refusal(made("pr/17", Trust("pr/17"))) or "")
    assert Trust("pr/17").refusal(made("pr/17", Trust("pr/17"))) is None
    assert Trust("pr/18").refusal(made("pr/17", Trust("pr/17"))) is not None


def test_with_a_key_unsigned_ones_are_refused() -> None:
    signed = made("main", Trust(signer=CI))
    assert Trust(signer=CI).refusal(signed) is None
    assert Trust(signer=CI).refusal(made("main", Trust())) == "it is not signed"
    assert "wrong" in (Trust(signer=MacKey("ci", b"x" * 32)).refusal(signed) or "")
    assert "not believed" in (Trust(signer=MacKey("other", b"x" * 32)).refusal(signed) or "")


def test_a_pull_request_cannot_poison_main() -> None:
    beliefs = [Belief("pr/*", ("main", "{build}"), ("ci", "pr")), Belief("main", ("main",), ("ci",))]
    main = Trust("main", keys=[CI, PR], beliefs=beliefs)
    forged = made("main", Trust("main", signer=PR))
    assert "not believed" in (main.refusal(forged) or "")
    other = Trust("pr/17", keys=[CI, PR], beliefs=beliefs)
    assert "may not vouch" in (other.refusal(forged) or "")
    assert other.refusal(made("main", Trust(signer=CI))) is None
    assert other.refusal(made("pr/17", Trust("pr/17", signer=PR))) is None
    assert other.refusal(made("pr/18", Trust("pr/18", signer=PR))) is not None
    assert main.refusal(made("pr/17", Trust("pr/17", signer=PR))) is not None


def test_the_signer_gains_nothing_by_a_policy() -> None:
    trust = Trust("pr/1", keys=[CI], beliefs=[Belief("pr/*", ("main",), None)], signer=PR)
    assert trust.refusal(made("main", Trust(signer=PR))) is not None


def test_a_build_that_no_entry_names_believes_nothing() -> None:
    trust = Trust("feature", beliefs=[Belief("main", ("main",), ())])
    assert trust.refusal(made("main", Trust())) is not None
    assert trust.refusal(made("feature", Trust("feature"))) is not None


def test_a_branch_that_is_called_like_a_pattern() -> None:
    trust = Trust("*", beliefs=[Belief("*", ("{build}",), ())])
    assert trust.refusal(made("main", Trust())) is not None
    assert trust.refusal(made("*", Trust("*"))) is None
    assert Trust("*").refusal(made("pr/1", Trust("pr/1"))) is not None


def test_ed25519() -> None:
    pytest.importorskip("cryptography", reason="the extra `sign` is not installed")
    private = PrivateKey("release", b"k" * 32)
    public = PublicKey("release", private.public)
    signed = made("main", Trust(signer=private))
    assert Trust(keys=[public]).refusal(signed) is None
    assert Trust(signer=private).refusal(signed) is None
    assert Trust(keys=[PublicKey("release", PrivateKey("x", b"j" * 32).public)]).refusal(signed) is not None
    assert not public.verifies(b"x", Signature("release", "ed25519", "zz"))
    assert not public.verifies(b"x", MacKey("release", private.public).sign(b"x"))


def test_altered_bytes() -> None:
    name, data = seal(Statement(record(1), "main"), Trust(signer=CI).sign)
    assert unseal(name, data).statement.record == record(1)
    with pytest.raises(BadEnvelope, match="altered"):
        unseal(name, data.replace(b"make", b"evil"))
    evil = data.replace(b"make", b"evil")
    renamed = record_name(key(1), "main", evil)
    assert "wrong" in (Trust(signer=CI).refusal(unseal(renamed, evil)) or "")


def test_a_record_under_another_name() -> None:
    name, data = seal(Statement(record(1), "pr/17"), Trust(signer=PR).sign)
    for other in (record_name(key(2), "pr/17", data), record_name(key(1), "main", data)):
        with pytest.raises(BadEnvelope, match="another key or scope"):
            unseal(other, data)
    assert unseal(name, data).statement.scope == "pr/17"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format":2}\n{}', b'{"format":1}\n[]', b"\xff\n\xff", b'{"format":1}\n' + b"[" * 100_000])
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(BadEnvelope):
        unseal(record_name(key(1), "main", data), data)


def test_the_same_record_is_the_same_object() -> None:
    assert seal(Statement(record(1), "main"), Trust(signer=CI).sign) == seal(Statement(record(1), "main"), Trust(signer=CI).sign)


POLICY = """
[keys.ci]
scopes = ["main"]
hmac-file = "ci.key"
[keys.pr]
scopes = ["pr/*"]
hmac-env = "PR_KEY"
[[believe]]
build = "pr/*"
scopes = ["main", "{build}"]
[[believe]]
build = "main"
scopes = ["main"]
keys = ["ci"]
"""


def test_policy_files(tmp_path: Path) -> None:
    (tmp_path / "ci.key").write_bytes(b"c" * 32 + b"\n")
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    signer = read_signer(f"ci={tmp_path / 'ci.key'}", environment={})
    environment = {"PR_KEY": "p" * 32}
    signed = made("main", Trust(signer=signer))
    for scope in ("main", "pr/17"):
        assert read_policy(path, scope, environment=environment).refusal(signed) is None
    assert read_policy(path, "dev", environment=environment).refusal(signed) is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[keys.x]\n", "needs one of"),
        ('[keys.x]\nhmac-file = "nowhere"\n', "cannot be read"),
        ('[keys.x]\nhmac-env = "NOT_SET"\n', "NOT_SET"),
        ('[keys.x]\nsecret = "x"\n', "secret"),
        ('[[believe]]\nbuild = "main"\nscopes = ["main"]\nkeys = ["nobody"]\n', "nobody"),
        ("[[believe]\n", "policy"),
        ('[keys.x]\ned25519 = "xyz"\n', "hexadecimal"),
    ],
)
def test_policies_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(BadCacheSpec, match=words):
        read_policy(path, "main", environment={})


def test_signers(tmp_path: Path) -> None:
    assert read_signer("ci=env:KEY", environment={"KEY": "k" * 32}).name == "ci"
    (tmp_path / "key").write_text("ed25519:" + "ab" * 32)
    pytest.importorskip("cryptography", reason="the extra `sign` is not installed")
    assert isinstance(read_signer(str(tmp_path / "key"), environment={}), PrivateKey)
    with pytest.raises(BadCacheSpec) as caught:
        read_signer("env:KEY", environment={"KEY": "short-secret"})
    assert "short-secret" not in f"{caught.value.message} {caught.value.hint}"
