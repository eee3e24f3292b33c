import subprocess
import sys

import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManifest
from tables import random_table
from viewer_fakes import session_with, slide_image

from napari_celldetr.core.errors import ExportError
from napari_celldetr.gui.contributions import (
    NOTHING,
    get_reader,
    sample_he,
    sample_her2,
    sample_ihc,
    sample_pair,
    write_cells,
)
from napari_celldetr.gui.layers import CELLS_KEY, SLIDE_KEY, point_data


def test_manifest_is_valid_and_its_commands_exist():
    manifest = PluginManifest.from_distribution("napari-celldetr")
    manifest.validate_imports()
    for command in manifest.contributions.commands:
        assert command.id.startswith("napari-celldetr.")
        assert command.title[0].isupper()
    menus = manifest.contributions.menus
    assert menus["napari/layers/segment"]
    assert [item.command for item in menus["napari/layers/register"]] == [
        "napari-celldetr.align_dock"
    ]


def test_commands_load_no_torch():
    code = (
        "import sys; from npe2 import PluginManifest;"
        "PluginManifest.from_distribution('napari-celldetr').validate_imports();"
        "print([m for m in ('torch', 'timm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_slide_is_a_lazy_rgb_pyramid_in_um(shared_data):
    path = str(shared_data / "slides" / "OS-2-ndpi_Ki67.ome.tif")
    ((levels, options, kind),) = get_reader(path)(path)
    assert kind == "image"
    assert options["rgb"] is True
    assert options["multiscale"] is True
    assert options["units"] == ("um", "um")
    np.testing.assert_allclose(options["scale"], 0.2271, atol=1e-3)
    assert options["metadata"][SLIDE_KEY] == path
    assert len(levels) > 1
    assert not isinstance(levels[0], np.ndarray)


def test_a_slide_without_pixel_size_is_in_pixels(shared_data):
    path = str(shared_data / "slides" / "tcga-cr-7395_HE_jpeg2000_no-mpp.svs")
    ((_, options, _),) = get_reader(path)(path)
    assert options["units"] == ("pixel", "pixel")
    assert options["scale"] == (1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.tif", b"not a picture at all"), ("empty.png", b""), ("a.jpg", b"text")],
)
def test_foreign_files_are_left_to_others(tmp_path, notes, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert get_reader(str(path)) is None
    assert get_reader([str(path)]) is None
    assert notes == []


def test_stacks_and_missing_files_are_left_to_others(tmp_path):
    assert get_reader([str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]) is None
    assert get_reader(str(tmp_path / "gone.tif")) is None


def test_a_damaged_slide_is_told(tmp_path, notes):
    path = tmp_path / "broken.svs"
    path.write_bytes(b"II*\0\x08\0\0\0\xff\xff")
    assert get_reader(str(path))(str(path)) == NOTHING
    assert "broken.svs" in notes[0]


def test_a_cut_tiff_is_told(tmp_path, notes):
    import tifffile

    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, np.zeros((512, 512, 3), np.uint8), tile=(256, 256))
    path.write_bytes(path.read_bytes()[:-100_000])
    ((pixels, _, _),) = get_reader(str(path))(str(path))
    assert "cut.tif ends before it should" in notes[0]
    # What cannot be read is hatched, never black or white.
    corner = np.asarray(pixels[400:, 400:])
    assert set(np.unique(corner)) <= {170, 210}


def test_a_damaged_slide_in_the_viewer(make_napari_viewer_proxy, tmp_path, notes):
    path = tmp_path / "broken.svs"
    path.write_bytes(b"II*\0\x08\0\0\0\xff\xff")
    viewer = make_napari_viewer_proxy()
    viewer.open(str(path), plugin="napari-celldetr")
    assert len(viewer.layers) == 0
    assert "broken.svs" in notes[0]


def test_the_ihc_sample_is_real_and_in_um():
    ((pixels, options, kind),) = sample_ihc()
    assert (pixels.shape, kind) == ((512, 512, 3), "image")
    assert options["units"] == ("um", "um")
    assert options["rgb"] is True


def test_the_generated_slide_comes_with_its_cells():
    (levels, options, _), (points, truth, kind) = sample_he()
    assert options["metadata"][SLIDE_KEY].endswith(".ome.tif")
    assert kind == "points"
    assert len(points) > 100
    assert points.min() >= -0.5
    full = levels[0] if options["multiscale"] else levels
    assert (points.max(axis=0) < full.shape[:2]).all()
    assert truth["scale"] == options["scale"]
    assert truth["visible"] is False


def test_the_generated_her2_slide_comes_with_its_tumour():
    (_, options, _), (shapes, drawn, kind) = sample_her2()
    assert options["metadata"][SLIDE_KEY].endswith(".ome.tif")
    assert kind == "shapes"
    assert drawn["scale"] == options["scale"] == (0.25, 0.25)
    assert len(shapes) == 1
    assert shapes[0].min() > 0
    assert shapes[0].max() < 2048


def test_the_generated_pair_is_made_once_and_opens_as_two_slides(tmp_path, monkeypatch):
    from napari_celldetr.pipeline import samples
    from napari_celldetr.pipeline.transform_words import turn_words
    from napari_celldetr.slides.synthetic_pair import PairSettings, make_pair

    monkeypatch.setenv("CELLDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(samples, "PAIR_SIZE_UM", (900.0, 700.0))
    first = sample_pair()
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.ome.tif")}
    assert [p.name for p in sorted(files)] == sorted(samples.PAIR_FILES)
    again = sample_pair()
    assert {p: p.stat().st_mtime_ns for p in files} == files
    for (_, options, kind), (_, same, _) in zip(first, again, strict=True):
        assert kind == "image"
        assert options["units"] == ("um", "um")
        assert options["metadata"] == same["metadata"]
    names = [options["name"] for _, options, _ in first]
    assert "HE" in names[0]
    assert "IHC" in names[1]
    # The H&E is mirrored and turned as the constants say.
    settings = PairSettings(
        size_um=(900.0, 700.0), mpp=(4.0, 4.0), angle_deg=samples.PAIR_TURN_DEG, flip=True
    )
    said = turn_words(make_pair(samples.PAIR_SEED, settings).truth.smooth)
    assert said == "mirrored and turned by 140° clockwise"


def test_a_label_image_of_ours_is_no_slide(tmp_path):
    from napari_celldetr.pipeline.export import export

    path = tmp_path / "cells.ome.zarr"
    export(random_table(20), path)
    assert get_reader(str(path)) is None


def points_layer(threshold=0.5):
    viewer = ViewerModel()
    slide = viewer.add_layer(slide_image(np.zeros((1500, 2000, 3), np.uint8)))
    table = random_table(400).ordered()
    session = session_with(table, viewer, slide, threshold=threshold)
    # Only some of the points are drawn: what is written must not depend on that.
    drawn = point_data(table.centres)[:10]
    return session, (drawn, {"name": "cells", "metadata": {CELLS_KEY: session}})


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".parquet"])
def test_writers_write_every_kept_cell(tmp_path, suffix):
    from napari_celldetr.pipeline.export import read_detections

    session, (data, attributes) = points_layer()
    path = str(tmp_path / f"cells{suffix}")
    assert write_cells(path, data, attributes) == [path]
    back = read_detections(path).ordered()
    kept = session.corrected().cells
    assert len(back) == len(kept) > 10
    np.testing.assert_allclose(back.boxes, kept.boxes, atol=0.01)
    np.testing.assert_array_equal(back.class_labels, kept.class_labels)


