from __future__ import annotations

import pytest

from lamina.diagnostics.span import Source, Span
from lamina.dockerfile import DockerfileError, Document, parse, parse_trigger
from lamina.dockerfile.instructions import (
    AnyInstruction,
    Arg,
    Cmd,
    Copy,
    CopyFlags,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)


def good(text: str) -> Document:
    document = parse(text)
    assert document.errors == ()
    return document


def one(line: str) -> AnyInstruction:
    return good(f"FROM a\n{line}\n").stages[0].instructions[0]


def wrong(text: str) -> tuple[str, int, int, str]:
    """Code, line, column and the marked text of the only error."""
    document = parse(text)
    (error,) = document.errors
    assert error.span is not None
    return error.code.removeprefix("dockerfile/"), error.span.line, error.span.column, marked(error.span)


def marked(span: Span) -> str:
    line = span.source.line(span.line)
    return line[span.column - 1 : span.end_column - 1 if span.end_line == span.line else None]


def test_stages_and_meta_args() -> None:
    document = good("ARG V=1 W\nFROM --platform=$P img:$V AS Build\nRUN x\nFROM scratch\n")
    assert document.meta_args[0].pairs == (("V", "1"), ("W", None))
    assert [(stage.index, stage.name, stage.from_.base, stage.from_.platform) for stage in document.stages] == [
        (0, "build", "img:$V", "$P"),
        (1, "", "scratch", ""),
    ]


def test_continuations_join_and_keep_their_places() -> None:
    document = good("FROM a\nRUN echo a \\\n  # comment\n\n    && b \\  \n c\nUSER x")
    run, user = document.stages[0].instructions
    assert run.text == "RUN echo a     && b  c"
    assert (run.span.line, run.span.end_line) == (2, 6)
    assert user.span.line == 7
    (warning,) = document.diagnostics
    assert (warning.severity, warning.code) == ("warning", "NoEmptyContinuation")


def test_an_escaped_mark_does_not_continue() -> None:
    assert one("RUN a \\\\").text == "RUN a \\\\"


def test_comments_above_an_instruction() -> None:
    document = good("# one\n#\n# two\n  # lamina: max-age=1d\n\nFROM a\n# three\nRUN x\nRUN y\n")
    stage = document.stages[0]
    assert stage.from_.comments == ("two", "lamina: max-age=1d")
    assert [instruction.comments for instruction in stage.instructions] == [("three",), ()]


def test_directives() -> None:
    document = good("# syntax=docker/dockerfile:1\n#check = skip=all\n# escape=`\nFROM a\nRUN a `\n b\\\n")
    assert [(name, value) for name, value, _ in document.directives] == [
        ("syntax", "docker/dockerfile:1"),
        ("check", "skip=all"),
        ("escape", "`"),
    ]
    assert document.escape == "`"
    assert document.stages[0].instructions[0].text == "RUN a  b\\"


def test_a_directive_must_come_first() -> None:
    assert good("# hello\n# escape=`\nFROM a\n").escape == "\\"
    assert good("\n# escape=`\nFROM a\n").escape == "\\"


def test_wrong_directives() -> None:
    assert wrong("# escape=x\nFROM a\n")[:2] == ("bad-escape", 1)
    assert wrong("# syntax=a\n# syntax=b\nFROM a\n")[0] == "duplicate-directive"


def test_byte_order_mark_and_carriage_returns() -> None:
    document = good("\ufeffFROM a\r\nRUN x \\\r\n  y\r\n")
    assert document.stages[0].instructions[0].text == "RUN x   y"


def test_env_label_and_arg() -> None:
    env = one('ENV A=b C="d e" F=g\\ h')
    assert isinstance(env, Env)
    assert env.pairs == (("A", "b"), ("C", '"d e"'), ("F", "g\\ h"))
    old = one("ENV key a = b")
    assert isinstance(old, Env)
    assert (old.pairs, old.legacy) == ((("key", "a = b"),), True)
    label = one("LABEL a=b")
    assert isinstance(label, Label)
    assert label.pairs == (("a", "b"),)
    arg = one("ARG A B= C=d")
    assert isinstance(arg, Arg)
    assert arg.pairs == (("A", None), ("B", ""), ("C", "d"))


