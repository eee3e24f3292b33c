"""Cells that must not be counted: at the tissue's edge, folded, crushed, or under pigment.

The slide is read once more at 1 µm/px. What a cell's surroundings look like is compared with those
of the slide's own cells, so that a dark or pale slide is judged by its own measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_celldetr.core.grid_index import GridIndex
from napari_celldetr.core.her2 import Exclusion
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.measure import Her2Cells
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.tissue_sample import Overview, look_over, tissue_pixels
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import Floats, optical_density

READ_MPP = 1.0
CORE_UM, HALO_UM = 512.0, 32.0

EDGE_UM = 30.0
"""Stain gathers in the outermost two rows of cells; the tissue mask is about 8 µm generous."""
EDGE_EXCESS = 0.08
"""DAB in the cytoplasm of a cell at the edge over what nine in ten cells inside stay below."""
FEWEST_INSIDE, USUAL_CYTOPLASM = 20, 0.12
"""With fewer cells inside, this is what they are taken to stay below."""
OUTER_GLASS_UM2 = 1e5
"""Glass at the picture's border; a duct's lumen is smaller (.1 mm² is 360 µm across)."""
INNER_GLASS_UM2 = 1e6
"""Glass that tissue surrounds must be larger than any lumen or vessel."""
LARGE_TISSUE_UM2 = 3e4
"""A scrap less than 200 µm across has no inside to compare its edge with."""

TOGETHER_UM, TOGETHER_SHARE, FEWEST_TOGETHER = 25.0, 0.4, 3
"""Folds and crushed parts are larger than cells: this share of the cells this near look alike."""
AROUND_UM = 25.0
"""Haematoxylin is averaged over this: two to three cells, so that one dark nucleus is no fold."""
FLOOR_UM = 15.0
"""Where tissue lies single, some pixel this near shows pale cytoplasm or a gap."""
FLOOR_PERCENTILE = 20
FOLD_MEAN, FOLD_FLOOR = 1.35, 1.8
"""Double tissue has twice the stain, and nuclei of one layer lie in the gaps of the other."""
LEAST_REFERENCE = 0.05
"""Haematoxylin below which a slide's own measure is noise."""

CRUSH_MEAN = 1.25
CRUSH_COHERENCE = 0.5
"""0 where edges run all ways, as around round nuclei; 1 where all run one way."""
GRADIENT_UM, TENSOR_UM = 1.5, 8.0

PIGMENT_OD = 0.8
"""Length of the density vector from which on its direction is sure."""
OFF_PLANE, FROM_USUAL = 0.10, 0.045
"""Residual per length: carbon is at .13, melanin at .11, haematoxylin with the usual DAB at 0. Real
DAB is at up to .08, so that pigment must also lie beyond the slide's own dark brown."""
MOST_USUAL, FEWEST_DARK = 0.08, 200
BEYOND_DAB = -0.2
"""Haematoxylin per length: golden haemosiderin lies beyond DAB, away from haematoxylin."""
PIGMENT_UM2 = 5.0
"""A grain 2.5 µm across; a smaller one hides little of a membrane."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies around N cells.

    Attributes
    ----------
    mean, floor : (N,)
        Haematoxylin around the cell: the average, and what its palest fifth reaches.
    coherence : (N,)
        How much edges around it run one way, 0 to 1.
    pigment : (N,)
        µm² of pigment within the cell.
    depth : (N,)
        µm to the outer border of the tissue; infinite where there is none.
    cytoplasm : (N,)
        DAB optical density of its cytoplasm.
    places : (N, 2)
        Centres x, y in µm.
    """

    mean: Floats
    floor: Floats
    coherence: Floats
    pigment: Floats
    depth: Floats
    cytoplasm: Floats
    places: Floats


def find_exclusions(
    slide: Slide, measured: Her2Cells, *, stain: SlideStain | None = None
) -> Job[NDArray[np.int8]]:
    """Codes of `Exclusion` (N,), one for each cell, in the order of `measured.cells`.

    Parameters
    ----------
    slide : Slide
        Open, with known pixel size.
    measured : Her2Cells
    stain : SlideStain, optional
        As the cells were measured with.

    Yields
    ------
    Progress
        After every tile.

    Raises
    ------
    SlideError
        The slide cannot be read, or its pixel size is not known.
    """
    around = yield from read_surroundings(slide, measured, stain=stain)
    codes = judge_surroundings(around)
    codes[measured.specks] = Exclusion.SPECK
    return codes


