"""Elements of HTML and SVG; text is escaped unless it is `Markup` already."""

import html
from typing import Any

_VOID = frozenset({"img", "br", "hr", "meta", "path", "polygon", "line"})


class Markup(str):
    """Text that is HTML: it is not escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Returns an element.

    Args:
        name: Its name, "td" for example.
        *children: Its content: elements, text or numbers; None is left out.
        **attributes: Its attributes. A trailing `_` is dropped (`class_`), other underscores become
            hyphens; True gives an attribute without a value, None and False give none.

    Example:
        >>> tag("p", "1 < 2", class_="note")
        '<p class="note">1 &lt; 2</p>'
    """
    written = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {key}")
        elif value is not None and value is not False:
            written.append(f' {key}="{html.escape(str(value))}"')
    start = f"{name}{''.join(written)}"
    if name in _VOID:
        return Markup(f"<{start}/>")
    return Markup(f"<{start}>{join(*children)}</{name}>")


def join(*children: Any) -> Markup:
    """Returns elements and escaped text one after the other; None is left out."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(str(child))
            for child in children
            if child is not None
        )
    )