def test_shell_and_json_form() -> None:
    cmd = one('CMD ["a", "b\\u00e9"]')
    assert isinstance(cmd, Cmd)
    assert (cmd.command.words, cmd.command.shell) == (("a", "bé"), False)
    fallback = one("CMD [a, b]")
    assert isinstance(fallback, Cmd)
    assert (fallback.command.words, fallback.command.shell) == (("[a, b]",), True)
    entry = one("entrypoint []")
    assert isinstance(entry, Entrypoint)
    assert (entry.command.words, entry.command.shell) == ((), False)


def test_run_flags() -> None:
    run = one('RUN --network=none --security=insecure --device=a --mount="type=cache,target=/x y" --mount=target=/z -- --foo')
    assert isinstance(run, Run)
    assert (run.network, run.security, run.devices) == ("none", "insecure", ("a",))
    assert [mount.pairs for mount in run.mounts] == [(("type", "cache"), ("target", "/x y")), (("target", "/z"),)]
    assert run.command.words == ("--foo",)
    assert marked(run.mounts[1].span) == "--mount=target=/z"


def test_copy_and_add() -> None:
    copy = one("COPY --from=b --chown=1:2 --chmod=755 --link --parents --exclude=*.md --exclude=x a b /c/")
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.dest, copy.add) == (("a", "b"), "/c/", False)
    assert copy.flags == CopyFlags(from_="b", chown="1:2", chmod="755", link=True, parents=True, exclude=("*.md", "x"))
    add = one('ADD --checksum=sha256:0 --keep-git-dir=TRUE --unpack=false ["a b", "/c"]')
    assert isinstance(add, Copy)
    assert (add.sources, add.dest, add.add) == (("a b",), "/c", True)
    assert add.flags == CopyFlags(checksum="sha256:0", keep_git_dir=True, unpack=False)


def test_the_small_ones() -> None:
    for line, kind, attribute, value in (
        ("WORKDIR /a b", Workdir, "path", "/a b"),
        ("USER a:b", User, "user", "a:b"),
        ("EXPOSE 80 443/tcp 1-2", Expose, "ports", ("1-2", "443/tcp", "80")),
        ('VOLUME ["/a", "/b c"]', Volume, "paths", ("/a", "/b c")),
        ("VOLUME /a /b", Volume, "paths", ("/a", "/b")),
        ("STOPSIGNAL 9", StopSignal, "signal", "9"),
        ("MAINTAINER me <m@x>", Maintainer, "name", "me <m@x>"),
        ('SHELL ["a", "-c"]', Shell, "words", ("a", "-c")),
        ("ONBUILD  RUN  a   b", Onbuild, "expression", "RUN  a   b"),
    ):
        found = one(line)
        assert isinstance(found, kind)
        assert getattr(found, attribute) == value


def test_healthcheck() -> None:
    check = one("HEALTHCHECK --interval=5m --timeout=3s --start-period=0 --start-interval=1ms --retries=4 CMD curl -f x || exit 1")
    assert isinstance(check, Healthcheck)
    assert check.test == ("CMD-SHELL", "curl -f x || exit 1")
    assert (check.interval, check.timeout, check.start_period, check.start_interval, check.retries) == (
        300 * 10**9,
        3 * 10**9,
        0,
        10**6,
        4,
    )
    json_form = one('HEALTHCHECK cmd ["a"]')
    assert isinstance(json_form, Healthcheck)
    assert json_form.test == ("CMD", "a")
    none = one("HEALTHCHECK NONE")
    assert isinstance(none, Healthcheck)
    assert none.test == ("NONE",)


