"""A generated HER2 slide with known cells, and answers of networks made up for it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.her2 import SCORES, Pattern
from napari_celldetr.pipeline.her2.pixel_agreement import PIXEL_CLASSES
from napari_celldetr.pipeline.her2.zones import Zone
from napari_celldetr.slides.synthetic_her2 import Her2Slide, make_her2_slide

MIX = {
    Pattern.COMPLETE_INTENSE: 0.25,
    Pattern.COMPLETE_WEAK_MODERATE: 0.2,
    Pattern.FAINT_INCOMPLETE: 0.2,
}
SIDE = 1700


def make(path, mix=None, *, seed=5, **changes) -> Her2Slide:
    values = {"size": (SIDE, SIDE), "seed": seed} | changes
    return make_her2_slide(path, MIX if mix is None else mix, **values)


def zone_of(corners, name="tumour", *holes) -> Zone:
    rings = [tuple(map(tuple, np.asarray(ring, float).tolist())) for ring in (corners, *holes)]
    return Zone(Area(rings[0], "region", name), tuple(Area(r, "region") for r in rings[1:]))


def box(x0, y0, x1, y1) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def geojson(*features):
    """GeoJSON text's content of (class name or None, rings)."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {} if name is None else {"classification": {"name": name}},
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [np.vstack([r, r[:1]]).tolist() for r in rings],
                },
            }
            for name, *rings in features
        ],
    }


class FakePatches:
    """Says the class of a patch from its mean: `rule` maps the mean colour (B, 3) to classes."""

    device = "cpu"

    def __init__(self, names, rule, *, patch_px=64, mpp=0.5, name="fake-patches"):
        self.card = SimpleNamespace(
            name=name, class_names=tuple(names), mpp=mpp, weights_sha256="a" * 64
        )
        self.patch_px, self._rule, self.asked = patch_px, rule, 0

    def predict(self, patches):
        self.asked += len(patches)
        classes = self._rule(patches.reshape(len(patches), -1, 3).mean(axis=1))
        return np.eye(len(self.card.class_names), dtype=np.float32)[classes]

    def heatmap(self, tile, stride=0):
        raise NotImplementedError


class FakePixels:
    """Says one class everywhere, or what `rule` makes of a tile (H, W, 3)."""

    device = "cpu"
    halo_px = lattice_px = 128

    def __init__(self, rule, *, mpp=0.5, names=PIXEL_CLASSES):
        self.card = SimpleNamespace(
            name="fake-pixels", class_names=tuple(names), mpp=mpp, weights_sha256="b" * 64
        )
        self._rule = rule

    def predict(self, tiles):
        raise NotImplementedError

    def classes(self, tiles):
        return np.stack([self._rule(tile) for tile in tiles]).astype(np.uint8)


def stain_network(**changes) -> FakePatches:
    return FakePatches(SCORES, lambda mean: np.full(len(mean), 2), **changes)
