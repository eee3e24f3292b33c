"""Where to begin: every rotation, both sides, several scales, and all shifts at once.

Sections lie on the glass anyhow. For each rotation, flip and scale the best shift comes from one
correlation of the tissue's outline and structure; the best of all are candidates for refinement.
The tissue's area proposes a scale, and features (ORB) one pose more, as a vote.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from napari_celldetr.pipeline.register_similarity import structure
from napari_celldetr.slides.registration_images import DensityImage

SIDE_PX = 170
"""Longest side of the pictures that are turned, in px: a degree is 1.5 px at the edge."""
ANGLE_STEP_DEG = 6.0
SCALES = (0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09)
SAME_SCALE, LARGEST_SCALING = 0.02, 0.2
TURNS = 8
"""Rotations at which every scale is tried."""
OUTLINE_SHARE = 0.6
FULL_FRAME = 0.9
"""With more tissue than this the outline is that of the picture, and says nothing."""
APART_DEG, APART = 9.0, 0.06
"""Poses nearer than this, in degrees and share of the diagonal, are one."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pose:
    """A start: affine (2, 3) from H&E µm to IHC µm, and how well it correlates."""

    affine: Matrix
    score: float
    angle_deg: float = 0.0
    flip: bool = False


def search(he: DensityImage, ihc: DensityImage, *, flips: bool = True) -> Iterator[list[Pose]]:
    """Yields the best shifts, some poses at a time; both pictures small.

    First every rotation at a few scales, then every scale at the best rotations.
    """
    finder = _Finder(he, ihc)
    sides = (False, True) if flips else (False,)
    rough: list[Pose] = []
    for angle in np.arange(0, 360, ANGLE_STEP_DEG):
        some = [finder.pose(float(angle), f, s) for f in sides for s in mask_scales(he, ihc)]
        rough += some
        yield some
    for pose in _best_turns(rough):
        yield [finder.pose(pose.angle_deg, pose.flip, scale) for scale in SCALES]


def _best_turns(poses: list[Pose]) -> list[Pose]:
    """The best poses, each rotation and side once."""
    turns: dict[tuple[float, bool], Pose] = {}
    for pose in sorted(poses, key=lambda p: p.score):
        turns[pose.angle_deg, pose.flip] = pose
    return sorted(turns.values(), key=lambda p: -p.score)[:TURNS]


def distinct(poses: list[Pose], count: int, extent_um: tuple[float, float]) -> list[Pose]:
    """The best `count` poses that differ from one another, best first."""
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * extent_um
    limit = APART * float(np.hypot(*extent_um))
    chosen: list[Pose] = []
    placed: list[Matrix] = []
    for pose in sorted(poses, key=lambda p: -p.score):
        at = corners @ pose.affine[:, :2].T + pose.affine[:, 2]
        if all(np.hypot(*(at - other).T).max() > limit for other in placed):
            chosen.append(pose)
            placed.append(at)
        if len(chosen) == count:
            break
    return chosen


def mask_scales(he: DensityImage, ihc: DensityImage) -> list[float]:
    """Scales to begin with: 1 and that of both tissues' areas, where they say anything."""
    areas = [float(i.tissue.sum()) * i.step[0] * i.step[1] for i in (he, ihc)]
    if min(i.tissue.mean() for i in (he, ihc)) > FULL_FRAME:
        return [0.96, 1.04]
    scale = float(np.sqrt(areas[1] / max(areas[0], 1e-9)))
    return [1.0, scale] if SAME_SCALE < abs(scale - 1) < LARGEST_SCALING else [1.0]


