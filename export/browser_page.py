"""Shows a bundle in a browser: serves the page, ONNX Runtime Web and the bundle on loopback."""

import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.hashes import check_file
from mammoth_compiled.export.bundle.manifest import Manifest
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.files import user_cache

PAGE = Path(__file__).with_name("browser")
_PACKAGES = ("package.json", "package-lock.json")
_RUNTIME = Path("node_modules") / "onnxruntime-web"


def make_server(
    bundle: str | os.PathLike[str], port: int = 0, samples: str | os.PathLike[str] | None = None
) -> http.server.ThreadingHTTPServer:
    """Returns a server of the page for a bundle, on the loopback interface only.

    Args:
        bundle: The directory of the bundle.
        port: The port; 0 takes a free one.
        samples: A directory with `samples.json` and `samples.png`, labeled images as
            `examples/browser/samples.py` writes them; None shows the golden images of the bundle.

    Raises:
        ExportError: If there is no bundle, ONNX Runtime Web cannot be installed, or the port is in
            use.
    """
    manifest = read_manifest(Path(bundle))
    roots = {"bundle": Path(bundle), "node_modules": runtime_directory() / "node_modules"}
    made: dict[str, bytes] = {}
    if samples is not None:
        roots |= {name: Path(samples) / name for name in ("samples.json", "samples.png")}
    elif manifest.info.mean and not manifest.interface.pixels:
        made = golden_samples(Path(bundle), manifest)
    try:
        return http.server.ThreadingHTTPServer(
            ("127.0.0.1", port), partial(_Handler, roots=roots, made=made)
        )
    except (OSError, OverflowError) as error:
        raise ExportError(f"cannot serve on port {port}: {error}. Give another --port") from error


def golden_samples(bundle: Path, manifest: Manifest) -> dict[str, bytes]:
    """Returns `samples.json` and `samples.png` with the golden images of a bundle, without labels.

    Args:
        bundle: The directory.
        manifest: Its description; the normalization must be known.
    """
    images = np.load(check_file(bundle, manifest.file(manifest.golden_input)))
    mean, std = (
        np.reshape(values, (-1, 1, 1)) for values in (manifest.info.mean, manifest.info.std)
    )
    pixels = np.clip(np.round((images * std + mean) * 255), 0, 255).astype(np.uint8)
    count, _, height, width = pixels.shape
    strip = pixels.transpose(0, 2, 3, 1).reshape(count * height, width, -1)
    stream = io.BytesIO()
    Image.fromarray(strip if strip.shape[-1] == 3 else strip[..., 0]).save(stream, "PNG")
    about = {
        "dataset": manifest.info.name,
        "image": "samples.png",
        "width": width,
        "height": height,
        "labels": [None] * count,
        "names": [],
    }
    return {"samples.json": json.dumps(about).encode(), "samples.png": stream.getvalue()}


def runtime_directory() -> Path:
    """Returns a directory with ONNX Runtime Web in `node_modules`; installs it on first use.

    Raises:
        ExportError: If npm is missing or fails.
    """
    if (PAGE / _RUNTIME).is_dir():
        return PAGE
    versions = hashlib.sha256((PAGE / _PACKAGES[1]).read_bytes()).hexdigest()[:12]
    directory = user_cache() / "browser" / versions
    if (directory / _RUNTIME).is_dir():
        return directory
    if shutil.which("npm") is None:
        raise ExportError(
            "the page needs ONNX Runtime Web, which npm installs: install Node.js with npm "
            "(apt-get install npm) and run the command again",
            "backend",
        )
    directory.mkdir(parents=True, exist_ok=True)
    for name in _PACKAGES:
        shutil.copyfile(PAGE / name, directory / name)
    command = ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--silent"]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ExportError(
            f"npm could not install ONNX Runtime Web in {directory}: {result.stderr.strip()}",
            "backend",
        )
    return directory


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the page, and under the names of `roots` other directories and files.

    Args:
        *args: Those of the base class.
        roots: The first part of a path to where it leads.
        made: Name to content of files that are in no directory.
    """

    def __init__(
        self, *args: Any, roots: dict[str, Path], made: dict[str, bytes], **kwargs: Any
    ) -> None:
        self.roots, self.made = roots, made
        super().__init__(*args, directory=str(PAGE), **kwargs)

    def translate_path(self, path: str) -> str:
        """Returns the file of a URL; one outside the served directories does not exist."""
        parts = [part for part in unquote(urlsplit(path).path).split("/") if part]
        if any(part in (".", "..") or "\\" in part for part in parts):
            return str(PAGE / "absent")
        if parts and parts[0] in self.roots:
            return str(self.roots[parts[0]].joinpath(*parts[1:]))
        return str(PAGE.joinpath(*parts))

    def do_GET(self) -> None:
        """Sends a file."""
        content = self.made.get(urlsplit(self.path).path.strip("/"))
        if content is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(self.path))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        """Forbids caching, so that an updated bundle is seen after a reload."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        """Prints nothing."""
