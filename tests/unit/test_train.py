"""The training loop: order of hooks, non-finite losses, interruption, checkpoints."""

import math
import os
import re
import warnings

import pytest
import torch

from mammoth_compiled import (
    ContinualModel,
    load_runner,
    register_dataset,
    register_model,
    train,
)
from mammoth_compiled.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MammothError,
    TrainingError,
)
from mammoth_compiled.runner import build

# Batch norm would keep the numbers finite.
DIVERGES = {"backbone": "mnistmlp", "input_size": 192, "lr": 1e20}


@pytest.fixture
def scripted(tiny):
    """A model with given losses that records its calls."""

    @register_model("scripted")
    class Scripted(ContinualModel):
        losses = iter(())
        calls = None

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.calls = []

        def begin_task(self, dataset):
            self.calls.append(f"begin task {dataset.c_task}")

        def end_task(self, dataset):
            self.calls.append(f"end task {dataset.c_task}")

        def begin_epoch(self, epoch, dataset):
            self.calls.append(f"begin epoch {epoch}")

        def end_epoch(self, epoch, dataset):
            self.calls.append(f"end epoch {epoch}")

        def observe(self, inputs, labels, not_aug_inputs, epoch=None):
            self.calls.append(f"observe {len(labels)} in {epoch}")
            loss = next(self.losses, 1.0)
            if isinstance(loss, BaseException):
                raise loss
            return loss

    def make(losses=(), **args):
        args = {"batch_size": 16, "n_epochs": 1, "compile": "off", **args}
        model, dataset = load_runner("scripted", "seq-tiny", args)
        model.losses = iter(losses)
        return model, dataset

    return make


def test_order_of_hooks(scripted):
    model, dataset = scripted(n_epochs=2)
    train(model, dataset)
    epoch = ["observe 16 in {}", "observe 16 in {}", "observe 4 in {}"]
    epochs = [line.format(e) for e in (0, 1) for line in ("begin epoch {}", *epoch, "end epoch {}")]
    assert model.calls == [
        line for task in range(3) for line in (f"begin task {task}", *epochs, f"end task {task}")
    ]


def test_batches_match_their_documentation(tiny):
    @register_model("checks-batches")
    class ChecksBatches(ContinualModel):
        def observe(self, inputs, labels, not_aug_inputs, epoch=None):
            assert self.net.training
            assert inputs.shape == not_aug_inputs.shape == (len(labels), 3, 8, 8)
            assert labels.dtype == torch.int64
            first, end = self.dataset.get_offsets()
            assert ((labels >= first) & (labels < end)).all()
            assert ((not_aug_inputs >= 0) & (not_aug_inputs <= 1)).all()
            assert torch.allclose(inputs, (not_aug_inputs - 0.5) / 0.25)
            return 0.0

    train(*load_runner("checks-batches", "seq-tiny", {"batch_size": 16}))


@pytest.mark.parametrize(
    "loss", [0.5, torch.tensor(0.5), torch.tensor([[0.5]]), 1, torch.tensor(2)]
)
def test_observe_may_return_a_number_or_a_tensor(scripted, loss):
    model, dataset = scripted([loss] * 9)
    assert len(train(model, dataset).class_il) == 3


@pytest.mark.parametrize("kind", [float, torch.tensor])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_raises(scripted, kind, value):
    # Three steps per epoch, two epochs per task: the ninth is task 2, epoch 1, step 3.
    model, dataset = scripted([1.0] * 8 + [kind(value)], n_epochs=2, lr=0.25)
    with pytest.raises(TrainingError) as caught:
        train(model, dataset)
    place = f"the loss became {value} in task 2, epoch 1, step 3 (lr 0.25): try a smaller --lr"
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "what"), [(None, "None"), (torch.zeros(16), r"a tensor of shape \[16\]")]
)
def test_observe_without_a_loss_raises(scripted, loss, what):
    model, dataset = scripted()
    model.observe = lambda *args, epoch: loss
    with pytest.raises(TrainingError, match=f"Scripted.observe returned {what}: return the loss"):
        train(model, dataset)


def test_out_of_memory_says_what_to_lower(scripted):
    model, dataset = scripted([1.0] * 4 + [torch.OutOfMemoryError("tried to allocate")])
    with pytest.raises(TrainingError) as caught:
        train(model, dataset)
    message = str(caught.value)
    assert message.startswith("out of memory on cpu in task 2: it held weights 0 MiB, images of")
    assert "Lower --batch_size, or use --amp bf16" in message


def test_diverging_run_raises(run_tiny):
    with pytest.raises(TrainingError, match=r"in task \d, epoch \d, step \d+ \(lr 1e\+20\)"):
        run_tiny(**DIVERGES)


def test_diverging_task_leaves_no_checkpoint(run_tiny, tmp_path):
    with pytest.raises(TrainingError):
        run_tiny(**DIVERGES, savecheck="task", checkpoint_path=str(tmp_path / "checks"))
    assert not (tmp_path / "checks").exists()


