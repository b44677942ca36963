"""README stays short, its links lead somewhere, and its figures are those of the benchmarks."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from mammoth_compiled.registry import datasets, models

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()
RESULTS = REPOSITORY / "benchmarks" / "results"


@pytest.fixture(scope="module")
def chart():
    spec = importlib.util.spec_from_file_location("chart", REPOSITORY / "benchmarks" / "chart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speedups(name, key="speed_up"):
    content = json.loads((RESULTS / f"{name}.json").read_text())
    rows = content.get("loops") or content["cases"].values()
    return [row[key]["median"] for row in rows]


def test_readme_is_short():
    assert len(README.splitlines()) < 150


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)|src(?:set)?=\"([^\"]+)\"", README)
    paths = [link or source for link, source in links if not link.startswith("http")]
    assert paths
    assert [path for path in paths if not (REPOSITORY / path).is_file()] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_chart_is_drawn_from_the_committed_results(chart, theme):
    drawn = (REPOSITORY / "docs" / "_static" / f"speed-{theme}.svg").read_text()
    assert drawn == chart.draw(theme), "run python benchmarks/chart.py"


def test_figures_in_the_description_of_the_chart():
    (alt,) = re.findall(r'<img alt="([^"]+)"', README)
    gpu = speedups("gpu_h100_loops")
    cpu = speedups("train_loop", "ours_speed_up") + speedups("train_loop_derpp", "ours_speed_up")
    figures = [
        *(f"{value:.0f}x" for value in gpu[:2]),
        *(f"{value:.0f}x" for value in sorted(gpu[2:])),
        *(f"{value:.1f}x" for value in (min(cpu), max(cpu))),
    ]
    assert re.findall(r"[\d.]+x", alt) == figures


def test_figures_of_the_gpu_are_those_of_the_results():
    content = json.loads((RESULTS / "gpu_h100_loops.json").read_text())
    section = README.partition("## On a GPU\n")[2].partition("\n## ")[0]
    rows = [re.split(r" *\| *", line)[1:-1] for line in section.splitlines() if line[:1] == "|"]
    head = [f"{row['model'].upper()}, `{row['backbone']}`" for row in content["loops"]]
    size = {row["batch"] for row in content["loops"]}
    assert rows[0] == [f"batch size {size.pop()}", *head]
    for label, *cells in rows[2:]:
        way = {"plain loop, images/s": "plain", "captured step, images/s": "ours"}[label]
        rates = [row["images_per_s"][way]["median"] for row in content["loops"]]
        assert cells == [f"{rate:,.0f}" for rate in rates]
    assert len(rows) == 4
    measured = content["environment"]
    versions = [measured[key].split("+")[0] for key in ("python", "torch", "triton")]
    words = [measured[key] for key in ("gpu", "driver", "commit", "date")]
    for word in [*words, *versions, f"{measured['cores']} cores"]:
        assert word in section, word


def test_index_page_quotes_the_largest_speedup():
    index = (REPOSITORY / "docs" / "index.md").read_text()
    assert f"trains {max(speedups('gpu_h100_loops')):.0f} times faster" in index


@pytest.mark.parametrize("command", ["mammoth_compiled.run", "pytest"])
def test_commands_that_the_gate_takes_from_readme(command):
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv ")]
    assert sum(command in line for line in lines) == 1


def test_counts_are_those_of_the_registries():
    for page in ("README.md", "docs/index.md"):
        text = (REPOSITORY / page).read_text()
        assert f"[{len(list(models))} methods]" in text, page
        assert f"[{len(list(datasets))} datasets]" in text, page
    comparison = (REPOSITORY / "docs" / "comparison.md").read_text()
    assert f"| methods | {len(list(models))} |" in comparison
    assert f"| datasets | {len(list(datasets)) - 1}, and any folder of images |" in comparison
