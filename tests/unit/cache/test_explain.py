from collections.abc import Sequence

import pytest

from lamina.cache.differences import by_listings
from lamina.cache.explain import Facts, Upstream, explain_hit, explain_miss, explain_unknown
from lamina.cache.keys import key_of, key_parts, selections
from lamina.cache.memory import MemoryRecordCache
from lamina.cache.reason import HIT_CODES, MISS_CODES, Reason
from lamina.cache.record import InputPart, KeyParts, Place, Record
from lamina.graph.ops import CopyAction, ExecMount, FileOp, MkfileAction, Op, Owner
from lamina.layer.listing import Change, Difference, Item, Listing
from lamina.oci.digest import Digest, StateId
from lamina.oci.platform import Platform
from lamina.testing.vertices import copy_op, exec_op

NOW = 1_000_000.0
BASE = InputPart("filesystem", "state:base", "debian:12@sha256:aaaaaaaaaaaaaaaaaaaa")
STEP = InputPart("filesystem", "state:one")
FILES = InputPart("files", "sha256:old", "context", Digest("sha256:listing"))


def place(text: str = "RUN make", position: int = 1, stage: str = "build") -> Place:
    return Place("Dockerfile", stage, position, position + 1, text)


def parts(op: Op, root: InputPart = STEP, *selected: InputPart, watched: Sequence[InputPart] = ()) -> KeyParts:
    chosen = iter(selected)
    return key_parts(op, root, [None if i is None else next(chosen) for i in selections(op)], watched)


def record(preimage: KeyParts, where: Place, *, age: float = 3600.0, host: str = "here", build: str = "b1") -> Record:
    return Record(key_of(preimage), preimage, where, StateId("state:r"), (), "sha256:d", NOW - age, 1.5, host, build)


def changed(path: bytes, change: Change = "changed") -> Difference:
    return Difference(path, change)


def why(
    old: KeyParts,
    new: KeyParts,
    *,
    was: Place | None = None,
    now: Place | None = None,
    files: Sequence[Difference] = (),
    facts: Facts | None = None,
) -> Reason:
    """The reason for a miss of `new`, `old` being the only earlier record."""
    now = now or place()
    reason = explain_miss(new, now, [record(old, was or now)], facts or Facts(NOW), lambda a, b: files)
    assert reason.code in MISS_CODES
    assert 0 < len(reason.message) <= 125
    assert "\n" not in reason.message
    assert reason.record_age == 3600.0
    return reason


def test_changed_files_are_named() -> None:
    old = parts(copy_op("/"), STEP, FILES)
    new = parts(copy_op("/"), STEP, replace_id(FILES))
    one = why(old, new, files=[changed(b"src/app.py")])
    assert (one.code, one.message, one.paths) == ("file-changed", "src/app.py changed", ("src/app.py",))
    three = why(old, new, files=[changed(p) for p in (b"a", b"b", b"c")])
    assert three.message == "a changed (and 2 more)"
    assert three.details == ("a", "b", "c")
    other = parts(copy_op("/"), STEP, replace_id(FILES, "stage deps"))
    stage = why(old, other, files=[changed(b"x\xff", "added")])
    assert (stage.code, stage.message) == ("file-added", "x\\xff added in stage deps")


def test_paths_are_told_as_the_user_wrote_the_source() -> None:
    changes = [changed(b"", "mode-changed"), changed(b"sub/one"), changed(b"dir/two")]
    folder = why(parts(copy_op("/dir", "/d"), STEP, FILES), parts(copy_op("/dir", "/d"), STEP, replace_id(FILES)), files=changes)
    assert folder.paths == ("dir/sub/one", "dir/two")
    assert folder.details == ("dir/sub/one", "dir/two", "dir has another mode")
    globbed = copy_op("/*.txt", "/d/")
    reason = why(parts(globbed, STEP, FILES), parts(globbed, STEP, replace_id(FILES)), files=[changed(b"a.txt")])
    assert reason.message == "a.txt changed"
    bound = exec_op("m", ExecMount("tmpfs", "/a"), ExecMount("bind", "/m", input=1))
    reason = why(parts(bound, STEP, FILES), parts(bound, STEP, replace_id(FILES)), files=[changed(b"")])
    assert reason.message == "/m changed"
    reason = why(parts(bound, STEP, FILES), parts(bound, STEP, replace_id(FILES)), files=[changed(b"x/y")])
    assert reason.message == "x/y changed"


