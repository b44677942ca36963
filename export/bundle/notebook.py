"""A bundle as HTML, for notebooks."""

from mammoth_compiled.export.bundle.description import contract, facts, files
from mammoth_compiled.export.bundle.manifest import Manifest
from mammoth_compiled.html import Cell, fragment, table, tag


def bundle_html(manifest: Manifest, path: str) -> str:
    """Returns the contract, the facts and the model files of a bundle.

    Args:
        manifest: Its description.
        path: Its directory.
    """
    rows = [
        [name.replace("`", ""), Cell(text.replace("`", ""), class_="wrap")]
        for name, text in [*contract(manifest), *facts(manifest)]
    ]
    head = ["file", "content", "size", "max difference", "accuracy", "one image"]
    return fragment(
        tag("p", tag("b", manifest.name), " ", tag("code", path)),
        table(["", ""], rows),
        table(head, files(manifest)),
    )
