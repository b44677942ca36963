"""The errors a user can meet; each message says what, where, the valid values and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class MammothError(ValueError):
    """Base of all errors that the package raises on bad input."""


class RegistryError(MammothError):
    """A name that is not registered, or a target that cannot be."""


class ConfigError(MammothError):
    """An argument that is unknown, missing, of the wrong type or out of range."""


class ContractError(MammothError):
    """A backbone that does not keep the ReturnTypes contract."""


class DataError(MammothError):
    """Data that is not there or not what it should be."""


class CheckpointError(MammothError):
    """A checkpoint that cannot be read or does not fit the run."""


class TrainingError(MammothError):
    """A training run that cannot go on, a loss that is not finite above all."""


class ExportError(MammothError):
    """A backbone that cannot be exported, or a bundle that cannot be used.

    Args:
        message: What is wrong, where, and the remedy.
        code: Kind of the error, the same words as in the C++ runtime: `export` (the export failed
            or differs from eager), `missing` (no bundle, manifest or file), `damaged` (truncated,
            not the schema, wrong hash), `schema` (written by a later version), `path` (a path
            leaves the bundle), `contract` (unknown or absent returnt, wrong input), `hardware` (a
            package for another machine or torch), `backend` (a runtime that is missing or fails).
    """

    def __init__(self, message: str, code: str = "export") -> None:
        super().__init__(message)
        self.code = code


def unknown_name(kind: str, name: object, valid: Iterable[str], suggestions: int = 1) -> str:
    """Returns the message for an unknown name: the nearest valid names first, then all.

    Args:
        kind: What the name should be, "model" for example.
        name: The unknown name.
        valid: The valid names.
        suggestions: How many near names to suggest at most.
    """
    valid = sorted(valid)
    nearest = [repr(near) for near in get_close_matches(str(name), valid, n=suggestions)]
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    return f"unknown {kind} {name!r}.{hint} Valid: {', '.join(valid) or '(none)'}"
