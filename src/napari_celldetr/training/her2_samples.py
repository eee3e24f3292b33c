"""Training samples of generated HER2 staining: pixels with classes, and patches with shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import SCORES
from napari_celldetr.training.her2_fields import CARCINOMA, WEIGHTS, NucleiField, read_nuclei
from napari_celldetr.training.her2_plan import draw_plan
from napari_celldetr.training.her2_scene import Scene, make_scene

PIXEL_CLASSES = ("background", *SCORES)
PRIOR_CELLS = 2
"""Unstained cells that every patch counts besides its own, so that one without cells is 0."""
VALIDATION = 1_000_000_000
"""Numbers of validation samples begin here."""


@dataclass(frozen=True)
class Her2Scenes:
    """Scene i of generated fields; depends on the settings and i alone.

    Attributes
    ----------
    root : str
        Folder that holds the sets named in `WEIGHTS`.
    split : str
        ``train`` or ``val``; patients disjoint.
    side : int
        px
    mpp : float
        µm/px
    seed : int
    """

    root: str | Path
    split: str = "train"
    side: int = 256
    mpp: float = 0.25
    seed: int = 0

    def __call__(self, index: int) -> Scene:
        """Scene `index`."""
        rng = np.random.default_rng([self.seed, index, 5])
        fields = read_nuclei(str(self.root), self.split)
        return make_scene(
            choose_field(fields, rng), draw_plan(rng), rng, side=self.side, mpp=self.mpp
        )


@dataclass(frozen=True)
class PixelSamples:
    """Sample i: image (S, S, 3) uint8 and ids (S, S) uint8 of `PIXEL_CLASSES`, 255 unknown."""

    scenes: Her2Scenes

    def __call__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Sample `index`."""
        scene = self.scenes(index)
        return scene.image, scene.classes


@dataclass(frozen=True)
class StainSamples:
    """Sample i: patch (S, S, 3) uint8 and the share (4,) of its cells with each of `SCORES`."""

    scenes: Her2Scenes

    def __call__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Sample `index`."""
        scene = self.scenes(index)
        return scene.image, score_shares_of(scene.scores)


@dataclass(frozen=True)
class Held:
    """Samples `first` to `first + count` of a generator, as a sequence."""

    make: PixelSamples | StainSamples
    count: int
    first: int = VALIDATION

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.make(self.first + index)


def score_shares_of(scores: NDArray[np.integer]) -> NDArray[np.float32]:
    """Shares (4,) of cells with score 0..3, `PRIOR_CELLS` unstained ones added."""
    counts = np.bincount(scores, minlength=len(SCORES)).astype(np.float32)
    counts[0] += PRIOR_CELLS
    return np.asarray(counts / counts.sum(), np.float32)


def choose_field(fields: tuple[NucleiField, ...], rng: np.random.Generator) -> NucleiField:
    """A field: a set by `WEIGHTS`, then one with many cells of carcinoma rather than few."""
    sources = [name for name in WEIGHTS if any(f.source == name for f in fields)]
    odds = np.array([WEIGHTS[name] for name in sources])
    source = sources[int(rng.choice(len(sources), p=odds / odds.sum()))]
    among = [f for f in fields if f.source == source]
    many = np.array([8 + (f.kinds == CARCINOMA).sum() for f in among], np.float64)
    many = np.minimum(many, 8 * np.median(many))
    return among[int(rng.choice(len(among), p=many / many.sum()))]
