"""Stand-ins for models and slides that the docks of this folder are tested with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from fakes import FakePredictor
from napari.layers import Image

from napari_celldetr.gui.prepared import prepare
from napari_celldetr.gui.session import SlideSession


@dataclass
class FakeModels:
    """Hands out one predictor; `load_seconds` is how long loading takes."""

    predictor: FakePredictor = field(default_factory=FakePredictor)
    load_seconds: float = 0.0
    error: Exception | None = None

    def cards(self):
        return [self.predictor.card]

    def load(self, name, *, device, flips):
        assert name == self.predictor.card.name
        time.sleep(self.load_seconds)
        if self.error is not None:
            raise self.error
        return self.predictor


def slide_image(pixels, *, mpp=0.5, **options):
    """A layer of pixels without a file, in µm unless `mpp` is None."""
    units = ("pixel", "pixel") if mpp is None else ("um", "um")
    scale = (1, 1) if mpp is None else (mpp, mpp)
    return Image(
        pixels, rgb=True, scale=scale, units=units, axis_labels=("y", "x"), name="slide", **options
    )


def session_with(table, viewer, layer, *, threshold=0.5, colors=((0, 0, 255), (255, 0, 0))):
    """A session of a slide layer that holds the claims of a table."""
    session = SlideSession(viewer, layer, author="ada")
    session.start_over(table.class_names, colors, threshold)
    mpp = session.frame.mpp
    session.take(prepare(table, session.size, mpp=mpp[0] if mpp else None))
    return session
