"""HTML and SVG as values: text is escaped unless it is `Markup`, and only `el` makes Markup out of what it escaped."""

from __future__ import annotations

from html import escape

_VOID = frozenset({"meta", "link", "br", "input"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | int | None | list[Markup]


def text(value: str) -> Markup:
    """Escaped; bytes that were no UTF-8 and control characters are shown as U+FFFD."""
    clean = "".join("\ufffd" if "\ud800" <= c <= "\udfff" or (c < " " and c not in "\n\t") or c == "\x7f" else c for c in value)
    return Markup(escape(clean, quote=True))


def el(tag: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """`class_` is class, other underscores are hyphens; None and False leave an attribute out."""
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        shown = name.rstrip("_").replace("_", "-")
        parts.append(f" {shown}" if value is True else f' {shown}="{text(str(value))}"')
    parts.append(">")
    if tag in _VOID:
        return Markup("".join(parts))
    return Markup("".join(parts) + join(*children) + f"</{tag}>")


def join(*children: Child) -> Markup:
    return Markup("".join(_child(child) for child in children))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, list):
        return "".join(child)
    return child if isinstance(child, Markup) else text(str(child))
