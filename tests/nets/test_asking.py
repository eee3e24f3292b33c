"""Asking about points: the same answer as detection's, in the order asked, and honest failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_nets import awake, card, pictures, small, small_config, tiny

from napari_celldetr.core.detections import UNKNOWN, Detections
from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.predictor import AskablePredictor, Predictor
from napari_celldetr.nets.asking import locate, points_of, spread
from napari_celldetr.nets.predictor import CellDETRPredictor

LOW = {"threshold": 0.4, "score_floor": 0.001}
CALIBRATION = {"scale": 0.5, "shift": -1.0, "class_temperature": 2.0}


def predictor(model=None, *, flips=False, **changes):
    model = small() if model is None else model
    return CellDETRPredictor(model, card(model.config, **(LOW | changes)), flips=flips)


def detected_peaks(one, tile):
    """Peaks (M, 2) in tile px, and the row of `predict` that each of them became."""
    found = one.predict(tile[None])[0].detections
    encoded = one.encode_tile(tile).encoded
    with torch.inference_mode():
        xy, prior, valid = one.model.proposer.pick(encoded.heat, encoded.image, one._least / 2)
        seen = one.model.detection(encoded, one.model.proposer.at(encoded, xy, prior, valid))
    side = np.array([encoded.image[1], encoded.image[0]])
    centres = seen.boxes[-1][0, :, :2].numpy() * side
    gap = np.hypot(*np.moveaxis(centres[:, None] - found.centres[None], 2, 0))
    row = gap.argmin(1)
    exact = gap.min(1) < 1e-4
    return xy[0].numpy()[exact] * side, row[exact], found


# --- the same answer as detection's ----------------------------------------------------------


@pytest.mark.parametrize("target", ["matched", "all"])
@pytest.mark.parametrize("calibration", [None, CALIBRATION])
@pytest.mark.parametrize("size", [(64, 64), (100, 75)])
def test_asked_at_its_peak_a_detected_cell_is_that_cell(target, calibration, size):
    tile = pictures(1, *size)[0]
    one = predictor(small(class_target=target), calibration=calibration)
    peaks, rows, found = detected_peaks(one, tile)
    # Where the best of duplicates is the cell, its peak is not told from theirs by place alone.
    assert len(rows) >= 0.9 * len(found) > 10
    inside = (peaks < [size[1], size[0]]).all(1)
    peaks, rows = peaks[inside], rows[inside]
    answers = one.ask(one.encode_tile(tile), peaks)
    assert not answers.failed.any()
    expected = found.select(rows)
    np.testing.assert_allclose(answers.detections.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(answers.detections.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(answers.detections.class_ids, expected.class_ids)
    got, had = answers.detections, expected
    np.testing.assert_allclose(got.embeddings.astype(float), had.embeddings, atol=0.01)
    probability = "class_probability"
    np.testing.assert_allclose(got.columns[probability], had.columns[probability], atol=1e-5)


def test_near_a_peak_the_answer_is_the_peak_s_and_far_from_all_it_is_the_point_s():
    tile = pictures(1)[0]
    one = predictor()
    encoded = one.encode_tile(tile)
    peaks, _, _ = detected_peaks(one, tile)
    gap = np.hypot(*np.moveaxis(peaks[:, None] - peaks[None], 2, 0))
    np.fill_diagonal(gap, np.inf)
    lonely = peaks[(gap.min(1) > 3) & (peaks > 4).all(1) & (peaks < 60).all(1)]
    assert len(lonely)
    at, beside = (one.ask(encoded, lonely + shift).detections for shift in (0, (0.4, -0.3)))
    assert at == beside


def test_answers_come_in_the_order_asked_and_do_not_depend_on_each_other():
    one = predictor()
    encoded = one.encode_tile(pictures(1)[0])
    points = np.random.default_rng(0).uniform(0, 64, (40, 2))
    points[7] = points[3]
    together = one.ask(encoded, points).detections
    assert len(together) == 40
    for i in (0, 3, 7, 39):
        alone = one.ask(encoded, points[i : i + 1]).detections
        np.testing.assert_allclose(alone.boxes[0], together.boxes[i], atol=1e-4)
        np.testing.assert_allclose(alone.scores[0], together.scores[i], atol=1e-6)
    shuffled = one.ask(encoded, points[::-1]).detections
    np.testing.assert_allclose(shuffled.boxes[::-1], together.boxes, atol=1e-4)
    # Neither a threshold nor suppression takes anything away.
    strict = predictor(score_floor=0.39, threshold=0.4)
    assert len(strict.ask(strict.encode_tile(pictures(1)[0]), points).detections) == 40


@pytest.mark.parametrize(
    "changes", [{"detection_self_attention": True}, {"representation_self_attention": "all"}]
)
def test_where_queries_attend_to_each_other_every_point_is_asked_alone(changes):
    one = predictor(awake(small_config(**changes)))
    encoded = one.encode_tile(pictures(1)[0])
    points = np.random.default_rng(1).uniform(0, 64, (6, 2))
    together, alone = one.ask(encoded, points), one.ask(encoded, points[2:3])
    np.testing.assert_allclose(alone.detections.boxes[0], together.detections.boxes[2], atol=1e-4)
    np.testing.assert_allclose(alone.detections.scores[0], together.detections.scores[2], atol=1e-6)


def test_no_points_no_rows():
    one = predictor()
    answers = one.ask(one.encode_tile(pictures(1)[0]), np.zeros((0, 2)))
    assert len(answers.detections) == len(answers.failed) == 0
    assert answers.detections.class_names == one.card.class_names


@pytest.mark.parametrize("flips", [False, True])
def test_flips_do_not_change_what_is_asked(flips):
    one, plain = predictor(flips=flips), predictor()
    tile, points = pictures(1)[0], np.array([[10.0, 20.0], [33.0, 41.0]])
    asked = one.ask(one.encode_tile(tile), points).detections
    assert asked == plain.ask(plain.encode_tile(tile), points).detections


def test_a_tile_that_may_not_be_written_can_be_asked():
    tile = pictures(1)[0]
    tile.flags.writeable = False
    one = predictor()
    assert len(one.ask(one.encode_tile(tile), np.array([[3.0, 4.0]])).detections) == 1


# --- the heatmap ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (100, 75), (7, 130)])
def test_the_heat_covers_the_tile_and_nothing_else(size):
    one = predictor()
    tile = pictures(1, *size)[0]
    heat, stride = one.heat(one.encode_tile(tile))
    assert heat.dtype == np.float32
    assert stride == one.model.config.heat_stride
    assert heat.shape == (-(-size[0] // 2), -(-size[1] // 2))
    assert ((heat >= 0) & (heat <= 1)).all()


def test_a_peak_of_the_heat_is_where_cells_are_looked_for():
    one = predictor()
    tile = pictures(1)[0]
    heat, stride = one.heat(one.encode_tile(tile))
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    peaks, _, _ = detected_peaks(one, tile)
    place = np.array([column + 0.5, row + 0.5]) * stride
    assert np.hypot(*(peaks - place).T).min() < 1e-3


# --- which place is meant ---------------------------------------------------------------------


def slow_place(heat, point, stride, radius):
    """The nearest local maximum within the radius, else the point; pixel by pixel."""
    height, width = heat.shape
    best, found = radius, None
    for y in range(height):
        for x in range(width):
            around = heat[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            gap = np.hypot((x + 0.5) * stride - point[0], (y + 0.5) * stride - point[1])
            if heat[y, x] == around.max() and gap <= best:
                best, found = gap, ((x + 0.5) * stride, (y + 0.5) * stride, heat[y, x])
    return found


@pytest.mark.parametrize("seed", range(5))
def test_places_equal_the_slow_way(seed):
    rng = np.random.default_rng(seed)
    heat = rng.normal(size=(12, 16)).astype(np.float32)
    points = rng.uniform(0, (32, 24), (30, 2)).astype(np.float32)
    at, logit = locate(
        torch.from_numpy(heat)[None, None],
        torch.from_numpy(points),
        image=(24, 32),
        size=(24, 32),
        radius=2.5,
    )
    kinds = set()
    for i, point in enumerate(points):
        expected = slow_place(heat, point, 2, 2.5)
        kinds.add(expected is None)
        if expected is None:
            np.testing.assert_allclose(at[i] * torch.tensor([32, 24]), point, atol=1e-4)
        else:
            np.testing.assert_allclose(at[i] * torch.tensor([32, 24]), expected[:2], atol=1e-4)
            assert float(logit[i]) == expected[2]
    assert kinds == {True, False}


def test_between_pixels_the_logit_is_interpolated():
    heat = torch.zeros(1, 1, 4, 4)
    heat[0, 0, 0] = 4.0
    # Midway between the centres of rows 0 and 1, which lie at 1 and 3 px.
    xy = torch.tensor([[4.0, 2.0]])
    _, logit = locate(heat, xy, image=(8, 8), size=(8, 8), radius=0.1)
    assert float(logit[0]) == pytest.approx(2.0)


def test_peaks_in_the_padding_are_not_meant():
    heat = torch.full((1, 1, 4, 4), -5.0)
    heat[0, 0, 1, 3] = 3.0
    xy = torch.tensor([[5.5, 3.0]])
    for width, snapped in ((8, True), (6, False)):
        at, logit = locate(heat, xy, image=(8, 8), size=(8, width), radius=2.0)
        assert (float(at[0, 0]) == 7 / 8) is snapped
        assert (float(logit[0]) == 3.0) is snapped


# --- trouble ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "encoder.backbone",
        "encoder.heat_head",
        "encoder.class_head",
        "proposer.fine",
        "detection.layers.0.cross.offsets",
        "detection.box.1",
        "detection.logit.1",
        "representation.position",
        "representation.classify.1",
    ],
)
def test_weights_that_are_no_numbers_fail_every_row_and_are_no_cell(where):
    model = small()
    parameter = next(p for n, p in model.named_parameters() if n.startswith(where))
    with torch.no_grad():
        parameter.fill_(float("nan"))
    one = predictor(model)
    points = np.array([[5.0, 6.0], [40.0, 30.0]])
    answers = one.ask(one.encode_tile(pictures(1)[0]), points)
    assert answers.failed.all()
    assert (answers.detections.scores == 0).all()
    assert (answers.detections.class_ids == UNKNOWN).all()
    np.testing.assert_array_equal(answers.detections.boxes, np.tile(points, (1, 2)))


def test_rows_that_failed_stay_in_their_place():
    table = Detections(
        [[1, 2, 3, 4], [5, 6, 7, 8]], [0.5, 0.9], [0, 1], ("a", "b"), np.ones((2, 3)), {"c": [7, 8]}
    )
    points = np.array([[0.0, 1.0], [2.0, 3.0], [6.0, 7.0]])
    answers = spread(table, np.array([0, 2]), points)
    assert answers.failed.tolist() == [False, True, False]
    assert answers.detections.select(np.array([0, 2])) == table
    assert answers.detections.boxes[1].tolist() == [2, 3, 2, 3]
    assert answers.detections.columns["c"].tolist() == [7, 0, 8]


@pytest.mark.parametrize(
    "points",
    [
        np.array([[64.1, 3.0]]),
        np.array([[3.0, -0.1]]),
        np.array([[3.0, np.nan]]),
        np.array([3.0, 4.0]),
        np.ones((2, 3)),
    ],
)
def test_points_outside_the_tile_are_refused(points):
    with pytest.raises(ConfigError, match="do not lie in the tile"):
        points_of(points, (64, 64))


@pytest.mark.parametrize("source", ["learned", "two_stage"])
def test_networks_without_a_heatmap_say_that_they_cannot_be_asked(source):
    with pytest.raises(ConfigError, match="cannot be asked"):
        predictor(tiny(query_source=source)).encode_tile(pictures(1)[0])


def test_a_network_tied_to_a_window_is_asked_within_it():
    model = tiny(query_source="heatmap", strides=(8, 16), dense_class_weight=0.5)
    one = predictor(model)
    assert len(one.ask(one.encode_tile(pictures(1)[0]), np.array([[9.0, 9.0]])).detections) == 1
    with pytest.raises(ConfigError, match="window"):
        one.encode_tile(pictures(1, 80, 64)[0])


def test_lack_of_memory_is_a_memory_error(monkeypatch):
    one = predictor()

    def full(image):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(one.model, "encode", full)
    with pytest.raises(MemoryError):
        one.encode_tile(pictures(1)[0])


def test_it_is_an_askable_predictor_and_not_every_predictor_is():
    class Deaf:
        card, device = None, "cpu"

        def predict(self, tiles):
            return []

        def to(self, device):
            return self

    assert isinstance(predictor(), AskablePredictor)
    assert isinstance(Deaf(), Predictor)
    assert not isinstance(Deaf(), AskablePredictor)
