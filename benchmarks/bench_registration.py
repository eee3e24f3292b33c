"""Registration of generated pairs of sections: ours beside ORB with RANSAC, and beside nothing.

Each pair is another tissue, drawn twice in different stains: turned by any angle, perhaps flipped,
scaled by 0.9 to 1.1, shifted, warped, torn, with pieces missing; its true map is known. "hard"
pairs share no cells, and their architecture has drifted further. All three sides get the same
pictures in one process. rTRE is the error as a share of the IHC picture's diagonal. "under" is the
share of tissue where the error map states less than the true error, "excluded" that beyond the
limit of 50 µm. Pairs of unrelated tissue must be refused.

Run: ``python benchmarks/bench_registration.py [--pairs 10] [--hard] [--slides HE IHC]``. With two
slides of one region (OS-2 of the OpenSlide test data) errors are against phase correlation of
patches, in µm.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from skimage import color, feature, measure, transform

from napari_celldetr.core.progress import drain
from napari_celldetr.core.transform import SlideTransform, identity_affine
from napari_celldetr.pipeline.register import RegistrationError, frame_of, register
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.synthetic_pair import PairSettings, SectionPair, make_pair

ORB_SIDE = 1500
HARD = {"drift": 0.6, "same_cells": 0.0, "warp": 0.02}
PATCH_PX, PATCH_STEP_PX, PATCH_MPP = 192, 96, 0.35

Side = Callable[[Slide, Slide], SlideTransform]


def nothing(he: Slide, ihc: Slide) -> SlideTransform:
    return SlideTransform(frame_of(he), frame_of(ihc), identity_affine())


def orb_ransac(he: Slide, ihc: Slide) -> SlideTransform:
    """Features of grey pictures, matched, and an affine through the largest set that agrees."""
    found = []
    for slide in (he, ihc):
        picture = slide.thumbnail(ORB_SIDE)
        step = np.array(slide.size) * slide.mpp / picture.shape[1::-1]
        orb = feature.ORB(n_keypoints=3000, fast_threshold=0.05)
        orb.detect_and_extract(color.rgb2gray(picture))
        found.append(((orb.keypoints[:, ::-1] + 0.5) * step, orb.descriptors))
    (a, first), (b, second) = found
    pairs = feature.match_descriptors(first, second, cross_check=True, max_ratio=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, _ = measure.ransac(
            (a[pairs[:, 0]], b[pairs[:, 1]]),
            transform.AffineTransform,
            min_samples=3,
            residual_threshold=20,
            max_trials=2000,
            rng=0,
        )
    return replace(nothing(he, ihc), affine=model.params[:2])


def ours(he: Slide, ihc: Slide) -> SlideTransform:
    return drain(register(he, ihc))


SIDES: dict[str, Side] = {"nothing": nothing, "ORB + RANSAC": orb_ransac, "celldetr": ours}


def run(side: Side, he: Slide, ihc: Slide) -> tuple[SlideTransform | None, float, str]:
    """The transform or None, seconds, and why there is none."""
    start = time.perf_counter()
    try:
        return side(he, ihc), time.perf_counter() - start, ""
    except RegistrationError as error:
        return None, time.perf_counter() - start, error.message
    except Exception as error:  # noqa: BLE001 - the reference fails in many ways
        return None, time.perf_counter() - start, type(error).__name__


def with_slides(pair: SectionPair, folder: Path) -> tuple[Slide, Slide]:
    for name, pixels in (("he", pair.he), ("ihc", pair.ihc)):
        Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=1)
    return (
        open_slide(folder / "he.png", mpp=pair.mpp[0], probe=False),
        open_slide(folder / "ihc.png", mpp=pair.mpp[1], probe=False),
    )


def map_figures(
    pair: SectionPair, found: SlideTransform, points: np.ndarray, px: np.ndarray
) -> str:
    if found.error_map is None:
        return ""
    scale = np.sqrt(abs(np.linalg.det(found.affine[:, :2])))
    error_um = px * pair.mpp[1] / scale
    mapped = found.error_map.at(points * pair.mpp[0])
    under = np.mean(~(error_um <= mapped) & np.isfinite(mapped))
    return f"under {under:5.1%}  excluded {found.excluded_share:5.1%}"


def one_pair(seed: int, settings: PairSettings, errors: dict[str, list[float]]) -> None:
    pair = make_pair(seed, settings)
    points = pair.landmarks(3000)
    truth, diagonal = pair.truth.forward(points), np.hypot(*pair.ihc.shape[:2])
    with tempfile.TemporaryDirectory() as folder:
        he, ihc = with_slides(pair, Path(folder))
        with he, ihc:
            for name, side in SIDES.items():
                found, seconds, reason = run(side, he, ihc)
                if found is None:
                    print(f"  {seed:4d} {name:14s} failed: {reason} ({seconds:.1f} s)")
                    errors[name].append(np.nan)
                    continue
                px = np.hypot(*(found.forward(points) - truth).T)
                middle, high = np.percentile(px, [50, 90]) / diagonal
                errors[name].append(middle)
                more = map_figures(pair, found, points, px)
                print(
                    f"  {seed:4d} {name:14s} rTRE median {middle:8.3%}  p90 {high:8.3%}  "
                    f"{seconds:5.1f} s  {more}",
                    flush=True,
                )


def phase_landmarks(he: Slide, ihc: Slide) -> tuple[np.ndarray, np.ndarray]:
    """µm (N, 2) on both slides of patches matched by phase correlation alone."""
    pictures = [s.read(s.region, PATCH_MPP).mean(axis=2) for s in (he, ihc)]
    half = PATCH_PX // 2
    window = np.outer(np.hanning(PATCH_PX), np.hanning(PATCH_PX))
    frequency = np.fft.fftfreq(PATCH_PX)
    smooth = np.exp(-2 * (np.pi * 1.5) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    height, width = np.minimum(*(p.shape for p in pictures))
    points, found = [], []
    for y in range(half, height - half, PATCH_STEP_PX):
        for x in range(half, width - half, PATCH_STEP_PX):
            parts = [p[y - half : y + half, x - half : x + half] for p in pictures]
            a, b = (np.fft.fft2((p - p.mean()) * window) for p in parts)
            cross = np.conj(a) * b
            surface = np.real(np.fft.ifft2(cross / (np.abs(cross) + 1e-9) * smooth))
            dy, dx = np.unravel_index(surface.argmax(), surface.shape)
            shift = np.array([(d + half) % PATCH_PX - half for d in (dx, dy)])
            points.append((x, y))
            found.append(np.array([x, y]) + shift)
    return np.array(points) * PATCH_MPP, np.array(found) * PATCH_MPP


def real_pair(paths: list[Path]) -> None:
    with open_slide(paths[0]) as he, open_slide(paths[1]) as ihc:
        points, truth = phase_landmarks(he, ihc)
        print(f"\n{he.name} and {ihc.name}: {len(points)} patches by phase correlation")
        for name, side in SIDES.items():
            found, seconds, reason = run(side, he, ihc)
            if found is None:
                print(f"  {name:14s} failed: {reason}")
                continue
            error = np.hypot(*(found.forward_um(points) - truth).T)
            middle, high = np.percentile(error, [50, 90])
            print(f"  {name:14s} median {middle:7.2f} µm  p90 {high:7.2f} µm  {seconds:5.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--first", type=int, default=1000, help="first seed")
    parser.add_argument("--hard", action="store_true")
    parser.add_argument("--slides", nargs=2, type=Path)
    options = parser.parse_args()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{platform.platform()}, {os.cpu_count()} cores{load}; Python {platform.python_version()}"
    )
    print(f"numpy {np.__version__}, scikit-image {skimage.__version__}")
    settings = replace(PairSettings(), **(HARD if options.hard else {}))
    errors: dict[str, list[float]] = {name: [] for name in SIDES}
    print(f"\n{options.pairs} generated pairs{', hard' if options.hard else ''}")
    for seed in range(options.first, options.first + options.pairs):
        one_pair(seed, settings, errors)
    for name, values in errors.items():
        there = [v for v in values if np.isfinite(v)]
        middle = f"{statistics.median(there):.3%}" if there else "-"
        worst = f"{max(there):.3%}" if there else "-"
        print(
            f"  all  {name:14s} median {middle}  worst {worst}  failed {len(values) - len(there)}"
        )
    print("\nunrelated tissue")
    wrong: dict[str, list[float]] = {name: [] for name in SIDES}
    for seed in range(options.first, options.first + max(1, options.pairs // 3)):
        one_pair(seed, replace(settings, unrelated=True), wrong)
    if options.slides:
        real_pair(options.slides)
    return 0


if __name__ == "__main__":
    sys.exit(main())
