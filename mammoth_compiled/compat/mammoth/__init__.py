"""Mammoth's interface, for models and datasets whose imports were renamed.

Each module has a counterpart in Mammoth; see `mammoth_compiled.compat.rename.MODULES`.
"""
