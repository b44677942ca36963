"""Results in a notebook."""

import re

from mammoth_compiled.results import Results


def test_results_show_matrices_and_measures(run_tiny):
    *_, results = run_tiny("er", buffer_size=10)
    text = results._repr_html_()
    for row in results.class_il:
        for value in row:
            assert f">{100 * value:.1f}<" in text
    assert text.count('class="heatmap') == 2
    assert "er, seq-tiny" in text
    assert re.search(rf">{100 * results.accuracy['class_il']:.2f}<", text)
    assert "<script" not in text  # notebooks remove scripts


def test_results_of_one_task_have_no_chart():
    results = Results({"model": "joint"}, [[0.5, 0.75]], [[0.5, 0.75]])
    text = results._repr_html_()
    assert "<figure" in text
    assert 'class="chart' not in text


def test_results_without_a_task():
    assert "no task was finished" in Results()._repr_html_()
