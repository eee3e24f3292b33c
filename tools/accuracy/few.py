"""What labels are worth: fewer fields, with and without contrastive pretraining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cross import BREAST
from methods import FINE, TNBC, Places, cross_config

from napari_celldetr.core.progress import drain
from napari_celldetr.training.config import PretrainConfig, TrainConfig
from napari_celldetr.training.crossval import crossvalidate
from napari_celldetr.training.history import read_history
from napari_celldetr.training.pretrain import pretrain
from napari_celldetr.training.train import train

FRACTIONS = (0.05, 0.10, 0.25, 1.0)
PRETRAIN_STEPS, TUNE_STEPS, PROBE_STEPS = 600, 400, 200


def run_all(places: Places) -> dict[str, Any]:
    """Linear probe and fine-tuning at each share of the labelled fields, from both starts.

    Scored on the first fold by patient, whose patients neither start has seen: the boxes that
    pretraining takes come from that fold's own detector.
    """
    config = cross_config(FINE, "group", places, only="1")
    report = drain(crossvalidate(config))
    held = report.folds[0]
    detector = Path(config.output) / "group-1" / "model"
    starts = {
        "ImageNet weights": _start(places, held, detector, pretrained=False),
        "contrastive pretraining": _start(places, held, detector, pretrained=True),
    }
    rows = []
    for word, model in starts.items():
        for share in FRACTIONS:
            for probe in (True, False):
                rows.append(_one(places, held, word, model, share, probe=probe))
    return {
        "rows": rows,
        "held_out": list(held),
        "steps": {"pretraining": PRETRAIN_STEPS, "probe": PROBE_STEPS, "tuning": TUNE_STEPS},
    }


def _start(places: Places, held: tuple[str, ...], detector: Path, *, pretrained: bool) -> Path:
    # Without pretraining: one step at a rate of 0 gives the same network with ImageNet's trunk.
    name = "pretrained" if pretrained else "imagenet"
    folder = places.runs / "few" / name
    if not (folder / name / "card.json").is_file():
        drain(
            pretrain(
                PretrainConfig(
                    data=f"points:{places.data / BREAST}@0.5*0.8 "
                    f"instances:{places.data / TNBC}@0.25*0.2",
                    boxes_from=str(detector),
                    output=str(folder),
                    name=name,
                    hold_out=",".join(held),
                    mpp=FINE.changes["mpp"],
                    backbone_weights=places.backbone,
                    steps=PRETRAIN_STEPS if pretrained else 1,
                    rate_factor=None if pretrained else 0.0,
                    split="all",
                    device="cpu",
                    precision="float32",
                    workers=0,
                )
            )
        )
    return folder / name


def _one(
    places: Places, held: tuple[str, ...], word: str, model: Path, share: float, *, probe: bool
) -> dict[str, Any]:
    folder = places.runs / "few" / f"{model.name}-{'probe' if probe else 'tuned'}-{share:g}"
    steps = PROBE_STEPS if probe else TUNE_STEPS
    config = TrainConfig(
        data=f"points:{places.data / BREAST}@0.5",
        split="all",
        output=str(folder),
        name="model",
        init=str(model),
        hold_out=",".join(g for g in held if g.startswith("TCGA")),
        fraction=share,
        mpp=FINE.changes["mpp"],
        steps=steps,
        freeze="all_but_classifier" if probe else "none",
        validation=f"points:{places.data / BREAST}@0.5",
        validate_steps=steps,
        device="cpu",
        precision="float32",
        workers=0,
    )
    if not (folder / "model" / "card.json").is_file():
        if probe:
            # Only the last layer learns: it can take larger steps.
            config = replace(config, lr_decoders=5e-3)
        drain(train(config))
    last = read_history(folder).validations[-1]["validation"]
    return {"start": word, "share": share, "probe": probe, **last}
