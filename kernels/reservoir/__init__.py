"""Reservoir sampling of a whole batch at once.

Source: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
"""

from mammoth_compiled.kernels.reservoir.op import (
    IMPLEMENTATIONS,
    reservoir_op,
    storage_format,
    update_reservoir,
)
from mammoth_compiled.kernels.reservoir.reference import (
    reservoir_slots,
    slot_owners,
    write_slots,
)

__all__ = [
    "IMPLEMENTATIONS",
    "reservoir_op",
    "reservoir_slots",
    "slot_owners",
    "storage_format",
    "update_reservoir",
    "write_slots",
]
