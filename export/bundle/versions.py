"""Versions of the packages that write a bundle."""

from importlib.metadata import PackageNotFoundError, version

import torch


def package_version(package: str) -> str:
    """Returns the version of an installed distribution, or `unknown`."""
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def torch_release() -> str:
    """Returns the version of torch without its build tag, as in 2.15.0."""
    return str(torch.__version__).split("+")[0]
