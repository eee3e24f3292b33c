"""Areas of zones together: overlaps once, nothing outside the slide, nothing that is cut out."""

from __future__ import annotations

import numpy as np
import pytest
from her2_slides import box, zone_of

from napari_celldetr.core.errors import DataError
from napari_celldetr.pipeline.her2.placement import reaching_out, refuse_elsewhere
from napari_celldetr.pipeline.her2.zone_area import covered_px, share_on_slide

SIZE = (1000, 800)


def circle(x, y, radius, corners=200):
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def test_zones_that_do_not_meet_have_their_own_areas():
    zones = [
        zone_of(box(10, 10, 110, 60), "a", box(20, 20, 30, 30)),
        zone_of(circle(500, 400, 100)),
        zone_of(box(700.25, 3.5, 700.75, 4.0)),
    ]
    assert covered_px(zones, SIZE) == pytest.approx(sum(z.area_px for z in zones), rel=1e-9)
    assert covered_px([], SIZE) == 0


def test_what_overlaps_counts_once():
    zones = [zone_of(box(0, 0, 100, 100)), zone_of(box(50, 50, 150, 150))]
    assert covered_px(zones, SIZE) == pytest.approx(17_500, rel=1e-3)
    twice = [zone_of(circle(400, 400, 80))] * 2
    assert covered_px(twice, SIZE) == pytest.approx(twice[0].area_px, rel=1e-6)
    # A zone in the hole of another one lies beside it.
    ring = zone_of(box(0, 0, 100, 100), "", box(20, 20, 80, 80))
    island = zone_of(box(40, 40, 60, 60))
    assert covered_px([ring, island], SIZE) == pytest.approx(6400 + 400, rel=1e-3)


def test_what_is_cut_out_or_outside_counts_not_at_all():
    zone = zone_of(box(0, 0, 100, 100))
    cut = [zone_of(box(50, 0, 200, 50))]
    assert covered_px([zone], SIZE, cut) == pytest.approx(7_500, rel=1e-3)
    half = zone_of(box(900, 0, 1100, 100))
    assert covered_px([half], SIZE) == pytest.approx(10_000, rel=1e-3)
    assert share_on_slide(half, SIZE) == pytest.approx(0.5, rel=1e-3)
    assert share_on_slide(zone, SIZE) == 1
    assert share_on_slide(zone_of(box(-50, -50, -10, -10)), SIZE) == 0
    # Its bounding box meets the slide, and the area does not.
    corner = zone_of(np.array([[-100, 60], [60, -100], [-100, -100]], float))
    assert share_on_slide(corner, SIZE) == 0


def test_areas_beside_the_slide_are_refused_with_a_hint():
    far = [zone_of(box(4000, 3000, 4400, 3300)), zone_of(box(5000, 100, 5100, 200))]
    with pytest.raises(DataError) as caught:
        refuse_elsewhere(far, SIZE, "a.svs")
    error = caught.value
    assert "a.svs" in error.message
    assert "x 0 to 1000 and y 0 to 800" in error.expected
    assert "x 4000 to 5100 and y 100 to 3300" in error.found
    assert "another slide" in error.remedy
    assert "another level" in error.remedy
    refuse_elsewhere([*far, zone_of(box(900, 0, 1100, 100))], SIZE, "a.svs")
    refuse_elsewhere([], SIZE, "a.svs")


def test_areas_that_reach_beyond_the_slide_are_named():
    on = zone_of(box(0, 0, 100, 100))
    assert reaching_out([on, zone_of(box(0, 0, 1000.4, 500))], SIZE, "IHC") == ""
    partly = reaching_out([on, zone_of(box(950, 0, 1050, 100))], SIZE, "IHC")
    assert partly.startswith("1 of 2 tumour areas reach beyond the IHC slide: 25.0% of their area")
    wholly = reaching_out([on, zone_of(box(2000, 0, 2100, 100))], SIZE, "H&E")
    assert "1 of them wholly: 50.0%" in wholly
