"""Calibration: scores that say how often they are right, by temperature scaling.

A found cell's score s becomes ``σ(scale · logit(s) + shift)`` (Platt 1999; the scale is one over
Guo et al.'s temperature, ICML 2017); a cell's class probabilities become ``p^(1/T) / Σ p^(1/T)``.
Both keep every order: no cell is found, lost or given another class, only the numbers change.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError

Floats = NDArray[np.float64]

LEAST_OF_EACH = 10
"""Right and wrong cells below which nothing can be fitted."""
_EDGE = 1e-7
_STEPS = 100
# What is known beforehand, "the scores are calibrated", weighs far less than one cell. It keeps
# the fit finite where scores part right from wrong without an error.
_PRIOR = 0.01


@dataclass(frozen=True, slots=True)
class Calibration:
    """How raw scores and class probabilities turn into calibrated ones.

    Attributes
    ----------
    scale, shift : float
        ``σ(scale · logit(s) + shift)``; the scale is above 0.
    class_temperature : float
        Above 1 flattens the class probabilities, below 1 sharpens them.
    fitted_on : str
        What it was fitted on, in words.

    Raises
    ------
    DataError
        When a number is not finite or not above 0 where it must be.
    """

    scale: float = 1.0
    shift: float = 0.0
    class_temperature: float = 1.0
    fitted_on: str = ""

    def __post_init__(self) -> None:
        numbers = (self.scale, self.shift, self.class_temperature)
        good = all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            for v in numbers
        )
        if not (good and min(self.scale, self.class_temperature) > 0) or not isinstance(
            self.fitted_on, str
        ):
            raise DataError(
                "The calibration is not valid.",
                expected="a finite scale and class_temperature above 0 and a finite shift",
                found=", ".join(repr(v) for v in numbers),
                remedy="fit it again with `celldetr evaluate --calibrate`",
            )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any] | None) -> Calibration:
        """Read what a card holds; None changes nothing. `DataError` for unknown keys."""
        given = raw or {}
        known = {f.name for f in fields(cls)}
        if not set(given) <= known:
            raise DataError(
                "The calibration has unknown keys.",
                expected=", ".join(sorted(known)),
                found=", ".join(sorted(set(given) - known)),
                remedy="fit it again with `celldetr evaluate --calibrate`",
            )
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a card."""
        return asdict(self)

    def score(self, raw: Any) -> Floats:
        """Calibrated scores of raw scores in 0..1 (any shape), rising with them."""
        return _sigmoid(self.scale * _logit(raw) + self.shift)

    def raw(self, score: Any) -> Floats:
        """Raw scores of calibrated ones: the inverse of `score`."""
        value = np.asarray(score, dtype=np.float64)
        with np.errstate(divide="ignore"):
            logit = np.log(value) - np.log1p(-value)
        return _sigmoid((logit - self.shift) / self.scale)

    def shares(self, p: Any) -> Floats:
        """Calibrated class probabilities (…, K), summing to 1, out of raw ones (…, K)."""
        return _softmax(_log(p) / self.class_temperature)

    def after(self, first: Calibration) -> Calibration:
        """One calibration that does what `first` and then this one do."""
        return Calibration(
            self.scale * first.scale,
            self.scale * first.shift + self.shift,
            self.class_temperature * first.class_temperature,
            self.fitted_on or first.fitted_on,
        )


def fit_scores(scores: Any, right: Any) -> Calibration:
    """Scale and shift of the highest likelihood that scores tell right from wrong.

    Newton's method on the binary cross-entropy, with steps halved until it falls; it is convex,
    so there is one answer. A prior worth far less than one cell draws it to scale 1, shift 0.

    Parameters
    ----------
    scores : (N,) in 0..1
        Of found cells.
    right : (N,) bool
        Whether a true cell was there.

    Raises
    ------
    DataError
        Too few right or wrong cells, or scores that do not rise with being right.
    """
    x, y = _logit(scores).reshape(-1), np.asarray(right, dtype=np.float64).reshape(-1)
    if len(x) != len(y) or not np.isfinite(x).all():
        raise _too_little("one finite score and one truth per cell", f"{len(x)} and {len(y)}")
    hits = int(y.sum())
    if min(hits, len(y) - hits) < LEAST_OF_EACH:
        raise _too_little(
            f"at least {LEAST_OF_EACH} right and {LEAST_OF_EACH} wrong cells",
            f"{hits} right, {len(y) - hits} wrong",
        )
    design = np.stack([x, np.ones_like(x)], axis=1)
    start = np.array([1.0, 0.0])

    def loss(w: Floats) -> float:
        z = design @ w
        likelihood = np.logaddexp(0, z).sum() - (y * z).sum()
        return float(likelihood + _PRIOR / 2 * ((w - start) ** 2).sum())

    w = start
    for _ in range(_STEPS):
        p = _sigmoid(design @ w)
        slope = design.T @ (p - y) + _PRIOR * (w - start)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        size, now = 1.0, loss(w)
        while loss(w - size * step) > now and size > 1e-6:
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    if w[0] <= 0:
        raise DataError(
            "The scores cannot be calibrated.",
            expected="scores that are higher where a true cell is",
            found=f"a slope of {w[0]:.3g}",
            remedy="check that the labels belong to these images, or train the model longer",
        )
    return Calibration(float(w[0]), float(w[1]))


