"""Deformable attention in the encoder of one 256² field: the fast form against `grid_sample`.

Usage: python benchmarks/bench_attention.py [--quick] [--threads N] [--no-compile]
The `compiled` side fuses the fast form's index arithmetic with torch.compile (needs a C++
compiler, and seconds for every new shape); it shows what there is left to gain.
Forward and backward are timed together as well: the fast form's gradient is the reference's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from _turns import measure, print_machine, print_table
from torch import Tensor

from napari_celldetr.nets import attention
from napari_celldetr.nets.attention import deformable_attention

SHAPES = [(32, 32), (16, 16), (8, 8), (4, 4)]
HEADS, POINTS, SIZE = 8, 4, 256
LIMIT = 1e-5


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Random value, locations (a tenth of them outside the image) and weights."""
    chance = torch.Generator().manual_seed(0)
    tokens = sum(h * w for h, w in SHAPES)
    grid = (1, tokens, HEADS, len(SHAPES), POINTS)
    value = torch.randn(1, tokens, HEADS, SIZE // HEADS, generator=chance)
    locations = torch.rand(*grid, 2, generator=chance) * 1.1 - 0.05
    weights = torch.randn(*grid[:3], len(SHAPES) * POINTS, generator=chance).softmax(-1).view(grid)
    return value, locations, weights


def compiled() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The fast form with compiled index arithmetic."""
    taps = torch.compile(attention._taps, dynamic=False)

    def run(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        rows, mix = taps(locations, weights, SHAPES, value.shape[1])
        table = value.reshape(-1, value.shape[3])
        out = torch.nn.functional.embedding_bag(rows, table, mode="sum", per_sample_weights=mix)
        return out.view(*locations.shape[:2], -1)

    return run


def forward(options: argparse.Namespace) -> None:
    """Compare values, then time, without gradients."""
    given = inputs()
    sides = {
        name: partial(deformable_attention, given[0], SHAPES, given[1], given[2], backend=name)
        for name in ("grid_sample", "embedding_bag")
    }
    if not options.no_compile:
        sides["embedding_bag, compiled indices"] = partial(compiled(), *given)
    with torch.inference_mode():
        expected = sides["grid_sample"]()
        errors = {n: float((run() - expected).abs().max()) for n, run in sides.items()}
        assert max(errors.values()) <= LIMIT, errors
        times = measure(sides, rounds=options.rounds)
    print("\nforward, one encoder layer's sampling")
    print_table(times, "grid_sample", {n: f"error {e:.1e}" for n, e in errors.items()})


def backward(options: argparse.Namespace) -> None:
    """Time forward and backward together."""
    given = [t.requires_grad_() for t in inputs()]

    def learn(backend: attention.Backend) -> None:
        out = deformable_attention(given[0], SHAPES, given[1], given[2], backend=backend)
        torch.autograd.grad(out.sum(), given)

    sides = {name: partial(learn, name) for name in attention.BACKENDS}
    print("\nforward and backward")
    print_table(measure(sides, rounds=max(options.rounds // 3, 2)), "grid_sample", {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, no compiler")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    options.rounds = 5 if options.quick else 60
    options.no_compile |= options.quick
    torch.set_num_threads(options.threads)
    print_machine("float32")
    print(f"levels {SHAPES}, {HEADS} heads, {POINTS} points, width {SIZE}; target: 6x, error 1e-5")
    forward(options)
    backward(options)


if __name__ == "__main__":
    main()
