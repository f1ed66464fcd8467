from __future__ import annotations

import pytest

from lamina.engine.adopted import Told, told
from lamina.oci.config import History


@pytest.mark.parametrize(
    ("buildkit", "classic", "means"),
    [
        ("RUN /bin/sh -c make # buildkit", "/bin/sh -c make", ("run", "/bin/sh -c make")),
        ("RUN |2 A=1 B=2 /bin/sh -c make # buildkit", "|2 B=2 A=1 /bin/sh -c make", ("run", "|2 A=1 B=2 /bin/sh -c make")),
        ("ENV A=b", "/bin/sh -c #(nop)  ENV A=b", ("env", "A=b")),
        ("WORKDIR /app", "/bin/sh -c #(nop) WORKDIR /app", ("workdir", "/app")),
        ("USER worker", "/bin/sh -c #(nop)  USER worker", ("user", "worker")),
        ("COPY a.txt /b # buildkit", "/bin/sh -c #(nop) COPY file:0123 in /b ", ("files", "")),
        ("ADD x.tar / # buildkit", "/bin/sh -c #(nop) ADD dir:4567 in / ", ("files", "")),
        ('CMD ["sh"]', '/bin/sh -c #(nop)  CMD ["sh"]', None),
        ("LABEL a=b", "/bin/sh -c #(nop)  LABEL a=b", None),
        ("ARG V=1", "/bin/sh -c #(nop)  ARG V=1", None),
        ("EXPOSE map[80/tcp:{}]", "/bin/sh -c #(nop)  EXPOSE 80", None),
        ("", "", None),
    ],
)
def test_both_builders_say_the_same(buildkit: str, classic: str, means: Told | None) -> None:
    assert told(History(created_by=buildkit)) == means
    assert told(History(created_by=classic)) == means
