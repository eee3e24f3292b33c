"""Words that name data sets on a command line, and what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from napari_celldetr.core.errors import ConfigError

DATA_WORDS = "KIND:FOLDER[@MPP][*WEIGHT][+dab], e.g. points:fields@0.5 instances:masks@0.25*0.3"


@dataclass(frozen=True, slots=True)
class DataSpec:
    """One data set: `kind` (points or instances), folder, µm/px and share in sampling.

    `restain` shows its H&E fields as haematoxylin and DAB.
    """

    kind: str
    folder: Path
    mpp: float
    weight: float
    restain: bool = False


def parse_data(text: str) -> list[DataSpec]:
    """Data sets out of words like ``points:folder@0.5*1.0``; `ConfigError` when malformed."""
    specs = [_parse_one(word) for word in text.split()]
    if not specs:
        raise ConfigError(
            "No data set is named.",
            expected=DATA_WORDS,
            found="nothing",
            remedy="name at least one data set",
        )
    return specs


def _parse_one(word: str) -> DataSpec:
    plain = word.removesuffix("+dab")
    kind, _, rest = plain.partition(":")
    body, _, weight = rest.rpartition("*") if "*" in rest else (rest, "", "1")
    folder, _, mpp = body.rpartition("@") if "@" in body else (body, "", "0.5")
    try:
        spec = DataSpec(kind, Path(folder), float(mpp), float(weight), plain != word)
    except ValueError:
        spec = DataSpec("", Path(), 0.0, 0.0)
    numbers_ok = all(math.isfinite(v) and v > 0 for v in (spec.mpp, spec.weight))
    numbers_ok = numbers_ok and 0.05 <= spec.mpp <= 4
    if spec.kind not in ("points", "instances") or not folder or not numbers_ok:
        raise ConfigError(
            "A data set is named in a way that cannot be read.",
            expected=DATA_WORDS,
            found=word,
            remedy="write kind, colon, folder, and optionally @µm/px (0.05 to 4), *share and +dab",
        )
    return spec
