"""Checkpoints within tasks: a run that is stopped at any step ends with the same bits."""

import random
import signal

import numpy as np
import pytest
import torch
from PIL import ImageOps
from torchvision import transforms

from mammoth_compiled import ContinualModel, register_dataset, register_model
from mammoth_compiled.checkpoint import read_checkpoint, write_checkpoint
from mammoth_compiled.engine.batches import Batches
from mammoth_compiled.engine.observer import Observer
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.models.er import ER

# 36 images per task: epochs of five batches, the last of which is ragged.
STEPS_PER_EPOCH = 5
ARGS = {"n_epochs": 2, "optim_mom": 0.5, "lr_scheduler": "cosine"}
ARGS_OF = {
    "er": {"buffer_size": 9, "minibatch_size": 7},
    "derpp": {"buffer_size": 20, "alpha": 0.1, "beta": 0.5, "minibatch_size": 7},
}


class StopsAfter(Observer):
    """Stops the run after a number of steps of all tasks, without warning as SIGKILL would.

    Checkpoints within tasks have an earlier order, so that one may have been saved in the step.
    """

    class Killed(BaseException):
        pass

    def __init__(self, steps):
        self.steps = steps

    def end_step(self, run, loss, num_images):
        self.steps -= 1
        if self.steps == 0:
            raise self.Killed


class Steps(Observer):
    """Records the steps that a run trains, and what it says about its checkpoint."""

    def __init__(self):
        self.steps = []

    def begin_run(self, run):
        self.messages = run.resume_messages

    def end_step(self, run, loss, num_images):
        self.steps.append((run.task, run.epoch, run.step))


