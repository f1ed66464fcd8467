"""What all pages are made of."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.server.clock import rfc3339
from lamina.server.ui.html import Child, Markup, el, join
from lamina.server.ui.words import age

_MENU = (("/ui", "Builds"), ("/ui/pipelines", "Pipelines"), ("/ui/cache", "Cache"), ("/ui/images", "Images"))


def page(title: str, here: str, body: Sequence[Markup], *, again: bool = False, every: int = 3) -> bytes:
    """`here`: the entry of the menu that it belongs to. `again`: fetched again every so many seconds while it is looked at, by the script; without one the
    browser loads it again, less often."""
    links = [el("a", name, href=path, aria_current="page" if path == here else None) for path, name in _MENU]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width,initial-scale=1"),
        el("title", f"{title} – lamina"),
        el("link", rel="stylesheet", href="/ui/style.css"),
        el("script", src="/ui/script.js", defer=True),
        el("noscript", el("meta", http_equiv="refresh", content=str(5 * every))) if again else None,
    )
    content = el(
        "body",
        el("a", "Skip to the content", href="#content", class_="skip"),
        el("header", el("strong", "lamina"), el("nav", [join(link, " \u2003") for link in links], aria_label="Pages")),
        el("main", el("h1", title), list(body), id="content", data_again=str(every) if again else None),
    )
    return ("<!doctype html>" + el("html", head, content, lang="en")).encode("utf-8", "replace")


def table(
    label: str, heads: Sequence[str], rows: Sequence[list[Markup]], *, numbers: Sequence[int] = (), ids: Sequence[str] | None = None
) -> Markup:
    head = el("tr", [el("th", name, scope="col", class_="n" if n in numbers else None) for n, name in enumerate(heads)])
    body = [el("tr", row, id=ids[n] if ids else None) for n, row in enumerate(rows)]
    table = el("table", el("thead", head), el("tbody", body), aria_label=label)
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def cell(*children: Child, class_: str | None = None) -> Markup:
    return el("td", *children, class_=class_)


def tag(verdict: str, shown: str) -> Markup:
    return el("span", shown, class_=f"tag {verdict}")


def facts(*pairs: tuple[str, Child]) -> Markup:
    return el("dl", [el("div", el("dt", name), el("dd", value)) for name, value in pairs], class_="facts")


def when(moment: float, now: float) -> Markup:
    return el("time", age(now - moment), datetime=rfc3339(moment), title=rfc3339(moment))
