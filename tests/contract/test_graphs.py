"""How many graphs a run compiles: all within the first of ten tasks, without graph breaks.

Dynamo captures as in a real run and counts; Inductor is left out (`graph_counter`).
"""

import pytest

from mammoth_compiled import get_avail_args, load_runner, train
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.compiler import counters
from mammoth_compiled.registry import datasets, models

REHEARSAL = [name for name in models if "buffer_policy" in get_avail_args(model=name)[1]]
# Herding splits the buffer among the classes seen: 80 rows hold 8 images of each of ten.
REHEARSAL_ARGS = {"buffer_size": 80, "minibatch_size": 8}


@pytest.fixture
def captured(tiny, example_args, graph_counter):
    """Returns a function that runs a model: graphs after each epoch of task 1 and each task."""

    class TenTasks(tiny.Dataset):
        N_CLASSES_PER_TASK = 1
        N_TASKS = 10

        def get_data_loaders(self):
            # Training ends in a ragged batch, each test set in one after a full batch.
            train_set = tiny.images(20, num_classes=10, seed=1)
            test_set = tiny.images(260, num_classes=10, seed=2)
            return (
                tiny.Split(*train_set, self.TRANSFORM),
                tiny.Split(*test_set, self.TEST_TRANSFORM),
            )

    datasets.register("seq-ten")(TenTasks)

    def run(name, **args):
        replay = REHEARSAL_ARGS if name in REHEARSAL else {}
        base = {"seed": 0, "batch_size": 8, "n_epochs": 3, **example_args(name), **replay}
        args = {**base, **args}
        model, dataset = load_runner(name, "seq-ten", {**args, "compile": "on"})
        epochs, tasks = [], []
        model.end_epoch = lambda epoch, _: epochs.append(graph_counter.frame_count)
        before = counters.read()
        train(model, dataset, after_task=lambda _: tasks.append(graph_counter.frame_count))
        assert (counters.read() - before).graph_breaks == 0
        assert len(tasks) == dataset.num_stages == (1 if dataset.joint else 10)
        return epochs[:3], tasks

    return run


@pytest.mark.parametrize("name", list(models))
def test_every_graph_comes_in_the_first_task(captured, name):
    epochs, tasks = captured(name)
    assert epochs[0] <= epochs[1] == epochs[2]
    # The graph of the evaluation comes with that of the first training call, or after it.
    assert 0 < epochs[2] <= tasks[0]
    assert tasks == tasks[:1] * len(tasks)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        (name, policy)
        for name in REHEARSAL
        for policy in POLICIES
        # How a loss is noted differs between these two.
        if policy != "reservoir" and (name in ("er", "derpp") or not POLICIES[policy].needs_losses)
    ],
)
def test_with_every_policy(captured, name, policy):
    _, tasks = captured(name, buffer_policy=policy)
    assert tasks == tasks[:1] * 10
