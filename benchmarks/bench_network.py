"""The whole network, same weights: the fast form against its own plain float32 form.

Usage: python benchmarks/bench_network.py [--quick] [--threads N] [--bf16]
Two networks: the published CellDETR (ResNet-50, 900 learned queries, 256² field) with random
weights, and the one that ships (a 512² tile). The plain form is eager float32 with `grid_sample`,
batch norm as it is, the standard memory layout, and describes every query. The fast form gathers
with `embedding_bag`, folds batch norm, keeps channels last, and describes the kept boxes alone.
Boxes and scores are compared before anything is timed; `--bf16` adds a bfloat16 side, which is
not held to that limit (the median distance to the nearest plain box is shown).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch
from _turns import measure, print_machine, print_table
from torch import Tensor

from napari_celldetr.core.errors import ModelError
from napari_celldetr.nets.backbones import fold_batch_norm
from napari_celldetr.nets.celldetr import CellDETR, CellDETRConfig
from napari_celldetr.nets.registry import load_network

KEPT = 100
"""Boxes described per 256² field by the fast form: four times the mean number of nuclei."""
LIMIT_PX = 1e-3


def awake(config: CellDETRConfig) -> CellDETR:
    """A network whose heads do not start at zero, so that errors show."""
    torch.manual_seed(0)
    model = CellDETR(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.01)
    return model.eval()


def shipped() -> tuple[str, CellDETR]:
    """The shipped network, or its shape with random weights where there is none."""
    try:
        model, card = load_network("celldetr-he")
    except ModelError:
        return "small configuration, random weights", awake(CellDETRConfig.small(3))
    assert isinstance(model, CellDETR)
    return f"{card.name} {card.weights_sha256[:12]}", model.eval()


def fast_form(model: CellDETR) -> CellDETR:
    """The same network, made fast."""
    model = copy.deepcopy(model)
    fold_batch_norm(model.encoder.backbone)
    model.set_backend("embedding_bag")
    return model.to(memory_format=torch.channels_last)


def run_plain(model: CellDETR, image: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes in px and logits of all queries; all are described."""
    encoded, found = model(image)
    model.represent(encoded, found.boxes[-1])
    return found.boxes[-1] * image.shape[-1], found.logits[-1]


def run_fast(model: CellDETR, image: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The same boxes and logits; only the `kept` best are described."""
    encoded, found = model(image)
    best = found.logits[-1][0].topk(min(kept, found.logits[-1].shape[1])).indices
    model.represent(encoded, found.boxes[-1][:, best])
    return found.boxes[-1] * image.shape[-1], found.logits[-1]


def compare(title: str, model: CellDETR, side: int, options: argparse.Namespace) -> None:
    """Check and time both forms of one network on a tile of `side` px."""
    chance = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, side, side, generator=chance)
    last = image.contiguous(memory_format=torch.channels_last)
    plain, fast = copy.deepcopy(model), fast_form(model)
    plain.set_backend("grid_sample")
    kept = KEPT * side * side // 256**2
    sides: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "plain float32": partial(run_plain, plain, image),
        "fast float32": partial(run_fast, fast, last, kept),
    }
    if options.bf16:
        sides["fast bfloat16"] = lambda: narrow(partial(run_fast, fast, last, kept))
    with torch.inference_mode():
        expected = sides["plain float32"]()
        gaps = {}
        for name, run in sides.items():
            boxes, logits = run()
            if name == "fast bfloat16":
                # Peaks rank otherwise, so a box is compared with the nearest of the others.
                gaps[name] = float(torch.cdist(boxes.float(), expected[0]).amin(-1).median())
                continue
            gaps[name] = float((boxes - expected[0]).abs().max())
            assert gaps[name] <= LIMIT_PX, gaps
            assert torch.allclose(logits, expected[1], atol=1e-3), "scores differ"
        times = measure(sides, rounds=options.rounds, warm_up=1 if options.quick else 2)
    queries = expected[1].shape[1]
    print(f"\n{title}: {side}² px, {queries} queries, {min(kept, queries)} described")
    print_table(times, "plain float32", {n: f"boxes within {g:.1e} px" for n, g in gaps.items()})


def narrow(run: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """`run` with convolutions and linear layers in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="where the processor has it natively")
    options = parser.parse_args()
    options.rounds = 2 if options.quick else 15
    torch.set_num_threads(options.threads)
    print_machine("float32")
    print("target: 4x on the published network, boxes within 1e-3 px")
    compare("published CellDETR, random weights", awake(CellDETRConfig()), 256, options)
    compare(*shipped(), 512, options)


if __name__ == "__main__":
    main()
