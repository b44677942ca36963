"""Tables: plain and sortable ones, heat maps, and maps of one pixel per cell."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mammoth_compiled.html.markup import Markup, tag

# Heat maps with more columns show their values only when pointed at.
MAX_TEXT_COLUMNS = 12
# With more columns, the values are rounded to whole numbers.
MAX_EXACT_COLUMNS = 8


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        content: Text or an element.
        sort: The number that the column is sorted by; None makes it text.
        bar: Length of the bar behind it, in [0, 1].
        class_: CSS classes.
        title: Text shown when it is pointed at.
    """

    content: Any
    sort: float | None = None
    bar: float | None = None
    class_: str = ""
    title: str | None = None


def table(
    head: Sequence[Any],
    rows: Sequence[Sequence[Any]],
    *,
    caption: str | None = None,
    sortable: bool = False,
    class_: str = "",
) -> Markup:
    """Returns a table whose first column has the names of the rows; it scrolls if it is too wide.

    Args:
        head: The names of the columns.
        rows: One sequence of cells or texts per row.
        caption: A title above the table.
        sortable: Whether a click on the head sorts the rows.
        class_: CSS classes.
    """
    first, *others = head
    head_row = tag(
        "tr",
        tag("th", first, scope="col"),
        *(tag("th", name, scope="col") for name in others),
    )
    body = [_row([value if isinstance(value, Cell) else Cell(value) for value in r]) for r in rows]
    return tag(
        "div",
        tag(
            "table",
            caption and tag("caption", caption),
            tag("thead", head_row),
            tag("tbody", *body),
            class_=" ".join(filter(None, [class_, "sortable" if sortable else ""])) or None,
        ),
        class_="scroll",
        tabindex=0,
    )


def _row(cells: Sequence[Cell]) -> Markup:
    first, *others = cells
    return tag("tr", _cell("th", first, scope="row"), *(_cell("td", cell) for cell in others))


def _cell(name: str, cell: Cell, **attributes: Any) -> Markup:
    is_number = cell.sort is not None
    sort = cell.sort if is_number and not math.isnan(cell.sort or 0.0) else None
    return tag(
        name,
        cell.content,
        class_=" ".join(filter(None, [cell.class_, "number" if is_number else ""])) or None,
        style=None if cell.bar is None else f"--bar:{_clip(cell.bar):.1%}",
        data_sort=sort,
        title=cell.title,
        **attributes,
    )


def heat_table(
    rows: Sequence[Any],
    columns: Sequence[Any],
    values: Sequence[Sequence[float | None]],
    *,
    corner: str = "",
    color: str = "heat",
    full: float = 1.0,
    titles: Sequence[Any] | None = None,
) -> Markup:
    """Returns a heat map of fractions, shown in percent.

    Args:
        rows: The names of the rows.
        columns: The names of the columns.
        values: Fractions by row and column; None leaves a cell empty. Rows may be shorter.
        corner: The name of the names of the rows.
        color: The color of the cells: `heat` or `loss`.
        full: The value with the full color.
        titles: The names of the columns where a cell is described; None takes `columns`.
    """
    shows_text = len(columns) <= MAX_TEXT_COLUMNS
    is_exact = len(columns) <= MAX_EXACT_COLUMNS
    density = "" if is_exact else " compact" if shows_text else " dense"
    body = []
    for name, row in zip(rows, values, strict=True):
        cells = []
        for column, title in enumerate(columns if titles is None else titles):
            number = row[column] if column < len(row) else None
            if number is None or math.isnan(number):
                cells.append(tag("td", class_="empty"))
                continue
            text = f"{100 * number:.1f}"
            shown = text if is_exact else f"{100 * number:.0f}"
            cells.append(
                tag(
                    "td",
                    shown if shows_text else None,
                    style=f"--v:{_clip(number / full if full else 0.0):.3f}",
                    title=f"{name}, {title}: {text} %",
                )
            )
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    head = tag("tr", tag("th", corner), *(tag("th", c, scope="col") for c in _thinned(columns)))
    return tag(
        "div",
        tag(
            "table",
            tag("thead", head),
            tag("tbody", *body),
            class_=f"heatmap {color}{density}",
        ),
        class_="scroll",
        tabindex=0,
    )


def pixel_map(values: Sequence[Sequence[float]], label: str) -> Markup:
    """Returns a heat map with one pixel per cell, for hundreds of rows and columns.

    Args:
        values: Fractions by row and column.
        label: Its description.
    """
    alpha = (np.clip(np.asarray(values, float), 0, 1) * 255).astype(np.uint8)
    color = np.broadcast_to(np.array([59, 125, 216], np.uint8), (*alpha.shape, 3))
    stream = io.BytesIO()
    Image.fromarray(np.dstack([color, alpha]), "RGBA").save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    return tag("img", src=f"data:image/png;base64,{data}", alt=label, class_="pixels")


def _thinned(names: Sequence[Any]) -> list[Any]:
    """Returns the names with gaps, so that those of narrow columns do not touch."""
    step = 1 if len(names) <= MAX_TEXT_COLUMNS else math.ceil(len(names) / 10)
    return [name if i % step == step - 1 or step == 1 else "" for i, name in enumerate(names)]


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
