"""Training crops by number: crop i of a run is the same whenever and wherever it is made.

That makes resuming exact, and the order of loading processes irrelevant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from napari_celldetr.nets.matching import Targets
from napari_celldetr.training.augment import (
    Augmentation,
    random_crop,
    recolour,
    restain_to_hdab,
)
from napari_celldetr.training.pools import Pool


class CropStream(Dataset[dict[str, Any]]):
    """`length` crops; crop i depends on the seed and i alone."""

    def __init__(
        self,
        pools: Sequence[Pool],
        *,
        size: int,
        length: int,
        seed: int,
        augmentation: Augmentation,
    ) -> None:
        self.pools = list(pools)
        self.size, self.length, self.seed = size, length, seed
        self.augmentation = augmentation
        weights = np.array([p.spec.weight for p in pools], np.float64)
        self.shares = weights / weights.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Crop `index` as arrays: image uint8 (s, s, 3), points, sizes, class_ids, valid."""
        rng = np.random.default_rng([self.seed, index])
        pool = self.pools[rng.choice(len(self.pools), p=self.shares)]
        # Large fields hold more to see than small ones.
        areas = np.array([f.image.shape[0] * f.image.shape[1] for f in pool.fields], np.float64)
        field = pool.fields[rng.choice(len(areas), p=areas / areas.sum())]
        crop = random_crop(field, self.size, rng, self.augmentation)
        image = crop.image
        if pool.spec.restain:
            image, _ = restain_to_hdab(image, rng, points=crop.points)
        image = recolour(image, rng, self.augmentation)
        return {
            "image": np.ascontiguousarray(image),
            "points": crop.points,
            "sizes": crop.sizes,
            "class_ids": crop.class_ids,
            "valid": np.ascontiguousarray(crop.valid),
        }


def collate(items: list[dict[str, Any]]) -> tuple[Tensor, list[Targets]]:
    """A batch: images uint8 (B, 3, s, s) and one `Targets` per image."""
    image = torch.from_numpy(np.stack([i["image"] for i in items])).permute(0, 3, 1, 2)
    targets = [
        Targets(
            torch.from_numpy(np.asarray(i["points"], np.float32)),
            torch.from_numpy(np.asarray(i["sizes"], np.float32)),
            torch.from_numpy(np.asarray(i["class_ids"], np.int64)),
            torch.from_numpy(i["valid"]),
        )
        for i in items
    ]
    return image, targets


def to_device(targets: list[Targets], device: str) -> list[Targets]:
    """The same targets on another device."""
    return [
        Targets(
            t.centres.to(device),
            t.sizes.to(device),
            t.class_ids.to(device),
            None if t.valid is None else t.valid.to(device),
        )
        for t in targets
    ]
