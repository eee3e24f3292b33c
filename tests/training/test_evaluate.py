"""Evaluation: a perfect model scores 1, and each kind of error costs what it should."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import fake_card
from tiny_sets import CLASSES, COLOURS, instances_folder, points_folder

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ConfigError, DataError, JobError
from napari_celldetr.core.predictor import NUMERICAL, TilePrediction
from napari_celldetr.core.progress import drain
from napari_celldetr.training.config import EvaluateConfig
from napari_celldetr.training.evaluate import evaluate


class Oracle:
    """Finds the discs of the tiny fields by their colours, exactly, unless told to err."""

    device = "cpu"

    def __init__(self, *, names=CLASSES, shift=0.0, swap=False, extra=0, nan=False, **changes):
        colors = tuple((0, 0, i) for i in range(len(names)))
        self.card = fake_card(class_names=names, class_colors=colors, **changes)
        self.shift, self.swap, self.extra, self.nan = shift, swap, extra, nan

    def to(self, device):
        return self

    def predict(self, tiles):
        return [self._one(tile) for tile in tiles]

    def _one(self, tile):
        from scipy import ndimage

        if self.nan:
            return TilePrediction(Detections.empty(self.card.class_names), frozenset({NUMERICAL}))
        boxes, ids = [], []
        for i, colour in enumerate(COLOURS):
            labels, _ = ndimage.label((tile == colour).all(-1))
            for rows, columns in ndimage.find_objects(labels):
                boxes.append((columns.start, rows.start, columns.stop, rows.stop))
                ids.append((i + self.swap) % len(self.card.class_names))
        for i in range(self.extra):
            boxes.append((i, 90, i + 1, 91))
            ids.append(0)
        table = np.array(boxes, np.float32) + self.shift
        scores = np.where(np.arange(len(ids)) < len(ids) - self.extra, 0.9, 0.6)
        return TilePrediction(Detections(table, scores, ids, self.card.class_names))


@pytest.fixture
def root(tmp_path):
    points_folder(tmp_path / "points", split={"01": "train", "02": "val", "03": "val"})
    instances_folder(tmp_path / "instances")
    return tmp_path


def report(root, oracle=None, data="points:{}/points", **changes):
    config = EvaluateConfig(data=data.replace("{}", str(root)), **changes)
    return drain(evaluate(config, predictor=oracle or Oracle()))


def test_a_perfect_model_scores_1(root):
    found = report(root)
    scores = found.scores["points"]
    assert (scores.detection.matched, scores.detection.n_truth, scores.detection.n_found) == (
        36,
    ) * 3
    assert scores.f1 == scores.class_mean == 1.0
    assert [c.name for c in scores.classes] == list(CLASSES)
    assert found.threshold == 0.5
    assert found.megapixels == pytest.approx(3 * 96 * 96 / 1e6)
    text = found.as_text()
    assert "points" in text
    assert "1.000" in text
    assert "Research use only" in text
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["radius_um"] == 3.0
    assert plain["scores"]["points"]
    assert str(root) not in json.dumps(plain["scores"])


def test_errors_cost_what_they_should(root):
    # 6 px is the radius at 0.5 µm/px.
    assert report(root, Oracle(shift=4.2)).scores["points"].f1 == 1.0
    assert report(root, Oracle(shift=4.3)).scores["points"].f1 == 0.0
    swapped = report(root, Oracle(swap=True)).scores["points"]
    assert swapped.f1 == 1.0
    assert swapped.class_mean == 0.0
    more = report(root, Oracle(extra=12)).scores["points"]
    assert more.recall == 1.0
    assert more.precision == pytest.approx(36 / 72)
    assert report(root, Oracle(extra=12), threshold=0.7).scores["points"].f1 == 1.0


def test_a_class_found_where_nothing_is_counts_against_it(root):
    (root / "points/points/03_field.csv").write_text("x,y,class\n1,90,unknown\n")
    scores = report(root).scores["points"]
    assert [c.n_truth for c in scores.classes] == [8, 8, 8]
    assert [c.n_found for c in scores.classes] == [12, 12, 12]


def test_fields_that_nobody_annotated_are_left_out(root):
    (root / "points/points/03_field.csv").write_text("x,y,class\n")
    scores = report(root).scores["points"]
    assert (scores.n_fields, scores.f1) == (2, 1.0)


def test_splits_and_groups(root):
    assert report(root, split="val").scores["points"].n_fields == 2
    assert report(root, split="train").scores["points"].n_fields == 1
    assert report(root, groups="03, 01").scores["points"].n_fields == 2
    with pytest.raises(DataError, match="none of the groups"):
        report(root, groups="99")
    with pytest.raises(ConfigError):
        report(root, data="")


def test_several_sets_even_of_one_name(root):
    points_folder(root / "other" / "points", patients=("04",))
    data = "points:{}/points points:{}/other/points instances:{}/instances@0.5"
    scores = report(root, data=data).scores
    assert list(scores) == ["points", "other/points", "instances"]
    assert [s.n_fields for s in scores.values()] == [3, 1, 2]
    # Without known classes, detection alone is scored.
    assert scores["instances"].classes == ()
    assert scores["instances"].f1 == 1.0


def test_models_without_classes_of_their_own(root):
    for oracle in (
        Oracle(names=("nucleus",)),
        Oracle(names=("negative", "positive"), class_rule={"measure": "x", "threshold": 1}),
    ):
        scores = report(root, oracle).scores["points"]
        assert scores.f1 == 1.0
        assert scores.classes == ()


def test_fields_are_read_at_the_model_s_scale(root):
    found = report(root, data="points:{}/points@1.0", oracle=Nothing())
    assert found.megapixels == pytest.approx(3 * 192 * 192 / 1e6)
    assert found.scores["points"].recall == 0.0


class Nothing(Oracle):
    """Finds no cell."""

    def _one(self, tile):
        return TilePrediction(Detections.empty(self.card.class_names))


def test_no_numbers_are_an_error_not_no_cells(root):
    with pytest.raises(JobError, match="no numbers"):
        report(root, Oracle(nan=True))


def test_progress_counts_fields(root):
    steps = []
    config = EvaluateConfig(data=f"points:{root / 'points'}")
    drain(evaluate(config, predictor=Oracle()), steps.append)
    assert [(s.done, s.total) for s in steps] == [(1, 3), (2, 3), (3, 3)]


def test_groups_that_were_trained_on_are_named(root):
    words = f"points:{root / 'points'}"
    for entry, expected in (
        ({"name": "points", "groups": ["02", "09"]}, 1),
        ({"name": "another", "groups": ["02", "03"]}, 0),
        ({"name": "points"}, 0),
    ):
        report = drain(
            evaluate(EvaluateConfig(data=words, split="val"), predictor=Oracle(data=[entry]))
        )
        assert report.trained_on == {"points": expected}
        assert ("flatter" in report.as_text()) == bool(expected)
        assert report.as_dict()["trained_on"] == {"points": expected}


def test_one_misspelt_group_among_several_is_refused(root):
    words = EvaluateConfig(data=f"points:{root / 'points'}", groups="02,twenty")
    with pytest.raises(DataError, match="twenty"):
        drain(evaluate(words, predictor=Oracle()))
