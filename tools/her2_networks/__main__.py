"""Train the three networks of HER2 scoring, measure them, and make them into shipped models.

    python tools/her2_networks train celldetr-her2-pixels DATA
    python tools/her2_networks evaluate RUN/MODEL DATA -o FIGURES.json
    python tools/her2_networks finish RUN/MODEL FIGURES.json -o models/NAME

DATA is a folder with the data sets `he_brca_m2c`, `he_tnbc`, `ihc_endonuke` and ImageNet
`weights`. Membranes are drawn (`training/her2_scene.py`): no real HER2 staining is trained on. A
training goes on where it was; a few thousand steps of the pixel network take hours on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import judge
import plans
from PIL import Image

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.nets.card import ModelCard, read_card
from napari_celldetr.nets.registry import CARD, load_patch_predictor, load_pixel_predictor
from napari_celldetr.training.tumour_patches import grid_patches

ROOT = Path(__file__).resolve().parents[2]
NOTES = ROOT / "tools" / "model_notes"


def train(name: str, data: Path, runs: Path, *, steps: int, init: str, seed: int) -> None:
    """Train one network; a line of progress every few steps."""
    for progress in plans.train(name, data, runs, steps=steps, init=init, seed=seed):
        if progress.done % 10 == 0:
            print(f"{progress.done} / {progress.total} {progress.message}", flush=True)


def evaluate(folder: Path, data: Path, samples: int) -> dict[str, Any]:
    """Figures of one model, on held-out fields and where it can be on generated slides."""
    card = read_card(folder)
    figures: dict[str, Any] = {"weights_sha256": card.weights_sha256}
    if card.name == plans.TUMOUR:
        patches = grid_patches(data / "he_brca_m2c", split="val", steps=5)
        return figures | {"held-out fields": judge.judge_tumour(_patch(folder), patches)}
    held = plans.held_out(card.name, data, samples)
    with tempfile.TemporaryDirectory() as place:
        made = list(judge.slides(Path(place), card.mpp))
    if card.name == plans.STAIN:
        model = _patch(folder)
        side = model.patch_px
        each = [list(judge.slide_patches(m, side)) for m in made]
        return figures | {
            "held-out fields": judge.judge_stain(model, [held[i] for i in range(len(held))]),
            "generated slides": judge.judge_stain(model, [p for some in each for p in some]),
        }
    pixels = load_pixel_predictor(folder, device="cpu")
    return figures | {
        "held-out fields": judge.judge_pixels(pixels, [held[i] for i in range(len(held))]),
        "generated slides": judge.judge_pixels(pixels, [(m.image, m.classes) for m in made]),
    }


def _patch(folder: Path) -> Any:
    return load_patch_predictor(folder, device="cpu")


def finish(trained: Path, figures: Path, out: Path) -> ModelCard:
    """Write the model with its words, credits and figures; refuses figures of other weights."""
    sys.path.insert(0, str(ROOT / "tools"))
    from finish_model import finish as finish_card

    card = finish_card(trained, NOTES / f"{out.name}.json", [], out)
    known = json.loads(figures.read_text(encoding="utf-8"))
    if known.pop("weights_sha256") != card.weights_sha256:
        raise SystemExit(f"error: {figures} are figures of other weights")
    done = replace(card, metrics={**card.metrics, **known})
    (out / CARD).write_text(done.to_json(), encoding="utf-8")
    return done


def picture(folder: Path, image: Path, out: Path) -> None:
    """The pixel network's classes over an image at its µm/px, beside it."""
    import numpy as np

    pixels = np.array(Image.open(image).convert("RGB"))
    model = load_pixel_predictor(folder, device="cpu")
    found = model.classes(pixels[None])[0]
    colours = np.array([(255, 255, 255), *model.card.class_colors[1:]], np.float32)
    over = 0.45 * pixels + 0.55 * colours[np.minimum(found, len(colours) - 1)]
    over = np.where((found == 0)[..., None], pixels, over).astype(np.uint8)
    Image.fromarray(np.hstack([pixels, over])).save(out)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = parser.add_subparsers(dest="way", required=True)
    way = ways.add_parser("train")
    way.add_argument("name", choices=plans.NAMES)
    way.add_argument("data", type=Path)
    way.add_argument("--runs", type=Path, default=ROOT / "runs")
    way.add_argument("--steps", type=int, default=0, help="0 takes those of the plan")
    way.add_argument("--init", default="", help="model folder to go on from")
    way.add_argument("--seed", type=int, default=0, help="other samples with another")
    way = ways.add_parser("evaluate")
    way.add_argument("model", type=Path)
    way.add_argument("data", type=Path)
    way.add_argument("--samples", type=int, default=400)
    way.add_argument("-o", "--out", type=Path, required=True)
    way = ways.add_parser("finish")
    way.add_argument("model", type=Path)
    way.add_argument("figures", type=Path)
    way.add_argument("-o", "--out", type=Path, required=True)
    way = ways.add_parser("picture")
    way.add_argument("model", type=Path)
    way.add_argument("image", type=Path)
    way.add_argument("-o", "--out", type=Path, required=True)
    try:
        _run(parser.parse_args())
    except CellDETRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(given: argparse.Namespace) -> None:
    if given.way == "train":
        train(
            given.name,
            given.data,
            given.runs,
            steps=given.steps,
            init=given.init,
            seed=given.seed,
        )
    elif given.way == "evaluate":
        found = evaluate(given.model, given.data, given.samples)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=1))
    elif given.way == "finish":
        done = finish(given.model, given.figures, given.out)
        print(f"{given.out}: {done.title}, weights {done.weights_sha256[:12]}")
    else:
        picture(given.model, given.image, given.out)


if __name__ == "__main__":
    raise SystemExit(main())
