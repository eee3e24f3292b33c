"""What a fine-tuning learns from: tiles, class names, the network made ready, crops seen once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_celldetr.core.errors import JobError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.registry import find_model
from napari_celldetr.nets.running import Normalizer
from napari_celldetr.nets.widen import widened
from napari_celldetr.pipeline.finetune_card import held_before, working_card
from napari_celldetr.slides.slide import Slide
from napari_celldetr.training.fields import Field
from napari_celldetr.training.finetune import Lessons
from napari_celldetr.training.finetune_cache import MOST_VIEWS, Seen, see_crops
from napari_celldetr.training.finetune_config import FinetuneConfig
from napari_celldetr.training.finetune_own import own_fields
from napari_celldetr.training.finetune_tiles import (
    Parted,
    Taught,
    part,
    read_tile,
    tile_places,
    tile_px,
)
from napari_celldetr.training.rehearsal import read_rehearsal

ADAPTER_CHANNELS = 16
CROPS = 240
"""Of corrected tiles, at most; a tile is seen up to `MOST_VIEWS` times."""


@dataclass(frozen=True, eq=False)
class Ready:
    """All that a fine-tuning needs; `taught` has the new model's class ids."""

    model: CellDETR
    card: ModelCard
    taught: Taught
    parted: Parted
    lessons: Lessons
    notes: tuple[str, ...]


def prepare(
    slide: Slide,
    taught: Taught,
    model: CellDETR,
    parent: ModelCard,
    config: FinetuneConfig,
    device: str,
) -> Job[Ready]:
    """Read the tiles, widen the network, let its backbone look at all that is learned from.

    Raises `JobError` where no correction lies on a tile, `ModelError` for a damaged rehearsal
    sample and `SlideError` for a slide that cannot be read.
    """
    notes: list[str] = []
    taught, names = _named(taught, parent, notes)
    parted = yield from _tiles(slide, taught, parent)
    if not parted.guard:
        notes.append("Too few tiles were corrected to hold any aside: no figures, no early stop.")
    sample = read_rehearsal(find_model(config.model), parent) if config.rehearsal else []
    if not sample:
        notes.append("No rehearsal sample is used: what the model knew of other tissue may fade.")
    wide = widened(
        model,
        model.config.num_classes if parent.class_rule else len(names),
        adapters=ADAPTER_CHANNELS if config.what == "adapters" else 0,
    )
    if model.config.overview is not None and wide.config.overview is None:
        notes.append("Its coarser second opinion on classes knows the old classes only: left out.")
    card = working_card(parent, wide, names)
    lessons = yield from _lessons(slide, parted, wide, card, sample, config, device)
    if len(names) > 1 and _one_class(lessons.corrected):
        notes.append("All corrections are of one class: of the others nothing new is learned.")
        if not sample:
            # Nothing would hold the other classes: soon all cells would be of this one.
            lessons = replace(lessons, corrected=[_untyped(s) for s in lessons.corrected])
    return Ready(wide, card, taught, parted, lessons, tuple(notes))


def _named(taught: Taught, parent: ModelCard, notes: list[str]) -> tuple[Taught, tuple[str, ...]]:
    """Class ids of the model, and its class names with new ones behind the old."""
    names = parent.class_names
    if parent.class_rule:
        notes.append(f"Classes of {parent.name} are measured, not learned: only cells are taught.")
        return replace(taught, class_ids=np.full(len(taught.class_ids), -1, np.int16)), names
    used = {taught.class_names[i] for i in np.unique(taught.class_ids[taught.vouched]) if i >= 0}
    new = [n for n in taught.class_names if n in used and n not in names]
    every = (*names, *new)
    table = np.array(
        [*(every.index(n) if n in every else -1 for n in taught.class_names), -1], np.int16
    )
    if new:
        notes.append(f"New classes: {', '.join(new)}; the old ones keep their meaning.")
    return replace(taught, class_ids=table[taught.class_ids], class_names=every), every


def _tiles(slide: Slide, taught: Taught, parent: ModelCard) -> Job[Parted]:
    tiles, places = [], tile_places(slide, taught)
    for done, place in enumerate(places):
        yield Progress(done, len(places), "reading the corrected tiles")
        tile = read_tile(slide, taught, place, mpp=parent.mpp)
        tiles += [] if tile is None else [tile]
    return part(tiles, slide_id=slide.identity(), before=held_before(parent))


def _lessons(
    slide: Slide,
    parted: Parted,
    model: CellDETR,
    card: ModelCard,
    sample: Sequence[Seen],
    config: FinetuneConfig,
    device: str,
) -> Job[Lessons]:
    model.to(device).eval()
    normalize = Normalizer(card.mean, card.std, device=device)
    side = tile_px(card.mpp)
    if model.config.geometry == "sigmoid":
        side = model.config.window
    fields = [tile.field for tile in parted.taught]
    if not fields:
        raise JobError(
            "None of the corrections lies on a tile that can be read.",
            expected="corrected cells on the slide",
            found="none of them",
            remedy="check that the slide is the one that was corrected",
        )
    count = max(len(fields), min(CROPS, MOST_VIEWS * len(fields)))
    seen = yield from see_crops(model, normalize, fields, side=side, count=count, seed=config.seed)
    own: list[Seen] = []
    if config.own_answers:
        places = {tile.place for tile in (*parted.taught, *parted.guard)}
        answers = yield from own_fields(model, card, slide, places, device=device)
        if answers:
            alone, soft = zip(*answers, strict=True)
            own = yield from see_crops(
                model, normalize, alone, side=side, count=4 * len(alone), seed=1, soft=soft
            )
    guard: list[Field] = [tile.field for tile in parted.guard]
    return Lessons(seen, sample, own, guard)


def _one_class(seen: Sequence[Seen]) -> bool:
    return len({int(i) for s in seen for i in s.targets.class_ids.tolist() if i >= 0}) == 1


def _untyped(seen: Seen) -> Seen:
    ids = seen.targets.class_ids
    return replace(seen, targets=replace(seen.targets, class_ids=ids.new_full(ids.shape, -1)))
