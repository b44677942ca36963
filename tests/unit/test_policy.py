"""Whether compiling pays: decided by arithmetic, said in words."""

import pytest
import torch

from mammoth_compiled import load_runner, train
from mammoth_compiled.engine.policy import decide, forward_flops

CPU = torch.device("cpu")


@pytest.fixture
def net(tiny):
    return tiny.Net(6)


def test_flops_by_hand(net):
    # Two for each multiplication with its addition: 8x8 pixels, 4 maps of 3x3x3 weights; 64 by 6.
    convolution = 2 * 64 * 4 * 27
    head = 2 * 64 * 6
    assert forward_flops(net, torch.rand(5, 3, 8, 8)) == 5 * (convolution + head)


def test_counting_changes_nothing(net):
    net.norm.eval()
    modes = [m.training for m in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    forward_flops(net, torch.zeros(2, 3, 8, 8))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(("mode", "compiles"), [("on", True), ("off", False)])
def test_the_user_decides(net, mode, compiles):
    decision = decide(mode, CPU, net, torch.rand(8, 3, 8, 8), steps=1)
    assert (decision.compile, decision.reason) == (compiles, f"--compile {mode}")


def test_on_a_gpu_always(net):
    assert decide("auto", torch.device("cuda"), net, torch.rand(1, 3, 8, 8), steps=1).compile


def test_on_a_cpu_when_the_run_is_long_enough(net):
    images = torch.rand(8, 3, 8, 8)
    short = decide("auto", CPU, net, images, steps=10)
    long = decide("auto", CPU, net, images, steps=10**9)
    assert (short.compile, long.compile) == (False, True)
    assert "auto: 10 steps of about" in short.reason
    assert "compiling saves about 0 s and costs about" in short.reason


@pytest.mark.parametrize(
    ("args", "steps"), [({}, 3 * 2 * 18), ({"debug_mode": 1}, 3 * 2 * 6), ({"joint": 1}, 2 * 54)]
)
def test_the_steps_to_come(tiny, capsys, args, steps):
    # Batches of 2 of 36 images a task, two epochs, three tasks.
    args = {"seed": 0, "batch_size": 2, "n_epochs": 2, **args}
    results = train(*load_runner("sgd", "seq-tiny", args))
    assert f"compile: off (auto: {steps} steps of about" in capsys.readouterr().out
    assert results.notes["compile"] is False
