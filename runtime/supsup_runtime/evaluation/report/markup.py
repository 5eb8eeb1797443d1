"""HTML and SVG in which every text is escaped."""

from __future__ import annotations

import html

_VOID = {"br", "img", "meta"}


class Markup(str):
    """HTML: text that is escaped already."""

    __slots__ = ()


def tag(name: str, /, *inside: object, **attributes: object) -> Markup:
    """Return an element, with all text escaped but `Markup`; ``class_`` is ``class``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>" + ("" if name in _VOID else f"{joined(*inside)}</{name}>"))


def joined(*parts: object) -> Markup:
    """Join parts, as `tag` does what is inside."""
    texts = (part if isinstance(part, Markup) else html.escape(_text(part)) for part in parts)
    return Markup("".join(texts))


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
