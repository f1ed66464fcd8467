from __future__ import annotations

from lamina.diagnostics.span import Source
from lamina.dockerfile.lexer import Lexer, chomp, heredoc_marker, heredoc_markers


def test_characters_know_where_they_stand() -> None:
    line = Lexer(Source("f", "\n  RUN a \\\n# c\n\tb \\\n c")).next()
    assert line is not None
    assert line.text == "RUN a \tb  c"
    for char, place in (("R", (2, 3)), ("a", (2, 7)), ("b", (4, 2)), ("c", (5, 2))):
        assert line.place(line.text.index(char)) == place
    assert (line.start, line.end) == (2, 5)


def test_a_span_over_a_continuation() -> None:
    source = Source("f", "RUN a\\\nbc d")
    line = Lexer(source).next()
    assert line is not None
    span = line.span(source, 4, 7)
    assert (span.line, span.column, span.end_line, span.end_column) == (1, 5, 2, 3)


def test_a_mark_at_the_end_of_the_text() -> None:
    lexer = Lexer(Source("f", "RUN a \\"))
    line = lexer.next()
    assert line is not None
    assert line.text == "RUN a "
    assert lexer.next() is None


def test_the_first_blank_line_inside() -> None:
    line = Lexer(Source("f", "RUN a \\\n\n \n b")).next()
    assert line is not None
    assert line.empty_continuation == 2


def test_markers() -> None:
    marker = heredoc_marker("3<<-'E F'")
    assert marker is not None
    assert (marker.name, marker.fd, marker.chomp, marker.expand) == ("E F", 3, True, False)
    for text in ("<<", "<<<a", "a<<b", "<<a b", "<a", "<<''"):
        assert heredoc_marker(text) is None
    assert [item.name for item in heredoc_markers("RUN <<A cat <<  B '<<C' x<<D")] == ["A", "B"]
    assert heredoc_markers("RUN it's <<A") == []


def test_bodies_follow_one_another() -> None:
    lexer = Lexer(Source("f", "RUN <<A <<-B\n1\nA\n\t2\n\tB\nUSER x"))
    line = lexer.next()
    assert line is not None
    bodies = [lexer.heredoc(marker, line) for marker in heredoc_markers(line.text)]
    assert [(body.raw, body.content, body.span.line, body.span.end_line) for body in bodies if body and body.span] == [
        ("1\n", "1\n", 2, 3),
        ("\t2\n", "2\n", 4, 5),
    ]
    following = lexer.next()
    assert following is not None
    assert following.text == "USER x"


def test_a_body_without_an_end() -> None:
    lexer = Lexer(Source("f", "RUN <<A\nx"))
    line = lexer.next()
    assert line is not None
    assert lexer.heredoc(heredoc_markers(line.text)[0], line) is None


def test_chomp() -> None:
    assert chomp("\t\ta\n b\n\tc\td\n") == "a\n b\nc\td\n"
