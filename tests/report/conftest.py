"""Runs to report on: a real one, and a large comparison that is synthetic.

The large one perturbs the file of the real run: 12 models, 5 seeds, 20 tasks with made-up
accuracies and confusion matrices. It shows whether pages stay readable, not how models compare.
"""

import copy
import json
import random

import pytest

MODELS = ("sgd", "er", "er-ace", "der", "derpp", "xder", "lwf", "ewc-on", "si", "agem", "icarl")
NUM_TASKS, NUM_SEEDS = 20, 5


@pytest.fixture
def results_file(run_tiny, tmp_path):
    """The results file of a real run: three tasks of seq-tiny."""
    *_, results = run_tiny("er", buffer_size=10)
    path = tmp_path / "real" / "results.json"
    results.write_json(path)
    return path


def perturbed(content, model, seed, num_tasks, **config):
    """Returns the results of a made-up run, derived from those of a real one."""
    rng = random.Random(f"{model}{seed}{config}")
    quality = random.Random(f"{model}{config}").random()
    content = copy.deepcopy(content)
    content["config"] |= {"model": model, "seed": seed, **config}
    content["class_il"] = [
        [
            min(1.0, max(0.0, 0.97 - (1.1 - quality) * 0.05 * (t - j) + rng.gauss(0, 0.02)))
            for j in range(t + 1)
        ]
        for t in range(num_tasks)
    ]
    content["task_il"] = [[0.5 + value / 2 for value in row] for row in content["class_il"]]
    content["summary"] = {"images_per_s": 1000 + 500 * quality + rng.gauss(0, 20), "train_s": 9.0}
    return content


@pytest.fixture
def make_run(results_file, tmp_path):
    """Returns a function that writes a run folder of a made-up run and returns its path."""
    content = json.loads(results_file.read_text())

    def make(model, seed, num_tasks=4, changes=None, **config):
        made = perturbed(content, model, seed, num_tasks, **config) | (changes or {})
        name = "-".join([model, *(f"{k}{v}" for k, v in config.items()), f"s{seed}"])
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(made))
        return folder

    return make


@pytest.fixture
def many_runs(make_run):
    """The folder of the large synthetic comparison."""
    for seed in range(NUM_SEEDS):
        for model in MODELS:
            made = make_run(model, seed, NUM_TASKS)
        made = make_run("er", seed, NUM_TASKS, buffer_size=5000)
    return made.parent