def test_heredocs() -> None:
    run = one("RUN <<EOF cat 3<<-'X Y' > /f\na $b\nEOF\n\t\tc\n\tX Y")
    assert isinstance(run, Run)
    first, second = run.command.heredocs
    assert (first.name, first.content, first.expand, first.chomp, first.fd) == ("EOF", "a $b\n", True, False, 0)
    assert (second.name, second.content, second.raw, second.expand, second.fd) == ("X Y", "c\n", "\t\tc\n", False, 3)
    assert (run.span.line, run.span.end_line) == (2, 6)


def test_heredocs_of_copy_are_sources() -> None:
    copy = one("COPY <<a.txt b <<c /d/\n1\na.txt\n2\nc")
    assert isinstance(copy, Copy)
    assert copy.sources == ("b",)
    assert [(doc.name, doc.content) for doc in copy.heredocs] == [("a.txt", "1\n"), ("c", "2\n")]


def test_heredoc_of_a_trigger_is_in_its_expression() -> None:
    trigger = one("ONBUILD RUN <<-A\n\tx\nA")
    assert isinstance(trigger, Onbuild)
    assert trigger.expression == "RUN <<-A\n\tx\nA"


def test_what_is_no_heredoc() -> None:
    for line in ('RUN "<<A"', "RUN echo $((1<<2))", 'RUN ["<<A"]', "USER <<A", "RUN cat <<<x"):
        found, after = good(f"FROM a\n{line}\nUSER after\n").stages[0].instructions
        assert isinstance(found, Run | User)
        assert not isinstance(found, Run) or found.command.heredocs == ()
        assert isinstance(after, User)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\nRNU x", ("unknown-instruction", 2, 1, "RNU")),
        ("FROM a\n  RUN --mont=x y", ("unknown-flag", 2, 7, "--mont")),
        ("FROM a\nRUN \\\n  --network=x y", ("bad-network", 3, 3, "--network=x")),
        ("FROM a\nRUN --network=none --network=none x", ("duplicate-flag", 2, 20, "--network=none")),
        ("FROM a\nCOPY --link=maybe a b", ("bad-flag", 2, 6, "--link=maybe")),
        ("FROM a\nCOPY --link= a b", ("flag-without-value", 2, 6, "--link=")),
        ("FROM a\nCOPY --chown a b", ("flag-without-value", 2, 6, "--chown")),
        ("FROM a\nADD --from=x a b", ("unknown-flag", 2, 5, "--from")),
        ("FROM a\nCOPY a", ("missing-argument", 2, 6, "a")),
        ("FROM a\nENV --x A=b", ("unknown-flag", 2, 5, "--x")),
        ("FROM a\nENV A=b c", ("missing-value", 2, 9, "c")),
        ("FROM a\nENV A", ("missing-value", 2, 5, "A")),
        ("FROM a\nENV =b", ("blank-name", 2, 5, "=")),
        ("FROM a\nENV", ("missing-argument", 2, 1, "ENV")),
        ("FROM a\nARG =b", ("blank-name", 2, 5, "=b")),
        ("FROM a AS 1b", ("bad-stage-name", 1, 11, "1b")),
        ("FROM a b", ("bad-from", 1, 8, "b")),
        ("FROM", ("bad-from", 1, 1, "FROM")),
        ("FROM a # b", ("bad-from", 1, 8, "#")),
        ("RUN x\nFROM a", ("before-from", 1, 1, "RUN")),
        ("FROM a\nSHELL sh -c", ("not-json", 2, 7, "sh -c")),
        ('FROM a\nRUN ["a", 1]', ("json-not-strings", 2, 5, '["a", 1]')),
        ('FROM a\nVOLUME [""]', ("empty-volume", 2, 8, '[""]')),
        ("FROM a\nONBUILD ONBUILD RUN x", ("onbuild", 2, 9, "ONBUILD")),
        ("FROM a\nONBUILD FROM x", ("onbuild", 2, 9, "FROM")),
        ("FROM a\nONBUILD maintainer x", ("onbuild", 2, 9, "maintainer")),
        ("FROM a\nONBUILD", ("missing-argument", 2, 1, "ONBUILD")),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x", ("bad-duration", 2, 13, "--interval=5")),
        ("FROM a\nHEALTHCHECK --interval=1us CMD x", ("bad-duration", 2, 13, "--interval=1us")),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", ("bad-number", 2, 13, "--retries=-1")),
        ("FROM a\nHEALTHCHECK FOO x", ("bad-healthcheck", 2, 13, "FOO")),
        ("FROM a\nHEALTHCHECK NONE x", ("bad-healthcheck", 2, 18, "x")),
        ("FROM a\nHEALTHCHECK CMD", ("bad-healthcheck", 2, 13, "CMD")),
        ("FROM a\nRUN cat <<EOF\nx", ("unterminated-heredoc", 2, 9, "<<EOF")),
        ("FROM a\nCOPY a <<EOF\nEOF", ("bad-heredoc", 2, 8, "<<EOF")),
        ("FROM a\nSTOPSIGNAL", ("missing-argument", 2, 1, "STOPSIGNAL")),
    ],
)
def test_errors_say_where(text: str, expected: tuple[str, int, int, str]) -> None:
    assert wrong(text) == expected


