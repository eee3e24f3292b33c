"""Where to begin: every rotation, both sides, several scales, and all shifts at once.

Sections lie on the glass anyhow. For each rotation, flip and scale the best shift comes from one
correlation of the tissue's outline and structure; the best of all are candidates for refinement.
Moments of the tissue mask propose two scales, and features (ORB) one pose more, as a vote.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from napari_celldetr.pipeline.register_similarity import structure
from napari_celldetr.slides.registration_images import DensityImage

SIDE_PX = 170
"""Longest side of the pictures that are turned, in px: a degree is 1.5 px at the edge."""
ANGLE_STEP_DEG = 6.0
SCALES = (0.93, 1.0, 1.07)
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
    """Yields the best pose of each rotation, a list per angle; both pictures small."""
    finder = _Finder(he, ihc)
    sides = (False, True) if flips else (False,)
    scales = sorted({*SCALES, *mask_scales(he, ihc)})
    for angle in np.arange(0, 360, ANGLE_STEP_DEG):
        yield [
            finder.pose(float(angle), flip, scale) for flip in sides for scale in scales
        ]


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
    """Scale by the areas of both tissues, where it is believable."""
    areas = [float(i.tissue.sum()) * i.step[0] * i.step[1] for i in (he, ihc)]
    if min(areas) <= 0 or min(i.tissue.mean() for i in (he, ihc)) > FULL_FRAME:
        return []
    scale = float(np.sqrt(areas[1] / areas[0]))
    return [round(scale, 2)] if 0.85 < scale < 1.18 else []


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
        self.target = [fft.fft2(c, self.shape) for c in self._channels(ihc)]

    def pose(self, angle_deg: float, flip: bool, scale: float) -> Pose:
        """The best shift of one rotation, flip and scale."""
        matrix = scale * rotation(angle_deg, flip)
        turned = self._turned(matrix)
        product = sum(
            np.conj(fft.fft2(c, self.shape)) * t
            for c, t in zip(self._channels(turned), self.target, strict=True)
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

    def _turned(self, matrix: Matrix) -> DensityImage:
        """The H&E under a linear map, its tissue's middle in the middle of a square."""
        side = np.arange(2 * self.half) + 0.5 - self.half
        grid = np.stack(np.meshgrid(side * self.step[0], side * self.step[1]), -1).reshape(-1, 2)
        source = grid @ np.linalg.inv(matrix).T + self.middle
        at = (source / self.he.step - 0.5).T[::-1]
        shape = (2 * self.half, 2 * self.half)
        density = ndimage.map_coordinates(self.he.density, at, order=1).reshape(shape)
        tissue = ndimage.map_coordinates(self.he.tissue.astype(np.uint8), at, order=0)
        return DensityImage(density, tissue.reshape(shape).astype(bool), self.step)

    def _channels(self, image: DensityImage) -> list[NDArray[np.complex64]]:
        """Two complex channels: the real part of their product is that of all four together."""
        local, cos, sin = structure(image, surround_px=8.0)
        energy = np.sqrt(float((local**2 + cos**2 + sin**2).sum())) + 1e-9
        outline = np.zeros_like(local)
        if self.uses_outline:
            soft = ndimage.gaussian_filter(image.tissue.astype(np.float32), 1.5)
            outline = OUTLINE_SHARE * soft / (np.sqrt(float((soft**2).sum())) + 1e-9)
        return [outline + 1j * local / energy, (cos + 1j * sin) / energy]


def rotation(angle_deg: float, flip: bool) -> Matrix:
    """Rotation (2, 2), after mirroring x if `flip`."""
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turn = np.array([[cos, -sin], [sin, cos]])
    return turn @ np.diag([-1.0, 1.0]) if flip else turn


def feature_pose(he: DensityImage, ihc: DensityImage) -> Pose | None:
    """A pose by ORB features and RANSAC; a vote among the others, never trusted alone."""
    from skimage import feature, measure, transform

    found = []
    for image in (he, ihc):
        orb = feature.ORB(n_keypoints=400, fast_threshold=0.03)
        try:
            orb.detect_and_extract(np.asarray(image.density, np.float64))
        except (RuntimeError, ValueError, IndexError):
            return None  # nothing in the picture looks like a corner
        found.append(orb)
    pairs = feature.match_descriptors(found[0].descriptors, found[1].descriptors, cross_check=True)
    if len(pairs) < 8:
        return None
    ends = [
        (o.keypoints[pairs[:, i], ::-1] + 0.5) * im.step
        for i, (o, im) in enumerate(zip(found, (he, ihc), strict=True))
    ]
    model, inliers = measure.ransac(
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
