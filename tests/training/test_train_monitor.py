"""What is seen of a run: charts, page, log."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_celldetr.core.errors import JobError
from napari_celldetr.training.chart import Line, line_chart, smooth, thin, ticks
from napari_celldetr.training.history import LOG, History, read_history
from napari_celldetr.training.monitor import PAGE, Monitor, validation_table
from napari_celldetr.training.page import State, clock, render
from napari_celldetr.training.validation import Scores

RUNNING = State(True, "running", 90.0, 3700.0, "2026-01-01 12:00:00")


def scores(detection=0.8, classes=None, given=False):
    classes = {"a": 0.5, "b": 0.7} if classes is None else classes
    mean = sum(classes.values()) / len(classes) if classes else None
    found = None if given else detection
    return Scores(found, found, found, classes, mean, 30, 2, given, 0.3, 1.0, 0.5)


# --- charts ----------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
def test_ticks_are_round_few_and_inside(low, span, most):
    high = low + span
    if not high > low:
        return
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    slack = 1e-6 * span
    assert all(low - slack <= t <= high + slack for t in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[:1] if len(steps) else 0, rtol=1e-6)


def test_ticks_by_hand():
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(0, 1500, 7) == [0, 250, 500, 750, 1000, 1250, 1500]
    assert ticks(3, 3) == [3]


@given(st.integers(1, 2000), st.integers(1, 50))
def test_thinning_keeps_ends_and_means(count, most):
    x = np.arange(count, dtype=float)
    a, b = thin(x, 2 * x + 1, most)
    assert len(a) == min(count, most)
    assert np.allclose(b, 2 * a + 1)
    assert x.min() <= a.min() <= a.max() <= x.max()


def test_smoothing_is_a_mean_of_the_window_without_unknown_values():
    y = np.random.default_rng(0).normal(size=400)
    y[17] = np.nan
    found = smooth(y, 0.05)
    for i in (0, 3, 17, 200, 399):
        window = y[max(0, i - 10) : i + 11]
        assert found[i] == pytest.approx(np.nanmean(window))
    assert np.isnan(smooth([np.nan] * 3)).all()
    assert smooth([]).size == 0


def test_a_chart_puts_values_where_they_belong():
    line = Line("a", [0, 10], [0, 1], "#000")
    svg = line_chart([line], x_range=(0, 10), y_range=(0, 1), width=200, height=100, name="a<b")
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == "a<b"
    (path,) = [p.attrib["d"] for p in root.iter("path") if p.attrib["class"] == "line"]
    (x0, y0), (x1, y1) = [tuple(map(float, p.split())) for p in path[1:].split("L")]
    frame = next(p.attrib["d"] for p in root.iter("path") if p.attrib["class"] == "axis")
    left, top, bottom, right = map(float, re.findall(r"[\d.]+", frame))
    assert (x0, y0, x1, y1) == (left, bottom, right, top)


def test_a_chart_leaves_unknown_values_out_and_clips_wild_ones():
    wild = [1.0] * 999 + [1e9]
    lines = [Line("a", range(1000), wild, "#000"), Line("b", [1], [float("nan")], "#111")]
    svg = line_chart(lines, x_range=(0, 1000))
    assert "nan" not in svg
    assert "1e+09" not in svg
    assert '"#111"' not in svg


# --- page ------------------------------------------------------------------------------------


def history(steps=30, validated=True):
    made = History()
    made.add({"settings": {"name": "<mine>", "steps": 40}, "precision": {"name": "float32"}})
    for n in range(1, steps + 1):
        line = {"step": n, "seconds": n * 2.0, "loss": 10 / n, "heat": 4 / n, "class": 6 / n}
        made.add(line | {"rates": {"backbone": 1e-4}})
    if validated:
        for n, value in ((10, 0.7), (20, 0.9), (30, 0.8)):
            row = scores(value).as_dict()
            made.add({"step": n, "seconds": n * 2.0, "validation": row})
    return made


def test_the_page_is_whole_and_refreshes_itself_while_running():
    page = render(history(), RUNNING)
    assert '<meta http-equiv="refresh"' in page
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page
    assert "step 30 of 40" in page
    assert "1 h 01 min left" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    # One file: nothing is fetched from anywhere.
    assert "src=" not in page
    assert "http:" not in page.replace("http-equiv", "")
    assert "<script" not in page
    best = re.search(r'<tr class="best"><td>(\d+)</td>', page)
    assert best is not None
    assert best.group(1) == "20"


def test_a_page_of_a_finished_run_stands_still():
    page = render(history(), State(False, "finished", 80, None, "now"))
    assert "refresh" not in page
    assert "finished" in page
    assert " left" not in page.split("<h2>")[0].split("</style>")[1]


def test_a_page_without_steps_or_validations_is_whole():
    page = render(History(), RUNNING)
    assert "Validation" not in page
    assert "step 0 of" in page


def test_parts_that_not_every_step_has_stay_in_their_columns():
    made = History()
    for n, part in ((1, {"a": 1.0}), (2, {"b": 2.0}), (3, {"a": 3.0, "b": 4.0})):
        made.add({"step": n, "seconds": n, "loss": 1.0, **part})
    assert np.array_equal(made.parts["a"], [1, np.nan, 3], equal_nan=True)
    assert np.array_equal(made.parts["b"], [np.nan, 2, 4], equal_nan=True)
    render(made, RUNNING)


def test_times_in_words():
    assert [clock(s) for s in (42, 200, 7500)] == ["42 s", "3 min 20 s", "2 h 05 min"]


# --- log -------------------------------------------------------------------------------------


def write(folder, steps, first=0):
    with Monitor.open(folder, {"name": "m", "steps": 9}, {"name": "float32"}, first=first) as log:
        for n in range(first + 1, steps + 1):
            log.step(n, {"loss": 1.0 / n}, {"backbone": 0.1})
            if n % 2 == 0:
                log.validation(n, scores(n / 10))


def lines(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_a_log_goes_on_after_the_step_it_is_told(tmp_path):
    write(tmp_path, 5)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 6, "lo')  # what a killed process leaves
    write(tmp_path, 6, first=3)
    found = lines(tmp_path)
    assert found[0]["settings"] == {"name": "m", "steps": 9}
    kinds = [(e["step"], "validation" in e) for e in found[1:]]
    expected = [(1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (4, 1), (5, 0), (6, 0), (6, 1)]
    assert kinds == expected
    seconds = [e["seconds"] for e in found[1:]]
    assert seconds == sorted(seconds)


def test_the_best_validation_is_known_across_interruptions(tmp_path):
    write(tmp_path, 2)
    with Monitor.open(tmp_path, {}, {}, first=2) as monitor:
        assert "best" not in monitor.validation(3, scores(0.1))
        assert monitor.validation(4, scores(0.9)) == (
            "Validation at step 4: F1 detection 0.900, class mean 0.600 (best so far)"
        )
        assert monitor.last_f1 == ", F1 .90"
        assert "best" not in monitor.validation(5, scores(0.9))
        assert monitor.validated(5)
        assert not monitor.validated(6)
    table = validation_table(tmp_path).splitlines()
    assert table[1].split() == ["step", "detection", "class", "mean", "a", "b", "threshold"]
    assert [line.split()[0] for line in table if line.endswith("best")] == ["4"]


def test_scores_at_given_places_need_no_detection(tmp_path):
    with Monitor.open(tmp_path, {}, {}, first=0) as monitor:
        monitor.step(1, {"loss": 1.0}, {})
        monitor.validation(1, scores(given=True))
    assert "detection" not in validation_table(tmp_path)
    assert scores(given=True).overall == pytest.approx(0.6)
    assert scores(classes={}).overall == pytest.approx(0.8)


def test_a_run_that_did_nothing_leaves_nothing(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (
        pytest.raises(ValueError, match="no"),
        Monitor.open(folder, {"steps": 2}, {}, first=0),
    ):
        raise ValueError("no")
    assert not folder.exists()


def test_the_page_says_that_a_run_failed(tmp_path):
    monitor = Monitor.open(tmp_path, {"steps": 2}, {}, first=0)
    monitor.step(1, {"loss": 1.0}, {})
    error = ValueError("no")
    monitor.__exit__(ValueError, error, None)
    assert "<b>failed</b>" in (tmp_path / PAGE).read_text(encoding="utf-8")


def test_a_strange_log_is_refused(tmp_path):
    (tmp_path / LOG).write_text('{"step": 1, "seconds": 1}\nnonsense\n{"step": 2, "seconds": 2}\n')
    with pytest.raises(JobError, match="Line 2"):
        read_history(tmp_path)
    assert validation_table(tmp_path / "nowhere") == ""
