"""The hot operations: reference in plain torch, and faster launches of the same.

Imports nothing of the rest of the package.
"""

if __name__ != "mammoth_compiled.kernels":
    raise ImportError("import mammoth_compiled.kernels, not kernels")
