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


def refuse_cut_labels(dock, qtbot, width=330):
    """Every label and button of a dock has room in a narrow, low window; the dock is closed."""
    from qtpy.QtWidgets import QAbstractButton, QLabel

    dock.resize(width, 800)
    dock.show()
    qtbot.wait(50)
    shown = [*dock.findChildren(QLabel), *dock.findChildren(QAbstractButton)]
    for widget in (w for w in shown if w.isVisible()):
        if isinstance(widget, QLabel) and widget.wordWrap():
            continue
        assert widget.width() >= widget.minimumSizeHint().width(), widget.text()
        right = widget.mapTo(dock, widget.rect().topRight()).x()
        assert right <= width, widget.text()
    dock.shut_down()
    dock.close()
