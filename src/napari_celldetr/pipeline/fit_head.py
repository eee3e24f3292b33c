"""Fit a head: multinomial logistic regression with the model's word as offset, by L-BFGS.

The loss is the weighted cross-entropy of the labels, plus half `Strength.decay` times the squared
weights, plus a rehearsal: cells nobody touched, whose target is the model's own word. With w = 0
the rehearsal is content, so it holds the old meaning where labels are silent. Most of it speaks of
the model's own classes alone (which of them, given that it is one of them), for among untouched
cells there are such as a new class is about; a little speaks of all classes, so that a person who
only ever gives a new class does not turn every cell into it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.calibration import fit_class_temperature
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.head import Head

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strength:
    """How strongly what was known holds against what is taught.

    Attributes
    ----------
    decay : float
        Of the squared weights, for each dimension of the embedding: their sum varies as little
        with few dimensions as with many.
    bias_decay : float
        Of the squared biases of the model's own classes.
    rehearsal, caution : float
        Weight of all cells nobody touched together, as a share of that of all labels: among the
        model's own classes, and among all.
    balance : float
        Labels of a class count as its frequency to the power of minus this: 0 for all alike, 1
        for classes alike.
    steps : int
        At most so many of L-BFGS.
    """

    decay: float = 0.8
    bias_decay: float = 1.0
    rehearsal: float = 0.5
    caution: float = 0.25
    balance: float = 0.5
    steps: int = 100


@dataclass(frozen=True, eq=False)
class Examples:
    """What a head is fitted on.

    Attributes
    ----------
    vectors : (N, D) float
        Embeddings of labelled cells.
    word : (N, K) float
        log of the model's class probabilities (`napari_celldetr.core.head.offsets`).
    labels : (N,) int
        0..K - 1.
    class_names, model_classes : tuple of str
        K classes, of which the model's own come first.
    untouched, untouched_word : (M, D), (M, K) float
        The same of cells nobody touched; none if empty.
    """

    vectors: NDArray[Any]
    word: NDArray[Any]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    model_classes: tuple[str, ...]
    untouched: NDArray[Any]
    untouched_word: NDArray[Any]

    def select(self, which: NDArray[Any]) -> Examples:
        """Some of the labels, and all that was not touched."""
        return Examples(
            self.vectors[which],
            self.word[which],
            self.labels[which],
            self.class_names,
            self.model_classes,
            self.untouched,
            self.untouched_word,
        )


def fit_head(examples: Examples, strength: Strength | None = None) -> Head:
    """The head of least loss; `DataError` when it does not come out finite."""
    how = strength or Strength()
    both = np.concatenate((examples.vectors, examples.untouched)).astype(np.float32)
    mean, std = both.mean(axis=0), np.maximum(both.std(axis=0), 1e-3)
    z = (both - mean) / std
    n, k = len(examples.labels), len(examples.class_names)
    loss = _Loss(z[:n], z[n:], examples, how)
    w = _minimise(loss, (z.shape[1] + 1, k), how.steps)
    if not np.isfinite(w).all():
        raise DataError(
            "The lesson could not be fitted.",
            expected="embeddings of finite numbers",
            found="weights that are no numbers",
            remedy="find the cells anew; the last lesson stays",
        )
    weight, bias = w[:-1].T, w[-1]
    return Head(
        examples.class_names,
        examples.model_classes,
        _short(mean),
        _short(std),
        _short(weight),
        _short(bias),
    )


def strength_for(examples: Examples) -> Strength:
    """How strongly to rehearse, seeing how many of the labels contradict the model.

    Labels that only ever say "wrong" would teach that the model is always wrong. The more of the
    labels of its own classes contradict it, the more its word about untouched cells counts.
    """
    own = examples.labels < len(examples.model_classes)
    said = examples.word[own, : len(examples.model_classes)].argmax(axis=1)
    wrong = float((said != examples.labels[own]).mean()) if own.any() else 0.0
    usual = Strength().rehearsal
    return Strength(rehearsal=usual + (_MOST - usual) * max(0.0, 2 * wrong - 1))


_MOST = 4.0
"""Rehearsal where every label contradicts the model."""


def calibrated(
    head: Head,
    examples: Examples,
    groups: NDArray[np.integer],
    *,
    strength: Strength | None = None,
    folds: int = 4,
) -> Head:
    """The head with the temperature that labels it did not learn from ask for.

    Parameters
    ----------
    groups : (N,)
        What must not be divided between fitting and calibrating: the squares of the labels.

    With fewer than two groups, or too few labels, the temperature stays 1.
    """
    numbers, group = np.unique(groups, return_inverse=True)
    if len(numbers) < 2:
        return head
    part = np.random.default_rng(0).permutation(len(numbers))[group] % min(folds, len(numbers))
    p = np.empty((len(examples.labels), len(examples.class_names)))

    def left_out(fold: int) -> None:
        held = part == fold
        other = fit_head(examples.select(np.flatnonzero(~held)), strength)
        p[held] = other.probabilities(examples.vectors[held], examples.word[held])

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(left_out, np.unique(part).tolist()):
            pass
    try:
        temperature = fit_class_temperature(p, examples.labels)
    except DataError:
        # Labels that speak against all that was learned from the others: nothing to calibrate by.
        return head
    values = {**head.arrays(), "temperature": _short(np.array([np.clip(temperature, 0.5, 5.0)]))}
    return Head.of(values, head.class_names, head.model_classes)


def _short(values: NDArray[Any]) -> NDArray[np.float32]:
    """As 16-bit numbers have it, so that a head is the very same in a model's file."""
    return np.asarray(values, np.float16).astype(np.float32)


