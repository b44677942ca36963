"""Recompilations: the second is reported, many in few calls are too many."""

import pytest

from mammoth_compiled.compiler import counters
from mammoth_compiled.engine import recompilation
from mammoth_compiled.engine.recompilation import FEW_CALLS, MANY_RECOMPILATIONS, RecompilationWatch


@pytest.fixture
def call(monkeypatch):
    """Returns a function that makes one call, which compiles a graph for the guard given."""
    state = {"guard": ""}
    monkeypatch.setattr(recompilation.counters, "failed_guard", lambda num_graphs: state["guard"])
    watch = RecompilationWatch("Net")

    def make(kind="train", compiles=False, guard=""):
        state["guard"] = guard
        with watch.watch(kind) as outcome:
            if compiles:
                counters.count_graph()
        return outcome

    return make


def test_first_compilations_are_not_recompilations(call):
    for _ in range(5):
        outcome = call(compiles=True)  # as with graph breaks, whose parts follow later
        assert (outcome.num_recompilations, outcome.recompiles_often) == (0, False)


def test_the_second_recompilation_is_reported_with_its_guard(call):
    call(compiles=True)
    assert call(compiles=True, guard="a == 1").num_recompilations == 1
    with pytest.warns(UserWarning, match="Net was recompiled a second time .* failed: a == 2"):
        assert call(compiles=True, guard="a == 2").num_recompilations == 2


@pytest.mark.filterwarnings("ignore:Net was recompiled")
@pytest.mark.parametrize(("apart", "often"), [(1, True), (FEW_CALLS, False)])
def test_many_in_few_calls_are_too_many(call, apart, often):
    call(compiles=True)
    for _ in range(MANY_RECOMPILATIONS):
        for _ in range(apart):
            call()
        outcome = call(compiles=True, guard="a == 1")
    assert outcome.recompiles_often is often


def test_kinds_are_counted_apart(call):
    for kind in ("train", "eval", "features"):
        call(kind, compiles=True)
        assert call(kind, compiles=True, guard="a == 1").num_recompilations == 1
