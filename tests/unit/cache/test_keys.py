"""What makes two keys equal and what does not, a row for each rule; names are those of recorded scenarios where there is one."""

import pytest
from msgspec.structs import replace

from lamina.cache import keys
from lamina.cache.keys import Selection, base_state, definition_state, key_of, key_parts, merge_state, selections, state_after, well_formed
from lamina.cache.record import KEY_SCHEMA, CacheKey, InputPart, KeyParts
from lamina.cache.sensitive import sensitive
from lamina.graph.ops import (
    ContextOp,
    CopyAction,
    ExecMount,
    ExecOp,
    FileAction,
    FileOp,
    GitOp,
    HttpOp,
    ImageOp,
    MergeOp,
    MkdirAction,
    MkfileAction,
    Op,
    Owner,
)
from lamina.oci.digest import ChainId, Digest
from lamina.oci.platform import Platform
from lamina.testing.vertices import AMD64, PATH, copy_op, exec_op

BASE = InputPart("filesystem", "state:base", label="debian:12@sha256:ab")
FILES = InputPart("files", "sha256:content", label="context")


def key(op: Op, *, root: InputPart | None = BASE, files: InputPart = FILES, watched: tuple[InputPart, ...] = ()) -> CacheKey:
    return key_of(key_parts(op, root, [None if wanted is None else files for wanted in selections(op)], watched))


def mount(type: str = "cache", target: str = "/c", **fields: object) -> ExecMount:
    return replace(ExecMount("cache", target), type=type, **fields)


def mounted(*mounts: ExecMount) -> ExecOp:
    return exec_op("make", *mounts)


def files(*actions: FileAction) -> FileOp:
    return FileOp(actions)


SAME: dict[str, tuple[Op, Op]] = {
    "copy-src-moved-folder": (copy_op("/x/a.txt"), copy_op("/y/z/a.txt")),
    "copy-source-trailing-slash": (copy_op("/dir/"), copy_op("/dir")),
    "copy-chmod-spelling": (copy_op(mode="755"), copy_op(mode="0755")),
    "copy-chown-number-spelling": (copy_op(owner=Owner("1000", "05")), copy_op(owner=Owner("1000", "5"))),
    "copy-input-number": (copy_op(), FileOp((CopyAction(2, "/a.txt", "/a.txt"),))),
    "mount-cache-id": (mounted(mount(cache_id="one")), mounted(mount(cache_id="two"))),
    "mount-cache-id-default": (mounted(mount()), mounted(mount(cache_id="/c"))),
    "mount-cache-own-id-or-sharing": (mounted(mount(cache_id="one")), mounted(mount(sharing="locked"))),
    "mounts-reorder": (mounted(mount(), mount("tmpfs", "/t")), mounted(mount("tmpfs", "/t"), mount())),
    "mount-bind-source": (
        mounted(mount("bind", "/d", input=1, selector="/a")),
        mounted(mount("bind", "/d", input=1, selector="/b")),
    ),
    "mount-secret-default-mode": (
        mounted(mount("secret", "/s", id="t")),
        mounted(mount("secret", "/s", id="t", mode=0o400, uid=0)),
    ),
    "mount-ssh-default-mode": (mounted(mount("ssh", "/s", id="t")), mounted(mount("ssh", "/s", id="t", mode=0o600, gid=0))),
    "add-host-address": (exec_op(extra_hosts=(("db", "10.0.0.1"),)), exec_op(extra_hosts=(("db", "10.0.0.2"),))),
    "proxy": (exec_op(), exec_op(proxy_env=("http_proxy=http://proxy",))),
    "argument-names-are-for-words": (
        exec_op(env=("V=1",)),
        exec_op(env=("V=1",), args_in_env=("V",), unnamed_args=("V",)),
    ),
    "addurl-query": (HttpOp("http://h/f", "f"), HttpOp("http://h/f?v=2", "f")),
    "addurl-checksum-added": (HttpOp("http://h/f", "f"), HttpOp("http://h/f", "f", Digest("sha256:12"))),
    "git-url": (GitOp("https://one/r.git", "main"), GitOp("https://two/r.git", "v1")),
    "base-other-same-layers": (ImageOp("a:1", Digest("sha256:1"), AMD64), ImageOp("b:2", Digest("sha256:2"), AMD64)),
    "named-context": (ContextOp("context"), ContextOp("other")),
}

