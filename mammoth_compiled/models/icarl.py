"""iCaRL.

Source: Rebuffi et al. 2017, "iCaRL: Incremental Classifier and Representation Learning", arXiv
1611.07725.

The loss is `mean_{b,k} BCE(sigmoid(z_bk), t_bk)` with `t = sigmoid(z_old)` for old classes and
one-hot targets for others. The score of class k is `-|| f(x) - mu_k ||^2` with normalized features
f.

Epochs mix the images of the task with the exemplars of earlier ones. The loss is a binary
cross-entropy of all outputs, whose targets are the sigmoids of the previous network for old classes
and one-hot for the others (algorithm 3). After a task each class seen keeps N / K_t exemplars,
selected by herding (algorithms 4 and 5). The predicted class is that of the nearest mean of
exemplars, in normalized features (algorithm 1).

As in the authors' code, the loss is a mean over classes and means include mirrored images.
Deviation: weight decay is that of the optimizer.
"""

from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.exemplars import ExemplarModel
from mammoth_compiled.models.common.features import normalized
from mammoth_compiled.models.common.nearest_mean import Means, NearestMeanModel
from mammoth_compiled.models.common.settings import fmnist, published
from mammoth_compiled.models.common.teacher import distilled_bce, update_teacher
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("icarl")
class ICaRL(ExemplarModel, NearestMeanModel):
    """iCaRL: distillation, exemplars by herding, and the nearest class mean as classifier.

    Attributes:
        teacher: The network of the previous task; None during the first.
        means: Normalized mean features of each class, [K, F]; None before the first task ends.
        has_mean: Whether a class has exemplars, bool, [K].
    """

    POLICY: ClassVar[str] = "herding"
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**ExemplarModel.EXAMPLE_ARGS, "lr": 0.5}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": (0.1, 0.1, 0.03), "optim_wd": 1e-5},
                "seq-cifar100": {"lr": 0.3, "optim_wd": 1e-5},
                "seq-tinyimg": {"lr": 0.03, "optim_wd": 1e-5},
                "seq-mnist": {"lr": 0.1},
            }
        ),
        **fmnist(lr=0.3),
    }

    teacher: MammothBackbone | None
    means: torch.Tensor | None
    has_mean: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = None
        self.register_buffer("means", None)
        has_mean = torch.zeros(self.num_classes, dtype=torch.bool, device=self.device)
        self.register_buffer("has_mean", has_mean)

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Adds the exemplars to the training set."""
        self.use_stored_images(dataset)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the binary cross-entropy over all classes, 0-d."""
        old_logits = None
        if self.teacher is not None:
            num_past, _ = self.dataset.get_offsets()
            with torch.no_grad():
                old_logits = self.teacher(batch.inputs)[:, :num_past]
        return distilled_bce(self.net(batch.inputs), batch.labels, old_logits)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Selects exemplars, computes the means of classes and freezes a copy of the network."""
        super().end_task(dataset)
        was_training = self.net.training
        self.net.eval()
        self._update_means()
        self.net.train(was_training)
        update_teacher(self)

    def _update_means(self) -> None:
        images, labels, *_ = self.buffer.get_all_data()
        sums: torch.Tensor | None = None
        for part, classes in zip(
            images.split(EVAL_BATCH_SIZE), labels.split(EVAL_BATCH_SIZE), strict=True
        ):
            inputs = normalized(self, part)
            features = self.normalized_features(inputs) + self.normalized_features(inputs.flip(-1))
            if sums is None:
                sums = features.new_zeros(self.num_classes, features.shape[1])
            sums.index_add_(0, classes, features)
        assert sums is not None
        # Normalized, a sum is the same as a mean.
        self.means = F.normalize(sums)
        self.has_mean[labels] = True

    def class_means(self) -> Means | None:
        """Returns the means of exemplars; None before the first task ends."""
        return None if self.means is None else (self.means, self.has_mean)
