"""Completes the directory of a bundle: golden values, labels, README, hashes and the manifest."""

import datetime
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mammoth_compiled.export.bundle.hashes import with_hash
from mammoth_compiled.export.bundle.local_paths import check_no_local_path
from mammoth_compiled.export.bundle.manifest import FILE_NAME, GOLDEN, TEXT, File, Manifest
from mammoth_compiled.export.bundle.readme import render_readme
from mammoth_compiled.export.bundle.versions import package_version, torch_release
from mammoth_compiled.export.formats import FORMATS
from mammoth_compiled.export.parity.compare import ReferenceBatch

LABELS, README = "labels.txt", "README.md"


def finalize_bundle(
    directory: Path,
    manifest: Manifest,
    golden: ReferenceBatch,
    free_of_paths: Collection[str] = (),
) -> None:
    """Writes all files that accompany the model files.

    Args:
        directory: Holds the model files that the manifest lists.
        manifest: The manifest without golden values, texts, versions and hashes.
        golden: Images and their outputs in eager mode.
        free_of_paths: Files already known to hold no local path; they are not searched again.

    Raises:
        ExportError: If a file holds a local path.
    """
    written = tuple(file for file in manifest.files if file.format in FORMATS)
    golden_paths = _write_golden(directory, golden)
    manifest = replace(
        manifest,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        versions=_versions(written),
        golden_input=golden_paths.pop("input"),
        golden_outputs=golden_paths,
    )
    golden_files = (File(path, GOLDEN) for path in (manifest.golden_input, *golden_paths.values()))
    models = _hashed(directory, written)
    texts = {README: render_readme(replace(manifest, files=models))}
    if manifest.info.class_names:
        texts[LABELS] = "".join(f"{name}\n" for name in manifest.info.class_names)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    others = _hashed(directory, [*(File(name, TEXT) for name in sorted(texts)), *golden_files])
    manifest = replace(manifest, files=(*models, *others))
    (directory / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    for path in {FILE_NAME, *(file.path for file in manifest.files)} - set(free_of_paths):
        check_no_local_path(directory / path)


def _hashed(directory: Path, files: Collection[File]) -> tuple[File, ...]:
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(partial(with_hash, directory), files))


def _write_golden(directory: Path, golden: ReferenceBatch) -> dict[str, str]:
    """Writes golden values and returns their paths: `input`, then each output by name."""
    arrays: Mapping[str, torch.Tensor] = {"input": golden.images} | dict(golden.outputs)
    paths = {name: f"golden/{name}.npy" for name in arrays}
    (directory / "golden").mkdir(exist_ok=True)
    for name, path in paths.items():
        np.save(directory / path, np.ascontiguousarray(arrays[name].numpy()))
    return paths


def _versions(files: Collection[File]) -> dict[str, str]:
    versions = {"torch": torch_release(), "mammoth_compiled": package_version("mammoth-compiled")}
    for name in dict.fromkeys(file.format for file in files):
        versions |= FORMATS[name].versions()
    return versions
