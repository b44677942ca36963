"""The errors of the package; each message says what is wrong and where, and names the remedy."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class MammothError(ValueError):
    """Base class of all errors that the package raises for invalid input."""


class RegistryError(MammothError):
    """A name is not registered, or a target cannot be registered."""


class ConfigError(MammothError):
    """An argument is unknown, missing, of the wrong type or out of range."""


class ContractError(MammothError):
    """A backbone violates the contract of `ReturnTypes`."""


class DataError(MammothError):
    """Data is missing or damaged, or has the wrong format."""


class CheckpointError(MammothError):
    """A checkpoint cannot be read or does not fit the run."""


class TrainingError(MammothError):
    """Training cannot continue, for example because the loss is not finite."""


class OutputError(MammothError):
    """Standard output cannot be written."""


class ExportError(MammothError):
    """A backbone cannot be exported, or a bundle cannot be used.

    Args:
        message: What is wrong and where, and the remedy.
        code: Kind of the error, with the same values as in the C++ runtime: `export` (the export
            failed or differs from eager mode), `missing` (no bundle, manifest or file), `damaged`
            (truncated, violates the schema, wrong hash), `schema` (written by a later version),
            `path` (a path leaves the bundle), `contract` (unknown or unsupported returnt, wrong
            input), `hardware` (a package for another machine or version of torch), `backend` (a
            runtime that is missing or fails).
    """

    def __init__(self, message: str, code: str = "export") -> None:
        super().__init__(message)
        self.code = code


def raise_first(errors: Sequence[BaseException]) -> None:
    """Raises the first of several errors; its message includes those of the others.

    Raises:
        BaseException: The first error, if there is one. Several errors of this package become one;
            to an error of user code, the others are notes.
    """
    if not errors:
        return
    if len(errors) > 1 and all(isinstance(error, MammothError) for error in errors):
        message = "; ".join(dict.fromkeys(map(str, errors)))
        raise type(errors[0])(message) from errors[0]
    for other in errors[1:]:
        if isinstance(other, MammothError):  # it may say where the results are
            errors[0].add_note(str(other))
    raise errors[0]


def shorten(value: object, limit: int = 80) -> str:
    """Returns the `repr` of a value for a message, cut in the middle if it is long.

    Args:
        value: Any value; one that has no `repr` is described by its type.
        limit: Maximum number of characters.

    Example:
        >>> shorten("a" * 100, limit=11)
        "'aaa...aaa'"
    """
    try:
        text = repr(value)
    except Exception:  # of user code
        text = f"a {type(value).__name__}"
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> str:
    """Returns the message for an unknown name: the nearest valid name first, then all.

    Args:
        kind: What the name should be, "model" for example.
        name: The unknown name.
        valid: The valid names.

    Example:
        >>> unknown_name("model", "dir", ["der", "sgd"])
        "unknown model 'dir'. Did you mean 'der'? Valid: der, sgd"
    """
    valid = sorted(valid)
    names = ", ".join(valid) or "(none)"
    return f"unknown {kind} {shorten(name)}.{_nearest(name, valid, 1)} Valid: {names}"


def unknown_argument(name: object, valid: Iterable[str], models: Sequence[str] = ()) -> str:
    """Returns the message for an unknown argument; there are too many valid ones to list.

    Args:
        name: The unknown argument.
        valid: The valid ones.
        models: Other models that have an argument of this name.

    Example:
        >>> unknown_argument("--sede", ["--seed", "--lr"])
        "unknown argument '--sede'. Did you mean '--seed'? See --help or get_avail_args for all"
        >>> unknown_argument("--beta", ["--seed", "--lr"], ["derpp", "xder"])
        "unknown argument '--beta'. Other models have it: derpp, xder"
    """
    if models:
        return f"unknown argument {shorten(name)}. Other models have it: {', '.join(models)}"
    hint = _nearest(name, sorted(valid), 3)
    return f"unknown argument {shorten(name)}.{hint} See --help or get_avail_args for all"


def _nearest(name: object, valid: Sequence[str], count: int) -> str:
    # Comparing takes time quadratic in the length.
    start = name[:99] if isinstance(name, str) else ""
    nearest = [repr(near) for near in get_close_matches(start, valid, n=count)]
    return f" Did you mean {' or '.join(nearest)}?" if nearest else ""