def test_all_errors_are_reported_in_order() -> None:
    document = parse("FROM a\nRNU x\nCOPY a\nRUN ok\nENV\n")
    assert [error.span.line for error in document.errors if error.span] == [2, 3, 5]
    assert len(document.stages[0].instructions) == 1


def test_a_from_that_cannot_be_read_is_the_only_complaint() -> None:
    assert [error.code for error in parse("FROM a AS 1\nRUN x\nUSER y\n").errors] == ["dockerfile/bad-stage-name"]


def test_the_body_of_a_heredoc_is_not_read_as_instructions_after_an_error() -> None:
    assert len(parse("FROM a\nRUN --foo <<EOF\nx\ny\nEOF\nUSER z\n").errors) == 1


def test_hints() -> None:
    assert parse("FROM a\nCOYP a b").errors[0].hint == "did you mean COPY?"
    assert parse("FROM a\nRUN --mout=x y").errors[0].hint == "did you mean --mount?"
    assert parse("FROM a\nADD --parents a b").errors[0].hint == "--parents belongs to COPY"


def test_nothing_in_it() -> None:
    for text in ("", "\n\n", "# only a comment\n"):
        assert [error.code for error in parse(text).errors] == ["dockerfile/empty"]


def test_a_file_of_arguments_only_parses() -> None:
    assert good("ARG A=1\n").stages == ()


def test_lines_have_a_limit() -> None:
    good("FROM a\nRUN " + "x" * 65531 + "\n")
    assert parse("FROM a\nRUN " + "x" * 65532 + "\n").errors[0].code == "dockerfile/line-too-long"


@pytest.mark.parametrize(
    "text",
    ["\x00", "FROM a\n\\", "\\\n", "FROM a\nRUN " + "[" * 5000, "FROM a\nRUN <<" + "'" * 99, "FROM a\n" + "ONBUILD " * 8000, "�"],
)
def test_strange_texts_give_no_traceback(text: str) -> None:
    parse(text)


ORIGIN = Span(Source("Dockerfile", "FROM base"), 1, 1, 1, 10)


def test_triggers_of_a_base_image() -> None:
    run = parse_trigger("RUN <<E\nx\nE", ORIGIN)
    assert isinstance(run, Run)
    assert run.span == ORIGIN
    assert run.command.heredocs[0].content == "x\n"


@pytest.mark.parametrize("expression", ["", "RUN a\nRUN b", "FROM x", "FOO", "COPY a", "# c"])
def test_triggers_that_are_refused(expression: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_trigger(expression, ORIGIN)
    assert caught.value.spans == (ORIGIN,)
