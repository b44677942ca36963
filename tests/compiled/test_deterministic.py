"""`--deterministic`: runs that are repeated, or killed and resumed, end with the same bits.

On a GPU with compiled networks and captured steps.
"""

import pytest
import torch
from killed_runs import KilledAfter

METHODS = {
    "sgd": {"optim_mom": 0.9, "lr_scheduler": "cosine"},
    "er": {"buffer_size": 16, "optimizer": "adam", "lr": 0.005},
    "derpp": {"buffer_size": 16, "alpha": 0.3, "beta": 0.5},
}
# More epochs than it takes until ragged batches are replayed as well.
ON_GPU = {"device": "cuda", "compile": "on", "n_epochs": 6}
DEVICES = [
    pytest.param({"device": "cpu", "n_epochs": 2}, id="cpu"),
    pytest.param(ON_GPU, id="cuda", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", METHODS)
def test_resumed_runs_end_with_the_same_bits(run_tiny, tmp_path, name, device):
    args = {"dataset": "seq-tiny-augmented", "lr": 0.05, **METHODS[name], **device}
    args["deterministic"] = True
    whole, _, expected = run_tiny(name, **args)
    again, _, _ = run_tiny(name, **args)
    args |= {"checkpoint_every": "1", "resume": 1, "checkpoint_path": str(tmp_path)}
    # In the middle of an epoch; then, resumed, after the ragged last batch of a later task.
    for killed in (KilledAfter(0, 7), KilledAfter(2, 5 * args["n_epochs"] - 6)):
        with pytest.raises(KilledAfter.Killed):
            run_tiny(name, observers=[killed], **args)
    resumed, _, results = run_tiny(name, **args)
    assert results.loss == expected.loss
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[key]), key
        assert torch.equal(value, resumed.net.state_dict()[key]), key
    if device is ON_GPU:
        assert expected.notes["step"]["replayed"] > 0
