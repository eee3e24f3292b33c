"""What stands beside the main table of an evaluation, and calibrating a model on its fields."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from fakes import fake_card
from test_evaluate import Oracle
from tiny_sets import CLASSES, instances_folder, points_folder

from napari_celldetr.cli import main
from napari_celldetr.core.calibration import Calibration
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ConfigError, DataError, ModelError
from napari_celldetr.core.predictor import TilePrediction
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import read_card, write_card
from napari_celldetr.nets.registry import is_shipped, model_folders
from napari_celldetr.training import evaluate as module
from napari_celldetr.training.calibrate import write_calibration
from napari_celldetr.training.config import EvaluateConfig
from napari_celldetr.training.evaluate import evaluate, where_labels_speak
from napari_celldetr.training.fields import Field


class Unsure(Oracle):
    """Finds every disc, half of the inventions beside it, and says how sure it is of classes."""

    def __init__(self, *, right=0.95, wrong=0.9, classes=(0.98, 0.01, 0.01), card=None, **changes):
        super().__init__(extra=12, **changes)
        self.card = card or self.card
        self.sure, self.p, self.columns = (right, wrong), classes, False

    def with_class_columns(self):
        self.columns = True
        return self

    def _one(self, tile):
        table = super()._one(tile).detections
        n = len(table)
        scores = np.where(np.arange(n) < n - 12, *self.sure)
        # Every fifth class is wrong, whatever it claims.
        ids = np.where(np.arange(n) % 5 == 0, (table.class_ids + 1) % 3, table.class_ids)
        p = np.array([np.roll(self.p, i) for i in ids], np.float32)
        card = Calibration.from_dict(self.card.calibration)
        p, scores = card.shares(p).astype(np.float32), card.score(scores)
        columns = {"class_probability": p.max(1)}
        if self.columns:
            columns |= {f"probability_{name}": p[:, i] for i, name in enumerate(CLASSES)}
        found = Detections(table.boxes, scores, ids, table.class_names, None, columns)
        return TilePrediction(found.above(self.card.score_floor))


@pytest.fixture
def root(tmp_path):
    points_folder(tmp_path / "points")
    instances_folder(tmp_path / "instances")
    return tmp_path


def report(root, oracle, data="points:{}/points", **changes):
    config = EvaluateConfig(data=data.replace("{}", str(root)), **changes)
    return drain(evaluate(config, predictor=oracle))


# --- beside the table --------------------------------------------------------------------------


def test_every_radius_is_reported(root):
    # Both axes shifted by 3 px: 4.24 px off, which is 2.1 µm.
    found = report(root, Oracle(shift=3.0))
    radii = found.figures["points"].radii
    assert list(radii) == [2.0, 3.0, 5.0]
    assert [s.f1 for s in radii.values()] == [0.0, 1.0, 1.0]
    assert radii[3.0].detection == found.scores["points"].detection
    more = report(root, Oracle(), radii_um=(4.0, 1.0, 3.0)).figures["points"]
    assert list(more.radii) == [1.0, 3.0, 4.0]
    with pytest.raises(ConfigError, match="radii_um"):
        report(root, Oracle(), radii_um=(-1.0,))


def test_official_and_gated_stand_beside_each_other(root):
    figures = report(root, Oracle(swap=True)).figures["points"]
    assert (figures.official.f_d, figures.gated.f_d) == (1.0, 1.0)
    assert figures.official.class_mean == 0.0
    text = figures.to_text()
    assert "as published, 3 µm" in text
    assert "gated, 3 µm" in text
    (root / "points/points/03_field.csv").write_text("x,y,class\n1,90,tumour\n")
    # On noisy fields the two part.
    noisy = report(root, Oracle(extra=12)).figures["points"]
    assert noisy.official.f_d <= noisy.gated.f_d


def test_calibration_error_of_scores_and_classes(root):
    figures = report(root, Unsure()).figures["points"]
    # 36 cells at .95 are right, 36 inventions at .9 are wrong.
    assert figures.detection["width"].count == 72
    assert figures.detection["width"].ece == pytest.approx((0.05 + 0.9) / 2, abs=1e-6)
    # 0.98 sure of classes of which 4 of 5 (here 27 of 36) are right.
    classes = figures.classes["mass"]
    assert classes.count == 36
    assert classes.ece == pytest.approx(abs(0.98 - classes.bins[0].right), abs=1e-6)
    assert report(root, Oracle()).figures["points"].classes == {}


def test_froc_counts_per_mm2(root):
    found = report(root, Unsure()).figures["points"].froc
    # 12 inventions in a field of 48 µm × 48 µm.
    assert found.unit == "mm²"
    assert found.false_positives.tolist() == pytest.approx([0, 12 / 0.048**2])
    assert found.sensitivity.tolist() == [1.0, 1.0]
    assert found.mean == 1.0


def test_box_ap_where_extents_are_known(root):
    assert report(root, Oracle()).figures["points"].boxes is None
    perfect = report(root, Oracle(), data="instances:{}/instances@0.5").figures["instances"].boxes
    assert perfect.overall.ap == 1.0
    assert perfect.overall.n_truth == 24
    # 113 px² are 28 µm² at 0.5 µm/px.
    assert perfect.areas["small"].n_truth == 24
    moved = report(root, Oracle(shift=2), data="instances:{}/instances@0.5").figures["instances"]
    # 13 px boxes moved by 2 px: 121 / (338 - 121) = .558.
    assert moved.boxes.at(0.5) == moved.boxes.at(0.55) == 1.0
    assert moved.boxes.at(0.6) == 0.0


def test_a_nucleus_cut_by_the_border_counts_with_what_is_visible(root):
    from PIL import Image

    path = root / "instances/instances/07_1.png"
    image_path = root / "instances/images/07_1.png"
    instances, image = np.array(Image.open(path)), np.array(Image.open(image_path))
    instances[:10, 60:70] = 99
    image[:10, 60:70] = (60, 30, 120)
    Image.fromarray(instances).save(path)
    Image.fromarray(image).save(image_path)
    boxes = report(root, Oracle(), data="instances:{}/instances@0.5").figures["instances"].boxes
    assert boxes.overall.n_truth == 25
    assert boxes.overall.ap == 1.0


def test_the_best_threshold_is_named_as_optimistic(root):
    plain = report(root, Unsure())
    assert plain.figures["points"].best is None
    found = report(root, Unsure(), best_threshold=True)
    threshold, f1 = found.figures["points"].best
    assert (threshold, f1) == (pytest.approx(0.95), 1.0)
    assert "optimistic" in found.as_text()
    assert "optimistic" in found.as_dict()["figures"]["points"]["best_threshold"]["note"]


def test_the_report_is_plain_json_and_readable_text(root):
    found = report(
        root, Unsure(), data="points:{}/points instances:{}/instances@0.5", best_threshold=True
    )
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    figures = plain["figures"]["points"]
    assert set(figures["radii_um"]) == {"2", "3", "5"}
    assert figures["boxes"] is None
    assert plain["figures"]["instances"]["boxes"]["AP"] is not None
    assert plain["calibration"] is None
    text = found.as_text()
    assert text.count("F1 by rule") == 2
    assert text.count("FROC") == 2
    assert "nan" not in text
    table = [line for line in text.splitlines() if line.startswith(("gated one", "HoVer"))]
    assert len({len(line) for line in table[1:6]}) == 1


def test_what_lies_where_labels_say_nothing_is_left_out():
    valid = np.ones((20, 40), bool)
    valid[:, 20:] = False
    field = Field(
        "f", "g", np.zeros((20, 40, 3), np.uint8), 0.5, [[5, 5], [30, 5]],
        np.full((2, 2), np.nan), [-1, -1], valid=valid,
    )  # fmt: skip
    found = Detections([[4, 4, 6, 6], [29, 4, 31, 6], [39, 4, 41, 6]], [0.9] * 3, [0] * 3, ("a",))
    one, kept = where_labels_speak(field, found)
    assert one.points.tolist() == [[5, 5]]
    assert kept.centres.tolist() == [[5, 5]]
    assert module.Judged(one, kept, 0.5).area_mm2 == pytest.approx(400 * 0.25 / 1e6)
    same = replace(field, valid=None)
    assert where_labels_speak(same, found) == (same, found)


# --- calibrating -------------------------------------------------------------------------------


def test_calibrating_makes_scores_true(root):
    found = report(root, Unsure(right=0.9, wrong=0.8), calibrate=True).calibration
    assert found.detection.before > 0.4
    assert found.detection.after < found.detection.before / 2
    assert found.detection.held_out < found.detection.before / 2
    assert found.classes.before == pytest.approx(0.98 - 27 / 36, abs=0.01)
    assert found.classes.after < 0.05
    card = found.card
    one = Calibration.from_dict(card.calibration)
    assert one.class_temperature > 1.5
    assert "points: 3 fields; 72 found cells" in one.fitted_on
    assert str(root) not in one.fitted_on
    # The limits moved along.
    assert card.threshold == pytest.approx(float(one.score(0.5)))
    assert card.score_floor == pytest.approx(float(one.score(0.1)))
    text = found.as_text()
    assert '"scale"' in text
    assert "72 cells" in text


def test_a_calibrated_model_finds_the_same_cells_and_needs_no_more(root):
    first = report(root, Unsure(right=0.9, wrong=0.8), calibrate=True)
    card = first.calibration.card
    again = report(root, Unsure(right=0.9, wrong=0.8, card=card), calibrate=True)
    assert again.scores["points"].detection == first.scores["points"].detection
    assert again.calibration.detection.before == pytest.approx(
        first.calibration.detection.after, abs=0.01
    )
    twice = Calibration.from_dict(again.calibration.card.calibration)
    # What was fitted on calibrated scores was put behind the first: .9 and .8 are the raw ones.
    assert twice.score(0.8) < 0.1 < 0.9 < twice.score(0.9)


def test_classes_are_left_alone_where_nothing_is_known_of_them(root):
    plain = report(root, Oracle(extra=12), calibrate=True).calibration
    assert plain.classes is None
    assert plain.card.calibration["class_temperature"] == 1.0
    assert "not fitted" in plain.as_text()
    data = "instances:{}/instances@0.5"
    assert report(root, Unsure(), data=data, calibrate=True).calibration.classes is None


def test_a_temperature_that_does_not_help_is_not_kept(root):
    # 27 of 36 are right, and that is what it says.
    found = report(root, Unsure(classes=(27 / 36, 4.5 / 36, 4.5 / 36)), calibrate=True).calibration
    assert not found.classes.helps
    assert found.card.calibration["class_temperature"] == 1.0
    assert "left as they are" in found.as_text()


def test_too_little_to_calibrate_with_is_said(root):
    with pytest.raises(DataError, match="too little"):
        report(root, Oracle(), calibrate=True)


# --- writing -----------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, root, monkeypatch):
    """A user's own model folder whose card the oracle goes by."""
    folder = tmp_path / "mine"
    folder.mkdir()
    colors = tuple((0, 0, i) for i in range(3))
    write_card(folder, fake_card(class_names=CLASSES, class_colors=colors))
    monkeypatch.setattr(
        module, "load_model", lambda *_, **__: Unsure(card=read_card(folder), right=0.9, wrong=0.8)
    )
    return folder


