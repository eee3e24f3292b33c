"""How each of the three networks of HER2 scoring is trained: settings, samples, validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_celldetr.core.her2 import SCORES
from napari_celldetr.core.progress import Job
from napari_celldetr.nets.maskformer import MaskFormerConfig
from napari_celldetr.training.her2_samples import (
    PIXEL_CLASSES,
    Held,
    Her2Scenes,
    PixelSamples,
    StainSamples,
)
from napari_celldetr.training.sample_config import PatchTrainConfig, PixelTrainConfig
from napari_celldetr.training.samples import Sample
from napari_celldetr.training.train_samples import train_patches, train_pixels
from napari_celldetr.training.tumour_patches import TumourPatches, grid_patches

TUMOUR, STAIN, PIXELS = "celldetr-her2-tumour", "celldetr-her2-stain", "celldetr-her2-pixels"
NAMES = (TUMOUR, STAIN, PIXELS)
STAIN_SIDE, PIXEL_SIDE = 224, 256
MPP = 0.5
STEPS = {TUMOUR: 700, STAIN: 800, PIXELS: 4000}
BATCH = {TUMOUR: 8, STAIN: 8, PIXELS: 2}
"""Small batches: on two cores many small steps teach more than few large ones."""
FIELDS = ({"name": "he_brca_m2c"}, {"name": "he_tnbc"}, {"name": "ihc_endonuke"})
PIXEL_NETWORK = MaskFormerConfig(pyramid_size=32, queries=8, mask_stride=2)
"""Smaller than the default: five classes need few masks, and slides have many pixels."""
BACKBONE = Path("weights/mobilenetv2_100/mobilenetv2_100_dequant_timmnames.npz")


@dataclass(frozen=True)
class GridPatches:
    """The patches of validation fields as a sequence of samples."""

    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, folder: Path) -> GridPatches:
        """All patches of the fields of the split ``val``."""
        return cls(tuple((image, shares) for image, shares, _ in grid_patches(folder)))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def train(
    name: str, data: Path, runs: Path, *, steps: int = 0, init: str = "", seed: int = 0
) -> Job[Path]:
    """The training of one network, resumable in its folder below `runs`; 0 steps are `STEPS`.

    `init` is a model folder to go on from; with another `seed` it goes on with other samples.
    """
    common = {
        "output": str(runs / name.removeprefix("celldetr-")),
        "name": name,
        "mpp": MPP,
        "steps": steps or STEPS[name],
        "batch": BATCH[name],
        "backbone_weights": "" if init else str(data / BACKBONE),
        "init": init,
        "seed": seed,
        "precision": "float32",
    }
    return _TRAININGS[name](data, common)


def _tumour(data: Path, common: dict[str, Any]) -> Job[Path]:
    folder = data / "he_brca_m2c"
    config = PatchTrainConfig(**common, augmentation="stain", validate_steps=350)
    credit = [{"name": "he_brca_m2c"}]
    return train_patches(
        config, TumourPatches(folder), validation=GridPatches.of(folder), data=credit
    )


def _stain(data: Path, common: dict[str, Any]) -> Job[Path]:
    config = PatchTrainConfig(
        **common, classes=",".join(SCORES), stain="H-DAB", smoothing=0.0, validate_steps=400
    )
    make, held = map(StainSamples, _both(data, STAIN_SIDE, config.seed))
    return train_patches(config, make, validation=Held(held, 200), data=FIELDS)


def _pixels(data: Path, common: dict[str, Any]) -> Job[Path]:
    config = PixelTrainConfig(
        **common, classes=",".join(PIXEL_CLASSES), warmup=50, validate_steps=500
    )
    make, held = map(PixelSamples, _both(data, PIXEL_SIDE, config.seed))
    return train_pixels(config, make, validation=Held(held, 40), network=PIXEL_NETWORK, data=FIELDS)


def _both(data: Path, side: int, seed: int) -> tuple[Her2Scenes, Her2Scenes]:
    """Scenes to train on, and to validate on: the latter are the same for every seed."""
    return _scenes(data, "train", side, seed), _scenes(data, "val", side)


def _scenes(data: Path, split: str, side: int, seed: int = 0) -> Her2Scenes:
    return Her2Scenes(str(data), split, side, MPP, seed)


_TRAININGS: dict[str, Callable[[Path, dict[str, Any]], Job[Path]]] = {
    TUMOUR: _tumour,
    STAIN: _stain,
    PIXELS: _pixels,
}


def held_out(name: str, data: Path, count: int) -> Sequence[Sample]:
    """Validation samples that no training has looked at."""
    side, kind = (STAIN_SIDE, StainSamples) if name == STAIN else (PIXEL_SIDE, PixelSamples)
    return Held(kind(_scenes(data, "val", side)), count, first=2_000_000_000)
