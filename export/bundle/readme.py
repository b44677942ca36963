"""The README.md that a bundle carries for whoever finds it."""

from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.capture.interface import dtype_name
from mammoth_compiled.export.formats import FORMATS

_TEMPLATE = """# {name}: a trained image classifier

Exported by mammoth_compiled {version} on {created}. `manifest.json` has the same facts in
machine-readable form.

| | |
|---|---|
| input | `input`, {dtype} {input_shape}, {layout} |
{outputs}
| pixels | {preprocessing} |
| classes | {classes} |
| dataset | {dataset} |

| file | content | largest difference from PyTorch | accuracy |
|---|---|---|---|
{files}

`golden/` holds an input and the outputs of the original network for it, as NumPy files. Use them to
check the model on another machine, as `python -m mammoth_compiled.export verify .` does.
"""


def render_readme(manifest: Manifest) -> str:
    """Returns the text of README.md."""
    interface, info = manifest.interface, manifest.info
    outputs = [
        f"| output `{name}` | float32 [batch, {', '.join(map(str, shape))}]"
        f"{', probabilities' if name == 'out' and manifest.options.softmax else ''} |"
        for name, shape in interface.outputs.items()
    ]
    if interface.pixels:
        preprocessing = "0 to 255 as stored; the model normalizes them itself"
    elif info.mean:
        preprocessing = f"(pixel / 255 - mean) / std, mean {info.mean}, std {info.std}"
    else:
        preprocessing = "normalization unknown"
    seen = ", ".join(map(str, info.classes_seen)) or "unknown"
    text = _TEMPLATE.format(
        name=manifest.name,
        version=manifest.versions["mammoth_compiled"],
        created=manifest.created,
        dtype=dtype_name(interface.dtype),
        input_shape=f"[batch, {', '.join(map(str, interface.item_shape))}]",
        layout=interface.layout,
        outputs="\n".join(outputs),
        preprocessing=preprocessing,
        classes=f"column k of `out` is class {list(manifest.class_ids)}[k]; seen in training: "
        + seen,
        dataset=info.name or "unknown",
        files="\n".join(_row(file) for file in manifest.files),
    )
    examples = [format_.example(manifest.files) for format_ in FORMATS.values()]
    return "".join([text, *examples])


def _row(file: File) -> str:
    precision = f", {file.precision}" if file.precision not in ("", "fp32") else ""
    needs = ", ".join(f"{key} {value}" for key, value in file.requires.items())
    parity = ", ".join(f"{name} {d.size:.1e}" for name, d in file.parity.items())
    accuracy = f"{file.accuracy['class_il']:.2%}" if "class_il" in file.accuracy else ""
    content = FORMATS[file.format].description + precision + (f" ({needs})" if needs else "")
    return f"| `{file.path}` | {content} | {parity} | {accuracy} |"