def judge_surroundings(around: Surroundings) -> NDArray[np.int8]:
    """Codes of `Exclusion` (N,); where several hold, the one that hides most."""
    mean = around.mean / _reference(around.mean)
    floor = around.floor / _reference(around.floor)
    codes = np.full(len(mean), Exclusion.NONE, np.int8)
    codes[_at_stained_edge(around)] = Exclusion.EDGE
    codes[around.pigment >= PIGMENT_UM2] = Exclusion.PIGMENT
    double = (mean >= FOLD_MEAN) & (floor >= FOLD_FLOOR)
    smeared = (mean >= CRUSH_MEAN) & (around.coherence >= CRUSH_COHERENCE)
    either = double | smeared
    near, among, every = (
        _counts(around.places, which) for which in (smeared, either, np.ones(len(mean), bool))
    )
    spoilt = either & (among >= FEWEST_TOGETHER) & (among >= TOGETHER_SHARE * every)
    # Borders of a fold run one way too: what most cells around look like decides.
    codes[spoilt] = np.where((near > among / 2)[spoilt], Exclusion.CRUSHED, Exclusion.FOLD)
    return codes


def _counts(places: Floats, which: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of the cells `which` lie around each place (N, 2), µm."""
    if not which.any():
        return np.zeros(len(places), np.int64)
    tree = cKDTree(places[which])
    return np.asarray(tree.query_ball_point(places, TOGETHER_UM, return_length=True), np.int64)


def _at_stained_edge(around: Surroundings) -> NDArray[np.bool_]:
    """Which cells near the border have more DAB in their cytoplasm than those inside."""
    within = around.cytoplasm[around.depth >= 2 * EDGE_UM]
    enough = len(within) >= FEWEST_INSIDE
    usual = float(np.percentile(within, 90)) if enough else USUAL_CYTOPLASM
    return np.asarray((around.depth < EDGE_UM) & (around.cytoplasm >= usual + EDGE_EXCESS))


def _reference(values: Floats) -> float:
    return max(float(np.median(values)) if len(values) else 0.0, LEAST_REFERENCE)


def read_surroundings(
    slide: Slide, measured: Her2Cells, *, stain: SlideStain | None = None
) -> Job[Surroundings]:
    """What lies around every cell; parameters and errors as of `find_exclusions`."""
    stain = stain or SlideStain()
    scale = np.array(slide.known_mpp(), np.float64)
    outlines = measured.outlines
    centres = outlines.centres.astype(np.float64)
    reach = outlines.radii.mean(axis=1) * float(scale.mean())
    index = GridIndex(centres)
    core = CORE_UM / scale
    corners = np.unique(np.floor(centres / core).astype(np.int64), axis=0)
    columns = np.zeros((4, len(centres)), np.float32)
    yield Progress(0, len(corners) + 1, "looking for artefacts")
    over = look_over(slide)
    depth = _depths(over, centres, scale)
    usual = _usual_residual(slide, over, stain)
    yield Progress(1, len(corners) + 1, "looking for artefacts")
    for done, corner in enumerate(corners, start=2):
        region = _window(slide, corner * core, core)
        own = np.sort(index.near(region))
        own = own[_within(centres[own], corner * core, core)]
        columns[:, own] = _read_tile(slide, region, centres[own], reach[own], stain, usual)
        yield Progress(done, len(corners) + 1, "looking for artefacts")
    mean, floor, coherence, pigment = columns
    places = np.asarray(centres * scale, np.float32)
    cytoplasm = measured.bands.cytoplasm
    return Surroundings(mean, floor, coherence, pigment, depth, cytoplasm, places)


def _within(
    centres: NDArray[np.float64], corner: NDArray[Any], core: NDArray[Any]
) -> NDArray[np.bool_]:
    return np.asarray(((centres >= corner) & (centres < corner + core)).all(axis=1))


def _window(slide: Slide, corner: NDArray[Any], core: NDArray[Any]) -> Region:
    halo = HALO_UM / CORE_UM * core
    low = np.maximum(np.floor(corner - halo), 0).astype(int)
    high = np.minimum(np.ceil(corner + core + halo), slide.size).astype(int)
    return Region(int(low[0]), int(low[1]), *(max(1, int(n)) for n in high - low))


def _read_tile(
    slide: Slide,
    region: Region,
    centres: NDArray[np.float64],
    reach: NDArray[Any],
    stain: SlideStain,
    usual: float,
) -> Floats:
    """Mean, floor, coherence and pigment (4, n) of the cells at `centres`, level-0 px."""
    density = optical_density(slide.read(region, READ_MPP), stain.white)
    amounts = density @ np.linalg.inv(stain.vectors).astype(np.float32)
    blue = np.clip(amounts[..., 0], 0, 2)
    height, width = blue.shape
    at = np.array([width / region.width, height / region.height])
    columns, rows = ((centres - (region.x, region.y)) * at).T
    column = np.clip(columns.astype(np.intp), 0, width - 1)
    row = np.clip(rows.astype(np.intp), 0, height - 1)
    mean = ndimage.uniform_filter(blue, round(AROUND_UM / READ_MPP))
    floor = _floor(blue, row, column)
    grains = _square_sums(_pigment(density, amounts, usual), columns, rows, reach / READ_MPP)
    found = (mean[row, column], floor, _coherence(blue)[row, column], grains * READ_MPP**2)
    return np.asarray(np.stack(found), np.float32)


def _floor(blue: Floats, row: NDArray[np.intp], column: NDArray[np.intp]) -> Floats:
    """A low percentile (n,) of the surroundings of each place, on pixels twice as large."""
    half = np.asarray(ndimage.uniform_filter(blue, 2))
    height, width = half.shape
    side = round(FLOOR_UM / READ_MPP / 2)
    step = 2 * np.arange(side) - side + 1
    rows = np.clip(row[:, None] + step, 0, height - 1)
    columns = np.clip(column[:, None] + step, 0, width - 1)
    windows = half[rows[:, :, None], columns[:, None, :]].reshape(len(row), -1)
    return np.asarray(np.percentile(windows, FLOOR_PERCENTILE, axis=1), np.float32)


def _coherence(blue: Floats) -> Floats:
    """How much the edges around each pixel run one way: of the structure tensor."""
    x = ndimage.gaussian_filter(blue, GRADIENT_UM / READ_MPP, order=(0, 1))
    y = ndimage.gaussian_filter(blue, GRADIENT_UM / READ_MPP, order=(1, 0))
    xx, yy, xy = (ndimage.gaussian_filter(p, TENSOR_UM / READ_MPP) for p in (x * x, y * y, x * y))
    return np.asarray(np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-7), np.float32)


def _pigment(density: Floats, amounts: Floats, usual: float) -> NDArray[np.bool_]:
    """Dark pixels (…) whose colour no mixture of haematoxylin and the slide's DAB has."""
    length = np.linalg.norm(density, axis=-1)
    off = amounts[..., 2] >= max(OFF_PLANE, usual + FROM_USUAL) * length
    beyond = amounts[..., 0] <= BEYOND_DAB * length
    return np.asarray((length >= PIGMENT_OD) & (off | beyond))


def _usual_residual(slide: Slide, over: Overview, stain: SlideStain) -> float:
    """Residual per length of the slide's dark brown pixels, their median; 0 where there are few."""
    density = optical_density(tissue_pixels(slide, over, READ_MPP), stain.white)
    length = np.linalg.norm(density, axis=1)
    blue, brown = (density @ np.linalg.inv(stain.vectors).astype(np.float32))[:, :2].T
    dark = (length >= PIGMENT_OD) & (brown >= 2 * blue)
    if dark.sum() < FEWEST_DARK:
        return 0.0
    residual = density[dark] @ stain.vectors[2].astype(np.float32) / length[dark]
    return float(np.clip(np.median(residual), 0, MOST_USUAL))


def _square_sums(
    mask: NDArray[np.bool_], x: NDArray[Any], y: NDArray[Any], reach: NDArray[Any]
) -> NDArray[np.float64]:
    """Pixels of `mask` in the square ± `reach` about each place, px."""
    sums = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    height, width = mask.shape
    x0, x1 = (np.clip(np.rint(x + s * reach), 0, width).astype(np.intp) for s in (-1, 1))
    y0, y1 = (np.clip(np.rint(y + s * reach), 0, height).astype(np.intp) for s in (-1, 1))
    return np.asarray(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0], np.float64)