class _Finder:
    """Correlates turned copies of the H&E with the IHC."""

    def __init__(self, he: DensityImage, ihc: DensityImage) -> None:
        self.he, self.ihc = he, ihc
        self.step = ihc.step
        self.uses_outline = min(he.tissue.mean(), ihc.tissue.mean()) < FULL_FRAME
        rows, columns = np.nonzero(he.tissue)
        self.middle = (np.array([columns.mean(), rows.mean()]) + 0.5) * he.step
        reach = np.hypot(*(np.stack([columns, rows], 1) * he.step - self.middle).T).max()
        self.half = int(np.ceil(reach * max(SCALES) * 1.1 / min(self.step))) + 3
        need = [side + 2 * self.half for side in ihc.density.shape]
        self.shape = tuple(fft.next_fast_len(n) for n in need)
        self.structures = structure(he, surround_px=8.0), structure(ihc, surround_px=8.0)
        local, cos, sin = self.structures[1]
        channels = self._channels(ihc.tissue.astype(np.float32), local, cos + 1j * sin)
        self.target = [fft.fft2(c, self.shape) for c in channels]

    def pose(self, angle_deg: float, flip: bool, scale: float) -> Pose:
        """The best shift of one rotation, flip and scale."""
        matrix = scale * rotation(angle_deg, flip)
        channels = self._turned(matrix, np.radians(angle_deg), flip)
        product = sum(
            np.conj(fft.fft2(c, self.shape)) * t for c, t in zip(channels, self.target, strict=True)
        )
        surface = np.real(fft.ifft2(product))
        row, column = np.unravel_index(int(surface.argmax()), surface.shape)
        shift = [
            int(p) - n if p > n - 2 * self.half else int(p)
            for p, n in zip((column, row), self.shape[::-1], strict=True)
        ]
        centre = (np.array([self.half, self.half]) + shift) * self.step
        affine = np.column_stack([matrix, centre - matrix @ self.middle])
        return Pose(affine, float(surface.max()), angle_deg, flip)

    def _turned(self, matrix: Matrix, angle: float, flip: bool) -> list[NDArray[np.complex64]]:
        """The H&E's channels under a linear map, its tissue's middle in the middle of a square."""
        side = np.arange(2 * self.half) + 0.5 - self.half
        grid = np.stack(np.meshgrid(side * self.step[0], side * self.step[1]), -1).reshape(-1, 2)
        source = grid @ np.linalg.inv(matrix).T + self.middle
        at = (source / self.he.step - 0.5).T[::-1]
        tissue, local, cos, sin = (
            ndimage.map_coordinates(c, at, order=1).reshape(2 * self.half, -1)
            for c in (self.he.tissue.astype(np.float32), *self.structures[0])
        )
        # Edges turn with the picture, and are mirrored with it; their angle is a double one.
        edges = (cos - 1j * sin if flip else cos + 1j * sin) * np.complex64(np.exp(2j * angle))
        return self._channels(tissue, local, edges)

    def _channels(
        self, tissue: NDArray[np.float32], local: NDArray[np.float32], edges: NDArray[Any]
    ) -> list[NDArray[np.complex64]]:
        """Two complex channels: the real part of their product is that of all four together."""
        energy = np.sqrt(float((local**2 + np.abs(edges) ** 2).sum())) + 1e-9
        outline = np.zeros_like(local)
        if self.uses_outline:
            soft = ndimage.gaussian_filter(tissue, 1.5)
            outline = OUTLINE_SHARE * soft / (np.sqrt(float((soft**2).sum())) + 1e-9)
        first = np.asarray(outline + 1j * local / energy, np.complex64)
        return [first, np.asarray(edges / energy, np.complex64)]


def rotation(angle_deg: float, flip: bool) -> Matrix:
    """Rotation (2, 2), after mirroring x if `flip`."""
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turn = np.array([[cos, -sin], [sin, cos]])
    return turn @ np.diag([-1.0, 1.0]) if flip else turn


def feature_pose(he: DensityImage, ihc: DensityImage) -> Pose | None:
    """A pose by ORB features and RANSAC; a vote among the others, never trusted alone."""
    from skimage import feature, measure, transform

    # scikit-image tells mypy nothing about these.
    orb_of: Any = feature.ORB
    match: Any = feature.match_descriptors
    ransac: Any = measure.ransac
    found = []
    for image in (he, ihc):
        orb = orb_of(n_keypoints=400, fast_threshold=0.03)
        try:
            orb.detect_and_extract(np.asarray(image.density, np.float64))
        except (RuntimeError, ValueError, IndexError):
            return None  # nothing in the picture looks like a corner
        found.append(orb)
    pairs = match(found[0].descriptors, found[1].descriptors, cross_check=True)
    if len(pairs) < 8:
        return None
    ends = [
        (o.keypoints[pairs[:, i], ::-1] + 0.5) * im.step
        for i, (o, im) in enumerate(zip(found, (he, ihc), strict=True))
    ]
    with warnings.catch_warnings():
        # That no pose fits is an answer, not a fault.
        warnings.simplefilter("ignore")
        model, inliers = ransac(
            (ends[0], ends[1]),
            transform.SimilarityTransform,
            min_samples=3,
            residual_threshold=4 * he.mpp,
            max_trials=500,
            rng=0,
        )
    if model is None or inliers is None or not np.isfinite(model.params).all():
        return None
    scale = float(np.sqrt(abs(np.linalg.det(model.params[:2, :2]))))
    return Pose(model.params[:2], 0.0) if 0.8 < scale < 1.25 else None