def fit_class_temperature(p: Any, class_ids: Any) -> float:
    """Temperature of the highest likelihood of the true classes.

    Newton's method on the cross-entropy over 1 / T, which is convex, with the prior of
    `fit_scores`.

    Parameters
    ----------
    p : (N, K)
        Class probabilities of matched cells.
    class_ids : (N,) int
        True classes; cells of unknown class (-1) are left out.

    Raises
    ------
    DataError
        Too few cells of known class, or probabilities that fall where they should rise.
    """
    ids = np.asarray(class_ids, dtype=np.int64).reshape(-1)
    logits = _log(p)
    if logits.ndim != 2 or len(logits) != len(ids):
        raise _too_little("probabilities (N, K), one class each", f"{logits.shape}, {len(ids)}")
    logits, ids = logits[ids >= 0], ids[ids >= 0]
    if len(ids) < LEAST_OF_EACH or logits.shape[1] < 2 or ids.max() >= logits.shape[1]:
        raise _too_little(
            f"at least {LEAST_OF_EACH} cells of known class, at least 2 classes",
            f"{len(ids)} cells, {logits.shape[1]} classes",
        )
    own = logits[np.arange(len(ids)), ids]

    def loss(b: float) -> float:
        z = b * logits
        high = z.max(axis=1)
        norm = high + np.log(np.exp(z - high[:, None]).sum(axis=1))
        return float((norm - b * own).sum() + _PRIOR / 2 * (b - 1) ** 2)

    beta = 1.0
    for _ in range(_STEPS):
        share = _softmax(beta * logits)
        mean = (share * logits).sum(axis=1)
        slope = float((mean - own).sum()) + _PRIOR * (beta - 1)
        spread = (share * (logits - mean[:, None]) ** 2).sum()
        step = slope / (float(spread) + _PRIOR)
        size, now = 1.0, loss(beta)
        while loss(beta - size * step) > now and abs(size) > 1e-6:
            size /= 2
        beta -= size * step
        if abs(size * step) < 1e-10:
            break
    if beta <= 0:
        raise DataError(
            "The classes cannot be calibrated.",
            expected="probabilities that are higher for the true class",
            found=f"an inverse temperature of {beta:.3g}",
            remedy="check that the data's classes are the model's, in the same order",
        )
    return 1 / beta


def cross_fitted(
    scores: Any, right: Any, groups: Sequence[Hashable], *, folds: int = 5
) -> Floats | None:
    """Scores, each calibrated by what was fitted without its own group: an honest "after".

    Parameters
    ----------
    scores, right : (N,)
    groups : sequence of N
        What must not be divided (patient, field).
    folds : int
        Groups are dealt into at most this many parts.

    Returns
    -------
    (N,) or None
        None where there are fewer than two groups or some part leaves too little to fit.
    """
    value, true = np.asarray(scores, np.float64), np.asarray(right, bool)
    result = np.empty_like(value)
    for here in _parts(groups, folds):
        rest = true[~here]
        if min(int(rest.sum()), int((~rest).sum())) < LEAST_OF_EACH:
            return None
        result[here] = fit_scores(value[~here], rest).score(value[here])
    return None if len(set(groups)) < 2 else result


def cross_fitted_shares(
    p: Any, class_ids: Any, groups: Sequence[Hashable], *, folds: int = 5
) -> Floats | None:
    """`cross_fitted` for class probabilities (N, K) and true classes (N,) that are all known."""
    value, ids = np.asarray(p, np.float64), np.asarray(class_ids, np.int64)
    result = np.empty_like(value)
    for here in _parts(groups, folds):
        if int((~here).sum()) < LEAST_OF_EACH:
            return None
        temperature = fit_class_temperature(value[~here], ids[~here])
        result[here] = Calibration(class_temperature=temperature).shares(value[here])
    return None if len(set(groups)) < 2 else result


def _parts(groups: Sequence[Hashable], folds: int) -> list[NDArray[np.bool_]]:
    """Masks (N,) of the parts that groups are dealt into, in the order in which they come."""
    number: dict[Hashable, int] = {}
    part = np.array([number.setdefault(g, len(number)) for g in groups], np.int64) % folds
    return [part == k for k in np.unique(part)]


def _too_little(expected: str, found: str) -> DataError:
    return DataError(
        "There is too little to calibrate with.",
        expected=expected,
        found=found,
        remedy="evaluate on more labelled fields",
    )


def _logit(p: Any) -> Floats:
    value = np.clip(np.asarray(p, dtype=np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(value) - np.log1p(-value))


def _log(p: Any) -> Floats:
    return np.asarray(np.log(np.maximum(np.asarray(p, dtype=np.float64), 1e-12)))


def _sigmoid(z: Floats) -> Floats:
    # One branch for each sign: exp of a large number overflows.
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1 / (1 + small), small / (1 + small)))


def _softmax(z: Floats) -> Floats:
    share = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(share / share.sum(axis=-1, keepdims=True))
