"""Fields of one or several data sets, each with its share in sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from napari_celldetr.core.errors import DataError
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
        divided = config.split == "train" and (spec.folder / "split.csv").is_file()
        split = "train" if divided else None
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
