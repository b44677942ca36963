"""Streams of labels that the tests of buffer policies share."""

import numpy as np
import torch


def labels_of(n, num_classes, seed=0):
    """An imbalanced stream: each class is half as frequent as the one before, in random order."""
    generator = np.random.default_rng(seed)
    weights = 0.5 ** np.arange(num_classes)
    return torch.from_numpy(generator.choice(num_classes, n, p=weights / weights.sum()))


def batches(labels, *sizes):
    """Splits a stream into batches, cycling through the sizes."""
    start, k = 0, 0
    while start < len(labels):
        yield labels[start : start + sizes[k % len(sizes)]]
        start += sizes[k % len(sizes)]
        k += 1
