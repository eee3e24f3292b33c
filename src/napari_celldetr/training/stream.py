"""Training crops by number: crop i of a run is the same whenever and wherever it is made.

That makes resuming exact, and the order of loading processes irrelevant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from napari_celldetr.nets.matching import Targets
from napari_celldetr.training.augment import Augmentation
from napari_celldetr.training.crop_maker import CropMaker
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
        self.size, self.length, self.seed = size, length, seed
        self.augmentation = augmentation
        self.maker = CropMaker(pools, size, augmentation)

    @property
    def pools(self) -> list[Pool]:
        """Where the crops come from."""
        return self.maker.pools

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each pool in sampling."""
        return self.maker.shares

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Crop `index` as arrays: image uint8 (s, s, 3), points, sizes, class_ids, valid.

        `composition` is there where the crop has one; `exhaustive` is a bool.
        """
        crop = self.maker(np.random.default_rng([self.seed, index]))
        item = {
            "image": np.ascontiguousarray(crop.image),
            "points": crop.points,
            "sizes": crop.sizes,
            "class_ids": crop.class_ids,
            "valid": np.ascontiguousarray(crop.valid),
            "exhaustive": crop.exhaustive,
        }
        if crop.composition is not None:
            item["composition"] = crop.composition
        return item


def collate(items: list[dict[str, Any]]) -> tuple[Tensor, list[Targets]]:
    """A batch: images uint8 (B, 3, s, s) and one `Targets` per image."""
    image = torch.from_numpy(np.stack([i["image"] for i in items])).permute(0, 3, 1, 2)
    targets = [
        Targets(
            torch.from_numpy(np.asarray(i["points"], np.float32)),
            torch.from_numpy(np.asarray(i["sizes"], np.float32)),
            torch.from_numpy(np.asarray(i["class_ids"], np.int64)),
            torch.from_numpy(i["valid"]),
            torch.from_numpy(i["composition"]) if "composition" in i else None,
            bool(i.get("exhaustive", False)),
        )
        for i in items
    ]
    return image, targets


def to_device(targets: list[Targets], device: str) -> list[Targets]:
    """The same targets on another device."""
    return [t.to(device) for t in targets]
