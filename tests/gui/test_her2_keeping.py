"""What outlives the window: written, read back, and refused where it does not hold any more."""

from dataclasses import replace

import numpy as np
import pytest
from her2_fakes import her2_reading, her2_state
from napari.layers import Shapes

from napari_celldetr.core.errors import DataError, ExportError
from napari_celldetr.core.her2 import Cutoffs, Exclusion
from napari_celldetr.core.progress import drain
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.carry import ALIGNMENT_KEY, CARRIED_KEY
from napari_celldetr.gui.her2_choices import Choices
from napari_celldetr.gui.her2_keeping import restore_job
from napari_celldetr.gui.her2_tumour import LAYER_KEY, tumour_of
from napari_celldetr.gui.layers import Frame, point_data
from napari_celldetr.pipeline.her2.kept import (
    KeptReading,
    MeasuredWith,
    read_reading,
    write_reading,
)
from napari_celldetr.pipeline.her2.result import Control
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.tumour import Refusal

FRAME = Frame.of_mpp((0.25, 0.25))
SAID = MeasuredWith("a" * 64, (0.25, 0.25), "b" * 64)
SQUARE = np.array([[0, 0], [600, 0], [600, 600], [0, 600]], np.float32)


def kept():
    reading = her2_reading()
    excluded = reading.excluded.copy()
    excluded[4] = Exclusion.FOLD
    specks = np.arange(len(reading)) % 7 == 3
    measured = replace(reading.measured, specks=specks)
    stain = SlideStain((240.0, 241.5, 243.0), gain=1.25, notes=("White: glass.", "Gain: 1.25"))
    control = Control(Region(1, 2, 30, 40), 0.6)
    refused = Refusal("too coarse", "scan again")
    reading = replace(reading, measured=measured, excluded=excluded)
    return KeptReading(reading, stain, control, refused)


def test_measurements_come_back_as_they_were(tmp_path):
    path, before = tmp_path / "her2.npz", kept()
    write_reading(path, before, SAID)
    after = read_reading(path, SAID)
    assert (after.control, after.refused) == (before.control, before.refused)
    assert after.stain.white == before.stain.white
    assert (after.stain.gain, after.stain.notes) == (before.stain.gain, before.stain.notes)
    np.testing.assert_array_equal(after.stain.vectors, before.stain.vectors)
    cells, were = (k.reading.measured.cells for k in (after, before))
    assert (cells.source, cells.class_names) == (were.source, were.class_names)
    np.testing.assert_array_equal(*(k.reading.measured.specks for k in (after, before)))
    for name in ("boxes", "scores", "class_ids"):
        np.testing.assert_array_equal(getattr(cells, name), getattr(were, name))
    for weak in (0.05, 0.12, 0.25):
        found, was = (k.reading.judged(Cutoffs(weak=weak)) for k in (after, before))
        for name in ("centres", "patterns", "areas_um2", "excluded", "mpp"):
            np.testing.assert_array_equal(getattr(found, name), getattr(was, name))
    assert path.stat().st_size < 900 * len(before.reading)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slide": "c" * 64}, "another picture"),
        ({"mpp": (0.5, 0.5)}, "another pixel size"),
        ({"weights": "d" * 64}, "nuclei of another model"),
        ({"code": "0.0"}, "another version"),
    ],
)
def test_nothing_stale_comes_back(tmp_path, change, words):
    path = tmp_path / "her2.npz"
    write_reading(path, kept(), SAID)
    with pytest.raises(DataError, match="does not hold any more") as told:
        read_reading(path, replace(SAID, **change))
    assert words in told.value.found


def test_damage_is_told_and_nothing_is_no_damage(tmp_path):
    path = tmp_path / "her2.npz"
    assert drain(restore_job(path, SAID, dict)) is None
    write_reading(path, kept(), SAID)
    whole = path.read_bytes()
    for spoilt in (b"", whole[: len(whole) // 2], whole[:200] + b"x" + whole[201:]):
        path.write_bytes(spoilt)
        with pytest.raises(DataError, match="cannot be read"):
            drain(restore_job(path, SAID, dict))
    arrays = dict(np.load(_written(path), allow_pickle=False))
    arrays["faced_values"] = arrays["faced_values"] + 10_000
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="cannot be read"):
        read_reading(path, SAID)


def _written(path):
    write_reading(path, kept(), SAID)
    return path


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ExportError, match="cannot be kept"):
        write_reading(tmp_path / "missing" / "her2.npz", kept(), SAID)


def carried_layer():
    return Shapes(
        [point_data(SQUARE), point_data(SQUARE + 600)],
        shape_type=["polygon", "ellipse"],
        name="Tumour · from H&E",
        features={"left_out": [False, True], "error_um": [3.0, np.nan]},
        metadata={CARRIED_KEY: {"from": "H&E"}, ALIGNMENT_KEY: ALIGNMENT, "other": object()},
        edge_color=["#00e676", "#9e9e9e"],
        **FRAME.layer_options(),
    )


ALIGNMENT = {
    "he_name": "he.svs", "he_identity": "e" * 64, "method": "affine", "limit_um": 50.0,
    "error_um": 4.5, "excluded_share": 0.25, "excluded_um2": 0.0, "sha256": "f" * 64,
    "notes": ("made by hand",),
}  # fmt: skip


def test_choices_make_the_same_tumour_again():
    import json

    layer = carried_layer()
    cut = Shapes([point_data(SQUARE / 4)], name="Cut out", **FRAME.layer_options())
    other = Shapes([point_data(SQUARE)], name="else", **FRAME.layer_options())
    key = LAYER_KEY + layer.name
    chosen = Choices.of(Cutoffs(weak=0.1), key, [layer, cut, other], FRAME)
    again = Choices.from_dict(json.loads(json.dumps(chosen.to_dict())))
    assert (again.cutoffs, again.tumour) == (Cutoffs(weak=0.1), key)
    elsewhere = Frame.of_mpp((0.5, 0.5))
    made = again.shapes(elsewhere)
    assert [m.name for m in made] == [layer.name, "Cut out"]
    before, after = tumour_of(key, {}, [layer, cut], FRAME), tumour_of(key, {}, made, elsewhere)
    assert (after.source, after.alignment.he_name) == (before.source, "he.svs")
    points = np.random.default_rng(0).uniform(0, 1200, (500, 2))
    np.testing.assert_array_equal(after.inside(points), before.inside(points))
    assert 0 < after.inside(points).sum() < 250
    assert Choices.from_dict({}) is None
    for bad in ({"schema": 9}, {"schema": 1, "cutoffs": {"weak": 5}, "tumour": "", "layers": []}):
        with pytest.raises(DataError, match="cannot be read"):
            Choices.from_dict(bad)


def test_bad_choices_do_not_keep_the_cells_away(tmp_path):
    path = tmp_path / "her2.npz"
    write_reading(path, kept(), SAID)
    found = drain(restore_job(path, SAID, lambda: {"schema": 9}))
    assert found.choices is None
    assert "choose the tumour" in found.problem
    assert len(found.state.reading) == len(her2_state().reading)
    assert "are back" in found.sentence()
