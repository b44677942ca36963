"""Which calls of a backbone run compiled, and whether a run compiles at all."""

import pytest
import torch

from mammoth_compiled import load_runner, train
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE
from mammoth_compiled.engine.compute import MAX_UNDECLARED_SIZES, UNDECLARED_STEPS, Compute
from mammoth_compiled.engine.cost import COMPILE_S, forward_profile
from mammoth_compiled.registry import backbones

CPU = torch.device("cpu")


@pytest.fixture
def net(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path))  # nothing was compiled before
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tiny.Net(6)


@pytest.fixture
def compute():
    """Compiles, and knows that steps pass batches of 8 and 12."""
    compute = Compute(CPU, compile=True)
    compute.declare({8, 12})
    return compute


def step(compute, *batch_sizes, num_images=8):
    """Returns for each call of a training step whether it is compiled."""
    with compute.step(num_images):
        return [compute.compiles("out", size, training=True) for size in batch_sizes]


# --- which calls are compiled ---


def test_calls_of_a_step_are_compiled_from_the_second_step_on(compute):
    assert step(compute, 8, 12, 8) == [False, False, False]
    assert step(compute, 8, 12, 8) == [True, True, True]


def test_a_kind_that_is_new_in_a_step_is_eager_throughout_it(compute):
    step(compute, 8)
    assert step(compute, 8, 12, 12) == [True, False, False]
    assert step(compute, 8, 12, 12) == [True, True, True]


def test_a_ragged_step_is_wholly_eager(compute):
    for _ in range(3):
        step(compute, 8, 12)
    assert step(compute, 5, 8, 12, num_images=5) == [False, False, False]
    assert step(compute, 8, 12) == [True, True]


def test_a_ragged_step_teaches_nothing(compute):
    step(compute, 8)
    for _ in range(UNDECLARED_STEPS + 2):
        step(compute, 5, 12, num_images=5)
    assert step(compute, 12, 5) == [False, False]


def test_returnt_and_mode_are_kinds_of_their_own(compute):
    def calls():
        with compute.step(8):
            made = [compute.compiles("out", 8, True), compute.compiles("both", 8, True)]
            made.append(compute.compiles("out", 8, False))
            with torch.no_grad():
                made.append(compute.compiles("out", 8, True))
        return made

    assert calls() == [False] * 4
    assert calls() == [True] * 4


def test_an_undeclared_size_is_compiled_once_it_keeps_recurring(compute):
    compiled = [step(compute, 8, 3)[1] for _ in range(UNDECLARED_STEPS + 2)]
    assert compiled == [False] * UNDECLARED_STEPS + [True, True]


def test_few_undeclared_sizes_are_compiled(compute):
    sizes = list(range(20, 20 + MAX_UNDECLARED_SIZES + 3))
    for _ in range(UNDECLARED_STEPS + 2):
        step(compute, 8, *sizes)
    assert sum(step(compute, 8, *sizes)[1:]) == MAX_UNDECLARED_SIZES


@pytest.mark.parametrize(("size", "compiled"), [(EVAL_BATCH_SIZE, True), (8, True), (5, False)])
def test_outside_steps_known_sizes_are_compiled(compute, size, compiled):
    with torch.no_grad():
        assert compute.compiles("out", size, training=False) is compiled


def test_outside_steps_a_call_with_gradients_is_compiled_the_second_time(compute):
    assert [compute.compiles("out", 8, True) for _ in range(3)] == [False, True, True]


def test_nothing_is_compiled_when_off_or_disabled(compute):
    off = Compute(CPU)
    off.declare({8})
    for _ in range(2):
        assert step(off, 8) == [False]
        step(compute, 8)
    with pytest.warns(UserWarning, match="Linear runs eagerly from here on, because it must"):
        compute.disable(torch.nn.Linear(1, 1), "it must")
    assert step(compute, 8) == [False]


def test_a_resumed_run_compiles_the_same_calls(compute):
    for _ in range(UNDECLARED_STEPS + 1):
        step(compute, 8, 3)
    step(compute, 12)
    resumed = Compute(CPU)
    resumed.declare({8, 12})
    resumed.load_state_dict(compute.state_dict())
    for calls in [(8, 3), (12,), (4,), (8, 12, 3, 4)]:
        assert step(resumed, *calls) == step(compute, *calls)
    assert step(resumed, 8, num_images=5) == step(compute, 8, num_images=5) == [False]


@pytest.mark.parametrize(("mode", "compiles"), [("auto", True), ("on", True), ("off", False)])
def test_a_resumed_run_may_override_the_decision(compute, mode, compiles):
    resumed = Compute(CPU)
    resumed.load_state_dict(compute.state_dict(), mode)
    assert resumed.compile is compiles


def test_what_was_disabled_stays_disabled(net):
    compute = Compute(CPU, compile=True)
    with pytest.warns(UserWarning, match="because it must"):
        compute.disable(net, "it must")
    compute.decide("on", net, torch.rand(8, 3, 8, 8), num_steps=1)
    assert (compute.compile, compute.reason) == (False, "it must")
    resumed = Compute(CPU)
    resumed.load_state_dict(compute.state_dict(), "on")
    assert (resumed.compile, resumed.reason) == (False, "it must")


# --- whether to compile ---