def test_files_of_different_sources_are_not_compared() -> None:
    old, new = parts(copy_op("/a", "/d/"), STEP, FILES), parts(copy_op("/b", "/d/"), STEP, replace_id(FILES))
    reason = why(old, new, was=place("COPY a /d/"), now=place("COPY b /d/"), files=[changed(b"b", "added")])
    assert (reason.message, reason.details) == ("instruction changed: COPY a /d/ -> COPY b /d/", ())


def test_listings_are_loaded_and_compared() -> None:
    def file(text: bytes) -> Item:
        return Item("f", text, 0o644, 0, 0)

    listings = {"1": Listing({b"": {b"a": file(b"1"), b"b": file(b"1")}}), "2": Listing({b"": {b"a": file(b"2"), b"b": file(b"1")}})}
    compare = by_listings(lambda digest: listings.get(digest))
    one, two = (InputPart("files", "sha256:" + n, "context", Digest(n)) for n in "12")
    assert compare(one, two) == [Difference(b"a", "changed")]
    assert compare(one, InputPart("files", "x", "context", Digest("gone"))) == ()
    assert compare(InputPart("files", "x"), two) == ()


def replace_id(part: InputPart, label: str | None = None) -> InputPart:
    return InputPart(part.kind, part.id + "-new", part.label if label is None else label, part.listing)


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("changed", "file-changed", "f changed"),
        ("added", "file-added", "f added"),
        ("removed", "file-removed", "f removed"),
        ("mode-changed", "mode-changed", "f has another mode"),
        ("owner-changed", "owner-changed", "f has another owner"),
        ("xattrs-changed", "xattr-changed", "f has other extended attributes"),
    ],
)
def test_each_kind_of_file_change(what: Change, code: str, words: str) -> None:
    reason = why(parts(copy_op("/"), STEP, FILES), parts(copy_op("/"), STEP, replace_id(FILES)), files=[changed(b"f", what)])
    assert (reason.code, reason.message) == (code, words)


def test_several_kinds_of_file_changes_make_details() -> None:
    changes = [changed(b"m", "mode-changed"), changed(b"new", "added"), changed(b"f")]
    reason = why(parts(copy_op("/"), STEP, FILES), parts(copy_op("/"), STEP, replace_id(FILES)), files=changes)
    assert reason.code == "file-added"
    assert reason.details == ("f changed", "m has another mode")


def test_without_listings_the_source_is_named() -> None:
    reason = why(parts(copy_op(), STEP, FILES), parts(copy_op(), STEP, replace_id(FILES)))
    assert (reason.code, reason.message) == ("file-changed", "files of the context changed")


ENV_CASES: list[tuple[tuple[str, ...], tuple[str, ...], frozenset[str], str, str]] = [
    (("MINOR=1",), ("MINOR=2",), frozenset({"MINOR"}), "arg-changed", "build argument MINOR: 1 -> 2"),
    (("MINOR=1",), ("MINOR=2",), frozenset(), "env-changed", "variable MINOR: 1 -> 2"),
    ((), ("V=1",), frozenset({"V"}), "arg-changed", "build argument V is new (1)"),
    ((), ("V=",), frozenset({"V"}), "arg-changed", 'build argument V is new ("")'),
    (("V=1",), (), frozenset(), "env-changed", "variable V is gone"),
    (("A=1", "B=2"), ("B=2", "A=1"), frozenset(), "env-changed", "variables are set in another order: B, A"),
    (("NPM_TOKEN=hunter2",), ("NPM_TOKEN=hunter3",), frozenset({"NPM_TOKEN"}), "arg-changed", "build argument NPM_TOKEN changed"),
    ((), ("SSH_PRIVATE_KEY=hunter2",), frozenset({"SSH_PRIVATE_KEY"}), "arg-changed", "build argument SSH_PRIVATE_KEY is new"),
    (("A=" + "x" * 80,), ("A=hunter3",), frozenset(), "env-changed", "variable A changed"),
]


@pytest.mark.parametrize(("old", "new", "args", "code", "message"), ENV_CASES)
def test_variables(old: tuple[str, ...], new: tuple[str, ...], args: frozenset[str], code: str, message: str) -> None:
    reason = why(parts(exec_op(env=old)), parts(exec_op(env=new)), facts=Facts(NOW, args=args))
    assert (reason.code, reason.message) == (code, message)
    assert "hunter" not in repr(reason)


