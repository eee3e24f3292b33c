"""What a generated HER2 picture shows, drawn before it is painted: patterns, blush, dirt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import Pattern
from napari_celldetr.training.her2_ground import GROUNDS, SHARES, Ground

PATTERNS = tuple(Pattern)
USUAL = np.array([0.24, 0.22, 0.16, 0.24, 0.14])
"""How often a pattern is drawn: scores 0, 1+, 2+ (of two patterns) and 3+ about alike."""
PATCH_UM = (15.0, 60.0)
"""Size of the patches of one pattern."""


@dataclass(frozen=True)
class Mix:
    """How patterns are spread over a field.

    Attributes
    ----------
    shares : (5,)
        Of the patterns, adding up to 1.
    patchy : float
        0 scatters them among the cells, 1 gives each its own patches.
    patch_um : float
    """

    shares: NDArray[np.float64]
    patchy: float
    patch_um: float


@dataclass(frozen=True)
class Plan:
    """One picture.

    Attributes
    ----------
    mix : Mix
    blush : float
        Highest DAB density of cytoplasm.
    uneven : float
        Relative deviation of the density along a membrane.
    brown_nuclei : (float, float)
        Limits of the share of nuclei that are brown, as of Ki67 or ER: their score is 0.
    haze : float
        DAB density of the background.
    dirt : float
        Share of the area under pigment; 0 leaves it clean.
    spread_um : float
        How far DAB has spread from the membranes, a standard deviation; peaks keep their density.
    zoom : float
        Size of the field's structures in the picture, 1 as they are.
    rim_um : float
        Width of the cytoplasm.
    every_cell : bool
        Whether cells of all kinds may carry membranes, not carcinoma's alone.
    ground : str
        What lies under the membranes: ``real``, ``soft`` or ``drawn``.
    """

    mix: Mix
    blush: float = 0.08
    uneven: float = 0.12
    brown_nuclei: tuple[float, float] = (0.0, 0.0)
    haze: float = 0.0
    dirt: float = 0.0
    spread_um: float = 0.0
    zoom: float = 1.0
    rim_um: float = 3.2
    every_cell: bool = False
    ground: Ground = "real"


def draw_mix(rng: np.random.Generator) -> Mix:
    """Whole fields of one pattern, few in a sea of another, mixtures, and unstained fields."""
    kind = rng.choice(4, p=(0.35, 0.2, 0.35, 0.1))
    patchy, size = rng.choice([0.0, rng.uniform(0.4, 1)], p=(0.4, 0.6)), rng.uniform(*PATCH_UM)
    shares = np.zeros(len(PATTERNS))
    if kind == 3:
        shares[Pattern.NONE] = 1
    else:
        shares[rng.choice(len(PATTERNS), p=USUAL)] = 1
    if kind == 1:
        minor = rng.uniform(0.03, 0.3)
        shares *= 1 - minor
        shares[rng.choice(len(PATTERNS), p=USUAL)] += minor
    elif kind == 2:
        shares = rng.dirichlet(USUAL * rng.uniform(2, 8))
    return Mix(shares, float(patchy), float(size))


def draw_plan(rng: np.random.Generator) -> Plan:
    """Everything of a picture but its field."""
    plan = Plan(
        draw_mix(rng),
        blush=rng.uniform(0.02, 0.12),
        uneven=rng.uniform(0.05, 0.2),
        haze=rng.uniform(0, 0.04) * (rng.random() < 0.4),
        spread_um=rng.uniform(0, 0.4) * (rng.random() < 0.6),
        zoom=rng.uniform(0.85, 1.2),
        rim_um=rng.uniform(2.7, 3.7),
        every_cell=bool(rng.random() < 0.08),
    )
    if rng.random() < 0.15:
        plan = replace(plan, blush=rng.uniform(0.12, 0.35))
    if rng.random() < 0.12:
        low, high = np.sort(rng.uniform(0, 1, 2))
        plan = replace(plan, brown_nuclei=(float(low), float(high)))
    if rng.random() < 0.12:
        plan = replace(plan, dirt=rng.uniform(0.005, 0.08))
    ground = GROUNDS[int(rng.choice(len(GROUNDS), p=SHARES))]
    return replace(plan, ground=ground)


def spread(mix: Mix, places_um: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int8]:
    """Patterns (N,) of cells at `places_um` (N, 2), shares right to a cell, neighbours alike."""
    n = len(places_um)
    ends = np.rint(np.cumsum(mix.shares) * n).astype(int)
    counts = np.diff(ends, prepend=0)
    waves = rng.normal(0, 1 / mix.patch_um, (8, 2))
    field = np.sin(places_um @ waves.T + rng.uniform(0, 2 * np.pi, 8)).sum(axis=1) / 2
    order = np.argsort(mix.patchy * field + (1 - mix.patchy) * rng.normal(0, 1, n), kind="stable")
    kinds = rng.permutation(len(PATTERNS))
    codes = np.empty(n, np.int8)
    codes[order] = np.repeat(kinds, counts[kinds])
    return codes