def test_flops_by_hand(net):
    # Two per multiply-add: 8x8 pixels with 4 channels of 3x3x3 weights; 64 features to 6 classes.
    profile = forward_profile(net, torch.rand(5, 3, 8, 8))
    assert profile.flops == {"narrow pooled": 5 * 2 * 64 * 4 * 27, "mm": 5 * 2 * 64 * 6}
    assert profile.total == sum(profile.flops.values())


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("cnn", {"narrow pooled", "mm"}),
        ("cnn-wide", {"narrow pooled", "pooled", "mm"}),
        ("resnet18", {"narrow convolution", "convolution", "mm"}),
        ("attention-cnn", {"narrow convolution", "convolution", "bmm", "mm"}),
        ("mnistmlp", {"mm"}),
    ],
)
def test_kinds_of_operations(name, kinds):
    net = backbones[name].target(num_classes=10)
    shape = (1, 28, 28) if name == "mnistmlp" else (3, 32, 32)
    assert set(forward_profile(net, torch.rand(2, *shape)).flops) == kinds


def test_counting_flops_changes_nothing(net):
    net.norm.eval()
    modes = [m.training for m in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    forward_profile(net, torch.zeros(2, 3, 8, 8))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def decide(net, mode="auto", device=CPU, num_steps=1, images_per_step=None):
    compute = Compute(device)
    compute.decide(mode, net, torch.rand(8, 3, 8, 8), num_steps, images_per_step)
    return compute


@pytest.mark.parametrize(("mode", "compiles"), [("on", True), ("off", False)])
def test_the_user_decides(net, mode, compiles):
    compute = decide(net, mode)
    assert (compute.compile, compute.reason) == (compiles, f"--compile {mode}")


def test_auto_compiles_on_a_gpu(net):
    assert decide(net, device=torch.device("cuda")).compile


def test_auto_compiles_long_runs_on_a_cpu(net):
    short, long = decide(net, num_steps=10), decide(net, num_steps=10**9)
    assert (short.compile, long.compile) == (False, True)
    assert "auto: in 10 steps on the CPU compiling saves about 0 s and costs about" in short.reason


def test_auto_compiles_sooner_what_was_compiled_before(net):
    def first_compiled(steps=range(10_000, 10_000_000, 10_000)):
        return next(n for n in steps if decide(net, num_steps=n).compile)

    cold = first_compiled()
    fewer = cold * 3 // 4
    assert not decide(net, num_steps=fewer).compile
    compute = decide(net, num_steps=cold)
    compute.has_compiled = True  # as in a run, whose first task then notes it
    compute.remember_compilation()
    again = decide(net, num_steps=fewer)
    assert again.compile
    assert "from the cache" in again.reason
    # For another backbone the C++ library is there.
    wider = type(net)(6, width=8)
    num_leaves = sum(1 for module in net.modules() if not any(module.children()))
    first_s, prepared_s, cached_s = (
        base + num_leaves * per_leaf
        for base, per_leaf in (COMPILE_S[level] for level in ("first", "prepared", "cached"))
    )
    assert first_s > prepared_s > cached_s
    reasons = [decide(n, num_steps=100).reason for n in (wider, net)]
    assert reasons[0].endswith(f"costs about {prepared_s:.0f} s")
    assert f"costs about {cached_s:.0f} s, from the cache" in reasons[1]


def test_auto_counts_replayed_images(net):
    images = [
        load_runner(model, "seq-fmnist-mini", {"backbone": "mnistmlp", **args})[0].images_per_step()
        for model, args in {
            "sgd": {"batch_size": 8},
            "er": {"batch_size": 8, "minibatch_size": 6, "buffer_size": 20},
            "derpp": {"batch_size": 8, "minibatch_size": 6, "buffer_size": 20},
        }.items()
    ]
    assert images == [8, 14, 20]
    steps = next(n for n in range(10_000, 10_000_000, 10_000) if decide(net, num_steps=n).compile)
    assert decide(net, num_steps=steps // 2 + 10_000, images_per_step=16).compile
    assert not decide(net, num_steps=steps // 2 + 10_000, images_per_step=8).compile


def test_what_did_not_compile_is_not_remembered(net):
    compute = decide(net, num_steps=10**9)
    compute.remember_compilation()
    assert "from the cache" not in decide(net).reason


@pytest.mark.parametrize(
    ("args", "steps"), [({}, 3 * 2 * 18), ({"debug_mode": 1}, 3 * 2 * 6), ({"joint": 1}, 2 * 54)]
)
def test_auto_counts_the_steps_of_the_run(tiny, capsys, args, steps):
    # Batches of 2 of 36 images per task, two epochs, three tasks.
    args = {"seed": 0, "batch_size": 2, "n_epochs": 2, "device": "cpu", **args}
    results = train(*load_runner("sgd", "seq-tiny", args))
    assert f"compile: off (auto: in {steps} steps on the CPU" in capsys.readouterr().out
    assert results.notes["compile"] is False


@pytest.mark.parametrize(("buffer_size", "steps"), [(10, 3 * 5), (50, 18 + 25 + 25)])
def test_auto_counts_the_steps_on_stored_images_alone(tiny, capsys, buffer_size, steps):
    # GDumb fills its buffer, with 36 images per task, when a task begins: after the decision.
    args = {"seed": 0, "batch_size": 2, "n_epochs": 2, "buffer_size": buffer_size, "device": "cpu"}
    results = train(*load_runner("gdumb", "seq-tiny", args))
    assert f"compile: off (auto: in {2 * steps} steps on the CPU" in capsys.readouterr().out
    assert results.notes["steps"] == 2 * steps