OPTIONS: list[tuple[Op, str, str]] = [
    (exec_op(cwd="/w"), "option-changed", "WORKDIR: / -> /w"),
    (exec_op(user="bob"), "option-changed", "USER: none -> bob"),
    (exec_op(network="none"), "option-changed", "--network: default -> none"),
    (exec_op(security="insecure"), "option-changed", "--security: sandbox -> insecure"),
    (exec_op(hostname="h"), "option-changed", "host name: none -> h"),
    (exec_op(extra_hosts=(("db", "1.2.3.4"),)), "option-changed", "--add-host: none -> db"),
    (exec_op(shm_size=64), "option-changed", "--shm-size: none -> 64"),
    (exec_op(ulimits=(("nofile", 1, 2),)), "option-changed", "--ulimit: none -> nofile, 1, 2"),
    (exec_op(args=("/bin/bash", "-c", "make")), "option-changed", "SHELL: /bin/sh -c -> /bin/bash -c"),
    (exec_op("make all"), "text-changed", "command changed: /bin/sh -c make -> /bin/sh -c make all"),
    (exec_op(platform=Platform("linux", "arm64")), "platform-changed", "platform: linux/amd64 -> linux/arm64"),
    (exec_op("make", ExecMount("cache", "/c")), "mount-changed", "new mount: cache /c"),
    (exec_op("make", ExecMount("secret", "/s", id="tok")), "mount-changed", "new mount: secret tok /s"),
]


@pytest.mark.parametrize(("op", "code", "message"), OPTIONS)
def test_options_of_run(op: Op, code: str, message: str) -> None:
    reason = why(parts(exec_op()), parts(op))
    assert (reason.code, reason.message) == (code, message)


def test_mounts_that_change_go_or_change_places() -> None:
    one, two = ExecMount("tmpfs", "/t", size=1), ExecMount("tmpfs", "/t", size=2)
    assert why(parts(exec_op("m", one)), parts(exec_op("m", two))).message == "mount tmpfs /t: size changed"
    assert why(parts(exec_op("m", one)), parts(exec_op("m"))).message == "mount is gone: tmpfs /t"
    a, b = ExecMount("secret", "/a", id="a"), ExecMount("secret", "/b", id="b")
    assert why(parts(exec_op("m", a, b)), parts(exec_op("m", b, a))).message == "mounts stand in another order"
    locked = ExecMount("cache", "/c", sharing="locked")
    reason = why(parts(exec_op("m", ExecMount("cache", "/c"))), parts(exec_op("m", locked)))
    assert reason.message == "mount cache /c: id or sharing changed"


def test_changed_text_shows_both_texts() -> None:
    reason = why(parts(exec_op("make")), parts(exec_op("make all")), was=place("RUN make"), now=place("RUN make all"))
    assert (reason.code, reason.message) == ("text-changed", "instruction changed: RUN make -> RUN make all")


def test_long_texts_are_cut_around_the_difference() -> None:
    old, new = ("RUN " + "x" * 90 + f" VERSION={v} " + "y" * 90 for v in (1, 2))
    reason = why(parts(exec_op(old)), parts(exec_op(new)), was=place(old), now=place(new))
    assert "VERSION=1" in reason.message
    assert "VERSION=2" in reason.message


def test_a_run_turned_into_a_copy() -> None:
    reason = why(parts(exec_op()), parts(copy_op(), STEP, FILES), was=place("RUN make"), now=place("COPY a.txt /a.txt"))
    assert reason.code == "text-changed"
    assert reason.message == "instruction changed: RUN make -> COPY a.txt /a.txt"


def test_words_that_a_variable_changed_name_the_variable() -> None:
    where = place("COPY $X /t.txt")
    facts = Facts(NOW, args=frozenset({"X"}))
    old, new = (parts(copy_op(f"/{name}.txt", "/t.txt"), STEP, FILES) for name in "ab")
    reason = why(old, new, now=where, facts=facts)
    assert (reason.code, reason.message) == ("arg-changed", "source: a.txt -> b.txt (through $X)")
    by_env = why(old, new, now=where, facts=Facts(NOW, args=frozenset({"OTHER"})))
    assert by_env.code == "env-changed"
    secret = why(old, new, now=place("COPY ${API_TOKEN} /t"), facts=facts)
    assert "a.txt" not in secret.message
    mode = why(
        parts(copy_op(mode="600"), STEP, FILES),
        parts(copy_op(owner=Owner("5"), mode="0755"), STEP, FILES),
        now=place("COPY a ${D}"),
    )
    assert mode.message == "--chown: none -> 5 (through $D)"
    assert mode.details == ("--chmod: 0600 -> 0755 (through $D)",)


