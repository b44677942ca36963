"""Sphinx configuration; `sphinx-build -W -b html docs docs/_build/html` builds the site.

Links to Python's and PyTorch's documentation come from their inventories. A build without network
must pass too, so each inventory has a small local fallback, `inventories/*.txt`, that holds the
names these pages cite. Sphinx tries the network first and warns only if both fail.
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from inventory import compile_inventory  # noqa: E402

import mammoth_compiled  # noqa: E402

project = "mammoth_compiled"
author = "The mammoth_compiled authors"
copyright = f"2026, {author}"
release = version = mammoth_compiled.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "generated",
]
exclude_patterns = ["_build", "diagrams"]
nitpicky = True
# Types of third-party libraries that appear in signatures and are not in the local inventories, and
# type aliases, which autodoc shows by the name they have in the source.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(torch|torchvision|numpy|np|pandas|PIL|argparse|collections|typing|pathlib|os)\..*",
    ),
    ("py:.*", r"(nn|optim|fx)\..*"),
    # Internal types of ours, which appear in signatures.
    ("py:class", r"mammoth_compiled\.(data|export|engine)\.[a-z_.]+\.[A-Z]\w+"),
    ("py:.*", r"(optional|callable|Callable|Any|Self|Settings|Target|Images|Labelled|Matrix)"),
]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
default_role = "code"  # docstrings put names in single backticks

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "notes_style")]

_inventories = Path(tempfile.mkdtemp())
intersphinx_timeout = 5
intersphinx_mapping = {
    name: (url, (None, str(compile_inventory(HERE / "inventories" / f"{name}.txt", _inventories))))
    for name, url in {
        "python": "https://docs.python.org/3",
        "torch": "https://docs.pytorch.org/docs/stable",
    }.items()
}

html_theme = "furo"
html_title = f"mammoth_compiled {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#9a4a08",
        "color-brand-content": "#9a4a08",
        "color-brand-visited": "#9a4a08",
    },
    "dark_css_variables": {
        "color-brand-primary": "#f0a45d",
        "color-brand-content": "#f0a45d",
        "color-brand-visited": "#f0a45d",
    },
}
