"""A head: what a person taught, as one linear layer beside a model's own word.

    logit_k(cell) = log p_model(k) + w_k · z + b_k        z = (embedding - mean) / std

It is a multinomial logistic regression with the model's class probabilities as its offset. Where
nothing was taught w is 0, and the model's word stands. A class that the model does not know has
the constant `FLOOR` in place of p_model, and learns all else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN, Detections
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.predictor import PROBABILITY
from napari_celldetr.core.space.blocks import widen
from napari_celldetr.core.taught import OF_CLASS, Taught

FLOOR = 1e-3
"""No probability counts as less: of a class that a model rules out, labels may say otherwise."""
UNTOLD = 0.9
"""What the claimed class counts as, where a run did not store how sure the model was."""
BLOCK = 1 << 15
"""Cells at a time; their vectors in float32 stay in the processor's cache."""
THREADS = 2
MAX_CLASSES, MAX_SIZE = 256, 8192

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Head:
    """What was learned.

    Attributes
    ----------
    class_names : tuple of str
        K classes: the model's own in their order, then those that were taught.
    model_classes : tuple of str
        The model's own.
    mean, std : (D,) float32
        Statistics of the embeddings that it was fitted on.
    weight : (K, D) float32
    bias : (K,) float32
    temperature : float
        All logits are divided by it: above 1 it makes the head less sure.

    Raises `DataError` where they do not fit together.
    """

    class_names: tuple[str, ...]
    model_classes: tuple[str, ...]
    mean: Floats
    std: Floats
    weight: Floats
    bias: Floats
    temperature: float = 1.0

    def __post_init__(self) -> None:
        names, own = tuple(self.class_names), tuple(self.model_classes)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "model_classes", own)
        object.__setattr__(self, "temperature", float(self.temperature))
        for name in ("mean", "std", "weight", "bias"):
            array = np.array(getattr(self, name), np.float32)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        self._check()

    def _check(self) -> None:
        k, d = len(self.class_names), self.mean.size
        shapes = (self.mean.shape, self.std.shape, self.weight.shape, self.bias.shape)
        fits = shapes == ((d,), (d,), (k, d), (k,)) and 0 < d <= MAX_SIZE
        named = (
            0 < len(self.model_classes) <= k <= MAX_CLASSES
            and self.class_names[: len(self.model_classes)] == self.model_classes
            and len(set(self.class_names)) == k
        )
        arrays = (self.mean, self.std, self.weight, self.bias)
        finite = all(bool(np.isfinite(a).all()) for a in arrays)
        if not (fits and named and finite and self.temperature > 0 and (self.std > 0).all()):
            raise DataError(
                "A head does not fit together.",
                expected="K classes that begin with the model's, arrays (D,), (D,), (K, D), (K,) "
                "of finite numbers, and std and temperature above 0",
                found=f"{k} classes, arrays {shapes}, temperature {self.temperature}",
                remedy="go back to an earlier lesson, or teach it again",
            )

    @property
    def size(self) -> int:
        """Length D of the embeddings that it reads."""
        return int(self.mean.size)

    def probabilities(self, vectors: NDArray[Any], word: NDArray[Any]) -> Floats:
        """Class probabilities (N, K) of embeddings (N, D) and the model's `word` (`offsets`)."""
        # Mean and std go into the layer: a million vectors are read once and copied once.
        layer = (self.weight / self.std).T
        bias = self.bias - self.mean @ layer
        out = np.empty((len(vectors), len(self.class_names)), np.float32)
        room = np.empty((min(len(vectors), BLOCK), self.size), np.float32)
        for start in range(0, len(vectors), BLOCK):
            part = slice(start, start + BLOCK)
            some = vectors[part]
            logits = widen(some, room[: len(some)]) @ layer
            logits += bias
            logits += word[part]
            logits /= np.float32(self.temperature)
            out[part] = softmax(logits)
            # A cell without an embedding has no number at all, which widening does not keep.
            out[part][~np.isfinite(some[:, 0])] = np.nan
        return out

    def all_probabilities(self, cells: Detections) -> Floats:
        """Class probabilities (N, K) of claims; NaN for cells without an embedding.

        Raises `DataError` for claims of another model.
        """
        return self.probabilities(self._vectors(cells), offsets(cells, self.class_names))

    def teach(self, cells: Detections) -> Taught:
        """Classes of claims. A cell without an embedding keeps what it has.

        Raises `DataError` for claims of another model.
        """
        vectors = self._vectors(cells)
        ids, sure = np.empty(len(cells), np.int16), np.empty(len(cells), np.float32)

        def name(start: int) -> None:
            part = slice(start, start + BLOCK)
            p = self.probabilities(vectors[part], offsets(cells, self.class_names, part))
            ids[part] = p.argmax(axis=1)
            sure[part] = np.take_along_axis(p, ids[part, None].astype(np.intp), axis=1)[:, 0]

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(name, range(0, len(cells), BLOCK)):
                pass
        blind = np.isnan(sure)
        if blind.any():
            ids[blind] = cells.class_ids[blind]
            told = cells.columns.get(OF_CLASS)
            sure[blind] = UNTOLD if told is None else told[blind]
        return Taught(self.class_names, ids, sure)

    def _vectors(self, cells: Detections) -> NDArray[np.float16]:
        vectors = cells.embeddings
        if not len(cells) and vectors is None:
            return np.zeros((0, self.size), np.float16)
        found = "none" if vectors is None else f"{vectors.shape[1]} values a cell"
        if cells.class_names != self.model_classes:
            found += f", classes {', '.join(cells.class_names)}"
        if vectors is None or vectors.shape[1] != self.size or "classes" in found:
            raise DataError(
                "This lesson is of another model than these cells.",
                expected=f"embeddings of {self.size} values a cell, classes "
                + ", ".join(self.model_classes),
                found=found,
                remedy="find the cells with the model that was taught, or teach this one",
            )
        return vectors

    def arrays(self) -> dict[str, Floats]:
        """All numbers by name, for a file."""
        temperature = np.array([self.temperature], np.float32)
        return {
            "mean": self.mean,
            "std": self.std,
            "weight": self.weight,
            "bias": self.bias,
            "temperature": temperature,
        }

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        class_names: Sequence[str],
        model_classes: Sequence[str],
    ) -> Head:
        """What `arrays` gave; `DataError` for anything else."""
        names = ("mean", "std", "weight", "bias", "temperature")
        if set(arrays) != set(names) or arrays["temperature"].shape != (1,):
            raise DataError(
                "This is no head.",
                expected=", ".join(names),
                found=", ".join(sorted(arrays))[:200],
                remedy="go back to an earlier lesson, or teach it again",
            )
        return cls(
            tuple(class_names),
            tuple(model_classes),
            arrays["mean"],
            arrays["std"],
            arrays["weight"],
            arrays["bias"],
            float(arrays["temperature"][0]),
        )

    def digest(self) -> str:
        """sha256 of everything it is."""
        sha = hashlib.sha256(json.dumps([self.class_names, self.model_classes]).encode())
        for name, array in sorted(self.arrays().items()):
            sha.update(f"{name}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array, "<f4").tobytes())
        return sha.hexdigest()


def no_lesson(model_classes: Sequence[str], size: int) -> Head:
    """The head that leaves the model's word as it is."""
    k = len(model_classes)
    zeros = np.zeros(size, np.float32)
    return Head(
        tuple(model_classes),
        tuple(model_classes),
        zeros,
        zeros + 1,
        np.zeros((k, size), np.float32),
        np.zeros(k, np.float32),
    )


def offsets(
    cells: Detections, class_names: Sequence[str], which: slice | NDArray[Any] = slice(None)
) -> Floats:
    """log of the model's own class probabilities (N, K), never below log `FLOOR`.

    From the columns ``probability_<class>`` where the run stored them. Else from the class that
    was claimed and its probability, the rest in equal parts for the model's other classes. A
    class of `class_names` that the model does not know has log `FLOOR`.

    Parameters
    ----------
    cells : Detections
        A model's claims, N rows or those that `which` picks.
    class_names : sequence of K str
    which : slice or index array
    """
    ids = cells.class_ids[which]
    p = np.full((len(ids), len(class_names)), FLOOR, np.float32)
    own = [n for n in cells.class_names if n in class_names]
    stored = all(PROBABILITY + name in cells.columns for name in cells.class_names)
    spread = None if stored else _spread(cells, ids, which)
    for name in own:
        column = (
            cells.columns[PROBABILITY + name][which]
            if spread is None
            else spread[:, cells.class_names.index(name)]
        )
        p[:, list(class_names).index(name)] = column
    # A value that is no number says nothing.
    np.nan_to_num(p, copy=False, nan=FLOOR)
    return np.log(np.clip(p, FLOOR, 1, out=p), out=p)


def _spread(cells: Detections, ids: NDArray[np.int16], which: slice | NDArray[Any]) -> Floats:
    k = len(cells.class_names)
    told = cells.columns.get(OF_CLASS)
    sure = np.full(len(ids), UNTOLD, np.float32) if told is None else told[which]
    if k == 1:
        return np.ones((len(ids), 1), np.float32)
    p = np.repeat(((1 - sure) / (k - 1))[:, None], k, axis=1).astype(np.float32)
    known = np.flatnonzero(ids != UNKNOWN)
    p[known, ids[known]] = sure[known]
    p[ids == UNKNOWN] = 1 / k
    return p


def softmax(logits: Floats) -> Floats:
    """Shares (N, K) of logits, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits
