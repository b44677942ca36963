"""How many graphs a run captures: all within the first of ten tasks, and none is broken.

Dynamo captures as in a real run and counts; Inductor is left out (`graph_counter`).
"""

import pytest

from mammoth_compiled import get_avail_args, load_runner, train
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.compiler import counters
from mammoth_compiled.registry import datasets, models

# Enough for herding to replay 8 images of each of ten classes, which it shares out by task.
VALUES = {"buffer_size": 80, "minibatch_size": 8, "alpha": 0.3, "beta": 0.5}
ARGUMENTS = {name: get_avail_args(model=name) for name in models}
REHEARSAL = [name for name in models if "buffer_policy" in ARGUMENTS[name][1]]


@pytest.fixture
def captured(tiny, graph_counter):
    """Returns a function that runs a model: graphs after each epoch of task 1, after each task."""

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
        needed = {arg: value for arg, value in VALUES.items() if arg in ARGUMENTS[name][0]}
        replay = {"minibatch_size": 8} if name in REHEARSAL else {}
        args = {"seed": 0, "batch_size": 8, "n_epochs": 3, **needed, **replay, **args}
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
    assert 0 < epochs[2] < tasks[0]  # the graph of the evaluation
    assert tasks == tasks[:1] * len(tasks)


@pytest.mark.parametrize("name", REHEARSAL)
@pytest.mark.parametrize("policy", [p for p in POLICIES if p not in ("reservoir", "herding")])
def test_with_every_policy_that_fills_the_buffer_at_once(captured, name, policy):
    _, tasks = captured(name, buffer_policy=policy)
    assert tasks == tasks[:1] * 10


@pytest.mark.parametrize("name", REHEARSAL)
def test_herding_replays_from_the_second_task_on(captured, name):
    # The one exception: the buffer is empty until the first task ends, so that a batch which is
    # longer for its replayed images is first met after it (ER's; DER passes them on their own).
    _, tasks = captured(name, buffer_policy="herding")
    assert tasks[1] == tasks[0] + (name == "er")
    assert tasks[1:] == tasks[1:2] * 9
