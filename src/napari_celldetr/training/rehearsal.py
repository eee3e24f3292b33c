"""A rehearsal sample: what a model learned before, as features of its frozen backbone.

It lies beside the weights, so that a detector that is taught something new does not forget the
old. Features are kept as 8-bit numbers with a scale per channel; no image is. The card says how
many crops of what there are, and holds the file's sha256.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_celldetr.core.errors import ModelError
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.matching import Targets
from napari_celldetr.nets.registry import file_sha256
from napari_celldetr.training.finetune_cache import Seen

NAME = "rehearsal.safetensors"
KEY = "rehearsal"
"""Of the card's `training`."""
MOST_BYTES = 64 * 2**20


def write_rehearsal(folder: Path, crops: Sequence[Seen], about: dict[str, Any]) -> dict[str, Any]:
    """Write the sample into a folder; returns what the card's ``training["rehearsal"]`` holds."""
    tensors: dict[str, Tensor] = {}
    for i, level in enumerate(zip(*(c.features for c in crops), strict=True)):
        stacked = torch.stack(level).float()
        scale = stacked.abs().amax(dim=(0, 2, 3)).clamp(min=1e-6) / 127
        tensors[f"features.{i}"] = (stacked / scale[:, None, None]).round().to(torch.int8)
        tensors[f"scale.{i}"] = scale
    targets = [c.targets for c in crops]
    tensors["counts"] = torch.tensor([len(t) for t in targets])
    tensors["centres"] = torch.cat([t.centres for t in targets])
    tensors["sizes"] = torch.cat([t.sizes for t in targets])
    tensors["class_ids"] = torch.cat([t.class_ids for t in targets])
    valid = np.stack([_valid(c) for c in crops])
    tensors["valid"] = torch.from_numpy(np.packbits(valid.reshape(len(crops), -1), axis=1))
    save_file(tensors, folder / NAME)
    return {
        "sha256": file_sha256(folder / NAME),
        "crops": len(crops),
        "side_px": crops[0].side,
        "cells": int(sum(len(t) for t in targets)),
        **about,
    }


def _valid(crop: Seen) -> np.ndarray[Any, Any]:
    if crop.targets.valid is None:
        return np.ones((crop.side, crop.side), bool)
    return crop.targets.valid.numpy()


def read_rehearsal(folder: Path, card: ModelCard) -> list[Seen]:
    """The sample of a model folder; empty where the card knows of none.

    Raises `ModelError` when the file is missing, too large, or not the one the card means.
    """
    about = card.training.get(KEY)
    if not isinstance(about, dict):
        return []
    path = folder / NAME
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _unusable(card, f"{path.stat().st_size} bytes", f"at most {MOST_BYTES} bytes")
        found = file_sha256(path)
        if found != about.get("sha256"):
            raise _unusable(card, f"{found[:16]}…", f"sha256 {str(about.get('sha256'))[:16]}…")
        return _crops(load_file(path), int(about["side_px"]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _unusable(card, f"{type(error).__name__}: {str(error)[:150]}") from error


def _crops(tensors: dict[str, Tensor], side: int) -> list[Seen]:
    counts = tensors["counts"].tolist()
    levels = [
        (tensors[f"features.{i}"].float() * tensors[f"scale.{i}"][:, None, None]).half()
        for i in range(sum(name.startswith("features.") for name in tensors))
    ]
    packed = tensors["valid"].numpy()
    valid = np.unpackbits(packed, axis=1, count=side * side).reshape(-1, side, side).astype(bool)
    made, start = [], 0
    for i, count in enumerate(counts):
        rows = slice(start, start + count)
        targets = Targets(
            tensors["centres"][rows],
            tensors["sizes"][rows],
            tensors["class_ids"][rows],
            torch.from_numpy(valid[i]),
        )
        made.append(Seen(tuple(level[i] for level in levels), targets, side))
        start += count
    return made


def _unusable(card: ModelCard, found: str, expected: str = "the file its card means") -> ModelError:
    return ModelError(
        f"The rehearsal sample of model {card.name!r} cannot be used.",
        expected=expected,
        found=found,
        remedy="take the model folder again from its source, or fine-tune with rehearsal 0",
    )
