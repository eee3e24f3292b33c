"""Put a rehearsal sample beside a model's weights, and what it is into the model's card.

    python tools/make_rehearsal.py models/celldetr-he \
        points:DATA/he_brca_m2c@0.5*0.8 instances:DATA/he_tnbc@0.25*0.2 --hold-out 07,08

The sample holds features of the model's frozen backbone of some crops it was trained on, and
their labels; no pixels. Only data whose licence lets it be passed on may be given: the card's
entries of the same data sets are repeated there with their licence and citation.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from napari_celldetr.core.errors import CellDETRError, DataError
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import ModelCard, write_card
from napari_celldetr.nets.registry import load_network
from napari_celldetr.nets.running import Normalizer
from napari_celldetr.training.config import TrainConfig
from napari_celldetr.training.finetune_cache import Seen, see_crops
from napari_celldetr.training.pools import Pool, load_pools
from napari_celldetr.training.rehearsal import KEY, write_rehearsal


def make(folder: Path, data: str, hold_out: str, crops: int, side: int, seed: int) -> ModelCard:
    """Write the sample and the card; returns the card."""
    network, card = load_network(folder)
    classes = ",".join(card.class_names) if not card.class_rule else "nucleus"
    config = TrainConfig(data=data, classes=classes, mpp=card.mpp, hold_out=hold_out, name="x")
    pools = load_pools(config)
    normalize = Normalizer(card.mean, card.std)
    weights = np.array([pool.spec.weight for pool in pools])
    shares = weights / weights.sum()
    seen: list[Seen] = []
    for pool, share in zip(pools, shares, strict=True):
        count = max(1, round(crops * float(share)))
        seen += drain(
            see_crops(network, normalize, _fields(pool, seed), side=side, count=count, seed=seed)  # type: ignore[arg-type]
        )
    about = {
        "what": "features of the frozen backbone, 8 bits with a scale per channel, and labels of "
        "training crops; no pixels",
        "data": [_credit(card, pool) for pool in pools],
    }
    told = write_rehearsal(folder, seen, about)
    done = dataclasses.replace(card, training=card.training | {KEY: told})
    write_card(folder, done)
    return done


def _fields(pool: Pool, seed: int) -> list[Any]:
    # A random choice of fields: the sample is smaller than the set.
    rng = np.random.default_rng(seed)
    fields = [pool.fields[i] for i in rng.permutation(len(pool.fields))]
    if not pool.spec.restain:
        return fields
    from napari_celldetr.training.restain import nucleus_radius_px, random_marker, restain_to_hdab

    made = []
    for field in fields:
        marker = random_marker(rng) if pool.spec.restain == "any" else "nucleus"
        radius = nucleus_radius_px(field.mpp)
        image, _ = restain_to_hdab(
            field.image, rng, points=field.points, radius_px=radius, marker=marker
        )
        made.append(dataclasses.replace(field, image=image))
    return made


def _credit(card: ModelCard, pool: Pool) -> dict[str, Any]:
    name = pool.spec.folder.name
    entry = next((e for e in card.data if e.get("name") == name), None)
    if entry is None or not entry.get("licence"):
        raise DataError(
            f"The card says nothing of the licence of {name!r}.",
            expected="a data set that the model was trained on, with its licence",
            found="none" if entry is None else "no licence",
            remedy="finish the card first (tools/finish_model.py)",
        )
    return {key: entry[key] for key in ("name", "licence", "citation") if key in entry}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", nargs="+", metavar="WORD", help="as `celldetr train --data`")
    parser.add_argument("--hold-out", default="")
    parser.add_argument("--crops", type=int, default=24)
    parser.add_argument("--side", type=int, default=192, help="px at the model's µm/px")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        card = make(
            given.folder,
            " ".join(given.data),
            given.hold_out,
            given.crops,
            given.side,
            given.seed,
        )
    except CellDETRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    told = card.training[KEY]
    print(f"{given.folder}: {told['crops']} crops, {told['cells']} cells")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