DIFFERENT: dict[str, tuple[Op, Op]] = {
    "run-edit-first": (exec_op("echo a > /a"), exec_op("echo z > /a")),
    "run-space-inside": (exec_op("echo a > /a"), exec_op("echo a   >   /a")),
    "run-json": (exec_op("true"), exec_op(args=("true",))),
    "meta-env-reorder": (exec_op(env=("A=1", "B=2")), exec_op(env=("B=2", "A=1"))),
    "run-var-unexpanded": (exec_op(env=("V=1",)), exec_op(env=("V=2",))),
    "arg-empty-vs-unset": (exec_op(), exec_op(env=("V=",))),
    "meta-user": (exec_op(user="0"), exec_op(user="0:0")),
    "meta-workdir": (exec_op(cwd="/w1"), exec_op(cwd="/w2")),
    "network-flag": (exec_op(), exec_op(network="none")),
    "run-security": (exec_op(), exec_op(security="insecure")),
    "run-hostname": (exec_op(), exec_op(hostname="builder")),
    "run-add-host": (exec_op(), exec_op(extra_hosts=(("db", "10.0.0.1"),))),
    "run-shm": (exec_op(), exec_op(shm_size=1 << 20)),
    "run-ulimit": (exec_op(), exec_op(ulimits=(("nofile", 10, 20),))),
    "run-device": (exec_op(), exec_op(devices=("vendor.com/device=x",))),
    "run-platform": (exec_op(), exec_op(platform=Platform("linux", "arm64"))),
    "run-variant": (exec_op(platform=Platform("linux", "arm", "v6")), exec_op(platform=Platform("linux", "arm", "v7"))),
    "mount-cache-added": (exec_op(), mounted(mount())),
    "mount-cache-target": (mounted(mount(cache_id="one")), mounted(mount(target="/d", cache_id="one"))),
    "mount-cache-sharing": (mounted(mount()), mounted(mount(sharing="locked"))),
    "mount-cache-default-to-own-id": (mounted(mount()), mounted(mount(cache_id="one"))),
    "mount-cache-namespace": (mounted(mount(cache_id="ns//c")), mounted(mount(cache_id="other//c"))),
    "mount-cache-mode": (mounted(mount()), mounted(mount(mode=0o700))),
    "mount-cache-mode-written-out": (mounted(mount()), mounted(mount(mode=0o755))),
    "mount-cache-from": (mounted(mount()), mounted(mount(input=1))),
    "mount-readonly": (mounted(mount("bind", input=1)), mounted(mount("bind", input=1, readonly=True))),
    "mount-tmpfs-size": (mounted(mount("tmpfs", size=1 << 20)), mounted(mount("tmpfs", size=2 << 20))),
    "mount-type": (mounted(mount()), mounted(mount("tmpfs"))),
    "secret-id": (mounted(mount("secret", "/s", id="tok")), mounted(mount("secret", "/s", id="tik"))),
    "secret-required": (mounted(mount("secret", "/s", id="tok")), mounted(mount("secret", "/s", id="tok", required=True))),
    "secret-env": (mounted(mount("secret", "", id="tok", env="A")), mounted(mount("secret", "", id="tok", env="B"))),
    "secret-owner": (mounted(mount("secret", "/s", id="tok")), mounted(mount("secret", "/s", id="tok", uid=7))),
    "ssh-id": (mounted(mount("ssh", "/s", id="a")), mounted(mount("ssh", "/s", id="b"))),
    "copy-src-rename-same": (copy_op("/a.txt"), copy_op("/z.txt")),
    "copy-dest-change": (copy_op(dest="/a.txt"), copy_op(dest="/b.txt")),
    "copy-dest-slash": (copy_op("/dir", "/dir"), copy_op("/dir", "/dir/")),
    "glob-narrow-same": (copy_op("/*.txt", "/t/"), copy_op("/[abo]*.txt", "/t/")),
    "glob-to-names": (
        copy_op("/*.txt", "/t/"),
        files(*(CopyAction(1, f"/{name}.txt", "/t/") for name in ("a", "b"))),
    ),
    "copy-two-reorder": (
        files(CopyAction(1, "/a", "/d/"), CopyAction(1, "/b", "/d/")),
        files(CopyAction(1, "/b", "/d/"), CopyAction(1, "/a", "/d/")),
    ),
    "copy-add-swap": (copy_op(), copy_op(unpack=True)),
    "copy-chown-zero": (copy_op(), copy_op(owner=Owner("0", "0"))),
    "copy-chown-group": (copy_op(owner=Owner("0")), copy_op(owner=Owner("0", "0"))),
    "copy-chown-name": (copy_op(owner=Owner("1000", "1000")), copy_op(owner=Owner("bob", "bob"))),
    "copy-chown-change": (copy_op(owner=Owner("1000")), copy_op(owner=Owner("1001"))),
    "copy-chmod-added": (copy_op(), copy_op(mode="644")),
    "copy-chmod-zero": (copy_op(), copy_op(mode="0")),
    "copy-chmod-symbolic": (copy_op(mode="u+x"), copy_op(mode="a+x")),
    "copy-exclude-noop": (copy_op(), copy_op(exclude=("*.nope",))),
    "copy-exclude-order": (copy_op(exclude=("a", "!b")), copy_op(exclude=("!b", "a"))),
    "copy-parents": (copy_op("/"), copy_op("/", include=("dir/sub/three",))),
    "copy-required": (copy_op(), copy_op(required=False)),
    "heredoc-copy-edit": (files(MkfileAction("/x", b"hello\n")), files(MkfileAction("/x", b"bye\n"))),
    "heredoc-path": (files(MkfileAction("/x", b"a")), files(MkfileAction("/y", b"a"))),
    "heredoc-chmod": (files(MkfileAction("/x", b"a")), files(MkfileAction("/x", b"a", chmod="755"))),
    "workdir": (files(MkdirAction("/w1")), files(MkdirAction("/w2"))),
    "workdir-user": (files(MkdirAction("/w")), files(MkdirAction("/w", owner=Owner("1000")))),
    "workdir-is-no-file": (files(MkdirAction("/w", 0o644)), files(MkfileAction("/w", b""))),
    "addurl-file-name": (HttpOp("http://h/f", "f"), HttpOp("http://h/f", "g")),
    "git-keep-dir": (GitOp("u", "main"), GitOp("u", "main", keep_git_dir=True)),
    "git-ref-counts-with-git-dir": (GitOp("u", "main", keep_git_dir=True), GitOp("u", "v1", keep_git_dir=True)),
    "git-subdir": (GitOp("u"), GitOp("u", subdir="x")),
    "git-submodules": (GitOp("u"), GitOp("u", submodules=False)),
    "kinds": (ImageOp("a", Digest("sha256:1"), AMD64), MergeOp()),
}


