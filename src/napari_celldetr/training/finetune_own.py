"""What a model itself says of tiles that nobody corrected: soft targets against forgetting.

Only where it is sure of a cell: what it doubts, and what it takes for background, may be just
what the corrections are about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.predictor import PROBABILITY
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.tissue import tissue_mask
from napari_celldetr.training.crops import KNOWN_UM, near_points
from napari_celldetr.training.evaluate import found_cells
from napari_celldetr.training.fields import Field
from napari_celldetr.training.finetune_tiles import TILE_UM, reading

MOST_TILES = 12
LEAST_TISSUE = 0.5

Answer = tuple[Field, NDArray[np.float32]]


def own_fields(
    model: CellDETR,
    card: ModelCard,
    slide: Slide,
    taken: Collection[tuple[int, int]],
    *,
    device: str,
) -> Job[list[Answer]]:
    """Fields of sure cells with their class probabilities (N, K); tiles in `taken` are left out.

    Tiles are chosen by a hash of their place: the same ones whenever it is done.
    """
    predictor = CellDETRPredictor(model, card, device=device).with_class_columns()
    made: list[Answer] = []
    for read, mpp in _places(slide, taken, card.mpp):
        field = Field("own", "own", slide.read(read, mpp), card.mpp, *_nothing())
        answer = _answer(predictor, field, card)
        if answer is not None:
            made.append(answer)
        yield Progress(len(made), MOST_TILES, "asking the model about other tiles")
        if len(made) == MOST_TILES:
            break
    return made


def _nothing() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]:
    return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), np.zeros(0, np.int16)


def _places(
    slide: Slide, taken: Collection[tuple[int, int]], mpp: float
) -> list[tuple[Region, float]]:
    side, mask = np.array(slide.known_mpp()), tissue_mask(slide)
    columns, rows = (np.array(slide.size) * side // TILE_UM).astype(int)
    places = [(x, y) for x in range(columns) for y in range(rows) if (x, y) not in taken]
    places.sort(key=lambda place: hashlib.sha256(repr(place).encode()).digest())
    reads = []
    for place in places:
        read, read_mpp = reading(slide, place, mpp)
        if mask.fraction(read) >= LEAST_TISSUE:
            reads.append((read, read_mpp))
        if len(reads) == 2 * MOST_TILES:
            break
    return reads


def _answer(predictor: CellDETRPredictor, field: Field, card: ModelCard) -> Answer | None:
    found = found_cells(predictor, field)
    sure = found.above(card.threshold)
    if not len(sure):
        return None
    doubtful = found.select(found.scores < np.float32(card.threshold)).centres
    shape, reach = field.image.shape[:2], KNOWN_UM / card.mpp
    known = near_points(sure.centres, reach, shape) & ~near_points(doubtful, reach / 2, shape)
    names = [PROBABILITY + name for name in card.class_names]
    soft = np.zeros((len(sure), len(names)), np.float32)
    if all(name in sure.columns for name in names):
        soft = np.stack([sure.columns[name] for name in names], axis=1).astype(np.float32)
    sides = sure.boxes[:, 2:] - sure.boxes[:, :2]
    ids = sure.class_ids if soft.any() else np.full(len(sure), -1, np.int16)
    taught = Field(
        "own", "own", field.image, card.mpp, sure.centres, sides, ids, card.class_names, valid=known
    )
    return taught, soft
