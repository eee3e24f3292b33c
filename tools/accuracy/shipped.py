"""Figures of the models that ship: two scanners, calibration, speed."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gallery import Judged, draw_failures
from methods import BREAST, ENDONUKE, TNBC, Places

from napari_celldetr import DetectConfig, detect, load_model, open_slide
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.metrics import point_scores
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.registry import list_models
from napari_celldetr.training.config import EvaluateConfig
from napari_celldetr.training.datasets import Field, resample
from napari_celldetr.training.evaluate import evaluate, found_cells, point_field
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import parse_data

SCANNERS = {"ndpi": "OS-2-ndpi_Ki67.ome.tif", "vsi": "OS-2-vsi_Ki67.ome.tif"}
ENDONUKE_HELD_OUT, ENDONUKE_UM = "9209df3f", 4.0
TNBC_HELD_OUT = ("07", "08")
SCANNED_UM = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
SPEED_TILE, SPEED_TURNS = 1024, 5


def two_scanners(places: Places, model: str = "celldetr-ihc") -> dict[str, Any]:
    """Counts and positive share of one region on two scanners."""
    predictor = load_model(model, device="cpu")
    rows = {}
    for name, file in SCANNERS.items():
        path = places.data / "slides" / file
        with tempfile.TemporaryDirectory() as folder, open_slide(path) as slide:
            cells: Detections = drain(
                detect(slide, DetectConfig(model=model), predictor=predictor, workspace=folder)
            )
        positive = int((cells.class_ids == 1).sum())
        rows[name] = {"cells": len(cells), "positive": positive / max(len(cells), 1)}
    a, b = rows["ndpi"], rows["vsi"]
    return {
        "scanners": rows,
        "counts_apart": abs(a["cells"] - b["cells"]) / max(a["cells"], b["cells"]),
        "positive_apart": abs(a["positive"] - b["positive"]),
    }


def endonuke(places: Places, model: str = "celldetr-ihc") -> dict[str, Any]:
    """Point F1 at 4 µm on the tiles of one prefix, which training leaves out."""
    config = EvaluateConfig(
        data=f"points:{places.data / ENDONUKE}@0.29",
        model=model,
        groups=ENDONUKE_HELD_OUT,
        radius_um=ENDONUKE_UM,
        device="cpu",
    )
    report = drain(evaluate(config))
    return report.scores[ENDONUKE].to_dict() | {"threshold": report.threshold}


def pixel_sizes(places: Places) -> dict[str, Any]:
    """Detection F1 of every H&E model on fields that were first resampled to another µm/px."""
    sets = {
        BREAST: load_fields(
            parse_data(f"points:{places.data / BREAST}@0.5")[0],
            class_names=("lymphocyte", "tumour", "stromal"),
            split="val",
        ),
        f"{TNBC} ({', '.join(TNBC_HELD_OUT)})": [
            f
            for f in load_fields(
                parse_data(f"instances:{places.data / TNBC}@0.25")[0], class_names=()
            )
            if f.group in TNBC_HELD_OUT
        ],
    }
    found: dict[str, Any] = {}
    for card in list_models():
        if card.stain == "H&E":
            predictor = load_model(card.name, device="cpu")
            found[card.name] = {
                name: {f"{mpp:g}": _f1_at(predictor, fields, mpp) for mpp in SCANNED_UM}
                for name, fields in sets.items()
            }
    return found


def _f1_at(predictor: Any, fields: Sequence[Field], mpp: float) -> float:
    card = predictor.card
    cells = []
    for field in fields:
        seen = resample(resample(field, mpp), card.mpp)
        cells.append(point_field(seen, found_cells(predictor, seen).above(card.threshold)))
    return float(point_scores(cells, 3.0 / card.mpp).f1)


def failures(places: Places, images: Path) -> dict[str, Any]:
    """The surest errors of every model that ships, on fields its training left out, drawn."""
    found = {}
    for card in list_models():
        predictor = load_model(card.name, device="cpu")
        names = () if card.class_rule else card.class_names
        radius_um = ENDONUKE_UM if card.stain == "H-DAB" else 3.0
        fields = []
        for field in _left_out(places, card.stain):
            small = resample(field, card.mpp)
            cells = found_cells(predictor, small).above(card.threshold)
            sure = np.asarray(cells.columns["class_probability"])
            judged = replace(point_field(small, cells), scores=np.asarray(cells.scores, float))
            if not names:
                judged = replace(judged, truth_ids=None, found_ids=None)
            mpp = field.mpp or card.mpp
            fields.append(Judged.of(field.image, mpp, judged, card.mpp, sure, radius_um))
        path = images / f"failures-{card.name}.jpg"
        found[card.name] = draw_failures(fields, names, path)
    return found


def _left_out(places: Places, stain: str) -> list[Field]:
    if stain == "H-DAB":
        every = load_fields(parse_data(f"points:{places.data / ENDONUKE}@0.29")[0], class_names=())
        return [f for f in every if f.complete and f.name.startswith(ENDONUKE_HELD_OUT)]
    spec = parse_data(f"points:{places.data / BREAST}@0.5")[0]
    return load_fields(spec, class_names=("lymphocyte", "tumour", "stromal"), split="val")


def calibration(places: Places) -> dict[str, Any]:
    """Calibration error of every H&E model on the validation fields."""
    found = {}
    for card in list_models():
        if card.stain != "H&E":
            continue
        config = EvaluateConfig(
            data=f"points:{places.data / BREAST}@0.5", model=card.name, split="val", device="cpu"
        )
        report = drain(evaluate(config))
        kept = card.metrics.get("calibration", {})
        figures = report.as_dict() | {"card_calibration": kept}
        # Where the data lie on this machine is no part of what was found.
        del figures["config"]
        found[card.name] = figures
    return found


def speed() -> dict[str, Any]:
    """Milliseconds per million px of the model's own scale, and per mm², on this machine.

    The median of several turns on a tile of a real tissue texture, after one to warm up.
    """
    import torch
    from skimage import data

    picture = data.immunohistochemistry()
    tile = np.tile(picture, (2, 2, 1))[:SPEED_TILE, :SPEED_TILE][None]
    rows: dict[str, Any] = {}
    for card in list_models():
        predictor = load_model(card.name, device="cpu")
        predictor.predict(tile)
        turns = []
        for _ in range(SPEED_TURNS):
            started = time.perf_counter()
            predictor.predict(tile)
            turns.append(time.perf_counter() - started)
        per_mpx = 1000 * float(np.median(turns)) / (SPEED_TILE**2 / 1e6)
        rows[card.name] = {
            "mpp": card.mpp,
            "ms_per_mpx": per_mpx,
            "ms_per_mm2": per_mpx / card.mpp**2,
            "parameters": _parameters(predictor),
        }
    return {"threads": torch.get_num_threads(), "processor": processor(), "models": rows}


def processor() -> str:
    """The name of this machine's processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _parameters(predictor: Any) -> int:
    return int(sum(p.numel() for p in predictor.model.parameters()))
