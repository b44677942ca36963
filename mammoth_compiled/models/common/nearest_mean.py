"""NearestMeanModel: what models have in common that classify by the nearest mean of a class."""

import torch
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.models.common.rehearsal import RehearsalModel
from mammoth_compiled.models.networks.scored import nearest_means

Means = tuple[torch.Tensor, torch.Tensor]


class NearestMeanModel(RehearsalModel):
    """A model that predicts the class whose mean is nearest, in features scaled to length 1.

    A subclass defines `class_means`.
    """

    def class_means(self) -> Means | None:
        """Returns normalized means, [K, F], and which classes have one, bool, [K].

        None while there are none; the model then predicts by logits.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define class_means()")

    def normalized_features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns features of length 1, [B, F]."""
        return F.normalize(self.net(inputs, returnt="features"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns minus the squared distances to the means of the classes, [B, K].

        They are -inf for classes without one. While there are no means, these are the logits.
        """
        means = self.class_means()
        if means is None:
            return super().forward(x)
        scores = 2 * self.normalized_features(x) @ means[0].T - 2
        return scores.masked_fill(~means[1], -torch.inf)

    def deployed_net(self) -> MammothBackbone:
        """Returns the backbone with the distances as logits."""
        means = self.class_means()
        return self.net if means is None else nearest_means(self.net, *means)
