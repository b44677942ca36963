"""Which rows of the stream a buffer keeps: policies by name."""

from mammoth_compiled.buffers.policies import class_balanced, herding, reservoir, ring
from mammoth_compiled.buffers.policies.base import Policy, State
from mammoth_compiled.errors import ConfigError, unknown_name

POLICIES: dict[str, Policy] = {
    "reservoir": reservoir.POLICY,
    "class-balanced": class_balanced.POLICY,
    "ring": ring.POLICY,
    "herding": herding.POLICY,
}

__all__ = ["POLICIES", "Policy", "State", "find_policy"]


def find_policy(name: str, capacity: int, num_classes: int | None) -> Policy:
    """Returns a policy by name.

    Args:
        name: One of `POLICIES`.
        capacity: Rows of the buffer.
        num_classes: Number of classes of the stream; None if not known.

    Raises:
        ConfigError: If there is none of that name, or it needs more classes or rows than given.
    """
    if name not in POLICIES:
        raise ConfigError(unknown_name("buffer policy", name, POLICIES))
    policy = POLICIES[name]
    if policy.by_class and num_classes is None:
        raise ConfigError(
            f"the buffer policy {name!r} goes by classes: give Buffer(..., num_classes=...)"
        )
    if policy.row_per_class and num_classes is not None and capacity < num_classes:
        raise ConfigError(
            f"the buffer policy {name!r} needs a row for every class: --buffer_size {capacity} is "
            f"less than {num_classes}"
        )
    return policy
