"""Finding tumour in the H&E slide and carrying it to the IHC: the job, and no viewer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.predictor import PatchPredictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.gui.align_job import ROWS_AT_ONCE, on_he
from napari_celldetr.gui.detect_job import SlideSource
from napari_celldetr.pipeline.her2.patch_shares import PatchShares
from napari_celldetr.pipeline.her2.settings import TUMOUR_MODEL
from napari_celldetr.pipeline.her2.tumour import TUMOUR_CLASS, tumour_map
from napari_celldetr.pipeline.her2.zones import Zone, zones_of_mask
from napari_celldetr.pipeline.warp import Mover, Outline, carry_outline

Load = Callable[[], PatchPredictor]
TUMOUR_FROM = 0.5
FINER = 2.0
"""Squares of the map on the IHC slide, per side of a patch."""
ACROSS = 4
"""Points across a patch at which the alignment is looked up."""
MESSAGE = "Looking for tumour in the H&E"

Floats = NDArray[np.float64]


def load_installed() -> PatchPredictor:
    """The installed network."""
    from napari_celldetr.gui.own_llvm import import_triton_apart
    from napari_celldetr.nets.registry import load_patch_predictor

    import_triton_apart()
    return load_patch_predictor(TUMOUR_MODEL)


def is_installed() -> bool:
    """Whether there is such a network."""
    from napari_celldetr.nets.registry import model_places

    return TUMOUR_MODEL in model_places()


@dataclass(frozen=True)
class TumourRequest:
    """The H&E slide, where it lies on the IHC, and how to load the network."""

    he: SlideSource
    transform: SlideTransform
    load: Load


@dataclass(frozen=True)
class Heat:
    """Probability of tumour (rows, columns), 0 where nobody asked, on a grid from the corner.

    `cell` is the sides (x, y) of a square in level-0 px of the slide it lies on.
    """

    share: NDArray[np.float32]
    cell: tuple[float, float]


@dataclass(frozen=True)
class TumourFound:
    """What the network says: on the H&E slide, on the IHC slide, and as outlines on the IHC."""

    answers: PatchShares
    on_he: Heat
    on_ihc: Heat
    outlines: tuple[Outline, ...]


def tumour_job(request: TumourRequest) -> Job[TumourFound]:
    """Ask the network about all tissue of the H&E; lay its answers onto the IHC."""
    yield Progress(0, 0, "Loading the network…")
    predictor = request.load()
    with request.he.open() as he:
        answers = yield from tumour_map(he, predictor)
    heat = heat_of(answers)
    laid = yield from carried_heat(heat, request.transform)
    outlines = yield from carried_outlines(answers, request.transform)
    return TumourFound(answers, heat, laid, outlines)


def heat_of(answers: PatchShares) -> Heat:
    """The map on the H&E slide."""
    share = answers.shares[..., answers.class_names.index(TUMOUR_CLASS)]
    return Heat(np.nan_to_num(share, nan=0.0).astype(np.float32), answers.cell)


def carried_heat(heat: Heat, transform: SlideTransform) -> Generator[Progress, None, Heat]:
    """The map as it lies on the IHC slide, each square from the patch that its middle is from."""
    side = float(np.mean(np.array(heat.cell) * transform.he.mpp)) / FINER
    step = side / np.array(transform.ihc.mpp)
    columns, rows = (int(np.ceil(n)) for n in np.array(transform.ihc.size) / step)
    laid = np.zeros((rows, columns), np.float32)
    x = (np.arange(columns) + 0.5) * step[0]
    for top in range(0, rows, ROWS_AT_ONCE):
        y = (np.arange(top, min(top + ROWS_AT_ONCE, rows)) + 0.5) * step[1]
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        laid[top : top + len(y)] = _at(heat, on_he(transform, points)).reshape(len(y), -1)
        yield Progress(top, rows, "Laying the map onto the IHC")
    return Heat(laid, (float(step[0]), float(step[1])))


def _at(heat: Heat, points: Floats) -> NDArray[np.float32]:
    place = np.floor(points / heat.cell).astype(np.int64)
    rows, columns = heat.share.shape
    inside = ((place >= 0) & (place < (columns, rows))).all(axis=1)
    found = np.zeros(len(points), np.float32)
    found[inside] = heat.share[place[inside, 1], place[inside, 0]]
    return found


def carried_outlines(
    answers: PatchShares, transform: SlideTransform
) -> Generator[Progress, None, tuple[Outline, ...]]:
    """Outlines on the IHC slide of what the network calls tumour.

    A patch any part of which lies where the slides do not match to within the limit, or beyond
    the IHC slide, is in an outline that is marked as excluded; no outline holds both kinds.
    """
    tumour = heat_of(answers).share >= TUMOUR_FROM
    kept = tumour & trusted_cells(tumour, answers.cell, transform)
    found = []
    for mask, left_out in ((kept, False), (tumour & ~kept, True)):
        for zone in zones_without_holes(mask, answers.cell):
            ring = zone.outline.corners
            line = carry_outline(np.concatenate([ring, ring[:1]]), transform)
            found.append(Outline(line.corners, line.error_um, left_out))
            yield Progress(0, 0, "Carrying the outlines to the IHC")
    return tuple(found)


def trusted_cells(
    mask: NDArray[np.bool_], cell: tuple[float, float], transform: SlideTransform
) -> NDArray[np.bool_]:
    """Which squares of a mask (rows, columns) on the H&E slide match all over."""
    rows, columns = np.nonzero(mask)
    share = (np.arange(ACROSS) + 0.5) / ACROSS
    within = np.stack(np.meshgrid(share, share), -1).reshape(-1, 2)
    points = (np.stack([columns, rows], 1)[:, None] + within) * cell
    mover, flat = Mover(transform), points.reshape(-1, 2)
    _, excluded = mover.errors(flat, mover.move(flat))
    found = np.zeros(mask.shape, bool)
    found[rows, columns] = ~excluded.reshape(len(rows), ACROSS**2).any(axis=1)
    return found


def zones_without_holes(mask: NDArray[np.bool_], cell: tuple[float, float]) -> Iterator[Zone]:
    """The areas of a mask; one with a hole is parted where the hole begins.

    A drawn shape has no holes: what is in them would count as tumour.
    """
    for zone in zones_of_mask(mask, cell):
        if not zone.holes:
            yield zone
            continue
        own = _mask_of(zone, mask, cell)
        at = round(float(zone.holes[0].corners[:, 0].min()) / cell[0])
        left, right = own.copy(), own.copy()
        left[:, at:], right[:, :at] = False, False
        yield from zones_without_holes(left, cell)
        yield from zones_without_holes(right, cell)


def _mask_of(zone: Zone, mask: NDArray[np.bool_], cell: tuple[float, float]) -> NDArray[np.bool_]:
    rows, columns = np.nonzero(mask)
    inside = zone.contains((np.stack([columns, rows], 1) + 0.5) * cell)
    own = np.zeros(mask.shape, bool)
    own[rows[inside], columns[inside]] = True
    return own