def test_a_flag_that_is_in_no_operation() -> None:
    linked = key_parts(copy_op(), None, [FILES])
    old, new = place("COPY a.txt /a.txt"), place("COPY --link a.txt /a.txt")
    reason = why(parts(copy_op(), STEP, FILES), linked, was=old, now=new)
    assert (reason.code, reason.message) == ("text-changed", "instruction changed: COPY a.txt /a.txt -> COPY --link a.txt /a.txt")


def test_here_documents() -> None:
    files = (FileOp((MkfileAction("/x", data),)) for data in (b"hello $V", b"bye $V"))
    reason = why(*(parts(op) for op in files), now=place("COPY <<EOF /x"))
    assert (reason.code, reason.message) == ("text-changed", "text changed")
    document = InputPart("files", "sha256:1", "[internal] preparing inline document")
    reason = why(parts(copy_op(), STEP, document), parts(copy_op(), STEP, replace_id(document)))
    assert (reason.code, reason.message) == ("text-changed", "the here-document changed")


def test_variables_of_a_here_document_are_named() -> None:
    document = InputPart("files", "sha256:1", "[internal] preparing inline document with $A, $V")
    reason = why(parts(copy_op(), STEP, document), parts(copy_op(), STEP, replace_id(document)))
    assert reason.message == "the here-document (with $A, $V) changed"


def test_white_space_in_a_command() -> None:
    old, new = parts(exec_op("echo a > /a")), parts(exec_op("echo a  >  /a"))
    reason = why(old, new, was=place("RUN echo a > /a"), now=place("RUN echo a  >  /a"))
    assert (reason.code, reason.message) == ("text-changed", "only white space of the command changed: echo a > /a")


@pytest.mark.parametrize(("path", "told"), [(b"./dir/one", "dir/one"), (b"/etc/one", "/etc/one"), (b"./", "."), (b"one", "a.txt/one")])
def test_whole_paths_are_told_as_they_are(path: bytes, told: str) -> None:
    reason = why(parts(copy_op(), STEP, FILES), parts(copy_op(), STEP, replace_id(FILES)), files=[changed(path)])
    assert reason.paths == (told,)


def test_another_number_of_sources() -> None:
    two = FileOp((CopyAction(1, "/a", "/d/"), CopyAction(1, "/b", "/d/")))
    reason = why(parts(copy_op("/a", "/d/"), STEP, FILES), parts(two, STEP, FILES, FILES), now=place("COPY $S /d/"))
    assert (reason.code, reason.message) == ("arg-changed", "1 -> 2 sources (through $S)")


def test_a_moved_base() -> None:
    moved = InputPart("filesystem", "state:new", "debian:12@sha256:bbbbbbbbbbbbbbbbbbbb")
    reason = why(parts(exec_op(), BASE), parts(exec_op(), moved))
    assert (reason.code, reason.message) == ("base-changed", "base debian:12 moved: sha256:aaaaaaaa… -> sha256:bbbbbbbb…")
    other = InputPart("filesystem", "state:new", "debian:13@sha256:bbbb")
    assert why(parts(exec_op(), BASE), parts(exec_op(), other)).message == "base: debian:12 -> debian:13"
    assert why(parts(exec_op(), STEP), parts(exec_op(), other)).message == "builds on base debian:13 now"
    plain, same = InputPart("filesystem", "state:1", "debian:12"), InputPart("filesystem", "state:2", "debian:12")
    assert why(parts(exec_op(), plain), parts(exec_op(), same)).message == "base debian:12 moved"
    stage = InputPart("filesystem", "state:3", "stage deps")
    assert why(parts(exec_op(), plain), parts(exec_op(), stage)).code == "parent-changed"


