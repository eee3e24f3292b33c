"""Lesson: one version of what was taught, with everything it came from and what it was worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import __version__
from napari_celldetr.core.annotations import Key
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.head import Head
from napari_celldetr.pipeline.fit_head import Strength

Color = tuple[int, int, int]
Kind = Literal["head", "finetune"]
HEAD: Kind = "head"
FINETUNE: Kind = "finetune"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure 0..1 and its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """How one way of classing did on the guard set.

    Attributes
    ----------
    cells : int
    accuracy, mean_f1 : Figure
        `mean_f1` of the classes that the guard set has.
    f1 : mapping of class name to Figure
    ece : float
        Expected calibration error of the class probability.
    """

    cells: int
    accuracy: Figure
    mean_f1: Figure
    f1: Mapping[str, Figure]
    ece: float


@dataclass(frozen=True)
class Verdict:
    """Did it help? All on the guard set, from which no lesson of this line ever learned.

    Attributes
    ----------
    model : Scores
        The model without any lesson.
    before : Scores or None
        The lesson that held before; None where there was none.
    after : Scores
    gain : Figure
        Accuracy after less that before (of the model, where there was no lesson).
    """

    model: Scores
    before: Scores | None
    after: Scores
    gain: Figure

    def sentence(self) -> str:
        """The verdict in words for people."""
        was = (self.before or self.model).accuracy.value
        if not self.after.cells:
            return "No cells were kept aside, so nobody knows whether it helped."
        told = (
            f"Of {self.after.cells} cells kept aside {100 * was:.0f} % had the right class before "
            f"and {100 * self.after.accuracy.value:.0f} % have it now "
            f"({100 * self.gain.value:+.0f} points, 95 % interval "
            f"{100 * self.gain.low:+.0f} to {100 * self.gain.high:+.0f})."
        )
        if self.gain.low > 0:
            return told
        if self.gain.high < 0:
            return f"{told} It did harm: go back to what held before."
        return f"{told} That may be chance."


@dataclass(frozen=True, eq=False)
class Lesson:
    """A version. Nothing in it is ever changed; `id` is the sha256 of all the rest.

    Attributes
    ----------
    model, weights : str
        Name and weights sha256 of the model that found the cells.
    kind : str
        ``head``, or ``finetune`` for a model of its own (`new_model`, `new_weights`).
    class_names, class_colors
        All K classes, the model's own first.
    keys : (N, 2) uint64
        Cells with a label, sorted.
    labels : (N,) int16
        Ids of `class_names`.
    guard : (N,) bool
        Which were kept aside.
    squares : (N,) int64
        Where they lie (`napari_celldetr.core.guard.squares_of`).
    untouched : (M, 2) uint64
        Keys of the cells that were rehearsed.
    head : Head or None
    verdict : Verdict or None
    parent : str
        Id of the lesson that held before; empty where there was none.
    slide, author, time
        Identity of the slide, who taught it, and when (UTC, ISO 8601).
    warnings : tuple of str
    strength : Strength
    added : (A,) int64
        Rows of `keys` whose embedding is no claim's: the model was asked about them.
    added_vectors, added_word : (A, D), (A, K) float32
        Their embeddings, and log of the model's class probabilities.
    """

    model: str
    weights: str
    class_names: tuple[str, ...]
    class_colors: Mapping[str, Color]
    keys: NDArray[np.uint64]
    labels: NDArray[np.int16]
    guard: NDArray[np.bool_]
    squares: NDArray[np.int64]
    untouched: NDArray[np.uint64]
    head: Head | None = None
    verdict: Verdict | None = None
    kind: Kind = HEAD
    parent: str = ""
    slide: str = ""
    author: str = ""
    time: str = ""
    warnings: tuple[str, ...] = ()
    strength: Strength = field(default_factory=Strength)
    new_model: str = ""
    new_weights: str = ""
    version: str = __version__
    added: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    added_vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    added_word: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    id: str = ""

    def fits(self, weights: str) -> bool:
        """Whether it can give classes to what a model with these weights found."""
        return self.head is not None and self.weights == weights

    def sides(self) -> dict[Key, bool]:
        """By key: whether a cell is of the guard set."""
        return {
            (a, b): aside
            for (a, b), aside in zip(self.keys.tolist(), self.guard.tolist(), strict=True)
        }

    def sentence(self) -> str:
        """What it is, in words for people."""
        taught = int((~self.guard).sum())
        return (
            f"{self.time[:16].replace('T', ' ')} UTC, {self.author}: {taught} labels of "
            f"{len(np.unique(self.labels))} classes, {int(self.guard.sum())} more kept aside."
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, for a file."""
        own = {name: getattr(self, name) for name in _ARRAYS}
        head = {} if self.head is None else self.head.arrays()
        return own | {f"head.{name}": array for name, array in head.items()}

    def plain(self) -> dict[str, Any]:
        """Everything else, as JSON has it."""
        said = {name: getattr(self, name) for name in _PLAIN}
        said["class_names"] = list(self.class_names)
        said["class_colors"] = {name: list(rgb) for name, rgb in self.class_colors.items()}
        said["warnings"] = list(self.warnings)
        said["strength"] = asdict(self.strength)
        said["model_classes"] = None if self.head is None else list(self.head.model_classes)
        said["head"] = None if self.head is None else self.head.digest()
        said["verdict"] = None if self.verdict is None else _known(asdict(self.verdict))
        return said

    def sealed(self) -> Lesson:
        """The same with its `id`."""
        return replace(self, id=self.content())

    def content(self) -> str:
        """sha256 of everything but the id."""
        sha = hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode())
        for name, array in sorted(self.arrays().items()):
            sha.update(f"{name}{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    @classmethod
    def of(cls, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], id: str) -> Lesson:
        """What `plain` and `arrays` gave, checked against its id.

        Raises `AnnotationError` when it is not what its id says, ``KeyError``, ``TypeError``,
        ``ValueError`` or `CellDETRError` for anything else.
        """
        numbers = {n.removeprefix("head."): a for n, a in arrays.items() if n.startswith("head.")}
        names = tuple(str(n) for n in plain["class_names"])
        head = None
        if plain["model_classes"] is not None:
            head = Head.of(numbers, names, [str(n) for n in plain["model_classes"]])
        values: dict[str, Any] = {name: plain[name] for name in _PLAIN}
        values |= {name: arrays[name] for name in _ARRAYS}
        lesson = cls(
            **values,
            class_names=names,
            class_colors={str(n): (c[0], c[1], c[2]) for n, c in plain["class_colors"].items()},
            warnings=tuple(str(w) for w in plain["warnings"]),
            strength=Strength(**plain["strength"]),
            head=head,
            verdict=_verdict(plain["verdict"]),
            id=id,
        )
        if lesson.content() != id:
            raise AnnotationError(
                "A lesson is not what was saved.",
                expected=f"content {id[:12]}…",
                found=f"{lesson.content()[:12]}…",
                remedy="bring it back from a copy; other lessons can be used",
            )
        return lesson


_ARRAYS = (
    "keys",
    "labels",
    "guard",
    "squares",
    "untouched",
    "added",
    "added_vectors",
    "added_word",
)
_PLAIN = (
    "model",
    "weights",
    "kind",
    "parent",
    "slide",
    "author",
    "time",
    "new_model",
    "new_weights",
    "version",
)


def _known(value: Any) -> Any:
    """Numbers that are none become None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _known(v) for key, v in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _verdict(said: Mapping[str, Any] | None) -> Verdict | None:
    if said is None:
        return None
    before = said["before"]
    return Verdict(
        _scores(said["model"]),
        None if before is None else _scores(before),
        _scores(said["after"]),
        _figure(said["gain"]),
    )


def _scores(said: Mapping[str, Any]) -> Scores:
    return Scores(
        int(said["cells"]),
        _figure(said["accuracy"]),
        _figure(said["mean_f1"]),
        {str(name): _figure(f) for name, f in said["f1"].items()},
        _number(said["ece"]),
    )


def _figure(said: Mapping[str, Any]) -> Figure:
    return Figure(*(_number(said[name]) for name in ("value", "low", "high")))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
