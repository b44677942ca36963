"""Models that train prompts of a frozen vision transformer."""

from argparse import ArgumentParser
from typing import Any

import torch

from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.common.extended import ExtendedModel
from mammoth_compiled.models.networks.prompted import PromptedViT


class PromptModel(ExtendedModel):
    """A model that trains the prompts and the head of a `PromptedViT`."""

    net: PromptedViT

    @staticmethod
    def set_training_defaults(parser: ArgumentParser, **values: Any) -> None:
        """Sets Adam as the default optimizer, and other defaults."""
        parser.set_defaults(optimizer="adam", **values)

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Prepares the prompts."""
        super().begin_task(dataset)
        with torch.no_grad():
            self.net.begin_task(dataset.c_task)
