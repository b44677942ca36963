"""Line charts of percentages as SVG, with labels in HTML that keep their size at any width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mammoth_compiled.html.markup import Markup, tag

NUM_COLORS = 6
# With more series, bands appear only for the one that is pointed at.
MAX_BANDS = 4
_MAX_TICKS = 10


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: Its name in the legend.
        x: Positions, whole numbers.
        y: Fractions in [0, 1].
        low: Lower end of the band at each position; empty for none.
        high: Upper end of it.
    """

    label: str
    x: Sequence[int]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def color_class(index: int) -> str:
    """Returns the CSS classes that give the series with this index its color and its dashes."""
    return f"c{index % NUM_COLORS} d{index // NUM_COLORS % 3}"


def line_chart(title: str, series: Sequence[Series], *, x_label: str, y_label: str) -> Markup:
    """Returns a chart of percentages from 0 to 100.

    Args:
        title: Shown above it.
        series: The lines, in the order of their colors.
        x_label: Name of the positions.
        y_label: Name of the values.
    """
    last = max((x for line in series for x in line.x), default=1)

    def left(x: float) -> float:
        return 50.0 if last == 1 else 100 * (x - 1) / (last - 1)

    ticks = [25 * i for i in range(5)]
    grid = [_path(f"M0 {100 - tick}H100", class_="grid") for tick in ticks]
    crowded = len(series) > MAX_BANDS
    lines = [_line(line, i, left) for i, line in enumerate(series)]
    step = -(-last // _MAX_TICKS)
    labels = [
        *(tag("span", tick, class_="y", style=f"bottom:{tick}%") for tick in ticks),
        *(
            tag("span", x, class_="x", style=f"left:{left(x):.2f}%")
            for x in range(1, last + 1)
            if x % step == 0 or last == 1 or step == 1
        ),
    ]
    return tag(
        "figure",
        tag("figcaption", title, tag("small", f" {y_label}")),
        tag(
            "div",
            tag(
                "svg",
                *grid,
                *lines,
                viewBox="0 0 100 100",
                preserveAspectRatio="none",
                role="img",
                aria_label=f"{title}: {', '.join(line.label for line in series)}",
            ),
            *labels,
            class_="plot",
        ),
        tag("div", x_label, class_="axis"),
        class_="chart crowded" if crowded else "chart",
    )


def legend(labels: Sequence[str]) -> Markup:
    """Returns the legend of charts whose series have these labels, in this order."""
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag("path", d="M1 6H25", class_=f"line {color_class(i)}"),
                width=26,
                height=12,
                aria_hidden="true",
            ),
            label,
            data_series=i,
        )
        for i, label in enumerate(labels)
    ]
    return tag("ul", *items, class_="legend")


def _line(series: Series, index: int, left: Callable[[float], float]) -> Markup:
    place = [f"{left(x):.2f}" for x in series.x]
    parts = []
    if series.low:
        upper = [f"{x},{100 - 100 * y:.2f}" for x, y in zip(place, series.high, strict=True)]
        lower = [f"{x},{100 - 100 * y:.2f}" for x, y in zip(place, series.low, strict=True)]
        parts.append(tag("polygon", points=" ".join([*upper, *lower[::-1]]), class_="band"))
    points = [f"{x} {100 - 100 * y:.2f}" for x, y in zip(place, series.y, strict=True)]
    parts.append(_path("M" + "L".join(points), class_="line"))
    for x, y, point in zip(series.x, series.y, points, strict=True):
        # A line of length zero with round ends is a dot that is round at any aspect ratio.
        dot = _path(f"M{point}h0", class_="dot")
        parts.append(tag("g", tag("title", f"{series.label}, {x}: {100 * y:.1f} %"), dot))
    return tag("g", *parts, class_=f"series {color_class(index)}", data_series=index)


def _path(d: str, class_: str) -> Markup:
    return tag("path", d=d, class_=class_, vector_effect="non-scaling-stroke")
