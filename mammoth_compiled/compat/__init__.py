"""Runs code that was written for other frameworks.

`python -m mammoth_compiled.compat FILE` renames the imports of a Mammoth model or dataset, so that
they refer to `mammoth_compiled.compat.mammoth`.
"""