def test_anndata_is_written(tmp_path):
    anndata = pytest.importorskip("anndata")
    session, (data, attributes) = points_layer()
    path = str(tmp_path / "cells.h5ad")
    assert write_cells(path, data, attributes) == [path]
    assert anndata.read_h5ad(path).n_obs == len(session.corrected())


def test_points_that_are_not_cells_are_refused(tmp_path):
    with pytest.raises(ExportError, match="not detected cells"):
        write_cells(str(tmp_path / "a.csv"), np.zeros((3, 2)), {"name": "mine", "metadata": {}})
    assert not list(tmp_path.glob("*.csv"))


def test_saving_through_the_viewer(make_napari_viewer_proxy, tmp_path):
    from napari_celldetr.pipeline.export import read_detections

    session, (data, attributes) = points_layer()
    viewer = make_napari_viewer_proxy()
    layer = viewer.add_points(data, **attributes)
    path = tmp_path / "cells.geojson"
    viewer.layers.save(str(path), plugin="napari-celldetr")
    assert len(read_detections(path)) == len(session.corrected())
    own = viewer.add_points(np.zeros((3, 2)), name="other points")
    other = tmp_path / "other.csv"
    own.save(str(other))
    assert other.read_text().startswith("index,axis-0,axis-1")
    assert layer.name == "cells"
