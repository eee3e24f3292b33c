"""Crops as the frozen backbone sees them, kept: a step then costs only what learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.matching import Targets
from napari_celldetr.nets.running import Normalizer
from napari_celldetr.training.augment import Augmentation, sample_crop
from napari_celldetr.training.fields import Field

MEMORY_BYTES = 768 * 2**20
"""Of kept features, at most."""
MOST_VIEWS = 8
"""Crops of one tile: turned, mirrored, scaled and recoloured."""
_TRIES = 5


@dataclass(frozen=True, eq=False)
class Seen:
    """One crop: features (C_i, H_i, W_i) float16 per stride, the labels, and its side in px."""

    features: tuple[Tensor, ...]
    targets: Targets
    side: int

    @property
    def nbytes(self) -> int:
        """Memory of the features."""
        return sum(f.numel() * f.element_size() for f in self.features)


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops of one size, ready for the network."""

    features: list[Tensor]
    targets: list[Targets]
    image: tuple[int, int]

    @classmethod
    def of(cls, items: Sequence[Seen], device: str) -> Batch:
        """Features in float32 on a device."""
        levels = zip(*(item.features for item in items), strict=True)
        features = [
            torch.stack(level).to(device).float().contiguous(memory_format=torch.channels_last)
            for level in levels
        ]
        side = items[0].side
        return cls(features, [item.targets.to(device) for item in items], (side, side))


def see_crops(
    model: CellDETR,
    normalize: Normalizer,
    fields: Sequence[Field],
    *,
    side: int,
    count: int,
    seed: int,
    soft: Sequence[NDArray[np.float32]] = (),
    augmentation: Augmentation | None = None,
) -> Job[list[Seen]]:
    """`count` crops of `side` px, the fields in turn; yields after each.

    `soft` are a teacher's class probabilities (N, K) of each field's cells. As many crops as
    `MEMORY_BYTES` hold are kept; of more fields than that, a random choice is seen. Crops on
    which nothing can be learned are drawn again, and left out in the end.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(fields))
    plan = Augmentation.light() if augmentation is None else augmentation
    kept: list[Seen] = []
    for i in range(count):
        if kept and (i + 1) * kept[0].nbytes > MEMORY_BYTES:
            break
        index = int(order[i % len(fields)])
        made = _crop(
            model, normalize, fields[index], side, rng, plan, soft[index] if soft else None
        )
        if made is not None:
            kept.append(made)
        yield Progress(i + 1, count, "looking at the tiles")
    return kept


def _crop(
    model: CellDETR,
    normalize: Normalizer,
    field: Field,
    side: int,
    rng: np.random.Generator,
    plan: Augmentation,
    soft: NDArray[np.float32] | None,
) -> Seen | None:
    for _ in range(_TRIES):
        crop = sample_crop(field, side, rng, plan)
        if len(crop.points) or crop.valid.any():
            break
    else:
        return None
    image = normalize(np.ascontiguousarray(crop.image)[None])
    with torch.no_grad():
        features = [f[0].half().cpu() for f in model.encoder.backbone(image)]
    targets = Targets(
        torch.from_numpy(crop.points),
        torch.from_numpy(crop.sizes),
        torch.from_numpy(crop.class_ids.astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(crop.valid)),
    )
    if soft is not None:
        targets = replace(targets, class_soft=torch.from_numpy(soft[crop.rows]))
    return Seen(tuple(features), targets, side)
