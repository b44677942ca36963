"""LwF.MC: Learning without Forgetting as a multi-class method.

Source: Rebuffi et al. 2017, "iCaRL: Incremental Classifier and Representation Learning", arXiv
1611.07725, section 4.

The loss is `mean_{b,k} BCE(sigmoid(z_bk), t_bk)` over the classes seen, with `t = sigmoid(z_old)`
for old classes and one-hot targets for others: that of `icarl` without exemplars. The logits z are
the scores.
"""

from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel, Settings
from mammoth_compiled.models.common.settings import OWN, published
from mammoth_compiled.models.common.teacher import distilled_bce, update_teacher
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch


@register_model("lwf-mc")
class LwFMC(ContinualModel):
    """LwF.MC: binary cross-entropy with the previous network's sigmoids for old classes.

    Attributes:
        teacher: The network of the previous task; None during the first.
    """

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {"lr": 0.5}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published({"seq-cifar100": {"lr": 0.03, "optim_wd": 5e-4}}, buffer_size=None),
        "seq-fmnist": {"lr": 0.03, "source": OWN},
        "seq-fmnist-mini": {"lr": 0.3, "source": OWN},
    }

    teacher: MammothBackbone | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = None

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the binary cross-entropy over the classes seen so far, 0-d."""
        num_past, num_seen = self.dataset.get_offsets()
        old_logits = None
        if self.teacher is not None:
            with torch.no_grad():
                old_logits = self.teacher(batch.inputs)[:, :num_past]
        return distilled_bce(self.net(batch.inputs)[:, :num_seen], batch.labels, old_logits)

    def end_task(self, dataset: ContinualDataset) -> None:
        """Freezes a copy of the network for the next task."""
        update_teacher(self)
