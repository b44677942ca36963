"""Augmentation, replay and reservoir kernels on a GPU against their references on the same GPU."""

import contextlib
from unittest import mock

import torch
from common import spread
from gpu_timing import DEVICE, DRY, stop_if_broken, time_replays

from mammoth_compiled.kernels.augment import augment
from mammoth_compiled.kernels.augment.cases import augment_work
from mammoth_compiled.kernels.draw import draw_rows
from mammoth_compiled.kernels.reservoir import update_reservoir
from mammoth_compiled.kernels.reservoir.cases import reservoir_work
from mammoth_compiled.kernels.runtime import device as kernel_device
from mammoth_compiled.kernels.runtime import philox

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2615)


@contextlib.contextmanager
def references():
    """Lets the operators compute with torch alone."""
    with mock.patch.object(kernel_device, "supports_triton", return_value=False):
        yield


def time_data(context, capacity=500):
    """Yields rows of times, ms: a batch of CIFAR's size with replay, and the buffer update."""
    batches = (32,) if DRY else (32, 128, 512)
    stored = 2 * capacity if DRY else 50_000
    store = torch.randint(0, 256, (stored, 3, 32, 32), dtype=torch.uint8, device=DEVICE)
    labels = torch.randint(0, 10, (stored,), device=DEVICE)
    examples, kept = store[:capacity].clone(), labels[:capacity].clone()
    state = philox.random_state(0, store.device)
    mean, std = torch.tensor(MEAN, device=DEVICE), torch.tensor(STD, device=DEVICE)
    seen = torch.tensor([10 * capacity], device=DEVICE)
    stored_as_float, draws = examples.float() / 255, philox.random_state(0, store.device)

    def draw(rows):
        if kernel_device.supports_triton(DEVICE):
            return draw_rows(rows, capacity, draws)
        # The reference of `draw_rows` waits for the device, which no graph can.
        return torch.rand(capacity, device=DEVICE).topk(rows).indices

    for batch in batches:
        index = torch.randint(0, stored, (batch,), device=DEVICE)
        replayed = torch.randint(0, capacity, (batch,), device=DEVICE)

        def make(index=index, replayed=replayed):
            augment(
                *(store, index, state, mean, std),
                size=(32, 32),
                padding=(4, 4, 4, 4),
                flip=0.5,
                replay=(examples, replayed),
                dtype=torch.bfloat16,
            )

        def keep(index=index):
            update_reservoir(
                [examples, kept], [store, labels], seen, state, index=index, by_index=[True, True]
            )

        def replay(batch=batch):
            augment(
                *(stored_as_float, draw(min(batch, capacity)), draws),
                *(mean, std),
                size=(32, 32),
                padding=(4, 4, 4, 4),
                flip=0.5,
                columns=[kept],
            )

        # Far into the stream few items are written; here a tenth of the batch.
        works = {
            "augment": augment_work((2 * batch, 3, 32, 32), torch.bfloat16),
            "reservoir": reservoir_work(batch, batch // 10, row_bytes=3072 + 8),
            # Drawn as well; a float image is read.
            "replay": augment_work((batch, 3, 32, 32), torch.float32),
        }
        for name, function in (("augment", make), ("reservoir", keep), ("replay", replay)):
            row = {"op": name, "batch": batch, "bytes": works[name].num_bytes}
            if context.is_over():
                yield {**row, "left_out": "out of time"}
                continue
            try:
                kernel = time_replays([function] * 10, count=21)
                with references():
                    torchs = time_replays([function] * 10, count=21)
            except Exception as error:  # one operation must not cost the others
                stop_if_broken(error)
                yield {**row, "failed": f"{type(error).__name__}: {error}"[:500]}
                continue
            yield {**row, "ms": {"fused": spread(kernel), "torch": spread(torchs)}}
