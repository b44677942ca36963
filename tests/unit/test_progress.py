"""What a model reads about tasks, classes and steps, and the hooks around evaluations."""

import pytest
import torch

from mammoth_compiled import load_runner, register_model
from mammoth_compiled.models.sgd import SGD

COUNTS = ("current_task", "n_past_classes", "n_seen_classes", "n_remaining_classes")


class Watcher(SGD):
    """Notes its counts in every hook."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def _note(self, hook):
        self.seen.append((hook, *(getattr(self, name) for name in COUNTS)))

    def begin_task(self, dataset):
        self._note("begin_task")

    def begin_epoch(self, epoch, dataset):
        self._note("begin_epoch")

    def end_task(self, dataset):
        self._note("end_task")

    def begin_eval(self, dataset):
        self._note("begin_eval")

    def end_eval(self, dataset, accs):
        self._note("end_eval")
        self.accs = accs


def task(number, past, seen, remaining):
    """What a watcher notes of a task: the task counts as finished in its evaluation only."""
    counts = (past, seen, remaining)
    hooks = ("begin_task", "begin_epoch", "end_task")
    return [
        *((hook, number, *counts) for hook in hooks),
        ("begin_eval", number + 1, *counts),
        ("end_eval", number, *counts),
    ]


def test_counts_in_every_hook(run_tiny):
    register_model("watcher")(Watcher)
    model, _, results = run_tiny("watcher")
    assert model.seen == task(0, 0, 2, 4) + task(1, 2, 4, 2) + task(2, 4, 6, 0)
    assert model.accs[0] == [100 * a for a in results.class_il[-1]]
    assert model.accs[1] == [100 * a for a in results.task_il[-1]]


def test_counts_of_a_resumed_run(run_tiny, tmp_path):
    register_model("watcher")(Watcher)
    args = {"checkpoint_path": str(tmp_path)}
    run_tiny("watcher", savecheck="task", **args)
    model, _, _ = run_tiny("watcher", loadcheck=str(next(tmp_path.glob("*_task1.pt"))), **args)
    assert model.seen[-10:] == task(1, 2, 4, 2) + task(2, 4, 6, 0)


def test_joint_training_is_one_task(run_tiny):
    register_model("watcher")(Watcher)
    model, _, _ = run_tiny("watcher", joint=True)
    assert model.seen == task(0, 0, 6, 0)


def test_before_the_first_task(tiny):
    model, dataset = load_runner("sgd", "seq-tiny")
    assert [getattr(model, name) for name in COUNTS] == [0, -1, -1, -1]
    assert (model.n_classes_current_task, model.cpt, model.N_TASKS, model.N_CLASSES) == (
        -1,
        2,
        3,
        6,
    )
    assert (model.SETTING, model.get_offsets(1)) == ("class-il", (2, 4))
    dataset.meta_get_data_loaders()
    assert (model.n_classes_current_task, model.get_offsets()) == (2, (0, 2))


def test_a_model_may_count_itself(tiny):
    model, _ = load_runner("sgd", "seq-tiny")
    model.current_task = 0
    model.current_task += 5
    assert (model.current_task, type(model).current_task.__doc__[:5]) == (5, "Index")


def test_iterations_count_steps(run_tiny):
    @register_model("counts-iterations")
    class CountsIterations(SGD):
        def begin_task(self, dataset):
            self.seen = []

        def observe(self, inputs, labels, not_aug_inputs):
            self.seen.append((self.task_iteration, self.epoch_iteration))
            return 0.0

    model, _, _ = run_tiny("counts-iterations", n_epochs=2)
    assert model.seen == [(step, step % 5) for step in range(10)]


def test_optimizer_is_rebuilt_per_task_on_request(run_tiny):
    @register_model("resets")
    class Resets(SGD):
        RESET_OPTIMIZER = True

        def begin_task(self, dataset):
            self.states = [*getattr(self, "states", []), len(self.opt.state)]

    assert run_tiny("resets", optim_mom=0.9)[0].states == [0, 0, 0]


def test_observe_gets_the_fields_that_a_model_adds_to_the_items(tiny, run_tiny):
    @register_model("teacher-logits")
    class TeacherLogits(SGD):
        def begin_task(self, dataset):
            split = dataset.train_loader.dataset
            split.logits = torch.as_tensor(split.targets)[:, None].float()
            split.extra_return_fields += ("logits",)

        def observe(self, inputs, labels, not_aug_inputs, logits=None, epoch=None):
            assert torch.equal(logits[:, 0], labels.float())
            self.rows = getattr(self, "rows", 0) + len(logits)
            return {"loss": 0.5, "extra": 1}

    model, dataset, _ = run_tiny("teacher-logits")
    assert model.rows == 3 * 36
    loader = dataset.train_loader
    assert [len(part) for part in next(iter(loader))] == [8, 8, 8, 8]
    loader.dataset.data = list(loader.dataset.data)  # read item by item from now on
    _, labels, _, logits = next(iter(loader))
    assert loader.fallback_reason is not None
    assert torch.equal(logits[:, 0], labels.float())


def fixed(self, inputs, labels, not_aug_inputs):
    return 0.25


def keywords(self, inputs, labels, not_aug_inputs, **kwargs):
    assert kwargs == {"epoch": 3}
    return 0.25


@pytest.mark.parametrize("observe", [fixed, keywords])
def test_observe_takes_what_its_signature_names(tiny, observe):
    register_model("minimal")(type("Minimal", (SGD,), {"observe": observe}))
    model, dataset = load_runner("minimal", "seq-tiny")
    batch = next(iter(dataset.meta_get_data_loaders()[0]))
    assert model.meta_observe(*batch, epoch=3) == 0.25
