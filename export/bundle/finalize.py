"""Completes the folder of a bundle: golden values, labels, a README, hashes and the manifest."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mammoth_compiled.export.bundle import manifest as manifests
from mammoth_compiled.export.formats.onnx import OPSET
from mammoth_compiled.export.bundle.manifest import File, Manifest, describe
from mammoth_compiled.export.bundle.local_paths import check_no_local_path
from mammoth_compiled.export.parity.compare import Case

LABELS, README = "labels.txt", "README.md"
GOLDEN = "golden"

_HEAD = """# {name}: a trained image classifier

Exported by mammoth_compiled {version} on {created}. `manifest.json` says all of this for programs.

| | |
|---|---|
| input | `input`, {dtype} {input_shape}, {layout} |
{outputs}
| pixels | {preprocessing} |
| classes | {classes} |
| data | {dataset} |

| file | what it is | largest difference from the original | accuracy |
|---|---|---|---|
{files}

`golden/` holds an input and what the original network gives for it (NumPy files): whoever runs the
model elsewhere can compare, as `python -m mammoth_compiled.export verify .` does.
"""

_RUN = """
## Run it
```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
images = np.load("golden/input.npy")  # yours: see the table
(out,) = session.run(["out"], {"input": images})
print(out.argmax(1), np.abs(out - np.load("golden/out.npy")).max())
```
"""

_KINDS = {
    "onnx": "ONNX, for any runtime",
    "pt2": "torch.export program, `torch.export.load`",
    "aoti": "AOTInductor package, compiled code for one kind of machine",
    "torchscript": "TorchScript, `torch.jit.load`",
    "safetensors": "the weights alone",
}


def seal(
    folder: Path, manifest: Manifest, golden: Case, searched: Collection[str] = ()
) -> Manifest:
    """Writes all that stands beside the model files and returns the manifest as written.

    Args:
        folder: Holds the model files that the manifest lists.
        manifest: Without golden values, texts and hashes.
        golden: Images and what eager gives for them.
        searched: Files that were searched for local paths before, when they held other weights.

    Raises:
        ExportError: If a file would hold a local path.
    """
    paths = {name: f"{GOLDEN}/{name}.npy" for name in ("input", *golden.wanted)}
    arrays = {"input": golden.images} | dict(golden.wanted)
    (folder / GOLDEN).mkdir(exist_ok=True)
    for name, path in paths.items():
        np.save(folder / path, np.ascontiguousarray(arrays[name].numpy()))
    files = [file for file in manifest.files if file.format not in ("golden", "text")]
    opset = {"opset": str(OPSET)} if any(file.format == "onnx" for file in files) else {}
    manifest = replace(
        manifest,
        created=manifests.now(),
        versions=manifests.versions() | opset,
        golden_input=paths.pop("input"),
        golden_outputs=paths,
    )
    texts = {README: _readme(replace(manifest, files=tuple(files)))}
    if manifest.info.class_names:
        texts[LABELS] = "".join(f"{name}\n" for name in manifest.info.class_names)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    files += [File(name, "text") for name in sorted(texts)]
    files += [
        File(path, "golden") for path in (manifest.golden_input, *manifest.golden_outputs.values())
    ]
    with ThreadPoolExecutor() as pool:
        manifest = replace(manifest, files=tuple(pool.map(partial(describe, folder), files)))
    (folder / manifests.FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    for path in {manifests.FILE_NAME, *(file.path for file in files)} - set(searched):
        check_no_local_path(folder / path)
    return manifest


def _readme(manifest: Manifest) -> str:
    interface, info = manifest.interface, manifest.info
    outputs = [
        f"| output `{name}` | float32 [batch, {', '.join(map(str, shape))}]"
        f"{', probabilities' if name == 'out' and manifest.options.softmax else ''} |"
        for name, shape in interface.outputs.items()
    ]
    if interface.pixels:
        preprocessing = "0 to 255 as they are stored; the model normalises them itself"
    elif info.mean:
        preprocessing = f"(pixel / 255 - mean) / std, mean {info.mean}, std {info.std}"
    else:
        preprocessing = "not known how they were normalised"
    seen = info.classes_seen
    classes = f"column k of `out` is class {list(manifest.class_ids)}[k]; seen in training: "
    head = _HEAD.format(
        name=manifest.name,
        version=manifest.versions["mammoth_compiled"],
        created=manifest.created,
        dtype=str(interface.dtype).removeprefix("torch."),
        input_shape=f"[batch, {', '.join(map(str, interface.item_shape))}]",
        layout=interface.layout,
        outputs="\n".join(outputs),
        preprocessing=preprocessing,
        classes=classes + (", ".join(map(str, seen)) or "not known"),
        dataset=info.name or "not known",
        files="\n".join(_row(file) for file in manifest.files),
    )
    has_onnx = any(file.path == "model.onnx" for file in manifest.files)
    return head + (_RUN if has_onnx else "")


def _row(file: File) -> str:
    precision = f", {file.precision}" if file.precision not in ("", "fp32") else ""
    needs = ", ".join(f"{key} {value}" for key, value in file.requires.items())
    parity = ", ".join(f"{name} {d.size:.1e}" for name, d in file.parity.items())
    accuracy = f"{file.accuracy['class_il']:.2%}" if "class_il" in file.accuracy else ""
    kind = _KINDS[file.format] + precision + (f" ({needs})" if needs else "")
    return f"| `{file.path}` | {kind} | {parity} | {accuracy} |"
