"""Training crops by number: crop i of a run is the same whenever and wherever it is made.

That makes resuming exact, and the order of loading processes irrelevant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from napari_celldetr.core.errors import DataError
from napari_celldetr.nets.matching import Targets
from napari_celldetr.training.augment import (
    Augmentation,
    random_crop,
    recolour,
    restain_to_hdab,
)
from napari_celldetr.training.config import TrainConfig
from napari_celldetr.training.datasets import (
    Field,
    load_instances_folder,
    load_points_folder,
    read_split,
    resample,
)
from napari_celldetr.training.specs import DataSpec, parse_data


@dataclass(frozen=True)
class Pool:
    """Fields of one data set and its share in sampling."""

    spec: DataSpec
    fields: tuple[Field, ...]


def load_fields(
    spec: DataSpec, *, class_names: Sequence[str], split: str | None = None
) -> list[Field]:
    """Fields of one data set at their own scale; classes outside `class_names` are refused."""
    if spec.kind == "points":
        return load_points_folder(
            spec.folder, mpp=spec.mpp, class_names=class_names or None, split=split
        )
    if split is not None:
        raise DataError(
            f"The data set {spec.folder.name!r} has no splits.",
            expected="split 'all' for instance maps",
            found=split,
            remedy="choose patients with groups instead",
        )
    fields = load_instances_folder(spec.folder, mpp=spec.mpp)
    return [replace(f, class_names=tuple(class_names)) for f in fields]


def load_pools(config: TrainConfig) -> list[Pool]:
    """All training fields at the model's µm/px, held-out groups left out.

    Raises `DataError` when a group to hold out is not there, or nothing else is.
    """
    pools = []
    known: set[str] = set()
    for spec in parse_data(config.data):
        split = "train" if (spec.folder / "split.csv").is_file() else None
        fields = load_fields(spec, class_names=config.data_classes, split=split)
        known |= {f.group for f in fields} | {p for p, _ in read_split(spec.folder).values()}
        # A field nobody annotated teaches nothing and would only take up draws.
        useful = [f for f in fields if f.complete or len(f)]
        kept = [resample(f, config.mpp) for f in useful if f.group not in config.held_out]
        if not kept:
            raise DataError(
                f"Nothing is left of the data set {spec.folder.name!r}.",
                expected="fields outside the held-out groups",
                found=f"{len(fields)} fields, all held out",
                remedy="hold out fewer groups",
            )
        pools.append(Pool(spec, tuple(kept)))
    absent = config.held_out - known
    if absent:
        # A group misspelt would be trained on.
        raise DataError(
            "Groups to hold out are in none of the data sets.",
            expected="groups out of " + ", ".join(sorted(known)[:20]),
            found=", ".join(sorted(absent)),
            remedy="name the groups as the data sets do",
        )
    return pools


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
