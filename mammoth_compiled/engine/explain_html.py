"""The page that `--explain --html` writes."""

from collections.abc import Sequence
from typing import Any

from mammoth_compiled.compiler.explain import Explanation
from mammoth_compiled.compiler.pattern import Match, effect_of
from mammoth_compiled.engine.explain import BackboneExplanation
from mammoth_compiled.html import Cell, Markup, page, table, tag


def explanation_page(explanation: BackboneExplanation) -> str:
    """Returns an explanation as a self-contained HTML page."""
    return page(
        f"How {explanation.title.partition(' ')[0]} is compiled",
        tag(
            "header",
            tag("h1", f"How {explanation.title.partition(' ')[0]} is compiled"),
            tag("p", explanation.title),
        ),
        *(_entry(returnt, entry) for returnt, entry in explanation.entries.items()),
        _calls(explanation),
        tag(
            "footer", "Written by mammoth_compiled.run --explain. Nothing was trained or compiled."
        ),
    )


def _entry(returnt: str, entry: Explanation) -> Markup:
    replaced = [match for match in entry.matches if not match.reason]
    left = [match for match in entry.matches if match.reason]
    parts = [tag("h3", "returnt=", tag("code", repr(returnt)))]
    parts.append(
        tag(
            "p",
            f"{entry.graphs} graph(s) of {entry.operations} operations, {len(entry.breaks)} graph "
            f"break(s), {len(replaced)} of {len(entry.matches)} matched subgraphs replaced",
            class_="note",
        )
    )
    rows: list[list[Any]]
    if entry.breaks:
        rows = [[Cell(reason, class_="wrap")] for reason in entry.breaks]
        parts.append(table(["graph break"], rows))
    if replaced:
        rows = [
            [*_where(same), same[0].replacement, Cell(effect_of(same[0]), class_="wrap")]
            for same in _grouped(replaced)
        ]
        parts.append(table(["matched", "at", "replaced by", "expected effect"], rows))
    if left:
        rows = [[*_where(same), Cell(same[0].reason, class_="wrap")] for same in _grouped(left)]
        parts.append(table(["matched", "at", "left unchanged, because"], rows))
    if not entry.matches:
        parts.append(tag("p", "No pattern matches: the graph is compiled as by Inductor."))
    return tag("section", *parts, class_="card")


def _grouped(matches: Sequence[Match]) -> list[list[Match]]:
    """Returns the matches of the same pattern with the same outcome together."""
    groups: dict[tuple[str, str, str], list[Match]] = {}
    for match in matches:
        key = (match.pattern, match.replacement, match.reason)
        groups.setdefault(key, []).append(match)
    return list(groups.values())


def _where(matches: Sequence[Match]) -> list[Any]:
    """Returns the cells that say what was matched, and where."""
    number = f"{len(matches)} x " if len(matches) > 1 else ""
    nodes = tag("code", ", ".join(match.node for match in matches))
    return [f"{number}{matches[0].pattern}", Cell(nodes, class_="wrap")]


def _calls(explanation: BackboneExplanation) -> Markup:
    rows = [
        [
            call.call,
            Cell(call.graphs, sort=call.graphs),
            Cell(tag("code", call.guard) if call.guard else "", class_="wrap"),
            Cell(
                tag("code", call.repeated_guard) if call.repeated else "no",
                class_="wrap" if call.repeated else "",
            ),
        ]
        for call in explanation.calls
    ]
    head = ["call", "new graphs", "guard that failed", "recompiled when repeated"]
    return tag(
        "section",
        tag("h3", "Calls of a run"),
        tag(
            "p",
            "Training with each batch size, then evaluation. A new graph is compiled where a guard "
            "of the earlier ones fails. If a repeated call is recompiled, keep the value that its "
            "guard names in a tensor (buffer).",
            class_="note",
        ),
        table(head, rows),
        class_="card",
    )