def test_a_changed_parent_names_the_step_where_it_began() -> None:
    began = Reason("file-changed", "src/app.py changed", (), ("src/app.py",))
    upstream = Upstream("COPY src /src", 3, began)
    new = InputPart("filesystem", "state:two")
    first = why(parts(exec_op()), parts(exec_op(), new), facts=Facts(NOW, upstream=upstream))
    assert first.code == "parent-changed"
    assert first.message == "follows line 3: COPY src /src (src/app.py changed)"
    assert first.root_step == "line 3: COPY src /src"
    assert first.paths == ("src/app.py",)
    second = why(parts(exec_op()), parts(exec_op(), new), facts=Facts(NOW, upstream=Upstream("RUN make", 4, first)))
    assert second.message == first.message
    assert second.root_step == first.root_step


def test_a_parent_that_hit_but_is_another_one() -> None:
    reason = why(parts(exec_op()), parts(exec_op(), BASE_STEP), facts=Facts(NOW, upstream=Upstream("RUN b", 2)))
    assert (reason.code, reason.message) == ("parent-changed", "follows line 2: RUN b now")


BASE_STEP = InputPart("filesystem", "state:other")


def test_own_changes_come_before_the_parents() -> None:
    facts = Facts(NOW, upstream=Upstream("WORKDIR /w2", 2, Reason("text-changed", "x")))
    reason = why(parts(exec_op(cwd="/w1")), parts(exec_op(cwd="/w2"), BASE_STEP), facts=facts)
    assert (reason.code, reason.message) == ("option-changed", "WORKDIR: /w1 -> /w2")


def test_remote_things() -> None:
    url = InputPart("url", "sha256:1", "https://bob:hunter2@example.com/f")
    reason = why(parts(copy_op(), STEP, url), parts(copy_op(), STEP, replace_id(url)))
    assert (reason.code, reason.message) == ("remote-changed", "https://…@example.com/f has other bytes than before")
    git = InputPart("git", "0123456789abcdef", "https://h/r.git")
    assert "commit 0123456789 -> " in why(parts(copy_op(), STEP, git), parts(copy_op(), STEP, replace_id(git))).message
    watch = InputPart("watch", "etag", "https://h/latest")
    reason = why(parts(exec_op(), watched=[watch]), parts(exec_op(), watched=[replace_id(watch)]))
    assert (reason.code, reason.message) == ("remote-changed", "https://h/latest (watched) changed")
    assert why(parts(exec_op()), parts(exec_op(), watched=[watch])).message == "https://h/latest is watched now"
    assert why(parts(exec_op(), watched=[watch]), parts(exec_op())).message == "https://h/latest is not watched any more"


def test_another_schema() -> None:
    old = parts(exec_op())
    assert why(KeyParts(0, old.op, old.inputs), old).code == "schema-changed"


def told(facts: Facts) -> Reason:
    return explain_miss(parts(exec_op()), place(), [record(parts(exec_op()), place())], facts)


def test_what_is_told_before_any_comparison() -> None:
    assert told(Facts(NOW, forced_by="--refresh deps")).message == "asked for by --refresh deps"
    assert told(Facts(NOW, expired=(90000.0, "--max-age deps"))).message == "its record is 25 h old, --max-age deps allows less"
    assert [
        told(facts).code
        for facts in (
            Facts(NOW, forced_by="--no-cache"),
            Facts(NOW, expired=(1.0, "x")),
            Facts(NOW, forgotten=True),
            Facts(NOW, evicted=True),
            Facts(NOW, not_trusted="pr/17"),
        )
    ] == ["forced", "expired", "forgotten", "evicted", "not-trusted"]


def test_first_builds() -> None:
    reason = explain_miss(parts(exec_op()), place(), [], Facts(NOW))
    assert (reason.code, reason.message) == ("first-build", "first build of this step: RUN make")
    behind = Upstream("RUN a", 2, Reason("text-changed", "x"))
    reason = explain_miss(parts(exec_op()), place(), [], Facts(NOW, upstream=behind))
    assert (reason.code, reason.root_step) == ("first-build", "line 2: RUN a")


def test_a_record_that_differs_in_nothing_lost_its_files() -> None:
    assert why(parts(exec_op()), parts(exec_op())).code == "evicted"


