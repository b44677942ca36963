"""The torch.compile backend of the package."""

from mammoth_compiled.compiler.backend import mammoth

__all__ = ["mammoth"]
