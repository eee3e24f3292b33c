"""Fields of one or several data sets, each with its share in sampling."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.config import RunConfig, TrainConfig
from napari_celldetr.training.datasets import (
    read_composition_folder,
    read_instances_folder,
    read_points_folder,
)
from napari_celldetr.training.fields import Field, resample
from napari_celldetr.training.label_files import SPLIT_FILE, Parts, read_split
from napari_celldetr.training.scale import warn_of_scale
from napari_celldetr.training.slide_fields import TILE_PX
from napari_celldetr.training.specs import KINDS, DataSpec, parse_data


@dataclass(frozen=True)
class Supervision:
    """What a data set's labels tell, counted.

    Attributes
    ----------
    fields, complete, compositions : int
        Fields; those whose unlabelled places are background; those that know class shares alone.
    cells, sized, typed : int
        Labelled cells; those with an extent; those with a class.
    """

    fields: int
    complete: int
    compositions: int
    cells: int
    sized: int
    typed: int

    @classmethod
    def of(cls, fields: Iterable[Field]) -> Supervision:
        """Count fields and cells."""
        items = list(fields)
        return cls(
            len(items),
            sum(f.complete for f in items),
            sum(f.composition is not None for f in items),
            sum(len(f) for f in items),
            sum(int((f.sizes > 0).all(axis=1).sum()) for f in items),
            sum(int((f.class_ids >= 0).sum()) for f in items),
        )

    def as_text(self) -> str:
        """The counts for people."""
        text = (
            f"{self.fields} fields ({self.complete} complete), {self.cells} cells, "
            f"{self.sized} with extent, {self.typed} with class"
        )
        return text + (f", {self.compositions} compositions" if self.compositions else "")


@dataclass(frozen=True)
class Pool:
    """Fields of one data set and its share in sampling."""

    spec: DataSpec
    fields: tuple[Field, ...]

    @property
    def supervision(self) -> Supervision:
        """What the pool's labels tell."""
        return Supervision.of(self.fields)

    @property
    def megapixels(self) -> float:
        """Area of all fields."""
        return float(sum(f.image.shape[0] * f.image.shape[1] for f in self.fields)) / 1e6


Reader = Callable[[DataSpec, ClassMap, Parts], Iterator[Field]]


def iter_fields(
    spec: DataSpec, *, class_names: Sequence[str], split: str | None = None
) -> Iterator[Field]:
    """Fields of one data set at their own scale, one at a time, so that large sets fit.

    `split` reads only what ``split.csv`` in the set's folder gives it. Raises `DataError` for a
    split that is not there, classes without a counterpart in `class_names` or the word's
    ``map``, and labels that are not what the kind says.
    """
    classes = ClassMap.parse(spec.option("map"), class_names)
    pattern = spec.option("group")
    try:
        re.compile(pattern)
        re.compile(spec.option("region"))
    except re.error as error:
        raise ConfigError(
            f"A pattern of the data set {spec.folder.name!r} cannot be read.",
            expected="a regular expression, e.g. ^[^_]+",
            found=f"{pattern or spec.option('region')}: {error}",
            remedy="correct ?group= or ?region=",
        ) from error
    return _READERS[spec.kind](spec, classes, Parts.of(spec.folder, split))


def load_fields(
    spec: DataSpec, *, class_names: Sequence[str], split: str | None = None
) -> list[Field]:
    """All of `iter_fields`. Raises `DataError` also when there are none.

    Warns where nuclei are not of a size or density that they can have (`warn_of_scale`).
    """
    fields = list(iter_fields(spec, class_names=class_names, split=split))
    if not fields:
        raise DataError(
            f"The data set {spec.folder.name!r} gives no fields.",
            expected="annotated images" + (f" of the split {split!r}" if split else ""),
            found="none",
            remedy=f"check the folder, and the names in {SPLIT_FILE}",
        )
    warn_of_scale(fields, spec.folder.name, spec.mpp)
    return fields


def split_to_read(spec: DataSpec, config: RunConfig) -> str | None:
    """The split of a set that a run reads: ``train`` where it has splits and not all are wanted."""
    divided = config.split == "train" and (spec.folder / SPLIT_FILE).is_file()
    return "train" if divided else None


def load_pools(config: TrainConfig) -> list[Pool]:
    """All training fields at the model's µm/px, held-out groups left out.

    Of a set with a ``split.csv`` only its split ``train`` is taken, unless `config.split` is
    ``all``. Where shares are left to the sets' sizes (``*auto``) they follow the square root of
    the area, 1 on average, so that a large set is seen more often and a small one not drowned.

    Raises `DataError` when a group to hold out is not there, or nothing else is. Warns as
    `load_fields` does.
    """
    pools = []
    known: set[str] = set()
    for spec in parse_data(config.data):
        split = split_to_read(spec, config)
        known |= {patient for patient, _ in read_split(spec.folder).values()}
        kept, empty, count = [], 0, 0
        for field in iter_fields(spec, class_names=config.data_classes, split=split):
            known.add(field.group)
            count += 1
            # A field nobody annotated teaches nothing and would only take up draws.
            useful = field.complete or len(field) or field.composition is not None
            empty += not useful
            if useful and field.group not in config.held_out:
                kept.append(resample(field, config.mpp))
        if not kept:
            raise _nothing_left(spec, split, count, empty)
        warn_of_scale(kept, spec.folder.name, spec.mpp)
        pools.append(Pool(spec, tuple(kept)))
    refuse_unknown_groups(config.held_out - known, known)
    return balance(pools)


