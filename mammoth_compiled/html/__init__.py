"""HTML without dependencies: reports, notebook representations, and the charts in them.

`page` returns a self-contained file that reads well in light and dark, on a desktop and on a phone;
`fragment` returns the same content for the output of a notebook cell.
"""

from mammoth_compiled.html.chart import Series, color_class, legend, line_chart
from mammoth_compiled.html.markup import Markup, tag
from mammoth_compiled.html.page import fragment, page
from mammoth_compiled.html.table import Cell, heat_table, pixel_map, table

__all__ = [
    "Cell",
    "Markup",
    "Series",
    "color_class",
    "fragment",
    "heat_table",
    "legend",
    "line_chart",
    "page",
    "pixel_map",
    "table",
    "tag",
]
