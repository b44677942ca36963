"""The built-in models, datasets and backbones, read from their source without importing it.

Importing them takes seconds, because they import torch; `--list` needs only names and summaries.
"""

import ast
from pathlib import Path

KINDS = ("model", "dataset", "backbone")


def built_in_names(kind: str) -> dict[str, str]:
    """Returns the names that the package registers, and the summary of each.

    Args:
        kind: "model", "dataset" or "backbone".
    """
    folder = Path(__file__).resolve().parents[1] / f"{kind}s"
    decorator = f"register_{kind}"
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if decorator not in text:
            continue
        for node in ast.parse(text).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                names = _registered_names(node, decorator)
                prefixes = _registered_names(node, f"{decorator}_family")
                names += [f"{prefix}:NAME" for prefix in prefixes]
                found |= dict.fromkeys(names, summary)
    return found


def _registered_names(node: ast.ClassDef | ast.FunctionDef, decorator: str) -> list[str]:
    """Returns the names under which decorators register a class or a function."""
    return [
        str(ast.literal_eval(call.args[0]))
        for call in node.decorator_list
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == decorator
    ]
