"""What a bundle contains, in words: shared by its README, the terminal and notebooks."""

from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.capture.interface import BATCH, INPUT, dtype_name
from mammoth_compiled.export.formats import FORMATS

MAX_LISTED_CLASSES = 30


def contract(manifest: Manifest) -> list[tuple[str, str]]:
    """Returns the name and the form of the input and of every output."""
    interface = manifest.interface
    shape = ", ".join(map(str, (BATCH, *interface.item_shape)))
    rows = [
        (f"input `{INPUT}`", f"{dtype_name(interface.dtype)} [{shape}], {interface.layout}"),
    ]
    for name, sizes in interface.outputs.items():
        kind = "probabilities" if manifest.options.softmax else "logits"
        meaning = {"out": f", {kind}", "features": ", before the classifier"}.get(name, "")
        text = f"float32 [{', '.join(map(str, (BATCH, *sizes)))}]{meaning}"
        rows.append((f"output `{name}`", text))
    return rows


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Returns what a user must know besides the contract: preprocessing, classes, training data."""
    info = manifest.info
    rows = [("preprocessing", preprocessing(manifest)), ("classes", _classes(manifest))]
    unseen = sorted(set(manifest.class_ids) - set(info.classes_seen))
    if info.tasks and unseen:
        rows.append(
            ("not trained", f"classes {_list(unseen)}: ignore their columns, or export with masks")
        )
    rows.append(("training data", _data(manifest)))
    return rows


def preprocessing(manifest: Manifest) -> str:
    """Returns how stored pixels become the input."""
    info = manifest.info
    channels, height, width = manifest.interface.input_shape
    images = f"{height}x{width} pixels, {'gray' if channels == 1 else 'RGB'}, 0 to 255"
    if manifest.interface.pixels:
        return f"{images}, as stored: the model normalizes them itself"
    if info.mean:
        mean, std = numbers(info.mean), numbers(info.std)
        return f"{images}; (pixel / 255 - mean) / std per channel, mean [{mean}], std [{std}]"
    return f"{images}; the normalization of the training data is unknown"


def files(manifest: Manifest) -> list[tuple[str, str, str, str, str, str]]:
    """Returns path, content, size, difference from PyTorch, accuracy and latency of every file."""
    return [
        (
            file.path,
            _content(file),
            size(file.bytes) if file.bytes else "",
            ", ".join(f"{name} {found.size:.1e}" for name, found in file.parity.items()),
            accuracy(file),
            latency(file),
        )
        for file in manifest.files
        if file.format in FORMATS
    ]


def accuracy(file: File) -> str:
    """Returns the measured accuracy of a model, or an empty string."""
    if "class_il" not in file.accuracy:
        return ""
    images = f" of {file.accuracy['images']:,.0f} images" if "images" in file.accuracy else ""
    return f"{file.accuracy['class_il']:.2%}{images}"


def latency(file: File) -> str:
    """Returns the measured time of a call with one image, or an empty string."""
    return f"{file.latency['median_ms']:.2f} ms" if "median_ms" in file.latency else ""


def numbers(values: tuple[float, ...]) -> str:
    """Returns numbers with four digits after the point at most, separated by commas."""
    return ", ".join(f"{value:.4f}".rstrip("0").rstrip(".") for value in values)


def size(number: int) -> str:
    """Returns a number of bytes in kB or MB."""
    return f"{number / 1e3:.1f} kB" if number < 1e6 else f"{number / 1e6:.2f} MB"


def _content(file: File) -> str:
    precision = f", {file.precision}" if file.precision not in ("", "fp32") else ""
    needs = ", ".join(f"{key} {value}" for key, value in file.requires.items())
    return FORMATS[file.format].description + precision + (f" ({needs})" if needs else "")


def _classes(manifest: Manifest) -> str:
    names = manifest.info.class_names
    if len(names) > MAX_LISTED_CLASSES:
        return f"{len(names)}, named in `labels.txt`"
    if names:
        return "; ".join(f"{k} {name}" for k, name in zip(manifest.class_ids, names, strict=True))
    return f"column k of `out` is class {list(manifest.class_ids)}[k]"


def _data(manifest: Manifest) -> str:
    info = manifest.info
    if not info.name:
        return "unknown"
    if not info.tasks:
        return info.name
    return f"{info.name}, {info.tasks_seen} of {len(info.tasks)} tasks"


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values))
