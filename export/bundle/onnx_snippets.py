"""Programs that run the ONNX files of a bundle, for its README: complete, and for this bundle."""

import json
from string import Template
from urllib.parse import quote

from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.capture.interface import dtype_name
from mammoth_compiled.files import portable_name

_PYTHON_LABELS = 'Path("labels.txt").read_text(encoding="utf-8").splitlines()'
_JS_LABELS = '(await readFile("labels.txt", "utf8")).split("\\n")'
_TRITON_TYPES = {"float32": "FP32", "uint8": "UINT8"}

_PYTHON = Template("""
## ONNX Runtime, Python

`pip install onnxruntime numpy pillow`

```python
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

LABELS = $python_labels
SEEN = $seen  # columns of the classes that were trained


def preprocess(path):
    image = Image.open(path).convert("$mode").resize(($width, $height))
    pixels = np.asarray(image).reshape($height, $width, $channels)
$python_input


session = onnxruntime.InferenceSession("$file", providers=["CPUExecutionProvider"])
golden = np.load("golden/input.npy")  # or your images: np.stack([preprocess("image.png")])
(out,) = session.run(["out"], {"input": golden})
for row in out:
    print(LABELS[max(SEEN, key=lambda k: row[k])])
print("largest difference from PyTorch:", np.abs(out - np.load("golden/out.npy")).max())
```
""")

_JAVASCRIPT = Template("""
## ONNX Runtime, JavaScript

`npm install onnxruntime-web`; the same code runs in a browser with `fetch` instead of `readFile`.

```js
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";

const [channels, height, width] = [$channels, $height, $width];
const labels = $js_labels;
const seen = $seen; // columns of the classes that were trained
ort.env.wasm.numThreads = 1;

// Takes pixels from 0 to 255 in rows, the channels of a pixel next to each other.
function preprocess(pixels) {
$js_input
}

const session = await ort.InferenceSession.create(await readFile("$file"));
const pixels = await readFile(process.argv[2]); // raw pixels of one image
const { out } = await session.run({ input: preprocess(pixels) });
const best = seen.reduce((a, b) => (out.data[b] > out.data[a] ? b : a));
console.log(labels[best], Array.from(out.data));
```
""")

_CPP = Template("""
## ONNX Runtime, C++

With the runtime of mammoth_compiled, which loads ONNX Runtime, verifies hashes and preprocesses as
the manifest says: `find_package(mammoth_runtime)`, `target_link_libraries(... mammoth::runtime)`.

```cpp
#include <algorithm>
#include <iostream>
#include <vector>

#include "mammoth/bundle.hpp"
#include "mammoth/image.hpp"

int main(int count, char** words) {
    const auto bundle = mammoth::Bundle::open(".", mammoth::Backend::onnx);
    const auto& classes = bundle.manifest().classes;
    const auto input = count > 1  // a PNG or PPM of $width x $height pixels, or the golden input
        ? mammoth::preprocess(bundle.manifest(), std::vector{mammoth::read_image(words[1])})
        : mammoth::read_npy("golden/input.npy");
    const auto outputs = bundle.run(input.view());
    const auto first = outputs.out.floats().first(classes.ids.size());
    const auto best = std::ranges::max_element(first) - first.begin();
    std::cout << "class " << classes.ids[best] << ", score " << first[best] << '\\n';
}
```
""")

_TRITON = Template("""
## Triton Inference Server

`write_triton_layout` in `mammoth_compiled.export.serving` turns this bundle into a model
repository; so does
`python -m mammoth_compiled.export CHECKPOINT DIR --serve-layout triton`. A client of the
HTTP interface needs no package but NumPy:

```python
import json
import sys
import urllib.request

import numpy as np

server = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000"
images = np.load("golden/input.npy")  # or your images: see `preprocess`
tensor = {
    "name": "input",
    "shape": list(images.shape),
    "datatype": "$triton_type",
    "data": images.ravel().tolist(),
}
body = json.dumps({"inputs": [tensor], "outputs": [{"name": "out"}]}).encode()
headers = {"Content-Type": "application/json"}
request = urllib.request.Request(f"{server}/v2/models/$name/infer", body, headers)
with urllib.request.urlopen(request) as response:
    (out,) = json.load(response)["outputs"]
print(np.array(out["data"]).reshape(out["shape"]).argmax(1))
```
""")


def onnx_snippets(manifest: Manifest) -> str:
    """Returns the programs in Markdown, in Python, JavaScript, C++, and for Triton.

    Args:
        manifest: The bundle's description; without an ONNX file with `out` there are none.
    """
    models = [file for file in manifest.models if file.format == "onnx" and "out" in file.outputs]
    fp32 = [file for file in models if file.precision == "fp32"]
    if not fp32:
        return ""
    values = _values(manifest, min(fp32, key=lambda file: len(file.outputs)))
    parts = (_PYTHON, _JAVASCRIPT, _CPP, _TRITON)
    return "".join(part.substitute(values) for part in parts)


def _values(manifest: Manifest, file: File) -> dict[str, object]:
    info, pixels = manifest.info, manifest.interface.pixels
    channels, height, width = manifest.interface.input_shape
    ids = list(manifest.class_ids)
    seen = [k for k, class_id in enumerate(ids) if class_id in info.classes_seen]
    ids_as_labels = json.dumps([f"class {class_id}" for class_id in ids])
    mean = info.mean or (0.0,) * channels
    std = info.std or (1.0,) * channels
    return {
        "file": file.path,
        "name": quote(portable_name(manifest.name)),
        "python_labels": _PYTHON_LABELS if info.class_names else ids_as_labels,
        "js_labels": _JS_LABELS if info.class_names else ids_as_labels,
        "seen": seen or list(range(len(ids))),
        "mode": "L" if channels == 1 else "RGB",
        **{"channels": channels, "height": height, "width": width},
        "python_input": "    return pixels" if pixels else _python_input(mean, std),
        "js_input": _JS_PIXELS if pixels else _js_input(mean, std),
        "triton_type": _TRITON_TYPES[dtype_name(manifest.interface.dtype)],
    }


def _python_input(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return f"""    mean, std = np.float32({list(mean)}), np.float32({list(std)})
    return ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)"""


_JS_PIXELS = (
    '  return new ort.Tensor("uint8", new Uint8Array(pixels), [1, height, width, channels]);'
)


def _js_input(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return f"""  const [mean, std] = [{list(mean)}, {list(std)}];
  const input = new Float32Array(channels * height * width);
  for (let i = 0; i < height * width; i += 1) {{
    for (let c = 0; c < channels; c += 1) {{
      const value = pixels[i * channels + c] / 255;
      input[c * height * width + i] = (value - mean[c]) / std[c];
    }}
  }}
  return new ort.Tensor("float32", input, [1, channels, height, width]);"""
