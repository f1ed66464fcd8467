"""Whether the URLs and repositories that images were built from have moved: each is asked once, however many images use it.

A URL is asked with HEAD. Where its ETag (else its date) is that of the download, nothing more is read; else its bytes are, if they are few, for
only they decide. A repository is asked with `git ls-remote`. Nothing is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.engine.freshness.origins import Origin

_PARALLEL = 8
_READ = 64 << 20  # bytes of a URL that are read to compare them
_COMMIT = r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z"

Kind = Literal["url", "git", "watch"]
RemoteVerdict = Literal["current", "moved", "pinned", "unknown"]


class RemoteReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """`name`: a URL without its password, or `URL#REF` of a repository. `was` and `now`: a digest, a commit, or an answer of a watched URL."""

    kind: Kind
    name: str
    verdict: RemoteVerdict
    was: str
    now: str | None = None
    why: str = ""


class Question(msgspec.Struct, frozen=True):
    """Equal questions are asked once. `was` belongs to it: with the ETag of that download a HEAD is enough."""

    kind: Kind
    url: str
    ref: str
    was: str
    ssh: str = ""

    @property
    def name(self) -> str:
        return name_of(self.url, self.ref)


Ask = Callable[[Question], RemoteReport]


def name_of(url: str, ref: str) -> str:
    return f"{url}#{ref}" if ref else url


def questions(origin: Origin) -> tuple[Question, ...]:
    return (
        *(Question("url", use.url, "", use.digest) for use in origin.urls),
        *(Question("git", use.url, use.ref, use.commit, origin.recipe.ssh.get("default", "")) for use in origin.gits),
        *(Question("watch", use.url, "", use.answer) for use in origin.watches),
    )


def places_asked(wanted: Iterable[Question]) -> set[tuple[Kind, str]]:
    """What a server is asked about, without what is answered here."""
    return {(each.kind, each.name) for each in wanted if told(each) is None}


def told(question: Question) -> RemoteReport | None:
    """The answer where nobody needs to be asked."""
    if question.kind == "git" and re.match(_COMMIT, question.ref):
        return RemoteReport("git", question.name, "pinned", question.was)
    if "?sha256:" in question.url:
        return RemoteReport(question.kind, question.name, "unknown", question.was, None, "its address has a query, which is not kept")
    return None


def ask_all(wanted: Sequence[Question], ask: Ask) -> dict[Question, RemoteReport]:
    found = {question: report for question in wanted if (report := told(question)) is not None}
    asking = [question for question in dict.fromkeys(wanted) if question not in found]
    if asking:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(_PARALLEL, len(asking)), thread_name_prefix="ask") as pool:
            found |= dict(zip(asking, pool.map(ask, asking)))
    return found


def asker(store: LocalStore) -> Ask:
    """Asks the servers. No error is raised: what does not answer is unknown."""

    def ask(question: Question) -> RemoteReport:
        try:
            verdict, now, why = _git(question) if question.kind == "git" else _url(store, question)
        except LaminaError as error:
            verdict, now, why = "unknown", None, error.message
        return RemoteReport(question.kind, question.name, verdict, question.was, now, why)

    return ask


_Answer = tuple[RemoteVerdict, str | None, str]


def _git(question: Question) -> _Answer:
    from lamina.engine.runners import git

    ssh = Path(question.ssh) if question.ssh and Path(question.ssh).exists() else None
    commit = git.resolve(git.GitUrl(question.url, question.ref), ssh=ssh, timeout=30.0)
    return ("current" if commit == question.was else "moved"), commit, ""


def _url(store: LocalStore, question: Question) -> _Answer:
    from lamina.engine.runners import http

    if question.kind == "watch":
        answer = http.probe(question.url)
        return ("current" if answer == question.was else "moved"), answer, ""
    known = store.facts.http(question.url)
    if known is not None and known.digest == question.was:
        seen = http.seen(question.url, known.etag or "", known.modified or "")
    else:
        seen = http.seen(question.url, "", "")
    if seen.same:
        return "current", question.was, ""
    if seen.size is not None and seen.size > _READ:
        if seen.told:
            return "moved", None, "its ETag or date differs; its bytes, too many to read for this, may be the same"
        return "unknown", None, "the server gives neither ETag nor date, and it is too large to be read for this"
    digest = http.digest_of(question.url, _READ)
    if digest is None:
        return "unknown", None, "it is too large to be read for this"
    return ("current" if digest == question.was else "moved"), digest, ""
