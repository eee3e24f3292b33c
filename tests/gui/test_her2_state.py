"""Figures, cut-offs, tumour and branches of measured cells, without Qt."""

import time
from dataclasses import replace

import numpy as np
import pytest
from her2_fakes import SIZE, her2_reading, her2_state, many_times

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.her2 import SCORES, Cutoffs, Exclusion, Margin, Pattern, assess
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.her2_state import NOT_COUNTED, NOT_DRAWN, Her2State
from napari_celldetr.gui.her2_words import (
    NO_SCORE,
    branch_words,
    cell_words,
    doubts_of,
    excluded_words,
    margin_words,
    reason_of,
    scope_words,
    title_of,
)
from napari_celldetr.pipeline.her2.tumour import ASSUMED, DRAWN, Refusal, Tumour
from napari_celldetr.pipeline.her2.zones import Zone

ALL = Tumour(ASSUMED)
LEFT = Zone(Area(((0, 0), (600, 0), (600, 1200), (0, 1200)), "region"))


def figures(found):
    """What a person sees of an assessment, comparable."""
    score = found.score
    return (
        found.counts, found.n_excluded, found.percent_cells, found.percent_area, found.wilson,
        found.h_score, score.score, score.branch, [b.cells for b in score.tree],
    )  # fmt: skip


@pytest.fixture
def state():
    return her2_state()


def test_figures_are_those_of_assess(state):
    judged = her2_reading().judged()
    state.use_tumour(ALL)
    assert figures(state.of_slide()) == figures(assess(judged, tumour_confirmed=True))
    view = Region(300, 200, 500, 600)
    inside = np.array([300 <= x < 800 and 200 <= y < 800 for x, y in judged.centres])
    assert 10 < inside.sum() < len(judged)
    assert figures(state.of_view(view)) == figures(assess(judged, inside, tumour_confirmed=True))
    state.use_tumour(Tumour(DRAWN, (LEFT,)))
    left = judged.centres[:, 0] < 600
    assert figures(state.of_view(view)) == figures(
        assess(judged, inside & left, tumour_confirmed=True)
    )
    assert figures(state.of_zone(LEFT)) == figures(assess(judged, left, tumour_confirmed=True))


def test_without_tumour_there_are_figures_but_no_score(state):
    found = state.of_slide()
    assert found.n_cells == len(state)
    assert title_of(found) == NO_SCORE
    assert "ay above where the invasive tumour is" in reason_of(found)
    assert doubts_of(found) == []


def test_a_refused_slide_has_no_score_either():
    state = her2_state(refused=Refusal("too coarse", "scan it again"))
    state.use_tumour(ALL)
    found = state.of_slide()
    assert found.score.score is None
    assert reason_of(found) == "Too coarse."
    assert found.h_score > 0


def test_cutoffs_act_at_once_and_only_on_classes(state):
    state.use_tumour(ALL)
    before = state.of_slide()
    state.use_cutoffs(Cutoffs(weak=0.5, moderate=0.6, intense=0.7))
    after = state.of_slide()
    assert after.n_cells == before.n_cells
    assert after.percent_cells["0"] > before.percent_cells["0"]
    state.use_cutoffs(Cutoffs())
    assert figures(state.of_slide()) == figures(before)


def test_a_branch_lights_its_cells_and_no_others(state):
    state.use_tumour(Tumour(DRAWN, (LEFT,)))
    judged, tree = state.judged, state.of_slide().score.tree
    for branch in tree:
        rows = state.rows_of_branch(branch.key)
        assert len(rows) == branch.cells
        assert set(judged.patterns[rows]) <= {int(p) for p in branch.patterns}
        assert (judged.centres[rows, 0] < 600).all()
        state.light(branch.key)
        lit = np.flatnonzero((state.values() != NOT_COUNTED) & (state.values() != NOT_DRAWN))
        assert lit.tolist() == rows.tolist()
    state.light("")
    outside = judged.centres[:, 0] >= 600
    assert (state.values()[outside] == NOT_COUNTED).all()
    assert (state.values()[~outside] == 1 + judged.scores[~outside]).all()


def test_deleted_cells_leave_the_count_and_new_ones_are_told(state):
    state.use_tumour(ALL)
    boxes = her2_reading().measured.cells.boxes
    moved = boxes[5:6] + 3
    state.keep(np.concatenate([boxes[6:], moved]))
    assert state.is_whole
    state.settle()
    assert state.unmeasured == 1
    assert state.of_slide().n_cells == len(boxes) - 6 == len(state)
    assert (state.values()[:6] == NOT_DRAWN).all()
    assert not state.is_whole
    assert "changed since" in state.facts(0).why_not
    assert state.row_of_box(boxes[9]) == 9
    assert state.row_of_box(moved[0]) is None
    state.keep(boxes)
    state.settle()
    assert state.unmeasured == 0
    assert state.is_whole


def test_what_is_known_of_one_cell():
    reading = her2_reading()
    excluded = reading.excluded.copy()
    excluded[3] = Exclusion.FOLD
    state = Her2State(replace(reading, excluded=excluded))
    xy = tuple(float(v) for v in state.centres[3])
    assert state.cell_at(xy) == 3
    assert state.cell_at((-50.0, -50.0)) is None
    words = cell_words(state.facts(3))
    assert Pattern(int(state.judged.patterns[3])).words in words
    assert "Not counted: in a fold" in words
    assert "% of its outline is stained" in words
    assert "1 in a fold" in excluded_words(state.of_slide())
    state.use_tumour(Tumour(DRAWN, (LEFT,)))
    right = int(np.argmax(state.centres[:, 0]))
    assert state.facts(right).why_not == "outside the tumour"


def test_words_for_a_score(state):
    state.use_tumour(ALL)
    found = state.of_slide()
    assert title_of(found) == "HER2 3+ (positive)"
    assert any("it would be 2+." in text for text in doubts_of(found))
    first = found.score.tree[0]
    mark, question, counts = branch_words(first, deciding=True)
    assert mark == "yes → 3+"
    assert question == first.question
    assert counts.startswith(f"{first.cells:,} of {first.total:,}")
    assert branch_words(found.score.tree[3], deciding=False)[0] == "not asked"
    assert "H-score" in scope_words(found, score=False)
    assert scope_words(found, score=True).endswith("alone it would be 3+")
    assert set(found.percent_area) == set(SCORES)


def test_ten_thousand_cells_are_judged_anew_within_a_debounce():
    large = many_times(her2_reading(), 10_000)
    state = Her2State(large)
    state.use_tumour(ALL)
    start = time.thread_time()
    state.use_cutoffs(Cutoffs(weak=0.2))
    state.of_slide(draws=0)
    state.of_view(Region(0, 0, *SIZE))
    # Forty milliseconds of the processor on two usual cores.
    assert time.thread_time() - start < 0.25


def test_how_near_another_score_is_names_the_cells_that_decide():
    lower = margin_words(Margin("1+", 166, Pattern.NONE))
    assert lower == "If the 166 most strongly stained cells were unstained, it would be 1+."
    one = margin_words(Margin("0", 1, Pattern.NONE))
    assert one == "If the most strongly stained cell was unstained, it would be 0."
    higher = margin_words(Margin("3+", 10, Pattern.COMPLETE_INTENSE))
    assert higher == "With 10 more cells of complete, intense staining it would be 3+."
