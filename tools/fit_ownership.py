"""Fit whose a shared membrane line is (`pipeline/her2/ownership.py`) on generated slides.

    python tools/fit_ownership.py CACHE [-o src/napari_celldetr/pipeline/her2/ownership.json]

Slides of random mixes, and of the mixes of `benchmarks/bench_her2.py`, none with a seed that
anything is measured on. Nuclei are the painted ones, moved a little, as a detector would.
CACHE keeps what was read of each slide.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from napari_celldetr.core.her2 import Cutoffs, Pattern
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.membrane import Bands, read_bands, stained_lines
from napari_celldetr.pipeline.her2.outline import NOBODY, RAYS, arcs_of, draw_outlines
from napari_celldetr.pipeline.her2.ownership import (
    QUANTITIES,
    Sides,
    Weights,
    find_sides,
    side_quantities,
)
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.slides.membranes import CORNERS
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
SIDE_PX, MPP, WHITE = 2200, 0.25, 244.0
RANDOM_SEEDS, MIXED_SEEDS = range(900, 930), (100, 500)
SHIFT_PX = 1.2
"""Standard deviation by which the sides of a detected nucleus' box are off."""
PAINTED = 0.06
"""A line as dense as this was painted."""
ROUNDS = 4
"""Fewer than are asked later: by then answers hardly change."""
HIDDEN, OUTER, STEPS, RATE, BATCH = 24, 4, 600, 5e-3, 4096
EARLIER = 0.4
"""Weight of all rounds but the last."""


def random_mix(rng: np.random.Generator) -> dict[Pattern, float]:
    """Even mixtures, and mixtures of few patterns."""
    if rng.random() < 0.4:
        shares = rng.dirichlet(np.array([0.5, 0.3, 0.3, 0.3, 0.2]) * 2)
    else:
        shares = rng.dirichlet(np.array([1.2, 0.4, 0.4, 0.4, 0.25]))
    return {Pattern(k): float(share) for k, share in enumerate(shares) if k}


def plans() -> Iterator[tuple[int, dict[Pattern, float], np.random.Generator, float]]:
    """Seed, mix, chance and patchiness of each slide."""
    from bench_her2 import MIXES

    for seed in RANDOM_SEEDS:
        rng = np.random.default_rng(seed)
        mix = random_mix(rng)
        yield seed, mix, rng, float(rng.choice([0, 0.3, 0.7, 0.7, 0.9, 1]))
    for first in MIXED_SEEDS:
        for number, mix in enumerate(MIXES):
            yield first + number, dict(mix), np.random.default_rng(first + number), 0.7


def read(
    seed: int, mix: dict[Pattern, float], rng: np.random.Generator, patchy: float
) -> tuple[Bands, np.ndarray]:
    """What is read of one slide, and the density painted for each cell's own line (N, RAYS)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.ome.tif"
        truth = make_her2_slide(path, mix, size=(SIDE_PX, SIDE_PX), seed=seed, patchy=patchy)
        with open_slide(path) as slide:
            rgb = slide.read(Region(0, 0, SIDE_PX, SIDE_PX), MPP)
    dab = SlideStain(white=(WHITE,) * 3, gain=float(rng.uniform(0.9, 1.1))).dab(rgb)
    boxes = truth.cells.boxes + rng.normal(0, SHIFT_PX, truth.cells.boxes.shape)
    bands = read_bands(draw_outlines(boxes, dab, mpp=MPP), dab, mpp=MPP)
    at = np.arange(RAYS) / RAYS * CORNERS
    before, part = at.astype(int), at - np.floor(at)
    profile = truth.staining.profile
    return bands, profile[:, before] * (1 - part) + profile[:, (before + 1) % CORNERS] * part


def learn(slides: list[tuple[Sides, torch.Tensor]]) -> torch.nn.Sequential:
    """One network for all rounds, fitted on what it meets in each of its own."""
    net, scale = None, (np.zeros(QUANTITIES, np.float32),) * 2
    for _ in range(OUTER):
        seen = [s for sides, truth in slides for s in met(sides, truth, net, scale)]
        x, wanted, weight = (torch.cat(part) for part in zip(*seen, strict=True))
        if net is None:
            scale = (x.mean(0).numpy(), x.std(0).numpy() + np.float32(0.02))
            torch.manual_seed(0)
            net = torch.nn.Sequential(
                torch.nn.Linear(QUANTITIES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1)
            )
        descend(net, (x - torch.tensor(scale[0])) / torch.tensor(scale[1]), wanted, weight)
    assert net is not None
    net.scale = scale
    return net


def met(sides, truth, net, scale):  # type: ignore[no-untyped-def]
    """Quantities, truth and weight of the sides of one slide, round by round."""
    asked = np.flatnonzero((sides.other != NOBODY) & (sides.stained > 0))
    own = np.ones(len(sides.owner), np.float32)
    for number in range(ROUNDS if net else 1):
        x = torch.tensor(side_quantities(sides, own, asked))
        last = net is None or number == ROUNDS - 1
        yield x, truth[asked], torch.tensor(sides.stained[asked]) * (1.0 if last else EARLIER)
        if net is not None:
            with torch.no_grad():
                odds = net((x - torch.tensor(scale[0])) / torch.tensor(scale[1]))[:, 0]
            own[asked] = torch.sigmoid(odds).numpy()


def descend(net, x, wanted, weight) -> None:  # type: ignore[no-untyped-def]
    """`STEPS` of gradient descent on the sides (K, `QUANTITIES`)."""
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    weight = weight / weight.mean()
    for _ in range(STEPS):
        k = torch.randint(len(x), (BATCH,))
        odds = net(x[k])[:, 0]
        loss = F.binary_cross_entropy_with_logits(odds, wanted[k], weight=weight[k])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    print(f"loss {loss.item():.3f} of {len(x)} sides", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    out = ROOT / "src/napari_celldetr/pipeline/her2/ownership.json"
    parser.add_argument("-o", "--out", type=Path, default=out)
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    slides = []
    for plan in plans():
        kept = args.cache / f"{plan[0]}.pickle"
        if not kept.exists():
            kept.write_bytes(pickle.dumps(read(*plan)))
            print(f"slide {plan[0]}", flush=True)
        bands, painted = pickle.loads(kept.read_bytes())
        slides.append(_sides(bands, painted))
    net = learn(slides)
    first, _, last = net
    weights = Weights(
        *net.scale,
        first.weight.detach().numpy(),
        first.bias.detach().numpy(),
        last.weight.detach().numpy()[0],
        last.bias.detach().numpy()[0],
    )
    rounded = {k: np.round(np.asarray(v, float), 4).tolist() for k, v in asdict(weights).items()}
    args.out.write_text(json.dumps(rounded) + "\n", encoding="utf-8")


def _sides(bands: Bands, painted: np.ndarray) -> tuple[Sides, torch.Tensor]:
    """Sides of a slide, and the share (E,) of each one's stained length that is the cell's own."""
    lines, stained = stained_lines(bands, slice(None), Cutoffs().weak)
    around = (bands.neighbours(), arcs_of(bands.radii))
    sides = find_sides(*around, stained, lines)
    own = find_sides(*around, stained & (painted > PAINTED), lines).stained
    return sides, torch.tensor(np.clip(own / np.maximum(sides.stained, 1e-6), 0, 1))


if __name__ == "__main__":
    main()