def test_an_instruction_put_in_above_is_the_cause_and_not_a_changed_text() -> None:
    # RUN a; RUN b; RUN c becomes RUN a; RUN new; RUN b; RUN c. At b's new position c stood before.
    after_a, after_b = InputPart("filesystem", "state:a"), InputPart("filesystem", "state:b")
    cache = MemoryRecordCache()
    cache.publish(record(parts(exec_op("b"), after_a), place("RUN b", 2)))
    cache.publish(record(parts(exec_op("c"), after_b), place("RUN c", 3)))
    inserted = Reason("text-changed", "instruction changed: RUN b -> RUN new")
    where = place("RUN b", 3)
    facts = Facts(NOW, upstream=Upstream("RUN new", 3, inserted))
    reason = explain_miss(parts(exec_op("b"), BASE_STEP), where, cache.neighbours(where), facts)
    assert reason.code == "parent-changed"
    assert reason.root_step == "line 3: RUN new"


def test_the_nearest_of_several_records_of_one_place_is_compared() -> None:
    old = record(parts(exec_op(env=("V=1", "W=1"))), place(), age=10)
    near = record(parts(exec_op(env=("V=2", "W=1"), cwd="/w")), place(), age=99)
    reason = explain_miss(parts(exec_op(env=("V=2", "W=1"), cwd="/w", user="u")), place(), [old, near], Facts(NOW))
    assert reason.message == "USER: none -> u"
    assert reason.record_age == 99


def test_a_record_that_differs_in_one_file_is_the_nearest() -> None:
    """Listings of 50,000 names were compared with two more records, none of which could be nearer."""
    asked: list[str] = []

    def compare(old: InputPart, new: InputPart) -> list[Difference]:
        asked.append(old.id)
        return [Difference(b"./a", "changed")] if old.id == "newest" else [Difference(b"./a", "changed"), Difference(b"./b", "changed")]

    def with_files(name: str) -> KeyParts:
        return parts(copy_op(), STEP, InputPart("files", name, "build context", Digest("sha256:listing")))

    older = [record(with_files(name), place(), age=age) for name, age in (("middle", 50), ("old", 99))]
    newest = record(with_files("newest"), place(), age=1)
    reason = explain_miss(with_files("now"), place(), [newest, *older], Facts(NOW), compare)
    assert reason.record_age == 1
    assert asked == ["newest"]
    asked.clear()
    assert explain_miss(with_files("now"), place(), [older[0], newest, older[1]], Facts(NOW), compare).record_age == 1
    assert asked == ["middle", "newest"]


def test_files_made_by_a_step_that_ran_now_name_it() -> None:
    made = Upstream("RUN make", 5, Reason("forced", "x"))
    facts = Facts(NOW, sources=(made,))
    reason = why(parts(copy_op(), STEP, FILES), parts(copy_op(), STEP, replace_id(FILES, "stage build")), facts=facts)
    assert reason.details == ("made by line 5: RUN make",)


def test_hits_say_where_from_and_how_old() -> None:
    it = record(parts(exec_op()), place(), age=7300, build="0123456789abcdef")
    same = explain_hit(it, NOW, "same-key", host="here", build="now")
    assert (same.code, same.message) == ("same-key", "same inputs; made 2 h ago on this machine, build 0123456789abcdef")
    assert same.record_age == 7300
    assert "on other" in explain_hit(it, NOW, "same-key", host="here2", build="now").message.replace("on here,", "on other,")
    cut = explain_hit(it, NOW, "cut-off", host="here", build="now", because="line 3: RUN make")
    assert cut.message.startswith("line 3: RUN make ran again and came out equal; made 2 h ago")
    shared = explain_hit(it, NOW, "shared", host="here", build="now", because="[one 1/2] RUN make")
    assert shared.message == "equal to [one 1/2] RUN make, which ran in this build"
    assert explain_hit(it, NOW, "same-key", host="here", build=it.build).message == "same inputs; made earlier in this build"
    assert {same.code, cut.code, shared.code, "adopted"} == set(HIT_CODES)  # the last one: engine/adopted.py


def test_what_a_plan_cannot_know() -> None:
    assert explain_unknown(None).code == "parent-changed"
    deep = Upstream("RUN b", 4, Reason("parent-changed", "x", root_step="line 2: RUN a"))
    assert explain_unknown(deep).message == "depends on what line 2: RUN a will give"
    assert explain_unknown(Upstream("RUN b", 4)).root_step == "line 4: RUN b"
