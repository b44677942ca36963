"""Mammoth's `utils.buffer`."""

from typing import Any

import numpy as np
import torch

from mammoth_compiled.buffers import Buffer as BaseBuffer
from mammoth_compiled.buffers.rows import ATTRIBUTES, to_rows
from mammoth_compiled.compat.mammoth.replay import fill_buffer, icarl_replay
from mammoth_compiled.compat.mammoth.selection import SELECTIONS
from mammoth_compiled.errors import ConfigError, unknown_name

__all__ = ["Buffer", "fill_buffer", "icarl_replay"]

FIRST_CAPACITY = 64


class Buffer(BaseBuffer):
    """Mammoth's replay memory: more lenient than `mammoth_compiled.Buffer`, and resizable.

    `add_data` ignores surplus rows of labels and other attributes, and stores zeros for attributes
    that are missing. Setting `buffer_size` keeps the first samples.

    Args:
        buffer_size: Capacity in samples, N; ignored if unlimited.
        device: Device of the tensors.
        sample_selection_strategy: "reservoir", "unlimited" (keeps every sample), or one of
            `selection.SELECTIONS`: "balancoir", "lars", "labrs" and "abs".
        dataset: The dataset, which "abs" needs to tell past classes from current ones.

    Attributes:
        sample_selection_strategy: As above.
        sample_selection_fn: Chooses the rows to replace; None for "reservoir" and "unlimited".
    """

    def __init__(
        self,
        buffer_size: int,
        device: str | torch.device = "cpu",
        sample_selection_strategy: str = "reservoir",
        dataset: Any = None,
    ) -> None:
        self.sample_selection_strategy = sample_selection_strategy.lower()
        valid = ["reservoir", "unlimited", *SELECTIONS]
        if self.sample_selection_strategy not in valid:
            raise ConfigError(
                unknown_name("sample_selection_strategy", sample_selection_strategy, valid)
            )
        self.is_unlimited = self.sample_selection_strategy == "unlimited"
        super().__init__(FIRST_CAPACITY if self.is_unlimited else buffer_size, device)
        select = SELECTIONS.get(self.sample_selection_strategy)
        self.sample_selection_fn = None if select is None else select(self, dataset)

    @property
    def buffer_size(self) -> int:
        """Capacity in samples; that of the allocated memory if unlimited."""
        return self._num_rows

    @buffer_size.setter
    def buffer_size(self, size: int) -> None:
        if "num_seen_examples" not in vars(self):  # the constructor
            self._num_rows = size
        elif not self.is_unlimited:
            self.resize(size)

    def resize(self, size: int) -> None:
        """Changes the capacity; keeps the first samples."""
        if size == self._num_rows:
            return
        kept = {name: getattr(self, name)[: min(len(self), size)] for name in self.used_attributes}
        seen = min(self.num_seen_examples, size)
        self._num_rows = int(size)
        self.reset()
        if seen:
            super().add_data(**kept)

    def empty(self) -> None:
        """Removes all samples."""
        self.reset()

    @torch.no_grad()
    def add_data(  # type: ignore[override]
        self,
        examples: Any,
        labels: Any = None,
        logits: Any = None,
        task_labels: Any = None,
        attention_maps: Any = None,
        true_labels: Any = None,
        sample_selection_scores: Any = None,
    ) -> None:
        """Offers a batch of the stream; see `mammoth_compiled.Buffer.add_data`.

        Args:
            examples: Images, [B, ...].
            labels: Class ids, [B] or more.
            logits: Logits, [B, K] or more rows.
            task_labels: Task ids, [B] or more.
            attention_maps: Ignored.
            true_labels: Labels without noise, [B] or more.
            sample_selection_scores: Scores for strategies that use the loss, [B].
        """
        values = (examples, labels, logits, task_labels, true_labels)
        rows = to_rows(dict(zip(ATTRIBUTES, values, strict=True)))
        count = len(rows["examples"])
        if not count:
            return
        rows = {name: value[:count] for name, value in rows.items()}
        if not self.is_empty():
            for name in set(self.used_attributes) - set(rows):
                rows[name] = getattr(self, name).new_zeros((count, *getattr(self, name).shape[1:]))
        while self.is_unlimited and self.num_seen_examples + count > self._num_rows:
            self.resize(2 * self._num_rows)
        if self.sample_selection_fn is None:
            super().add_data(**rows)
        else:
            self._add_selected(rows, sample_selection_scores)

    def _add_selected(self, rows: dict[str, torch.Tensor], scores: Any) -> None:
        assert self.sample_selection_fn is not None
        for i in range(len(rows["examples"])):
            row = {name: value[i : i + 1] for name, value in rows.items()}
            if self.num_seen_examples < self._num_rows:
                slot = self.num_seen_examples
                super().add_data(**row)  # fills in order
            else:
                slot = self.sample_selection_fn(self.num_seen_examples, row.get("labels"))
                self.num_seen_examples += 1
                if slot >= 0:
                    self.update(torch.tensor([slot]), **row)
            if slot >= 0 and scores is not None:
                self.sample_selection_fn.update(torch.tensor([slot]), scores[i : i + 1])

    def get_data(
        self,
        size: int,
        transform: Any = None,
        return_index: bool = False,
        device: str | torch.device | None = None,
        mask_task_out: int | None = None,
        cpt: int | None = None,
        return_not_aug: bool = False,
        not_aug_transform: Any = None,
        force_indexes: Any = None,
    ) -> tuple[torch.Tensor, ...]:
        """Draws filled rows; see `mammoth_compiled.Buffer.get_data`.

        Args:
            size: Number of rows, M.
            transform: torchvision transform of one example.
            return_index: True prepends the indices of the rows.
            device: Device of the result.
            mask_task_out: Draws no samples of this task.
            cpt: Classes per task, to find the task of a sample if there are no task labels.
            return_not_aug: True prepends the examples without `transform`.
            not_aug_transform: Transform of these.
            force_indexes: Rows to return instead of a draw.
        """
        plain = mask_task_out is None and not return_not_aug and force_indexes is None
        if plain:
            return super().get_data(size, transform, return_index, device)
        if force_indexes is not None:
            index = torch.as_tensor(np.asarray(force_indexes))
        else:
            index = torch.arange(len(self), device=self.device)
            if mask_task_out is not None:
                tasks = self._tasks(cpt)[: len(self)]
                index = index[tasks != mask_task_out]
            index = index[torch.randperm(len(index))[:size].to(index.device)]
        data = self.get_data_by_index(index, transform, device)
        if return_not_aug:
            data = (self.get_data_by_index(index, not_aug_transform, device)[0], *data)
        return (index.to(data[0].device), *data) if return_index else data

    def _tasks(self, cpt: int | None) -> torch.Tensor:
        if "task_labels" in self.used_attributes:
            return self.task_labels
        if cpt is None:
            raise ValueError("get_data: mask_task_out needs stored task_labels, or cpt=")
        return self.labels // cpt

    def get_balanced_data(
        self, size: int, transform: Any = None, n_classes: int = -1
    ) -> tuple[torch.Tensor, ...]:
        """Draws rows with equal numbers of each class, differing by at most one.

        Args:
            size: Number of rows, M; fewer if the classes have fewer samples.
            transform: torchvision transform of one example.
            n_classes: Number of classes to draw from; -1 for all.
        """
        labels = self.labels[: len(self)]
        classes = labels.unique()
        chosen = classes[torch.randperm(len(classes))[: n_classes if n_classes > 0 else None]]
        # The position of each sample within its class, in random order.
        order = torch.randperm(len(labels)).to(labels.device)
        order = order[torch.isin(labels[order], chosen)]
        same = labels[order][:, None] == labels[order]
        rank = same.tril(-1).sum(1)
        return self.get_data_by_index(order[rank.argsort(stable=True)[:size]], transform)