def test_interrupt_keeps_partial_results(scripted, capsys):
    model, dataset = scripted([1.0] * 4 + [KeyboardInterrupt()])
    results = train(model, dataset)
    assert results.interrupted
    assert len(results.class_il) == 1
    assert "Training interrupted" in capsys.readouterr().out


def test_user_errors_propagate(scripted):
    model, dataset = scripted([RuntimeError("mine")])
    with pytest.raises(RuntimeError, match="mine"):
        train(model, dataset)


def test_debug_mode_stops_after_six_batches(scripted):
    model, dataset = scripted(debug_mode=1, n_epochs=2, batch_size=2)
    results = train(model, dataset)
    assert sum(call.startswith("observe") for call in model.calls) == 3 * 2 * 6
    assert results.train_images == [24, 24, 24]


def test_training_twice_restarts_at_the_first_task(scripted):
    model, dataset = scripted()
    train(model, dataset)
    model.calls.clear()
    results = train(model, dataset)
    assert model.calls[0] == "begin task 0"
    assert len(results.class_il) == 3


def test_runners_keep_their_own_arguments(scripted):
    one = scripted(n_epochs=1)
    other = scripted(n_epochs=3)
    train(*one)
    train(*other)
    assert sum("begin epoch" in call for call in one[0].calls) == 3
    assert sum("begin epoch" in call for call in other[0].calls) == 9


def test_train_takes_arguments(scripted):
    model, dataset = scripted(n_epochs=1)
    model.args.n_epochs, args = 1, type(model.args)(**{**vars(model.args), "n_epochs": 2})
    results = train(model, dataset, args)
    assert sum("begin epoch" in call for call in model.calls) == 6
    assert results.config["n_epochs"] == 2


def test_console_output(scripted, capsys):
    train(*scripted())
    output = capsys.readouterr()
    assert re.search(r"Accuracy after task 3: \[Class-IL\] \d+\.\d\d %  \[Task-IL\] ", output.out)
    assert "compile: off (--compile off)" in output.out
    assert output.err == ""


def test_pbar_suffix_is_not_shared(scripted):
    one, other = scripted()[0], scripted()[0]
    one.pbar_suffix["x"] = 1
    assert other.pbar_suffix == {}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers(tiny, optimizer):
    args = {"optimizer": optimizer, "lr": 0.125, "optim_wd": 0.5}
    model, _ = load_runner("sgd", "seq-tiny", args)
    assert type(model.opt).__name__.lower() == optimizer
    assert model.opt.defaults["lr"] == 0.125
    assert model.opt.defaults["weight_decay"] == 0.5
    other = model.get_optimizer([model.net.conv.weight], lr=0.5)
    assert len(other.param_groups[0]["params"]) == 1
    assert other.defaults["lr"] == 0.5


def test_unknown_optimizer_raises(tiny):
    model, _ = load_runner("sgd", "seq-tiny")
    model.args.optimizer = "lion"
    with pytest.raises(ConfigError, match="unknown optimizer 'lion'; valid: adam, adamw, sgd"):
        model.get_optimizer()


def test_model_without_a_step_raises(tiny):
    @register_model("empty")
    class Empty(ContinualModel):
        pass

    with pytest.raises(
        NotImplementedError, match=r"Empty defines neither observe\(.*training_loss"
    ):
        train(*load_runner("empty", "seq-tiny"))


def test_cpu_run_keeps_freed_memory(run_tiny, monkeypatch):
    calls = []
    monkeypatch.setattr("mammoth_compiled.engine.train.keep_freed_memory", lambda: calls.append(1))
    run_tiny("sgd", device="cpu")
    assert calls == [1]