def _depths(over: Overview, centres: NDArray[np.float64], scale: NDArray[Any]) -> Floats:
    """µm (N,) from each cell to the outer border of a large piece of tissue."""
    glass = _outer_glass(over)
    if not glass.any() or not len(centres):
        return np.full(len(centres), np.inf, np.float32)
    away = ndimage.distance_transform_edt(~glass) * over.mpp
    away[~_large(over.tissue, LARGE_TISSUE_UM2, over.mpp)] = np.inf
    at = (centres * scale / over.mpp).astype(np.intp)
    height, width = glass.shape
    row, column = np.clip(at[:, 1], 0, height - 1), np.clip(at[:, 0], 0, width - 1)
    return np.asarray(away[row, column], np.float32)


def _large(mask: NDArray[np.bool_], least_um2: float, mpp: float) -> NDArray[np.bool_]:
    """The connected parts of `mask` with at least that area."""
    labels, _ = ndimage.label(mask)
    keep = np.bincount(labels.ravel()) * mpp**2 >= least_um2
    keep[0] = False
    return np.asarray(keep[labels])


def _outer_glass(over: Overview) -> NDArray[np.bool_]:
    """Glass around the tissue: large, and at the picture's border or very large."""
    glass = _large(~over.tissue, OUTER_GLASS_UM2, over.mpp)
    labels, _ = ndimage.label(glass)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    keep = np.bincount(labels.ravel()) * over.mpp**2 >= INNER_GLASS_UM2
    keep[border] = True
    keep[0] = False
    return np.asarray(keep[labels])