def weights(model):
    return [p.detach().clone() for p in model.net.state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def run(run_tiny, tmp_path):
    """Returns a function that trains with checkpoints within tasks: weights, results, steps."""

    def run(model="er", stop_after=None, **args):
        steps = Steps()
        observers = [steps] if stop_after is None else [steps, StopsAfter(stop_after)]
        args = {**ARGS, **ARGS_OF.get(model, {}), "checkpoint_every": "1", "resume": 1, **args}
        try:
            trained, _, results = run_tiny(
                model, observers=observers, checkpoint_path=str(tmp_path / "saved"), **args
            )
        except StopsAfter.Killed:
            return steps
        return weights(trained), results, steps

    return run


def saved_files(tmp_path):
    return sorted(path.name for path in (tmp_path / "saved").glob("*.pt"))


@pytest.mark.parametrize("dataset", ["seq-tiny", "seq-tiny-augmented"])
@pytest.mark.parametrize("model", ["er", "derpp"])
def test_killed_run_ends_with_the_same_bits(run, run_tiny, model, dataset):
    reference, _, whole = run_tiny(model, dataset, **ARGS, **ARGS_OF[model])
    # Killed again and again: in the first, a middle and the last step of epochs, and at random.
    kills = [1, STEPS_PER_EPOCH - 1, 2 * STEPS_PER_EPOCH, *random.Random(0).sample(range(1, 9), 2)]
    for stop_after in kills:
        run(model, stop_after, dataset=dataset)
    resumed, results, steps = run(model, dataset=dataset)
    assert len(steps.steps) == 3 * 2 * STEPS_PER_EPOCH - sum(kills)
    assert same(resumed, weights(reference))
    assert results.class_il == whole.class_il
    assert results.loss == whole.loss
    assert results.train_images == whole.train_images == [72, 72, 72]


def test_rare_checkpoints_repeat_the_steps_since(run, run_tiny, tmp_path):
    reference = run_tiny("er", **ARGS, **ARGS_OF["er"])[0]
    run("er", 19, checkpoint_every="4")
    assert saved_files(tmp_path)[-1] == "er_seq-tiny_tiny-net_seed0_task1_step8.pt"
    resumed, _, steps = run("er", checkpoint_every="4")
    assert steps.messages == ["continues task 2 after 8 steps"]
    assert steps.steps[0] == (1, 1, 4)
    assert same(resumed, weights(reference))


def test_only_the_newest_checkpoint_within_a_task_is_kept(run, tmp_path):
    run("er", 3)
    assert saved_files(tmp_path) == ["er_seq-tiny_tiny-net_seed0_task0_step3.pt"]
    run("er")
    assert saved_files(tmp_path) == [f"er_seq-tiny_tiny-net_seed0_task{t}.pt" for t in (1, 2, 3)]


def test_several_batches_may_be_materialized_together(run, run_tiny, monkeypatch):
    """On a CPU the loader materializes groups of batches, whose augmentation draws random numbers.

    All of an epoch of the other tests is one group.
    """
    image_bytes = 4 * 3 * 8 * 8
    monkeypatch.setattr("mammoth_compiled.data.loader.GROUP_BYTES", 2 * 8 * image_bytes)
    args = {"dataset": "seq-tiny-augmented", **ARGS_OF["er"]}
    reference = run_tiny("er", **ARGS, **args)[0]
    for stop_after in (3, 1, 2):
        run("er", stop_after, **args)
    assert same(run("er", **args)[0], weights(reference))


def test_items_that_are_read_one_by_one(run, run_tiny, tiny):
    """User code that draws random numbers from Python and NumPy in the transform of each item."""

    def jitter(image):
        image = ImageOps.mirror(image) if random.random() < 0.5 else image
        return transforms.ToTensor()(image) + float(np.random.normal())

    @register_dataset("seq-jitter")
    class Jitter(tiny.Dataset):
        TRANSFORM = transforms.Lambda(jitter)

    args = {"dataset": "seq-jitter", **ARGS_OF["er"]}
    reference = run_tiny("er", **ARGS, **args)[0]
    for stop_after in (2, 5, 7):
        run("er", stop_after, **args)
    assert same(run("er", **args)[0], weights(reference))


def test_hooks_act_on_the_dataset_again(run, run_tiny, tiny):
    @register_model("extends-data")
    class ExtendsData(ContinualModel):
        """Trains on some images of earlier tasks, which `begin_task` adds to the dataset."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.kept = []

        def begin_task(self, dataset):
            split = dataset.train_loader.dataset
            chosen = torch.randperm(len(split.data))[:5]
            if self.kept:
                split.data = np.concatenate([split.data, self.kept[0]])
                split.targets = np.concatenate([split.targets, self.kept[1]])
            self.kept = [split.data[chosen], split.targets[chosen]]

        def training_loss(self, batch):
            return self.loss(self.net(batch.inputs), batch.labels)

    reference, _, whole = run_tiny("extends-data", **ARGS)
    assert whole.train_images == [72, 82, 82]
    for stop_after in (14, 3, 11):
        run("extends-data", stop_after)
    resumed, results, _ = run("extends-data")
    assert results.train_images == whole.train_images
    assert same(resumed, weights(reference))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_the_step(run, run_tiny, tmp_path, monkeypatch, number):
    after_step = ER.after_step

    def stop_in_the_third_step_of_task_2(self, batch):
        after_step(self, batch)
        if (self.current_task, self.task_iteration) == (1, 2):
            signal.raise_signal(number)

    handlers = [signal.signal(n, signal.default_int_handler) for n in (number, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(ER, "after_step", stop_in_the_third_step_of_task_2)
        try:
            run("er", checkpoint_every="1h")
        except KeyboardInterrupt:
            assert number == signal.SIGTERM  # as its own handler raises after the run
        finally:
            for n, handler in zip((number, signal.SIGINT), handlers, strict=True):
                signal.signal(n, handler)
    assert saved_files(tmp_path)[-1] == "er_seq-tiny_tiny-net_seed0_task1_step3.pt"
    reference = run_tiny("er", **ARGS, **ARGS_OF["er"])[0]
    assert same(run("er")[0], weights(reference))


def test_totals_add_up(run):
    run("er", 8)
    _, results, _ = run("er")
    assert results.notes["steps"] == 3 * 2 * STEPS_PER_EPOCH
    assert all(0 < seconds < 60 for seconds in results.train_s)


def test_checkpoint_within_a_task_is_checked(run, tmp_path):
    run("er", 3)
    (path,) = (tmp_path / "saved").glob("*.pt")
    content = read_checkpoint(path)
    assert content["tasks_done"] == 0
    content["within"]["epoch"] = -1
    with pytest.raises(CheckpointError, match=r"within\.epoch must be an integer >= 0, got -1"):
        write_checkpoint(path, content)


def test_damaged_beginning_is_refused(run, run_tiny, tmp_path):
    run("er", 3)
    (path,) = (tmp_path / "saved").glob("*.pt")
    content = read_checkpoint(path)
    content["within"]["begin"] = torch.zeros(8, dtype=torch.uint8)
    write_checkpoint(path, content)
    with pytest.raises(CheckpointError, match=r"is not a valid checkpoint: within\.begin"):
        run_tiny("er", loadcheck=str(path), **ARGS, **ARGS_OF["er"])


def test_inference_needs_a_finished_task(run, run_tiny, tmp_path):
    run("er", 3)
    (path,) = (tmp_path / "saved").glob("*.pt")
    args = {**ARGS, **ARGS_OF["er"], "inference_only": 1}
    with pytest.raises(CheckpointError, match="was saved within a task, but --inference_only"):
        run_tiny("er", loadcheck=str(path), **args)


def test_batches_of_a_users_loader():
    loader = [[torch.full((2,), i)] for i in range(4)]
    batches = Batches(loader, can_save=True)
    used = [lazy.tensors[0][0].item() for lazy in batches.begin_epoch(3)]
    assert used == [0, 1, 2]
    other = Batches(loader, can_save=True)
    other.load_state_dict(batches.state_dict())
    assert [lazy.tensors[0][0].item() for lazy in other.resume_epoch(4, 2)] == [2, 3]
