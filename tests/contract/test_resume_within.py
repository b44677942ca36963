"""The contract of every model: a run that is killed within a task ends with the same bits."""

import pytest
import torch
from killed_runs import KilledAfter

from mammoth_compiled.registry import models


@pytest.mark.parametrize("name", list(models))
def test_run_killed_within_a_task(run_tiny, example_args, name, tmp_path):
    args = {"dataset": "seq-tiny-augmented", "n_epochs": 2, "lr": 0.05, **example_args(name)}
    whole, dataset, expected = run_tiny(name, **args)
    assert expected.notes["steps"] > 4
    args |= {"checkpoint_every": "1", "resume": 1, "checkpoint_path": str(tmp_path)}
    # In the first epoch, and in the second.
    last = dataset.num_stages - 1
    kills = [(0, 3), (last, 7)] if last else [(0, 3)]
    for task, step in kills:
        with pytest.raises(KilledAfter.Killed):
            run_tiny(name, observers=[KilledAfter(task, step)], **args)
    resumed, _, results = run_tiny(name, **args)
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[key]), key
    assert results.class_il == expected.class_il
    assert results.task_il == expected.task_il
    assert results.loss == expected.loss
    assert results.notes["steps"] == expected.notes["steps"]