@pytest.mark.parametrize("bf16", [True, False])
def test_emulated_bfloat16_warns(tiny, monkeypatch, bf16):
    monkeypatch.setattr("mammoth_compiled.runner.computes_bf16", lambda _: bf16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_runner("sgd", "seq-tiny", {"amp": "bf16", "device": "cpu"})
        load_runner("sgd", "seq-tiny", {"device": "cpu"})
    expected = ["--amp bf16: cpu only emulates bfloat16, which is slower than --amp off"]
    assert [str(w.message) for w in caught] == ([] if bf16 else expected)


@pytest.mark.filterwarnings("ignore:--amp bf16")
@pytest.mark.parametrize("switch", ["off", "on"])
def test_bfloat16_trains(run_tiny, graph_counter, switch):
    model, _, results = run_tiny("sgd", amp="bf16", compile=switch, lr=0.05, n_epochs=4)
    assert results.task_il[0] == [1.0]
    assert all(p.dtype == torch.float32 for p in model.net.parameters())
    assert (graph_counter.frame_count > 0) == (switch == "on")


def test_own_observe_with_fp16_raises(scripted):
    model, _ = scripted()
    args = type(model.args)(**{**vars(model.args), "amp": "fp16"})
    with pytest.raises(
        ConfigError, match="overrides observe: use --amp bf16, or define training_loss"
    ):
        build(args)


@pytest.fixture
def bypasses(tiny):
    """A model that calls `net.forward`, which compilation does not see."""

    @register_model("bypasses")
    class Bypasses(ContinualModel):
        def training_loss(self, batch):
            return self.loss(self.net.forward(batch.inputs), batch.labels)

    return "bypasses"


@pytest.mark.parametrize("switch", ["on", "off"])
def test_nothing_to_compile_warns(run_tiny, bypasses, graph_counter, switch):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_tiny(bypasses, compile=switch, n_epochs=5)
    messages = [str(w.message) for w in caught]
    expected = (
        "Bypasses: compilation is on, but no call of the backbone in task 1 could be compiled"
    )
    assert [m.startswith(expected) for m in messages] == ([True] if switch == "on" else [])


# --- checkpoints of a run --------------------------------------------------------------------


def checkpoints(folder):
    return sorted(os.listdir(folder))


def test_savecheck_task(run_tiny, tmp_path, capsys):
    run_tiny(savecheck="task", checkpoint_path=str(tmp_path / "checks"))
    names = [f"sgd_seq-tiny_tiny-net_seed0_task{t}.pt" for t in (1, 2, 3)]
    assert checkpoints(tmp_path / "checks") == names
    assert f"checkpoint: {tmp_path / 'checks' / names[2]}" in capsys.readouterr().out


def test_savecheck_last_in_the_default_folder(run_tiny, tmp_path):
    run_tiny(savecheck="last", seed=None)
    assert checkpoints(tmp_path / "data" / "checkpoints") == ["sgd_seq-tiny_tiny-net_task3.pt"]


@pytest.fixture
def saved(run_tiny, tmp_path):
    run_tiny("sgd", savecheck="last", checkpoint_path=str(tmp_path))
    return str(tmp_path / "sgd_seq-tiny_tiny-net_seed0_task3.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": "er", "buffer_size": 9},
            "is from model 'sgd', this run has 'er': use --model sgd",
        ),
        ({"dataset": "seq-tiny-augmented"}, "is from dataset 'seq-tiny', this run has"),
        ({"backbone": "cnn", "input_size": 8}, "from backbone 'tiny-net', this run has 'cnn'"),
        ({"width": 7}, "does not fit backbone 'tiny-net' as built here"),
        ({"joint": 1}, "is from joint False, this run has True: use --joint False"),
        (
            {"optimizer": "adam"},
            "is from optimizer 'sgd', this run has 'adam': use --optimizer sgd",
        ),
    ],
)
def test_checkpoint_of_another_run_raises(run_tiny, saved, change, message):
    with pytest.raises(CheckpointError) as caught:
        run_tiny(**change, loadcheck=saved)
    assert message in str(caught.value)


def test_checkpoint_with_more_tasks_than_the_run_raises(run_tiny, tiny, saved, monkeypatch):
    monkeypatch.setattr(tiny.Dataset, "N_TASKS", 2)
    monkeypatch.setattr(tiny.Dataset, "N_CLASSES", 6, raising=False)
    with pytest.raises(CheckpointError, match="has 3 tasks, the run only 2"):
        run_tiny(loadcheck=saved)


def test_checkpoint_with_another_buffer_raises(run_tiny, tmp_path):
    run_tiny("er", buffer_size=9, savecheck="last", checkpoint_path=str(tmp_path))
    path = str(tmp_path / "er_seq-tiny_tiny-net_seed0_task3.pt")
    with pytest.raises(CheckpointError, match="use --buffer_size 9"):
        run_tiny("er", buffer_size=12, loadcheck=path)


def test_full_disk_leaves_no_file(run_tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MammothError, match=r"cannot write .*task3\.pt: no space"):
        run_tiny(savecheck="task", checkpoint_path=str(tmp_path / "checks"))
    assert not (tmp_path / "checks").exists()


def test_resuming_a_finished_run_trains_nothing(run_tiny, saved):
    _, dataset, results = run_tiny(loadcheck=saved)
    assert len(results.class_il) == 3
    assert dataset.c_task == 2
    assert len(dataset.test_loaders) == 3


def test_training_items_without_the_unaugmented_image_raise(tiny):
    class Pairs(tiny.Split):
        def __getitem__(self, index):
            return super().__getitem__(index)[:2]

    @register_dataset("seq-pairs")
    class PairStream(tiny.Dataset):
        def get_data_loaders(self):
            return (
                Pairs(*tiny.images(8), self.TRANSFORM),
                Pairs(*tiny.images(8), self.TEST_TRANSFORM),
            )

    with pytest.raises(DataError, match=r"'seq-pairs': items of the training set must be \(image,"):
        train(*load_runner("sgd", "seq-pairs", {"batch_size": 8}))
