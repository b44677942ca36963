"""The page of a report: its sections, and how it looks in headless Chromium."""

import re
from pathlib import Path

import browser
import pytest
from browser import in_browser

from mammoth_compiled.errors import MammothError
from mammoth_compiled.report import read_runs, render, write_report
from mammoth_compiled.report.groups import group

DRIVER = Path(__file__).with_name("page_driver.mjs")


def visit(*visits):
    """Opens pages, and returns what the driver found."""
    return browser.visit(DRIVER, *visits)


def assert_readable(found, path):
    assert found["problems"] == []
    assert found["requests"] == [path.as_uri()]  # nothing but the file is loaded
    assert found["overlapping"] == []
    assert found["overflow"] <= 0


@in_browser
def test_one_run_on_a_desktop_a_phone_and_in_the_dark(results_file, tmp_path):
    path = write_report([results_file], tmp_path / "report.html")
    url = path.as_uri()
    desktop, phone, dark = visit(
        {"url": url}, {"url": url, "width": 360}, {"url": url, "width": 360, "dark": True}
    )
    for found in (desktop, phone, dark):
        assert_readable(found, path)
        assert found["charts"] == 2  # one line per chart
    assert desktop["headings"][0] == "Results"
    assert "Paired tests" not in desktop["headings"]
    assert desktop["background"] != dark["background"]
    assert desktop["color"] != dark["color"]


@in_browser
def test_twelve_methods_and_twenty_tasks(many_runs, tmp_path):
    path = write_report([many_runs], tmp_path / "report.html")
    url = path.as_uri()
    desktop, phone, dark = visit(
        {"url": url, "sort": 2},
        {"url": url, "width": 360},
        {"url": url, "dark": True, "width": 800},
    )
    for found in (desktop, phone, dark):
        assert_readable(found, path)
        assert found["charts"] == 2 * 12
    descending, ascending = desktop["sorted"]
    (benchmark,) = group(read_runs([many_runs]))
    assert descending == [method.label for method in benchmark.methods]  # the best first
    assert ascending == descending[::-1]


def test_text_of_users_is_escaped(make_run):
    page = render(read_runs([make_run("<script>alert(1)</script>", 0)]), title="a < b & c")
    assert "<script>alert" not in page
    assert "a &lt; b &amp; c" in page


def test_comparison_says_what_the_seeds_allow(make_run):
    few = [make_run(model, seed) for model in ("er", "sgd") for seed in range(3)]
    page = render(read_runs(few))
    assert "With 3 pairs p is at least 0.25, 0.25 corrected for all" in page
    assert "6 seeds would do" in page
    more = [make_run(model, seed) for model in ("er", "sgd") for seed in range(3, 6)]
    page = render(read_runs([*few, *more]))
    assert "With 6 pairs p is at least 0.031." in page
    page = render(read_runs([few[0], few[4]]))
    assert "the methods share fewer than two seeds" in page


def test_paired_tests_of_many_methods_have_numbers_above_their_columns(make_run):
    def head_and_rows(number):
        runs = [make_run(f"m{number}-{i}", seed) for i in range(number) for seed in range(2)]
        section = render(read_runs(runs)).partition("Paired tests")[2].partition("</section>")[0]
        head, _, body = section.partition("</thead>")
        return re.findall(r'<th scope="col">(.*?)</th>', head)[1:], re.findall(
            r'<th scope="row">(.*?)</th>', body
        )

    head, rows = head_and_rows(3)
    assert [name[:4] for name in head] == ["2. m", "3. m"]
    assert len(rows) == 2
    head, rows = head_and_rows(8)
    assert [re.sub(r"<.*?>", "", name) for name in head] == [f"{n}." for n in range(2, 9)]
    assert [f"{row.split()[0]}" for row in rows] == [f"{n}." for n in range(1, 9)]
    assert re.search(r'title="m8-\d"', head[0])


def test_confusion_matrices_of_few_and_of_many_classes(make_run):
    few = make_run("er", 0, changes={"confusion": [[3, 1], [0, 4]]})
    page = render(read_runs([few]))
    assert "Confusion after the last task" in page
    assert re.search(r'title="0, 0: 75\.0 %"', page)
    names = ["cat", "dog", "owl"]
    named = [
        make_run("si", s, changes={"confusion": [[3, 1], [0, 4]], "class_names": names})
        for s in (0, 1)
    ]
    page = render(read_runs(named))
    assert re.search(r'title="0 cat, 1 dog: 25\.0 %"', page)
    assert '<th scope="row">1 dog</th>' in page
    other = make_run("si", 2, changes={"confusion": [[3, 1], [0, 4]], "class_names": names[::-1]})
    assert "dog" not in render(read_runs([*named, other]))
    identity = [[float(i == j) for j in range(100)] for i in range(100)]
    many = make_run("der", 0, changes={"confusion": identity})
    page = render(read_runs([many]))
    assert 'src="data:image/png;base64,' in page


def test_guards_that_failed_after_the_first_task(make_run):
    compiler = {"graphs": 3, "graphs_after_first_task": 1, "guards_after_first_task": ["x < 3"]}
    page = render(
        read_runs([make_run("er", s, changes={"notes": {"compiler": compiler}}) for s in (0, 1)])
    )
    assert page.count("er: <code>x &lt; 3</code>") == 1
    assert "Guards that failed" not in render(read_runs([make_run("er", 2)]))


def test_figures_show_the_best_of_many_methods(make_run):
    runs = [make_run("er", 0, buffer_size=size) for size in range(20)]
    page = render(read_runs(runs))
    assert "Figures and tests show the best 18 of 20 methods" in page
    assert page.count('class="series ') == 2 * 18
    leaderboard = page.partition("<tbody>")[2].partition("</tbody>")[0]
    assert leaderboard.count("<tr>") == 20


def test_evaluations_within_tasks(run_tiny, tmp_path):
    *_, results = run_tiny("er", buffer_size=10, eval_every=2)
    path = tmp_path / "results.json"
    results.write_json(path)
    (run,) = read_runs([path])
    assert run.evaluations() == results.accuracies("class_il")
    assert len(run.evaluations()) > 3
    page = render([run])
    assert "Evaluations within tasks" in page
    last = f"er, {len(run.evaluations())}: {100 * run.class_il[-1][0]:.1f} %"
    assert f"<title>{last}</title>" in page  # the accuracy on the first task


def test_datasets_have_sections_of_their_own(make_run):
    page = render(read_runs([make_run("er", 0), make_run("er", 1, dataset="seq-other")]))
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["seq-other", "seq-tiny"]


def test_runs_without_a_finished_task_raise(make_run):
    run = make_run("er", 0, changes={"class_il": [], "task_il": [], "interrupted": True})
    with pytest.raises(MammothError, match="none of the runs finished a task"):
        render(read_runs([run]))
