"""Directives whose content is generated from the code and from committed results.

`{cli-flags}` lists the flags of a command from its parser, `{registry}` the registered names of one
kind, `{results}` a table of figures from `benchmarks/results/`, `{diagram}` inlines an SVG so that
it takes the colors of the page's theme.
"""

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

import result_tables
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mammoth_compiled import registry

HERE = Path(__file__).parent
FLAG = re.compile(r"(?<![\w`-])--\w+")


class _Collector(argparse.HelpFormatter):
    """Collects the actions of a parser by group instead of formatting them."""

    groups: dict[str, list[argparse.Action]]

    def start_section(self, heading: str | None) -> None:
        self.heading = heading or ""
        super().start_section(heading)

    def add_argument(self, action: argparse.Action) -> None:
        if action.help is not argparse.SUPPRESS:
            self.groups.setdefault(self.heading, []).append(action)


def actions_by_group(parser: argparse.ArgumentParser) -> dict[str, list[argparse.Action]]:
    """Returns the documented actions of a parser, by the heading of their group."""
    groups: dict[str, list[argparse.Action]] = {}

    def formatter(prog: str) -> argparse.HelpFormatter:
        collector = _Collector(prog)
        collector.groups = groups
        return collector

    before, parser.formatter_class = parser.formatter_class, formatter  # type: ignore[assignment]
    try:
        parser.format_help()
    finally:
        parser.formatter_class = before
    return groups


def describe(action: argparse.Action) -> str:
    """Returns a flag, its values and its help as a Sphinx `option`."""
    names = action.option_strings or [str(action.metavar or action.dest)]
    value = ""
    if action.option_strings and action.nargs != 0:
        value = f" {action.metavar or action.dest.upper()}"
        if action.choices and not action.metavar:
            value = f" {{{','.join(map(str, action.choices))}}}"
    text = (action.help or "").replace("%(default)s", str(action.default))
    text = re.sub(r"(?<!`)(--\w+|\./\S*\w)", r"`\1`", text)
    default = action.default
    shown = default not in (None, argparse.SUPPRESS, False, [], "") and "default" not in text
    if shown:
        text += f" Default: `{default}`."
    if action.required and action.option_strings:
        text += " Required."
    return "\n".join(
        [
            f":::{{option}} {', '.join(f'{name}{value}' for name in names)}",
            text or "(no description)",
            ":::",
        ]
    )


class CliFlags(SphinxDirective):
    """Lists flags from a parser: `{cli-flags} module:function [arguments]`.

    The function returns a parser, or adds flags to the one that it gets if `:adds:` is set.
    `:subcommand:` names a subparser, `:groups:` restricts the list to some groups.
    """

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {  # noqa: RUF012
        "adds": directives.flag,
        "subcommand": directives.unchanged,
        "groups": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        target, *arguments = self.arguments[0].split()
        module, function = target.split(":")
        make: Any = getattr(importlib.import_module(module), function)
        if "adds" in self.options:
            parser = argparse.ArgumentParser(add_help=False)
            make(parser)
        else:
            parser = make(*arguments)
        if command := self.options.get("subcommand"):
            (chooser,) = (
                action
                for group in actions_by_group(parser).values()
                for action in group
                if isinstance(action.choices, dict)
            )
            parser = chooser.choices[command]
        wanted = self.options.get("groups", "").split(", ")
        lines = []
        for heading, actions in actions_by_group(parser).items():
            if wanted != [""] and heading not in wanted:
                continue
            lines += [f"**{heading[:1].upper()}{heading[1:]}**", *map(describe, actions)]
        return self.parse_text_to_nodes("\n\n".join(lines))


class Registry(SphinxDirective):
    """A table of the registered names of one kind: `{registry} models`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        entries: Any = getattr(registry, self.arguments[0])
        rows = [f"| `{name}` | {entries[name].summary} |" for name in sorted(entries)]
        rows += [f"| `{family.prefix}:NAME` | {family.summary} |" for family in entries.families]
        return self.parse_text_to_nodes("\n".join(["| name | |", "|---|---|", *rows]))


class Results(SphinxDirective):
    """A table of measured figures: `{results} NAME`, a function of `result_tables`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        for path in result_tables.RESULTS.glob("*.json"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(getattr(result_tables, self.arguments[0])())


class Diagram(SphinxDirective):
    """Inlines `diagrams/NAME.svg`; the content is the caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        path = HERE.parent / "diagrams" / f"{self.arguments[0]}.svg"
        self.env.note_dependency(str(path))
        figure = nodes.figure("", classes=["diagram"])
        figure += nodes.raw("", path.read_text(), format="html")
        if self.content:
            caption = nodes.caption()
            (paragraph,) = self.parse_content_to_nodes()
            caption += paragraph.children
            figure += caption
        return [figure]


def mark_flags(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Sets command-line flags in docstrings as code, except in examples and existing code."""

    def mark(match: re.Match[str]) -> str:
        is_code = match.string[: match.start()].count("`") % 2 == 1
        return match[0] if is_code else f"`{match[0]}`"

    for number, line in enumerate(lines):
        if ">>>" not in line:
            lines[number] = FLAG.sub(mark, line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directives."""
    app.connect("autodoc-process-docstring", mark_flags, priority=400)
    app.add_directive("cli-flags", CliFlags)
    app.add_directive("registry", Registry)
    app.add_directive("results", Results)
    app.add_directive("diagram", Diagram)
    return {"parallel_read_safe": True}
