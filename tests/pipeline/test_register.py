"""Registration on pairs whose map is known, on one real pair, and on pairs that are none."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from section_pairs import errors_px, opened, rtre, small_pair

from napari_celldetr.core.errors import ConfigError, SlideError
from napari_celldetr.core.progress import Progress, drain
from napari_celldetr.core.regions import Region
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.register import (
    RegisterConfig,
    RegistrationError,
    _checked_landmarks,
    _Registration,
    frame_of,
    measure,
    register,
)
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.registration_images import density_image, extent_um

TARGET = 0.003


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A turned, flipped, warped and torn pair, what came out, and the steps on the way."""
    pair = small_pair(4, angle_deg=137, flip=True, scale=1.07)
    steps: list[tuple[float, Progress]] = []
    with opened(pair, tmp_path_factory.mktemp("pair")) as (he, ihc):
        transform = drain(register(he, ihc), lambda s: steps.append((time.monotonic(), s)))
    return pair, transform, steps


def test_a_turned_flipped_warped_and_torn_pair(registered):
    pair, transform, _ = registered
    assert rtre(pair, transform) < TARGET / 3
    assert np.linalg.det(transform.affine[:, :2]) < 0
    assert transform.warp.determinants().min() > 0


def test_the_error_map_does_not_flatter(registered):
    pair, transform, _ = registered
    points = pair.landmarks(2000)
    scale = np.sqrt(abs(np.linalg.det(transform.affine[:, :2])))
    miss = np.hypot(*(transform.forward(points) - pair.truth.forward(points)).T)
    error_um = miss * pair.mpp[1] / scale
    mapped = transform.error_map.at(points * pair.mpp[0])
    assert np.isfinite(mapped).mean() > 0.95
    assert (error_um > mapped).mean() <= 0.1
    # Nor does it call everything bad.
    assert np.nanmedian(mapped) < 20
    assert transform.excluded_share < 0.2


def test_tissue_without_a_partner_is_excluded(registered):
    pair, transform, _ = registered
    place = pair.truth.missing[:, :2] / pair.mpp[1]
    inside = ((place > 0) & (place < pair.truth.smooth.ihc.size)).all(axis=1)
    gone = transform.inverse(place[inside])
    x, y = gone.astype(int).T
    assert pair.tissue[y, x].any()
    assert not transform.trusted(gone).any()


def test_there_and_back(registered):
    pair, transform, _ = registered
    points = pair.landmarks(500)
    assert np.abs(transform.inverse(transform.forward(points)) - points).max() < 0.05


def test_its_file_is_the_same_transform(registered):
    _, transform, _ = registered
    assert SlideTransform.from_json(transform.to_json()).to_json() == transform.to_json()


def test_every_stage_tells_what_it_did(registered):
    _, transform, _ = registered
    assert [s.name for s in transform.stages] == ["start", "affine", "affine", "bending", "bending"]
    assert all(s.kept == (s.after > s.before) for s in transform.stages)
    assert transform.stages[0].kept


def test_progress_comes_often_and_ends_complete(registered):
    _, _, steps = registered
    times = [at for at, _ in steps]
    assert np.median(np.diff(times)) < 0.3
    done = [s.done for _, s in steps]
    assert done == sorted(done)
    assert steps[-1][1].done == steps[-1][1].total


def test_other_tissue_is_refused_with_the_reason(tmp_path):
    pair = small_pair(8, unrelated=True)
    with (
        opened(pair, tmp_path) as (he, ihc),
        pytest.raises(RegistrationError, match="same tissue") as caught,
    ):
        drain(register(he, ihc))
    assert "%" in caught.value.found
    assert "landmarks" in caught.value.remedy


def test_a_slide_without_tissue_is_refused(tmp_path):
    pair = small_pair(8)
    blank = replace(pair, ihc=np.full_like(pair.ihc, 244))
    with (
        opened(blank, tmp_path) as (he, ihc),
        pytest.raises(RegistrationError, match="no tissue") as caught,
    ):
        drain(register(he, ihc))
    assert "ihc.png" in caught.value.message


def test_without_a_pixel_size_it_asks_for_one(tmp_path):
    pair = small_pair(8)
    with (
        opened(pair, tmp_path) as (he, _),
        open_slide(tmp_path / "ihc.png", probe=False) as unsized,
        pytest.raises(SlideError, match="no known pixel size") as caught,
    ):
        drain(register(he, unsized))
    assert "--mpp" in caught.value.remedy


def test_a_slide_on_itself_needs_no_moving(tmp_path):
    pair = small_pair(11)
    with opened(pair, tmp_path) as (he, _):
        transform = drain(register(he, he))
    points = pair.landmarks(300)
    assert np.abs(transform.forward(points) - points).max() < 1
    assert "as they are" in transform.notes[0]


