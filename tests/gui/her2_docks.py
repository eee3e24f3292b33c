"""The HER2 dock and its slide as tests of it need them."""

import numpy as np
from her2_fakes import her2_slide, nuclei
from napari.layers import Layer, Shapes

from napari_celldetr.gui.her2_tumour import LAYER_KEY
from napari_celldetr.gui.layers import Frame, point_data, slide_layer
from napari_celldetr.gui.prepared import prepare
from napari_celldetr.slides.readers import open_slide

LEFT = np.array([[0, 0], [800, 0], [800, 1200], [0, 1200]], np.float32)


def new_layer():
    """The generated slide as a layer."""
    return Layer.create(*slide_layer(open_slide(her2_slide()[0], probe=False)))


def hold_nuclei(dock, table=None):
    """The slide's nuclei are known."""
    session = dock.session
    session.start_over(("negative", "positive"), ((0, 0, 255), (255, 0, 0)), 0.5)
    session.take(prepare(nuclei() if table is None else table, session.size, mpp=0.25))


def measure(dock, qtbot):
    """Press *Measure HER2*, and wait."""
    dock.run()
    qtbot.waitUntil(lambda: not dock.runs.running, timeout=30_000)


def draw(viewer, dock, corners=LEFT, name="left"):
    """An outline is drawn, and chosen as tumour."""
    options = Frame.of_mpp((0.25, 0.25)).layer_options()
    layer = Shapes([point_data(corners)], shape_type="polygon", name=name, **options)
    viewer.add_layer(layer)
    dock.where.choose(LAYER_KEY + name)
