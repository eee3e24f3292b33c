"""Small tables of cells for the tests of this folder."""

import numpy as np

from napari_celldetr.core.detections import Detections

NAMES = ("dark", "red")


def table_of(boxes, scores=None, class_ids=None, names=NAMES):
    """Cells with the given xyxy boxes; score 0.9 and class 0 unless said."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    return Detections(
        boxes,
        np.full(n, 0.9, np.float32) if scores is None else np.asarray(scores, np.float32),
        np.zeros(n, np.int16) if class_ids is None else np.asarray(class_ids, np.int16),
        names,
    )


def random_table(n, size=(2000, 1500), *, seed=0, side=16.0):
    """`n` cells anywhere on a slide of `size` (w, h)."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform((side, side), (size[0] - side, size[1] - side), (n, 2))
    half = rng.uniform(0.7, 1.3, (n, 2)) * side / 2
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    return table_of(boxes, rng.random(n), rng.integers(0, 2, n))