def test_landmarks_start_and_pull(tmp_path):
    pair = small_pair(6, angle_deg=75, tears=False)
    points = pair.landmarks(200)[:5]
    off = np.array([12.0, -8.0])
    truth = pair.truth.forward(points)
    marks = [(tuple(p), tuple(q)) for p, q in zip(points.tolist(), truth.tolist(), strict=True)]
    with opened(pair, tmp_path) as (he, ihc):
        good = drain(register(he, ihc, landmarks=marks))
        # What a person says against the pictures moves the result, but does not tear it.
        moved = [(p, tuple(np.array(q) + off)) for p, q in marks]
        pulled = drain(register(he, ihc, RegisterConfig(nonrigid=False), landmarks=moved))
    assert rtre(pair, good) < TARGET / 3
    shift = np.median(pulled.forward(points) - truth, axis=0)
    assert 0.2 < shift @ off / (off @ off) < 1.05


def test_landmarks_outside_are_refused(tmp_path):
    pair = small_pair(6)
    with opened(pair, tmp_path) as (he, ihc), pytest.raises(ConfigError, match="outside"):
        register(he, ihc, landmarks=[((0, 0), (1e6, 0))])


def test_an_imported_transform_is_measured(registered, tmp_path):
    pair, transform, _ = registered
    with opened(pair, tmp_path) as (he, ihc):
        frames = frame_of(he), frame_of(ihc)
        off = transform.affine + np.array([[0, 0, 25.0], [0, 0, 0]])
        bad = replace(transform, he=frames[0], ihc=frames[1], affine=off, error_map=None)
        measured = drain(measure(he, ihc, bad))
    good = np.nanmedian(transform.error_map.error_um)
    assert np.nanmedian(measured.error_map.error_um) > good + 15


def phase_landmarks(he: np.ndarray, ihc: np.ndarray, side: int = 192) -> np.ndarray:
    """Rows (x, y, shift x, shift y) px of patches, by phase correlation alone."""
    window = np.outer(np.hanning(side), np.hanning(side))
    frequency = np.fft.fftfreq(side)
    smooth = np.exp(-2 * (np.pi * 1.5) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    rows = []
    for y in range(side // 2, min(len(he), len(ihc)) - side // 2, 96):
        for x in range(side // 2, min(he.shape[1], ihc.shape[1]) - side // 2, 96):
            part = slice(y - side // 2, y + side // 2), slice(x - side // 2, x + side // 2)
            a, b = (np.fft.fft2((i[part] - i[part].mean()) * window) for i in (he, ihc))
            cross = np.conj(a) * b
            surface = np.real(np.fft.ifft2(cross / (np.abs(cross) + 1e-9) * smooth))
            peak = np.unravel_index(surface.argmax(), surface.shape)
            dy, dx = ((p + side // 2) % side - side // 2 for p in peak)
            rows.append((x, y, dx, dy))
    return np.array(rows, float)


def test_one_region_on_two_scanners(shared_data):
    mpp = 0.35
    slides = shared_data / "slides"
    with (
        open_slide(slides / "OS-2-ndpi_Ki67.ome.tif") as he,
        open_slide(slides / "OS-2-vsi_Ki67.ome.tif") as ihc,
    ):
        transform = drain(register(he, ihc))
        pixels = [s.read(Region(0, 0, *s.size), mpp).mean(axis=2) for s in (he, ihc)]
    marks = phase_landmarks(*pixels)
    miss = transform.forward_um(marks[:, :2] * mpp) - (marks[:, :2] + marks[:, 2:]) * mpp
    error = np.hypot(*miss.T)
    assert np.median(error) <= 2
    assert np.percentile(error, 90) <= 4


def test_errors_are_measured_where_both_have_tissue(registered):
    pair, transform, _ = registered
    assert len(errors_px(pair, transform)) > 1000


def test_what_is_no_better_than_nothing_is_refused(tmp_path):
    pair = small_pair(11, size_um=(900.0, 800.0))
    with opened(pair, tmp_path) as (he, _):
        run = _Registration(
            he, he, RegisterConfig(), _checked_landmarks((), he, he), (extent_um(he),) * 2
        )
        run.images = [density_image(he, run.mpp)] * 2
        identity = run._frames()
        off = replace(identity, affine=identity.affine + np.array([[0, 0, 40.0], [0, 0, 0]]))
        with pytest.raises(RegistrationError, match="Nothing better") as caught:
            run._refuse_no_gain(off, identity)
    assert "without any" in caught.value.found