@pytest.mark.parametrize("case", SAME)
def test_same(case: str) -> None:
    one, other = SAME[case]
    assert key(one) == key(other)


@pytest.mark.parametrize("case", DIFFERENT)
def test_different(case: str) -> None:
    one, other = DIFFERENT[case]
    assert key(one) != key(other)


def test_all_inputs_count_and_their_order() -> None:
    op = files(CopyAction(1, "/a", "/d/"), CopyAction(2, "/b", "/d/"))
    one, two = InputPart("files", "1"), InputPart("files", "2")
    found = {
        key_of(key_parts(op, BASE, [one, two])),
        key_of(key_parts(op, BASE, [two, one])),
        key_of(key_parts(op, BASE, [one, one])),
        key_of(key_parts(op, None, [one, two])),
        key_of(key_parts(op, BASE, [one, two], [InputPart("watch", "etag")])),
    }
    assert len(found) == 5


def test_contents_of_mounts_follow_their_mounts_when_these_are_written_in_another_order() -> None:
    left, right = mount("bind", "/l", input=1), mount("bind", "/r", input=2)
    one, two = InputPart("files", "1"), InputPart("files", "2")
    assert key_of(key_parts(mounted(left, right), BASE, [one, two])) == key_of(key_parts(mounted(right, left), BASE, [two, one]))
    assert key_of(key_parts(mounted(left, right), BASE, [one, two])) != key_of(key_parts(mounted(left, right), BASE, [two, one]))


def test_labels_listings_and_the_kind_of_content_are_outside() -> None:
    plain = key(copy_op())
    assert plain == key(copy_op(), files=InputPart("files", FILES.id, "stage build", Digest("sha256:listing")))
    assert plain == key(copy_op(), files=InputPart("url", FILES.id, "http://h/f"))
    assert plain == key(copy_op(), root=InputPart("filesystem", BASE.id, "ubuntu"))
    assert plain != key(copy_op(), files=InputPart("filesystem", FILES.id))


