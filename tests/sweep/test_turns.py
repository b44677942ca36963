"""Runs that take turns in one process compute what each computes alone."""

import random

import numpy as np
import pytest
import torch
from hardware import DEVICE
from operation_log import LogCapture

from mammoth_compiled import console, load_runner, train
from mammoth_compiled.engine.captured_step import training_step
from mammoth_compiled.engine.numerics import numerics
from mammoth_compiled.sweep import turns as turns_module
from mammoth_compiled.sweep.turns import TurnObserver, Turns

ARGS = {
    **{"batch_size": 8, "n_epochs": 3, "compile": "off", "optim_mom": 0.9},
    **{"buffer_size": 9, "minibatch_size": 7},
}
SEEDS = (0, 1, 2)


@pytest.fixture
def often(monkeypatch):
    """Lets runs pass on after every step."""
    monkeypatch.setattr(turns_module, "STEPS_PER_TURN", 1)


def state_of(model):
    return {
        **model.net.state_dict(),
        **{f"buffer {k}": v for k, v in model.buffer.serialize().items()},
    }


def runs(seeds, turns=None, **arguments):
    """Trains with several seeds, in turns or one after another; the states and losses of each."""
    found = {}

    def run(seed):
        model, dataset = load_runner(
            "er", "seq-tiny-augmented", {**ARGS, **arguments, "seed": seed}
        )
        observers = [] if turns is None else [TurnObserver(turns, [], lambda: None)]
        results = train(model, dataset, observers=observers)
        found[seed] = state_of(model), results.loss, results.class_il

    functions = [lambda seed=seed: run(seed) for seed in seeds]
    if turns is None:
        for function in functions:
            function()
    else:
        turns.run(functions)
    return found


def assert_equal(together, alone):
    assert set(together) == set(alone)
    for seed, (state, *measures) in alone.items():
        assert together[seed][1:] == tuple(measures)
        for name, value in state.items():
            assert torch.equal(together[seed][0][name], value), name


@pytest.mark.usefixtures("tiny", "often")
def test_captured_steps_equal_those_of_runs_alone(monkeypatch):
    steps = []

    def captured_step(model, compute, cuda_graph):
        steps.append(training_step(model, compute, cuda_graph, LogCapture(model)))
        return steps[-1]

    monkeypatch.setattr("mammoth_compiled.engine.train.training_step", captured_step)
    alone = runs(SEEDS)
    count = len(steps)
    together = runs(SEEDS, Turns(torch.device("cpu")))
    assert len(steps) == 2 * count
    assert all(step.replays > 0 for step in steps)
    # Steps of the runs alternate: all have begun their first task before one ends it.
    assert {step.model for step in steps[count : count + 3]} == {
        step.model for step in steps[count:]
    }
    assert_equal(together, alone)


def test_random_numbers_and_the_console_belong_to_a_run(capsys):
    drawn = {}
    turns = Turns(torch.device("cpu"))

    def draw(seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        lines = []
        with console.copied_to(lines.append), console.quiet(seed == 1):
            for k in range(3):
                console.say(f"run {seed}, turn {k}")
                drawn.setdefault(seed, []).append(
                    (random.random(), np.random.random(), float(torch.rand(())))
                )
                turns.pass_on()
        assert lines == [f"run {seed}, turn {k}" for k in range(3)]

    before = torch.get_rng_state()
    turns.run([lambda seed=seed: draw(seed) for seed in SEEDS])
    assert torch.equal(before, torch.get_rng_state())
    expected = np.random.RandomState(2).random(3)
    assert [values[1] for values in drawn[2]] == list(expected)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == ["run 0, turn 0", "run 2, turn 0", "run 0, turn 1"]


def test_a_function_that_ends_leaves_the_turn_to_the_others():
    order = []
    turns = Turns(torch.device("cpu"))

    def count(name, calls):
        for _ in range(calls):
            order.append(name)
            turns.pass_on()

    turns.run([lambda: count("a", 3), lambda: count("b", 1), lambda: count("c", 2)])
    assert order == ["a", "b", "c", "a", "c", "a"]


@pytest.mark.gpu
@pytest.mark.usefixtures("tiny")
def test_runs_on_a_gpu_equal_runs_alone():
    arguments = {"compile": "on", "device": str(DEVICE), "n_epochs": 20, "deterministic": True}
    alone = runs(SEEDS, **arguments)
    with numerics(DEVICE, "auto", deterministic=True):
        together = runs(SEEDS, Turns(DEVICE), **arguments)
    assert_equal(together, alone)
