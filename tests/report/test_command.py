"""python -m mammoth_compiled.report, its figures, and the table of pandas."""

import builtins

import pytest
from PIL import Image

from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.report import load
from mammoth_compiled.report.__main__ import main


def test_report_of_a_run_folder_is_written_into_it(make_run, capsys):
    folder = make_run("er", 0)
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"report: {folder / 'report.html'}"
    assert out.splitlines()[1].startswith("er  ")
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_leaderboard_has_intervals_over_seeds(make_run, tmp_path, capsys):
    runs = [str(make_run(model, seed)) for model in ("er", "sgd") for seed in range(3)]
    assert main([*runs, "--output", str(tmp_path / "all.html"), "--title", "Mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 + 1
    assert lines[1].count("±") >= 4
    assert "<h1>Mine</h1>" in (tmp_path / "all.html").read_text()


def test_figures_are_png_and_svg(make_run, tmp_path, capsys):
    other = make_run("der", 0, num_tasks=14, changes={"confusion": []})
    runs = [str(make_run("er", 0)), str(other)]
    figures = tmp_path / "figures"
    output = str(tmp_path / "r.html")
    assert main([*runs, "--output", output, "--figures", str(figures)]) == 0
    names = {path.name for path in figures.iterdir()}
    stems = {
        *(f"{s}-over-tasks" for s in ("class_il", "task_il")),
        *(f"{s}-leaderboard" for s in ("class_il", "task_il")),
        *(f"{s}-matrix-{m}" for s in ("class_il", "task_il") for m in ("er", "der")),
        "forgetting",
        "confusion-er",
    }
    assert names == {f"seq-tiny-{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    with Image.open(figures / "seq-tiny-class_il-over-tasks.png") as image:
        assert image.width > 800
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert f"figures: {len(names)} files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.json"], "error: there is no run at absent.json"),
        (["."], "error: . has no results.json"),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


def test_tables_of_runs_and_of_tasks(make_run):
    runs = [make_run(model, seed) for model in ("er", "sgd") for seed in (0, 1)]
    table = load(runs[0].parent)
    assert table[["model", "seed"]].values.tolist() == [
        ["er", 0],
        ["er", 1],
        ["sgd", 0],
        ["sgd", 1],
    ]
    assert table.groupby("model")["class_il"].mean().between(0, 1).all()
    assert table["batch_size"].unique().tolist() == [8]
    tasks = load(runs, per="task")
    assert len(tasks) == 4 * (1 + 2 + 3 + 4)
    last = tasks[tasks.after_task == 3].groupby(["model", "seed"])["class_il"].mean()
    assert last.tolist() == pytest.approx(table["class_il"].tolist())
    with pytest.raises(ConfigError, match="per must be 'run' or 'task', got 'epoch'"):
        load(runs, per="epoch")


@pytest.mark.parametrize("package", ["pandas", "matplotlib"])
def test_missing_extras_name_the_remedy(make_run, monkeypatch, capsys, package):
    folder = make_run("er", 0)
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    if package == "pandas":
        with pytest.raises(MammothError, match=r"pip install 'mammoth-compiled\[report\]'"):
            load(folder)
    else:
        assert main([str(folder), "--figures", str(folder)]) == 2
        assert "pip install 'mammoth-compiled[report]'" in capsys.readouterr().err