def test_schema_is_in_the_key() -> None:
    parts = key_parts(copy_op(), BASE, [FILES])
    assert parts.schema == KEY_SCHEMA
    assert key_of(parts) != key_of(KeyParts(KEY_SCHEMA + 1, parts.op, parts.inputs))


def test_values_of_secrets_and_proxies_are_nowhere_in_the_parts() -> None:
    op = exec_op("make", mount("secret", "/s", id="tok"), proxy_env=("http_proxy=http://user:hunter2@proxy",))
    assert "hunter2" not in repr(key_parts(op, BASE, [None]))


def test_values_that_look_like_secrets_count_by_their_digest() -> None:
    one, other = exec_op(env=("SSH_PRIVATE_KEY=hunter2",)), exec_op(env=("SSH_PRIVATE_KEY=hunter3",))
    assert key(one) != key(other)
    assert "hunter2" not in repr(key_parts(one, BASE))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("NPM_TOKEN", "x", True),
        ("githubToken", "x", True),
        ("SSH_KEY", "x", True),
        ("DB_PASSWORD", "x", True),
        ("MYSQL_PWD", "x", True),
        ("A", "line\nline", True),
        ("A", "x" * 1025, True),
        ("URL", "https://bob:pw@host/x", True),
        ("KEYCLOAK_VERSION", "1", False),
        ("GIT_AUTHOR", "bob", False),
        ("URL", "https://bob@host/x", False),
        ("PATH", "/bin:/usr/bin", False),
    ],
)
def test_sensitive(name: str, value: str, expected: bool) -> None:
    assert sensitive(name, value) is expected


def test_bytes_that_are_no_utf_8() -> None:
    one, other = (exec_op(f"echo {b.decode('utf-8', 'surrogateescape')}", env=("A=\udcff",)) for b in (b"\xe4", b"\xe5"))
    assert key(one) != key(other)
    assert keys.op_parts(one)["args"][-1] == "echo \ufffd<e4>"
    assert well_formed("ä\udc80") == "ä\ufffd<80>"
    assert key(exec_op(env=("TOKEN=\udcff",)))


def test_what_is_not_given_is_not_in_the_parts() -> None:
    assert keys.op_parts(exec_op("true")) == {
        "type": "exec",
        "args": ["/bin/sh", "-c", "true"],
        "env": [PATH],
        "cwd": "/",
        "user": "",
        "platform": "linux/amd64",
    }
    assert keys.op_parts(copy_op()) == {"type": "file", "actions": [{"action": "copy", "name": "a.txt", "dest": "/a.txt"}]}


def test_selections_name_what_is_read() -> None:
    op = files(MkdirAction("/x"), CopyAction(2, "/a", "/a", exclude=("b",), mode="755", owner=Owner("0")), CopyAction(1, "/", "/d"))
    nothing, some, everything = selections(op)
    assert nothing is None
    assert some == Selection(2, "/a", wildcard=True, exclude=("b",), chmod=True, chown=True)
    assert everything is not None
    assert everything.whole
    assert not some.whole
    symbolic = selections(copy_op(mode="u+x"))[0]
    assert symbolic is not None
    assert not symbolic.chmod
    assert selections(mounted(mount(), mount("bind", "/b", input=1, selector="/s"))) == (None, Selection(1, "/s"))
    assert selections(MergeOp()) == ()


def test_states() -> None:
    chain = ChainId("sha256:1")
    base = base_state(chain)
    assert base == base_state(ChainId("sha256:1"))
    assert base != base_state(None)
    assert state_after(base, "d") != state_after(base, "e")
    assert state_after(base, "d") != state_after(base_state(None), "d")
    assert state_after(None, "d") == state_after(base_state(None), "d")
    # An image with a layer that changes nothing has another history than one without it.
    assert state_after(base, "empty") != base
    one, two = state_after(None, "1"), state_after(None, "2")
    assert merge_state([base, one, two]) != merge_state([base, two, one])
    assert merge_state([None, one]) == merge_state([base_state(None), one])


def test_definition_states_follow_the_key_and_a_nonce_is_equal_to_nothing() -> None:
    one, two = key(exec_op("a")), key(exec_op("b"))
    assert definition_state(one) == definition_state(one)
    assert len({definition_state(one), definition_state(two), definition_state(one, "n1"), definition_state(one, "n2")}) == 4
