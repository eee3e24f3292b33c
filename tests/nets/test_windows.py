"""Windows of a network tied to one size see every cell once, whatever the size of the tile."""

import numpy as np
import pytest
from fakes import FakePredictor
from tiny_nets import card, pictures, tiny

from napari_celldetr.core.predictor import NUMERICAL, SATURATED, TilePrediction
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.nets.windows import predict_windows


@pytest.mark.parametrize("size", [(64, 64), (65, 130), (200, 150), (96, 40)])
def test_windows_find_what_the_whole_holds(size):
    image = cell_image(size)
    fake = FakePredictor()
    whole = fake.predict(image[None])[0].detections.ordered()
    parts = predict_windows(fake.predict, image, 64).detections.ordered()
    assert len(whole) > 3
    np.testing.assert_allclose(parts.boxes, whole.boxes, atol=1e-3)


def cell_image(size):
    """White with dark squares of 5 px, 8 px or more apart."""
    image = np.full((*size, 3), 255, np.uint8)
    for y in range(3, size[0] - 6, 13):
        for x in range(3, size[1] - 6, 13):
            image[y : y + 5, x : x + 5] = 0
    return image


def test_a_window_without_numbers_spoils_the_tile():
    fake = FakePredictor()

    def predict(tiles):
        found = fake.predict(tiles)
        return [TilePrediction(found[0].detections, frozenset({NUMERICAL})), *found[1:]]

    spoilt = predict_windows(predict, cell_image((130, 130)), 64)
    assert spoilt.flags == {NUMERICAL}
    assert len(spoilt.detections) == 0


def test_a_learned_query_network_reads_large_tiles_in_windows():
    model = tiny(query_source="learned")
    predictor = CellDETRPredictor(model, card(model.config, threshold=0.4, score_floor=0.001))
    seen = []
    guarded = predictor._guarded
    predictor._guarded = lambda tiles: seen.append(tiles.shape) or guarded(tiles)
    image = np.concatenate([pictures(1), pictures(1)], axis=2)
    found = predictor.predict(image)[0]
    assert {shape[1:] for shape in seen} == {(64, 64, 3)}
    assert SATURATED in found.flags or len(found.detections)
