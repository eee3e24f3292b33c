"""What labels are worth: fewer fields, with and without contrastive pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from methods import BREAST, FINE, Places, cross_config

from napari_celldetr.core.progress import drain
from napari_celldetr.training.config import PretrainConfig, TrainConfig
from napari_celldetr.training.crossval import held_out_groups
from napari_celldetr.training.history import read_history
from napari_celldetr.training.pretrain import pretrain
from napari_celldetr.training.train import train

FRACTIONS = (0.05, 0.10, 0.25, 1.0)
PRETRAIN_STEPS, TUNE_STEPS, PROBE_STEPS = 600, 400, 200
_HERE = {"device": "cpu", "precision": "float32", "workers": 0}


def run_all(places: Places) -> dict[str, Any]:
    """Linear probe and fine-tuning at each share of the labelled fields, from both starts.

    Scored on the first fold by patient, whose patients nothing here has seen. The boxes that
    pretraining takes come from the detector that the smallest share of labels gives, so that
    pretraining knows no more than that.
    """
    held = tuple(sorted(held_out_groups(cross_config(FINE, "group", places))[0]))
    plain = _start(places, held, None)
    scores = {(plain.name, s, False): _one(places, held, plain, s, probe=False) for s in FRACTIONS}
    detector = _folder(places, plain, FRACTIONS[0], probe=False) / "model"
    pretrained = _start(places, held, detector)
    rows = []
    for word, model in (("ImageNet weights", plain), ("contrastive pretraining", pretrained)):
        for share in FRACTIONS:
            for probe in (True, False):
                known = scores.get((model.name, share, probe))
                found = known or _one(places, held, model, share, probe=probe)
                rows.append({"start": word, "share": share, "probe": probe, **found})
    return {
        "rows": rows,
        "held_out": list(held),
        "steps": {"pretraining": PRETRAIN_STEPS, "probe": PROBE_STEPS, "tuning": TUNE_STEPS},
    }


def _start(places: Places, held: tuple[str, ...], detector: Path | None) -> Path:
    # Without pretraining: one step at a rate of 0 leaves the network as it was built.
    name = "imagenet" if detector is None else "pretrained"
    folder = places.runs / "few" / f"{name}-{PRETRAIN_STEPS}"
    if not (folder / name / "card.json").is_file():
        boxes = "" if detector is None else str(detector)
        words = places.breast_words if detector else places.breast_words.split()[1]
        config = PretrainConfig(
            data=words,
            boxes_from=boxes,
            output=str(folder),
            name=name,
            hold_out=",".join(g for g in held if detector or not g.startswith("TCGA")),
            mpp=FINE.changes["mpp"],
            backbone_weights=places.backbone,
            steps=PRETRAIN_STEPS if detector else 1,
            rate_factor=None if detector else 0.0,
            split="all",
            **_HERE,
        )
        drain(pretrain(config))
    return folder / name


def _folder(places: Places, model: Path, share: float, *, probe: bool) -> Path:
    steps = f"probe{PROBE_STEPS}" if probe else f"tuned{TUNE_STEPS}"
    return places.runs / "few" / f"{model.name}-{steps}-{share:g}"


def _one(
    places: Places, held: tuple[str, ...], model: Path, share: float, *, probe: bool
) -> dict[str, Any]:
    folder = _folder(places, model, share, probe=probe)
    steps = PROBE_STEPS if probe else TUNE_STEPS
    breast = f"points:{places.data / BREAST}@0.5"
    config = TrainConfig(
        data=places.breast_words,
        split="all",
        output=str(folder),
        name="model",
        init=str(model),
        hold_out=",".join(held),
        fraction=share,
        mpp=FINE.changes["mpp"],
        steps=steps,
        freeze="all_but_classifier" if probe else "none",
        # Only the last layer learns in a probe: it can take larger steps.
        lr_decoders=5e-3 if probe else None,
        validation=breast,
        validation_groups=",".join(g for g in held if g.startswith("TCGA")),
        validate_steps=steps,
        **_HERE,
    )
    if not (folder / "model" / "card.json").is_file():
        drain(train(config))
    last: dict[str, Any] = read_history(folder).validations[-1]["validation"]
    return last
