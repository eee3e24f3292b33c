"""Number format of convolutions and linear layers, chosen by a short trial on the device.

float32 or bfloat16, never float16: its range is too small for the losses of a first step.
Sampling, matching and losses stay in float32 whatever is chosen.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLEARLY = 0.8
"""bfloat16 is taken where it needs at most this share of float32's time."""
SECONDS = 0.5
"""Time given to each of the trials; a single repetition may exceed it."""
HOPELESS = 3.0
"""A single layer this many times slower than in float32 ends the trial."""


@dataclass(frozen=True)
class Precision:
    """What was chosen and why; `speedup` is float32's time over bfloat16's, None if not tried."""

    name: str
    reason: str
    speedup: float | None = None


def autocast(precision: str, device: str) -> torch.autocast:
    """Context in which convolutions and linear layers run in `precision`."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def choose_precision(trunk: nn.Module, device: str, wanted: str, *, side: int = 128) -> Precision:
    """The number format to train in.

    Parameters
    ----------
    trunk : module
        Takes a normalised image (1, 3, side, side); it is copied, not changed.
    device : str
    wanted : str
        ``float32``, ``bfloat16`` or ``auto``, which tries both forwards and backwards.
    side : int
        Side of the image for the trial, px.
    """
    if wanted != "auto":
        return Precision(wanted, "as asked for")
    try:
        layer = nn.Conv2d(32, 32, 3, padding=1).to(device)
        slow = _ratio(layer, torch.ones(1, 32, 32, 32, device=device), device)
        if slow > HOPELESS:
            return Precision("float32", "bfloat16 is slower on this device", round(1 / slow, 2))
        ratio = _ratio(copy.deepcopy(trunk), _picture(side, device), device)
    except (RuntimeError, NotImplementedError) as error:
        # Devices differ in what they can do in bfloat16, and say so only when asked to do it.
        return Precision("float32", f"bfloat16 failed: {type(error).__name__}: {str(error)[:120]}")
    if ratio != ratio:
        return Precision("float32", "bfloat16 gave values that are not numbers")
    speedup = round(1 / ratio, 2)
    if ratio > CLEARLY:
        return Precision("float32", "bfloat16 is not clearly faster", speedup)
    return Precision("bfloat16", "faster than float32", speedup)


def _picture(side: int, device: str) -> Tensor:
    # Its own generator: the run's random numbers stay as they are.
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, side, side, generator=generator).to(device)
    return image.contiguous(memory_format=torch.channels_last)


def _ratio(module: nn.Module, image: Tensor, device: str) -> float:
    """Time in bfloat16 over time in float32; NaN where bfloat16 gives no numbers."""
    plain, _ = _time(module, image, device, "float32")
    half, finite = _time(module, image, device, "bfloat16")
    return half / plain if finite else float("nan")


def _time(module: nn.Module, image: Tensor, device: str, precision: str) -> tuple[float, bool]:
    # Fastest repetition in seconds, and whether result and gradients are finite.
    best, spent = float("inf"), 0.0
    for repetition in range(4):
        started = time.perf_counter()
        with autocast(precision, device):
            total = _sum(module(image))
        total.backward()  # type: ignore[no-untyped-call]
        _synchronize(device)
        seconds = time.perf_counter() - started
        spent += seconds
        # The first one also chooses kernels; it counts only if there is no time for another.
        if repetition or spent > SECONDS:
            best = min(best, seconds)
        if spent > SECONDS:
            break
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    finite = bool(torch.isfinite(total.detach()))
    finite = finite and all(bool(torch.isfinite(g).all()) for g in gradients)
    module.zero_grad(set_to_none=True)
    return best, finite


def _sum(out: Tensor | list[Tensor]) -> Tensor:
    parts = out if isinstance(out, list | tuple) else [out]
    return torch.stack([p.float().mean() for p in parts]).sum()


def _synchronize(device: str) -> None:
    wait: dict[str, Callable[[], None]] = {
        "cuda": torch.cuda.synchronize,
        "mps": torch.mps.synchronize,
    }
    kind = torch.device(device).type
    if kind in wait:
        wait[kind]()
