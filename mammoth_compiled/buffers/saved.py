"""SavedBuffer: the state of a buffer for checkpoints."""

from typing import Any

from mammoth_compiled.buffers.policies import State
from mammoth_compiled.buffers.reads import BufferReads
from mammoth_compiled.buffers.saved_checks import check_saved
from mammoth_compiled.buffers.selection import Selection
from mammoth_compiled.buffers.slots import DRAWS


class SavedBuffer(BufferReads):
    """The part of `Buffer` that is saved and restored.

    Attributes:
        policy: Name of the buffer policy.
        sample_selection_fn: Chooses the rows to replace; None without a strategy that does.
    """

    policy: str
    sample_selection_fn: Selection | None
    _state: State
    _is_resized: bool

    def reset(self) -> None:
        """Removes all samples."""
        raise NotImplementedError

    def _set_state(self, state: State, num_filled: int | None = None) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to resume exactly, with copies of the tensors on the CPU."""
        select = self.sample_selection_fn
        return {
            "buffer_size": self.num_rows,
            "is_resized": self._is_resized,
            "num_seen_examples": self.num_seen_examples,
            "data": {name: tensor.clone() for name, tensor in self.serialize().items()},
            "policy": self.policy,
            "policy_state": {name: tensor.cpu().clone() for name, tensor in self._state.items()},
            "scores": None if select is None else select.importance_scores.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`.

        Raises:
            ValueError: If the state belongs to a buffer of another size or policy, or one of its
                tensors is missing or has another dtype or shape.
        """
        if state["policy"] != self.policy:
            raise ValueError(
                f"the saved buffer uses the policy {state['policy']!r}, but this one uses "
                f"{self.policy!r}: use --buffer_policy {state['policy']}"
            )
        if state.get("is_resized"):  # by the model or, if unlimited, by its samples
            self.num_rows, self._is_resized = state["buffer_size"], True
        if state["buffer_size"] != self.num_rows:
            raise ValueError(
                f"the saved buffer has {state['buffer_size']} rows, but this one has "
                f"{self.num_rows}: use --buffer_size {state['buffer_size']}"
            )
        self.reset()
        check_saved(state, self._state, self.num_rows, DRAWS)
        self._load_rows(state["data"])
        self.num_seen_examples = state["num_seen_examples"]
        saved = {name: tensor.to(self.device) for name, tensor in state["policy_state"].items()}
        # A state saved on a CPU lacks the random state of the GPU kernel.
        self._set_state({**self._state, **saved})
        if self.sample_selection_fn is not None and state.get("scores") is not None:
            self.sample_selection_fn.importance_scores = state["scores"].clone()
