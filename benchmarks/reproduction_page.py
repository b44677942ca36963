"""Writes `docs/reproduction.md` from `reproduction.json` and `peers.json`."""

from typing import Any

from orderings import check

HEAD = """# Reproduction

<!-- Written by benchmarks/reproduce.py; edit benchmarks/reproduction_page.py instead. -->

Average accuracy over all tasks after the last one, in %: mean ± standard deviation over *n* seeds;
a single seed has no deviation. A published figure stands beside it only where the protocol is that
of the paper. Learning rates and the weights of the losses are the
[best known settings](reference/configuration.md) of each method. They are in
`benchmarks/results/reproduction.json`, with the value of every run.

The same command continues a grid that was stopped, and skips what has finished:

```bash
python benchmarks/reproduce.py --protocols fmnist-mini fmnist fmnist-resnet --budget 3600
```
"""


PEERS = """## Beside Mammoth's own code

Mammoth's files of these methods, with renamed imports, ran with the settings and seeds of ours:
`python benchmarks/peers.py MAMMOTH`. Data, backbone and loop (one epoch per task) are the same for
both; the method and its random draws are not. Orderings that both show are due to the
protocol, not to our code.
"""


def render(results: dict[str, Any], peers: dict[str, Any] | None = None) -> str:
    """Returns the page, Markdown.

    Args:
        results: The content of `reproduction.json`.
        peers: That of `peers.json`; None leaves its section out.
    """
    parts = [HEAD]
    for name, protocol in results["protocols"].items():
        parts.append(_protocol(name, protocol, peers))
    if peers is not None:
        parts.append(_peers(peers))
    return "\n".join(parts)


def _peers(peers: dict[str, Any]) -> str:
    head = ["dataset", "backbone", "method", "buffer", "n"]
    head += ["class-IL, ours", "class-IL, Mammoth's"]
    head.append("difference, points")
    rows = []
    for row in peers["rows"]:
        ours, theirs = row["ours"], row["mammoth"]
        cells = [f"`{row[name]}`" for name in ("dataset", "backbone", "method")]
        cells.append("" if row["buffer_size"] is None else f"{row['buffer_size']:,}")
        cells += [
            str(ours["n"]),
            _percent(ours),
            _percent(theirs),
            f"{100 * (ours['mean'] - theirs['mean']):+.2f}",
        ]
        rows.append(cells)
    return f"{PEERS}\n{_table(head, rows)}\n"


def _protocol(name: str, protocol: dict[str, Any], peers: dict[str, Any] | None) -> str:
    setting = ", ".join(f"{key} {value}" for key, value in protocol["arguments"].items())
    where = " and on ".join(_environment(entry) for entry in protocol["environments"])
    has_published = any(row["published"] for row in protocol["rows"])
    head = ["method", "buffer", "lr", "batch", "n", "class-IL", "task-IL"]
    head += ["published class-IL", "published task-IL"] if has_published else []
    rows = [_row(row, has_published) for row in protocol["rows"]]
    lines = [
        f"## {name}\n",
        f"{protocol['description']} `--dataset {protocol['dataset']} --backbone "
        f"{protocol['backbone']}`, {setting}.",
        ""
        if has_published
        else "No paper reports this protocol, so there is no published figure beside it.",
        f"*Measured on {where}.*\n",
        _table(head, rows),
        "\n### Known orderings\n" if protocol["orderings"] else "",
    ]
    if protocol["orderings"]:
        theirs = _mammoths(protocol, peers)
        head = ["class-IL", "buffer", "n", "difference, points", "larger deviation", "holds"]
        head += ["with Mammoth's own code"] if theirs else []
        lines.append(_table(head, [_ordering(entry, theirs) for entry in protocol["orderings"]]))
    lines += [f"\n{note}" for note in protocol["notes"]]
    return "\n".join(line for line in lines if line) + "\n"


def _environment(found: dict[str, Any]) -> str:
    where = found["gpu"] or f"{found['cores']} CPU cores ({found['cpu']})"
    return f"{where}, torch {found['torch'].split('+')[0]}, {found['date']}"


def _row(row: dict[str, Any], has_published: bool) -> list[str]:
    size = "" if row["buffer_size"] is None else f"{row['buffer_size']:,}"
    settings = row["settings"]
    cells = [f"`{row['method']}`", size, f"{settings['lr']:g}", str(settings["batch_size"])]
    cells += [str(row["class_il"]["n"]), _percent(row["class_il"]), _percent(row["task_il"])]
    published = row["published"] or {}
    values = [published.get("class_il"), published.get("task_il")] if has_published else []
    return cells + ["" if value is None else f"{value:.2f}" for value in values]


def _percent(figure: dict[str, Any]) -> str:
    deviation = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.2f}"
    return f"{100 * figure['mean']:.2f}{deviation}"


def _mammoths(
    protocol: dict[str, Any], peers: dict[str, Any] | None
) -> dict[tuple[str, int | None], float]:
    """Returns the differences that Mammoth's own code shows, by claim and buffer size."""
    rows = [
        {"method": row["method"], "buffer_size": row["buffer_size"], "class_il": row["mammoth"]}
        for row in (peers or {"rows": []})["rows"]
        if all(row[name] == protocol[name] for name in ("dataset", "backbone"))
    ]
    return {(entry["claim"], entry["buffer_size"]): entry["difference"] for entry in check(rows)}


def _ordering(entry: dict[str, Any], theirs: dict[tuple[str, int | None], float]) -> list[str]:
    size = "" if entry["buffer_size"] is None else f"{entry['buffer_size']:,}"
    noise = "" if entry["noise"] is None else f"{entry['noise']:.2f}"
    cells = [entry["claim"], size, str(entry["n"]), f"{entry['difference']:+.2f}", noise]
    cells.append("yes" if entry["holds"] else "**no**")
    peer = theirs.get((entry["claim"], entry["buffer_size"]))
    return [*cells, *(["" if peer is None else f"{peer:+.2f}"] if theirs else [])]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