def words(root, folder, *more):
    return ["evaluate", "--data", f"points:{root / 'points'}", "--model", str(folder), *more]


def test_the_card_is_written_when_asked_for(own, root, capsys):
    before = read_card(own)
    assert main(words(root, own, "--calibrate")) == 0
    assert read_card(own) == before
    assert '"scale"' in capsys.readouterr().out
    assert main(words(root, own, "--calibrate", "--write-card")) == 0
    after = read_card(own)
    assert Calibration.from_dict(after.calibration).scale != 1.0
    assert after.threshold != before.threshold
    assert "card.json" in capsys.readouterr().out
    # And the written card evaluates to the same cells.
    assert main(words(root, own, "--radii-um", "4", "--json", str(root / "x.json"))) == 0
    scores = json.loads((root / "x.json").read_text())
    assert scores["scores"]["points"]["detection"]["matched"] == 36
    assert set(scores["figures"]["points"]["radii_um"]) == {"3", "4"}


def test_write_card_alone_is_refused(own, root, capsys):
    before = (own / "card.json").read_bytes()
    assert main(words(root, own, "--write-card")) == 1
    assert "--calibrate" in capsys.readouterr().err
    assert (own / "card.json").read_bytes() == before


def test_a_calibration_on_groups_that_were_trained_on_is_not_written(own, root, capsys):
    groups = sorted({p.stem.split("_")[0] for p in (root / "points" / "images").iterdir()})
    trained = [{"name": "points", "groups": groups[:1]}]
    write_card(own, replace(read_card(own), data=trained))
    before = (own / "card.json").read_bytes()
    assert main(words(root, own, "--calibrate", "--write-card")) == 1
    shown, err = capsys.readouterr()
    assert '"scale"' in shown
    assert "of groups the model was trained on" in err
    assert "--split or --groups" in err
    assert (own / "card.json").read_bytes() == before
    other = ["--groups", ",".join(groups[1:])]
    assert main(words(root, own, "--calibrate", "--write-card", *other)) == 0


def test_a_shipped_model_is_never_changed(root, capsys):
    shipped = [f for home in model_folders() for f in sorted(home.iterdir()) if f.is_dir()]
    if not shipped:
        pytest.skip("no models in this checkout")
    assert all(is_shipped(f) for f in shipped)
    before = (shipped[0] / "card.json").read_bytes()
    assert main(words(root, shipped[0].name, "--calibrate", "--write-card")) == 1
    assert "of your own" in capsys.readouterr().err
    assert (shipped[0] / "card.json").read_bytes() == before


def test_a_card_that_changed_meanwhile_is_left_alone(own, root):
    oracle = Unsure(card=read_card(own), right=0.9, wrong=0.8)
    found = report(root, oracle, calibrate=True).calibration
    write_card(own, replace(read_card(own), threshold=0.7))
    with pytest.raises(ModelError, match="not the one"):
        write_calibration(str(own), found)
    assert read_card(own).threshold == 0.7