def _nothing_left(spec: DataSpec, split: str | None, count: int, empty: int) -> DataError:
    """Why no field of a set can be trained on: `empty` of `count` fields have no labels."""
    if not count:
        found = f"no images of the split {split!r}" if split else "no fields"
        remedy = f"check the names in {SPLIT_FILE}" if split else "check the folder and its labels"
    elif empty == count:
        found = f"{count} fields, none with labels"
        trusted = "empty" in KINDS[spec.kind].options
        remedy = "check the labels" + ("; ?empty=background trusts empty ones" if trusted else "")
    else:
        found = f"{count} fields, {count - empty} with labels, all of these held out"
        remedy = "hold out fewer groups"
    return DataError(
        f"Nothing is left of the data set {spec.folder.name!r}.",
        expected="annotated fields outside the held-out groups",
        found=found,
        remedy=remedy,
    )


def refuse_unknown_groups(absent: set[str], known: set[str]) -> None:
    """Raise `DataError` for groups to hold out that no data set has: misspelt, they would stay."""
    if absent:
        raise DataError(
            "Groups to hold out are in none of the data sets.",
            expected="groups out of " + ", ".join(sorted(known)[:20]),
            found=", ".join(sorted(absent)),
            remedy="name the groups as the data sets do",
        )


def balance(pools: Sequence[Pool]) -> list[Pool]:
    """Pools whose shares, where left to the sets' sizes, follow the square root of the area."""
    roots = [math.sqrt(p.megapixels) for p in pools if p.spec.balanced]
    mean = sum(roots) / len(roots) if roots else 1.0
    return [
        replace(p, spec=replace(p.spec, weight=math.sqrt(p.megapixels) / mean))
        if p.spec.balanced
        else p
        for p in pools
    ]


# --- kinds -----------------------------------------------------------------------------------


def _common(spec: DataSpec) -> dict[str, Any]:
    """What all readers take: µm/px, and the pattern of groups where the word gives one."""
    pattern = spec.option("group")
    return {"mpp": spec.mpp, **({"group_pattern": pattern} if pattern else {})}


def _yes(spec: DataSpec, name: str, default: bool) -> bool:
    return spec.option(name, "yes" if default else "no") == "yes"


def _points(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    return read_points_folder(
        spec.folder,
        classes,
        parts,
        **_common(spec),
        complete=_yes(spec, "complete", True),
        empty_is_background=spec.option("empty") == "background",
    )


def _instances(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    complete = _yes(spec, "complete", True)
    return read_instances_folder(spec.folder, classes, parts, **_common(spec), complete=complete)


def _composition(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    return read_composition_folder(spec.folder, classes, parts, **_common(spec))


def _pannuke(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    from napari_celldetr.training.array_sets import read_pannuke

    return read_pannuke(spec.folder, classes, parts, **_common(spec))


def _conic(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    from napari_celldetr.training.array_sets import read_conic

    return read_conic(spec.folder, classes, parts, **_common(spec))


def _consep(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    from napari_celldetr.training.mat_sets import read_consep

    merged = spec.option("types") == "merged"
    return read_consep(spec.folder, classes, parts, **_common(spec), merged=merged)


def _lizard(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    from napari_celldetr.training.mat_sets import read_lizard

    return read_lizard(spec.folder, classes, parts, **_common(spec))


def _coco(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    from napari_celldetr.training.coco import read_coco

    return read_coco(
        spec.folder,
        classes,
        parts,
        **_common(spec),
        annotations=spec.option("json"),
        empty_is_background=spec.option("empty") == "background",
    )


def _geojson(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    from napari_celldetr.training.geojson import REGION, read_geojson_folder

    said = spec.option("complete")
    return read_geojson_folder(
        spec.folder,
        classes,
        parts,
        **_common(spec),
        slides=spec.option("slides"),
        region=spec.option("region", REGION),
        complete=said == "yes" if said else None,
        empty_is_background=spec.option("empty") == "background",
        tile=int(spec.option("tile", str(TILE_PX))),
    )


def _xenium(spec: DataSpec, classes: ClassMap, parts: Parts) -> Iterator[Field]:
    from napari_celldetr.training.xenium import read_xenium

    return read_xenium(
        spec.folder,
        classes,
        parts,
        mpp=spec.mpp,
        image=spec.option("image"),
        alignment=spec.option("align"),
        types=spec.option("types"),
        labels="composition" if spec.option("labels") == "composition" else "points",
        complete=_yes(spec, "complete", False),
        tile=int(spec.option("tile", "0")) or None,
    )


_READERS: dict[str, Reader] = {
    "points": _points,
    "instances": _instances,
    "composition": _composition,
    "pannuke": _pannuke,
    "conic": _conic,
    "consep": _consep,
    "lizard": _lizard,
    "coco": _coco,
    "geojson": _geojson,
    "xenium": _xenium,
}
