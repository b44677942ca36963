"""Registration of operators as `mammoth::name`: traced by the compiler, or opaque to it."""

from collections.abc import Callable
from typing import Any

import torch

from mammoth_compiled.kernels.runtime.device import has_triton

Decorator = Callable[[Callable[..., Any]], Any]


def traced_operator(name: str, mutates: tuple[str, ...] = ()) -> Decorator:
    """Returns a decorator that registers an operator whose body the compiler traces.

    For Triton kernels and references: Inductor sees the launches and fuses the references, and
    AOTInductor packages keep the kernels. It is a `triton_op`; without Triton, where that warns of
    every operator, it is a `custom_op` around the reference.

    Args:
        name: Name of the operator, without the namespace.
        mutates: Names of the arguments that it changes in place.
    """
    register: Any = torch.library.triton_op if has_triton() else torch.library.custom_op
    decorator: Decorator = register(f"mammoth::{name}", mutates_args=mutates)
    return decorator


def opaque_operator(name: str) -> Decorator:
    """Returns a decorator that registers an operator that the compiler calls as it is.

    For C++ kernels, which read data pointers and cannot be traced.

    Args:
        name: Name of the operator, without the namespace.
    """
    decorator: Decorator = torch.library.custom_op(f"mammoth::{name}", mutates_args=())
    return decorator
