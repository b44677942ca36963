"""The README.md that a bundle carries for whoever finds it."""

from collections.abc import Sequence

from mammoth_compiled.export.bundle.description import contract, facts, files
from mammoth_compiled.export.bundle.manifest import Manifest
from mammoth_compiled.export.formats import FORMATS

_FILE_COLUMNS = (
    "file",
    "content",
    "size",
    "largest difference from PyTorch",
    "accuracy",
    "one image",
)
_VERIFY = """`golden/` holds an input and the outputs of the original network for it, as NumPy
files. Use them to check the model on another machine, as
`python -m mammoth_compiled.export verify .` does. To try it in a browser:
`python -m mammoth_compiled.export open .`"""


def render_readme(manifest: Manifest) -> str:
    """Returns the text of README.md."""
    version = manifest.versions.get("mammoth_compiled", "")
    about = (
        f"Exported by mammoth_compiled {version} on {manifest.created}. `manifest.json` has the "
        "same facts in\nmachine-readable form."
    )
    machines = sorted({str(f.latency["machine"]) for f in manifest.files if f.latency})
    measured = [
        f"The time of a call with one image was measured during export on {'; '.join(machines)}."
    ]
    sections = [
        f"# {manifest.name}: a trained image classifier",
        about,
        _table(("", ""), [*contract(manifest), *facts(manifest)]),
        _table(_FILE_COLUMNS, [(f"`{path}`", *rest) for path, *rest in files(manifest)]),
        *(measured if machines else []),
        _VERIFY,
        *(text.strip("\n") for f in FORMATS.values() if (text := f.example(manifest))),
    ]
    return "\n\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown without the columns that are empty."""
    used = [i for i in range(len(head)) if head[i] == "" or any(row[i] for row in rows)]
    lines = [[head[i] for i in used], ["---"] * len(used)]
    lines += [[row[i].replace("|", "\\|") for i in used] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
