"""Put a model of your own into the pipeline: anything with `card`, `device`, `predict`, `to`.

This one calls every dark blob a cell. Tiling, seams, resuming and export come for free.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from napari_celldetr import DetectConfig, Detections, detect, drain, open_slide
from napari_celldetr.core.predictor import TilePrediction
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.slides.synthetic import make_he_slide

CARD = ModelCard(
    name="dark-blobs",
    title="Dark blobs",
    description="Connected components of dark pixels.",
    architecture="none",
    arguments={},
    class_names=("blob",),
    class_colors=((0, 114, 178),),
    mpp=0.5,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    stain="H&E",
    threshold=0.5,
    score_floor=0.1,
    weights_sha256="0" * 64,
    licence="BSD-3-Clause",
    data=[],
    metrics={},
    intended_use="An example.",
    limits="It knows nothing of cells.",
)


class DarkBlobs:
    """The whole protocol of a predictor."""

    card = CARD
    device = "cpu"

    def to(self, device: str) -> DarkBlobs:
        """It runs anywhere."""
        return self

    def predict(self, tiles: np.ndarray) -> list[TilePrediction]:
        """Blobs of each tile (B, H, W, 3), boxes in tile px."""
        return [TilePrediction(self._blobs(tile)) for tile in tiles]

    def _blobs(self, tile: np.ndarray) -> Detections:
        dark = ndimage.binary_opening(tile[..., 0] < 110, iterations=2)
        labels, _ = ndimage.label(dark)
        found = ndimage.find_objects(labels)
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in found]
        return Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.full(len(boxes), 0.9, np.float32),
            np.zeros(len(boxes), np.int16),
            CARD.class_names,
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.ome.tif"
        known = make_he_slide(path, size=(1024, 1024), seed=1)
        with open_slide(path) as slide:
            job = detect(slide, DetectConfig(tile_px=512), predictor=DarkBlobs(), workspace=folder)
            cells = drain(job)
        print(f"{len(cells)} blobs; {len(known)} cells were drawn")


if __name__ == "__main__":
    main()
