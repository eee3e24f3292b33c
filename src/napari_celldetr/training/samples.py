"""Training samples that a function makes: sample i of a run is the same whenever it is made.

What makes them (a reader of fields, a generator of stained images) is none of a training's
business. Here they are checked, turned and recoloured, and put into batches.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.core.predictor import UNKNOWN
from napari_celldetr.training.augment import recolour
from napari_celldetr.training.augment_settings import Augmentation

Sample = tuple[NDArray[np.uint8], Any]
"""An image (S, S, 3) uint8 and its truth.

For patches: a class id, or the share of each class (K,). For pixels: class ids (S, S) uint8,
`napari_celldetr.core.predictor.UNKNOWN` (255) where a pixel does not count.
"""

SCANNER = replace(
    Augmentation(),
    hed_p=0.0,
    brightness=0.02,
    contrast=0.05,
    jpeg_p=0.3,
    jpeg_444_p=0.3,
    noise_std=(1.0, 4.0),
    sharpen_p=0.15,
    resample_p=0.15,
    resample=(0.7, 1.0),
)
"""What scanners do, without a change of stain: how brown a membrane is must stay what it is."""

PRESETS = {"scanner": SCANNER, "stain": Augmentation()}


class SampleStream(Dataset[Sample]):
    """Samples that `make` gives by number, checked and varied.

    Sample i depends on the seed and i alone, as long as `make` depends on i alone.

    Parameters
    ----------
    make : callable
        Number -> `Sample`.
    length : int
    side, classes : int
        What samples must have.
    seed : int
    augmentation : str
        As `SampleConfig.augmentation`.
    """

    def __init__(
        self,
        make: Callable[[int], Sample],
        *,
        length: int,
        side: int,
        classes: int,
        seed: int,
        augmentation: str,
    ) -> None:
        self.make, self.length, self.side, self.classes = make, length, side, classes
        self.seed, self.augmentation = seed, augmentation

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; `DataError` where it is not one."""
        image, truth = self.make(index)
        refuse_no_sample(image, truth, classes=self.classes, side=self.side)
        if self.augmentation == "none":
            return image, truth
        rng = np.random.default_rng([self.seed, index])
        turn = int(rng.integers(8))
        image = turned(image, turn)
        if np.ndim(truth) == 2:
            truth = turned(truth, turn)
        if self.augmentation in PRESETS:
            image = recolour(image, rng, PRESETS[self.augmentation])
        return np.ascontiguousarray(image), truth


def turned(picture: NDArray[Any], turn: int) -> NDArray[Any]:
    """One of the eight ways (0..7) to turn and mirror a square (S, S, …), without a copy."""
    quarter = np.rot90(picture, turn % 4)
    return quarter if turn < 4 else quarter[:, ::-1]


def refuse_no_sample(image: Any, truth: Any, *, classes: int, side: int | None = None) -> None:
    """`DataError` where an image or its truth is not what a `Sample` is; `side` None allows any."""
    shape, kind = np.shape(image), getattr(image, "dtype", None)
    wanted = (side, side, 3) if side else (*shape[:2], 3)
    wrong = []
    if shape != wanted or kind != np.uint8:
        wrong.append(f"an image {shape} of {kind}")
    known = np.asarray(truth)
    if known.ndim == 2:
        ids = np.unique(known)
        bad = ids[(ids != UNKNOWN) & ((ids < 0) | (ids >= classes))]
        if known.shape != shape[:2] or known.dtype.kind not in "iu" or len(bad):
            wrong.append(f"a truth {known.shape} of {known.dtype}, classes {ids[:8].tolist()}")
    elif known.ndim == 1:
        if known.shape != (classes,) or not np.isclose(known.sum(), 1, atol=1e-3):
            wrong.append(f"shares {known.tolist()[:8]}")
    elif known.ndim or known.dtype.kind not in "iu" or not 0 <= int(known) < classes:
        wrong.append(f"a class {truth!r:.40}")
    if wrong:
        raise DataError(
            "A training sample cannot be used.",
            expected=f"an image {wanted} of uint8, and classes below {classes} or their shares",
            found="; ".join(wrong),
            remedy="check what makes the samples",
        )


def refuse_unsendable(make: Callable[[int], Sample], workers: int) -> None:
    """`ConfigError` where samples are to be made in other processes and cannot be."""
    if not workers:
        return
    try:
        pickle.dumps(make)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            "The samples cannot be made in other processes.",
            expected="a function of a module, or an object that can be pickled",
            found=str(error)[:200],
            remedy="set workers to 0, or define the function in a module",
        ) from error


def collate_patches(samples: Sequence[Sample], *, classes: int) -> tuple[Tensor, Tensor]:
    """Images uint8 (B, 3, S, S) and shares of the classes (B, K) float32."""
    shares = [np.eye(classes)[t] if np.ndim(t) == 0 else np.asarray(t) for _, t in samples]
    return _images(samples), torch.from_numpy(np.stack(shares).astype(np.float32))


def collate_pixels(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Images uint8 (B, 3, S, S) and class ids uint8 (B, S, S)."""
    truth = np.stack([np.asarray(t, np.uint8) for _, t in samples])
    return _images(samples), torch.from_numpy(truth)


def _images(samples: Sequence[Sample]) -> Tensor:
    return torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2)
