"""*Find tumour in the H&E* in a real viewer, and what the HER2 side makes of it."""

import gc
import time

import numpy as np
import pytest
from aligned_pair import HE_MPP, IHC_MPP, known_alignment, pictures
from numpy.testing import assert_allclose
from test_tumour_job import SIDE, DarkIsTumour, he_with_tumour
from viewer_fakes import slide_image

from napari_celldetr.core.errors import ModelError
from napari_celldetr.gui.align_dock import AlignDock
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.carry import CARRIED_KEY, carry_regions
from napari_celldetr.gui.her2_tumour import LAYER_KEY, NOTHING_KEY, choices, tumour_of
from napari_celldetr.gui.her2_words import source_words
from napari_celldetr.gui.layers import Frame
from napari_celldetr.pipeline.her2.tumour import NETWORK, Tumour

ON_HE, ON_IHC = "Tumour map · he.svs", "Tumour map · on ihc.svs"
ZONES = "Tumour found by a network · from H&E"


@pytest.fixture
def dock(make_napari_viewer_proxy, qtbot, notes):
    viewer = make_napari_viewer_proxy()
    for name, pixels, mpp in (
        ("he.svs", he_with_tumour(), HE_MPP),
        ("ihc.svs", pictures()[1], IHC_MPP),
    ):
        layer = slide_image(pixels, mpp=mpp)
        layer.name = name
        viewer.add_layer(layer)
    dock = AlignDock(viewer)
    dock.region_box.tumour.load = DarkIsTumour
    dock.region_box.tumour.installed = lambda: True
    viewer.window.add_dock_widget(dock, name="Align slides")
    yield dock
    gc.collect()


def align(dock):
    dock.take(dock.view, known_alignment())


def find(dock, qtbot):
    align(dock)
    dock.regions.find_tumour()
    qtbot.waitUntil(lambda: not dock.region_box.tumour.finder.running, timeout=10_000)


def test_the_map_and_the_zones_come_to_both_slides(dock, qtbot):
    box = dock.region_box.tumour
    assert not box.run_button.isEnabled()
    find(dock, qtbot)
    layers = dock.viewer.layers
    he, ihc, zones = layers[ON_HE], layers[ON_IHC], layers[ZONES]
    assert "no person drew them" in box.status.text()
    assert box.run_button.isEnabled()
    # A patch lies on its own pixels: the first one's middle is at 10 level-0 px.
    assert_allclose(he.scale, (SIDE * HE_MPP,) * 2)
    middle = Frame.of_layer(dock.choice.he_box.layer).from_world(
        np.array([he.data_to_world((0, 0))])
    )
    assert_allclose(middle, [[SIDE / 2, SIDE / 2]])
    corner = np.array(ihc.data.shape) * ihc.scale
    assert (corner >= np.array([500, 700]) * IHC_MPP - 1e-6).all()
    assert he.opacity == ihc.opacity == 0.5
    # Each is shown with its own slide alone.
    assert (he.visible, ihc.visible) == (False, True)
    dock.show_look(Look.HE)
    assert (he.visible, ihc.visible, zones.visible) == (True, False, False)
    dock.show_look(Look.SWIPE)
    assert zones.visible
    # What the user hides stays hidden.
    zones.visible = False
    dock.show_look(Look.HE)
    dock.show_look(Look.BLEND)
    assert not zones.visible
    # The same marks as carried regions.
    assert zones.metadata[CARRIED_KEY]["from"] == "H&E"
    assert "no person drew it" in zones.metadata[CARRIED_KEY]["origin"]
    assert set(zones.features["left_out"]) == {True, False}
    # Again: maps are replaced, and another alignment takes the one on the IHC away.
    dock.regions.find_tumour()
    qtbot.waitUntil(lambda: not box.finder.running, timeout=10_000)
    assert sum("Tumour map" in layer.name for layer in layers) == 2
    align(dock)
    assert ON_IHC not in layers
    assert ON_HE in layers


def test_her2_lists_them_and_names_the_network_as_source(dock, qtbot):
    find(dock, qtbot)
    layers = dock.viewer.layers
    zones, frame = layers[ZONES], Frame.of_layer(layers["ihc.svs"])
    assert LAYER_KEY + ZONES in [c.key for c in choices({}, layers)]
    # It counts when it is chosen, not before.
    assert not tumour_of(NOTHING_KEY, {}, layers, frame).confirmed
    tumour = tumour_of(LAYER_KEY + ZONES, {}, layers, frame)
    assert tumour.source == NETWORK
    assert tumour.confirmed
    assert "found by a network" in source_words(tumour)
    assert source_words(Tumour("drawn")) == ""
    assert len(tumour.untrusted) == list(zones.features["left_out"]).count(True)
    assert len(tumour.zones) == len(zones.data)
    assert tumour.alignment.he_name == dock.view.transform.he.name
    # There and back again it is still the network's.
    transform = dock.view.transform
    he = Frame.of_layer(layers["he.svs"])
    there = carry_regions(zones, frame.from_world, transform, frame=he, inverse=True).layer
    back = carry_regions(there, he.from_world, transform, frame=frame, inverse=False).layer
    assert tumour_of(LAYER_KEY + back.name, {}, [back], frame).source == NETWORK


def test_another_limit_set_meanwhile_counts(dock, qtbot):
    align(dock)
    dock.regions.find_tumour()
    dock.result.limit_spin.setValue(500.0)
    qtbot.waitUntil(lambda: not dock.region_box.tumour.finder.running, timeout=10_000)
    kept = dock.viewer.layers[ZONES].features
    assert (kept["error_um"][~kept["left_out"]] > 100).any()


def test_it_can_be_stopped_and_a_failure_is_said(dock, qtbot):
    align(dock)
    box, before = dock.region_box.tumour, len(dock.viewer.layers)

    class Slow(DarkIsTumour):
        def predict(self, patches):
            time.sleep(0.05)
            return super().predict(patches)

    box.load = Slow
    box.run_button.click()
    assert box.cancel_button.isEnabled()
    box.cancel_button.click()
    qtbot.waitUntil(lambda: not box.finder.running, timeout=10_000)
    assert "Cancelled" in box.status.text()

    def broken():
        raise ModelError("The network cannot be read.", remedy="install it again")

    box.load = broken
    box.run_button.click()
    qtbot.waitUntil(lambda: not box.finder.running, timeout=10_000)
    assert "cannot be read" in box.status.text()
    assert len(dock.viewer.layers) == before


def test_without_the_network_the_button_says_so(dock):
    dock.region_box.tumour.installed = lambda: False
    align(dock)
    assert not dock.region_box.tumour.run_button.isEnabled()
    assert "not installed" in dock.region_box.tumour.status.text()
