"""HTML and SVG in which every text is escaped."""

from __future__ import annotations

import html

_VOID = {"br", "img", "meta"}


class Markup(str):
    """HTML: text that is escaped already."""

    __slots__ = ()


def tag(name: str, /, *inside: object, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: Its name.
        *inside: `Markup`, or values whose text is escaped; None is left out.
        **attributes: Values are escaped; ``class_`` is ``class``, ``text_anchor`` ``text-anchor``.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*inside)}</{name}>")


def joined(*parts: object) -> Markup:
    """Join as `tag` does what is inside."""
    return Markup(
        "".join(
            part if isinstance(part, Markup) else html.escape(_text(part))
            for part in parts
            if part is not None
        )
    )


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
