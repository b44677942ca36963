"""ONNX Runtime, imported on first use: sessions on a device, and one-line errors."""

import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mammoth_compiled.errors import ExportError

if TYPE_CHECKING:
    import onnxruntime

_LOG_ERRORS = 3


def import_onnxruntime() -> types.ModuleType:
    """Imports and returns `onnxruntime`, an optional dependency.

    Raises:
        ExportError: If it is not installed; says how to install it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            f"ONNX Runtime cannot be imported ({error}). Install it with "
            'pip install "mammoth-compiled[cpu]", or "mammoth-compiled[gpu]" for CUDA',
            "backend",
        ) from error
    return onnxruntime


def open_session(
    model: bytes | Path,
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
) -> "onnxruntime.InferenceSession":
    """Opens an ONNX model on a device.

    Args:
        model: The serialized model or its file.
        device: The CPU or a GPU.

    Raises:
        ExportError: If the model cannot be read, or ONNX Runtime does not use the device.
    """
    ort = import_onnxruntime()
    provider, settings = _provider(device, ort)
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            sess_options=options,
            providers=[(provider, settings)],
        )
    except Exception as error:  # ONNX Runtime's errors share no base class
        name = "the model" if isinstance(model, bytes) else str(model)
        raise ExportError(
            f"ONNX Runtime cannot read {name}: {_one_line(error)}", "damaged"
        ) from error
    if session.get_providers()[0] != provider:
        raise ExportError(
            f"ONNX Runtime fell back to {session.get_providers()[0]} for device {str(device)!r}: "
            "its CUDA and cuDNN libraries were not found. Install "
            '"onnxruntime-gpu[cuda,cudnn]" for the CUDA version of torch, or use device="cpu"',
            "backend",
        )
    return session


def run_session(
    session: "onnxruntime.InferenceSession", feeds: Mapping[str, np.ndarray]
) -> dict[str, torch.Tensor]:
    """Runs a session and returns all its outputs by name, in their order.

    Raises:
        ExportError: If ONNX Runtime fails; says why.
    """
    names = [output.name for output in session.get_outputs()]
    try:
        values = session.run(names, dict(feeds))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"ONNX Runtime fails: {_one_line(error)}", "backend") from error
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def _provider(device: torch.device, ort: types.ModuleType) -> tuple[str, dict[str, Any]]:
    """Returns the execution provider of a device, and its settings."""
    if device.type == "cpu":
        return "CPUExecutionProvider", {}
    provider = "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        raise ExportError(
            "the installed ONNX Runtime has no CUDA. Uninstall onnxruntime and "
            'pip install "mammoth-compiled[gpu]" (the two hide each other), or use device="cpu"',
            "backend",
        )
    # TF32 is on by default and would exceed the bound that the export was verified with.
    return provider, {"device_id": device.index or 0, "use_tf32": 0}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