class _Loss:
    """Loss and gradient at weights (D + 1, K), the last row being biases."""

    def __init__(
        self, z: NDArray[Any], rest: NDArray[Any], examples: Examples, how: Strength
    ) -> None:
        n, k = len(z), len(examples.class_names)
        own = len(examples.model_classes)
        self._z = np.column_stack((z, np.ones(n))).astype(np.float32)
        self._rest = np.column_stack((rest, np.ones(len(rest)))).astype(np.float32)
        self._word = examples.word.astype(np.float32)
        self._target = np.zeros((n, k), np.float32)
        self._target[np.arange(n), examples.labels] = 1
        self._weight = _balanced(examples.labels, k, how.balance)
        self._rest_word = examples.untouched_word.astype(np.float32)
        self._own_target = _shares(self._rest_word[:, :own])[0]
        self._all_target = _shares(self._rest_word)[0]
        whole = self._weight.sum() / max(len(rest), 1)
        self._rehearsal = np.full(len(rest), how.rehearsal * whole, np.float32)
        self._caution = np.full(len(rest), how.caution * whole, np.float32)
        decay = np.full((self._z.shape[1], k), how.decay * z.shape[1])
        decay[-1, :own], decay[-1, own:] = how.bias_decay, 1e-2
        self._decay, self._own = decay, own

    def __call__(self, flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(self._decay.shape)
        loss, slope = _entropy(self._z, w, self._word, self._target, self._weight)
        if len(self._rest):
            rest, word, own = self._rest, self._rest_word, self._own
            more, theirs = _entropy(
                rest, w[:, :own], word[:, :own], self._own_target, self._rehearsal
            )
            most, whole = _entropy(rest, w, word, self._all_target, self._caution)
            loss += more + most
            slope[:, :own] += theirs
            slope += whole
        return loss + float((self._decay * w * w).sum()) / 2, (slope + self._decay * w).ravel()


def _entropy(
    z: NDArray[np.float32],
    w: Floats,
    word: NDArray[np.float32],
    target: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> tuple[float, Floats]:
    share, log_share = _shares(word + z @ w.astype(np.float32))
    loss = -float(((target * log_share).sum(axis=1) * weight).sum(dtype=np.float64))
    return loss, (z.T @ ((share - target) * weight[:, None])).astype(np.float64)


def _shares(logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    low = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    log_share = low - np.log(np.exp(low).sum(axis=1, keepdims=True))
    return np.exp(log_share), log_share


def _balanced(labels: NDArray[np.int64], k: int, power: float) -> NDArray[np.float32]:
    """Weights (N,) whose mean is 1."""
    count = np.maximum(np.bincount(labels, minlength=k), 1).astype(np.float64)
    weight = (count ** (-power))[labels]
    return np.asarray(weight / weight.mean(), np.float32)


def _minimise(loss: _Loss, shape: tuple[int, int], steps: int) -> Floats:
    from scipy.optimize import minimize

    found = minimize(
        loss,
        np.zeros(shape[0] * shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "ftol": 1e-7, "gtol": 1e-3, "maxcor": 10},
    )
    return np.asarray(found.x, np.float64).reshape(shape)
