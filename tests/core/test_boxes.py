import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_celldetr.core import boxes as b


def random_boxes(seed, count=30):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-50, 50, (count, 2))
    return np.concatenate([low, low + rng.uniform(0, 40, (count, 2))], axis=1)


@given(st.integers(0, 2**32 - 1))
def test_formats_round_trip(seed):
    boxes = random_boxes(seed)
    np.testing.assert_allclose(b.to_xyxy(b.to_cxcywh(boxes)), boxes, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_iou_is_symmetric_bounded_and_one_with_itself(seed):
    boxes = random_boxes(seed)
    overlap = b.iou_matrix(boxes, boxes)
    np.testing.assert_allclose(overlap, overlap.T)
    assert ((overlap >= 0) & (overlap <= 1 + 1e-12)).all()
    np.testing.assert_allclose(np.diag(overlap), 1)
    np.testing.assert_allclose(b.paired_iou(boxes, boxes[::-1]), np.diag(overlap[:, ::-1]))


def test_iou_of_known_boxes():
    a = np.array([[0, 0, 10, 10.0]])
    others = np.array([[5, 0, 15, 10.0], [10, 0, 20, 10], [2, 2, 4, 4], [0, 0, 0, 0]])
    np.testing.assert_allclose(b.iou_matrix(a, others)[0], [1 / 3, 0, 0.04, 0])


def test_empty_boxes_overlap_nothing():
    point = np.array([[3, 3, 3, 3.0]])
    assert b.iou_matrix(point, point)[0, 0] == 0
    assert b.areas(point)[0] == 0
    assert b.iou_matrix(np.zeros((0, 4)), point).shape == (0, 1)


def test_centres():
    np.testing.assert_allclose(b.centres(np.array([[0, 2, 4, 10.0]])), [[2, 6]])
