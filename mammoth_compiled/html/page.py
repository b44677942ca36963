"""Complete pages, and fragments for notebooks, with their style in them."""

from functools import cache
from pathlib import Path
from typing import Any

from mammoth_compiled.html.markup import Markup, join, tag

_HERE = Path(__file__).parent


def page(title: str, *content: Any) -> str:
    """Returns a self-contained HTML file: style and script are in it, nothing is loaded.

    Args:
        title: Its title.
        *content: The elements of its body.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        # No request for a favicon, which would fail.
        Markup('<link rel="icon" href="data:,"/>'),
        tag("title", title),
        tag("style", _file("content.css"), _file("page.css")),
    )
    script = tag("script", _file("page.js"))
    body = tag("body", tag("main", *content, class_="mammoth"), script)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def fragment(*content: Any) -> str:
    """Returns content with its style, for the output of a notebook cell."""
    return join(tag("style", _file("content.css")), tag("div", *content, class_="mammoth"))


@cache
def _file(name: str) -> Markup:
    return Markup((_HERE / name).read_text(encoding="utf-8"))
