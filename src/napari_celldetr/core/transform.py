"""SlideTransform: where a point of one slide lies on another, how well that is known, and back.

A point goes from level-0 px of the H&E slide to µm, through an affine, and then along a smooth
displacement: ``p = A x + b``, ``y = p + u(p)``, y in µm of the IHC slide. ``u`` is a uniform
cubic B-spline, so that it has exact derivatives: folding can be seen, and the way back solved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import CellDETRError

SCHEMA = 1
KIND = "celldetr-slide-transform"
MOST_NODES = 2_000_000
"""Nodes of a displacement or error grid that are believed of a file."""
CHUNK = 200_000
NEWTON_STEPS = 40
INVERSE_UM = 1e-5
"""How near to a point its inverse must come back, in µm."""
FOLD_SAMPLES = 3
"""Places per grid step and axis at which the Jacobian is looked at."""
LEAST_DETERMINANT = 1e-6

Floats = NDArray[np.float64]


class TransformError(CellDETRError):
    """A transform is broken, folds, or belongs to other slides."""


@dataclass(frozen=True, slots=True)
class SlideFrame:
    """Which slide a side of a transform is: name, `identity`, size (w, h) px, mpp (x, y)."""

    name: str
    identity: str
    size: tuple[int, int]
    mpp: tuple[float, float]

    def __post_init__(self) -> None:
        numbers = (*self.size, *self.mpp)
        if len(numbers) != 4 or not all(math.isfinite(n) and n > 0 for n in numbers):
            raise _broken("slides with a size and a pixel size", f"{self.size}, {self.mpp} µm/px")

    @property
    def extent_um(self) -> tuple[float, float]:
        """Width and height in µm."""
        return self.size[0] * self.mpp[0], self.size[1] * self.mpp[1]


@dataclass(frozen=True, eq=False)
class SplineWarp:
    """A displacement in µm: a uniform cubic B-spline over a grid of nodes.

    Beyond the grid (one node in from its edge) the displacement stays what it is there.

    Attributes
    ----------
    origin, spacing : (x, y)
        Place of node (0, 0) and distance between nodes, µm.
    coefficients : (rows, columns, 2)
        B-spline coefficients of x and y, µm.
    """

    origin: tuple[float, float]
    spacing: tuple[float, float]
    coefficients: Floats

    def __post_init__(self) -> None:
        shape = self.coefficients.shape
        if len(shape) != 3 or shape[2] != 2 or min(shape[:2]) < 4:
            raise _broken("a grid of at least 4 × 4 nodes with x and y", f"shape {shape}")
        numbers = (*self.origin, *self.spacing)
        if not (np.isfinite(numbers).all() and np.isfinite(self.coefficients).all()):
            raise _broken("finite numbers", "a displacement that is not finite")
        if min(self.spacing) <= 0:
            raise _broken("nodes at a positive distance", f"spacing {self.spacing}")

    def displacement(self, points: Floats) -> Floats:
        """Displacement (N, 2) in µm at points (N, 2) in µm."""
        return self._evaluated(points, (0, 0))

    def jacobian(self, points: Floats) -> Floats:
        """Derivatives (N, 2, 2) of ``p + u(p)``: [i, j] is that of coordinate i along axis j."""
        columns = [self._evaluated(points, d) / self.spacing[i] for i, d in _AXES]
        return np.stack(columns, axis=2) + np.eye(2)

    def determinants(self) -> Floats:
        """Determinants of the Jacobian, several per grid step; all positive means no folding."""
        rows, columns = self.coefficients.shape[:2]
        x = (
            self.origin[0]
            + np.linspace(1, columns - 2, FOLD_SAMPLES * (columns - 3) + 1) * (self.spacing[0])
        )
        y = (
            self.origin[1]
            + np.linspace(1, rows - 2, FOLD_SAMPLES * (rows - 3) + 1) * (self.spacing[1])
        )
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        return np.asarray(np.linalg.det(self.jacobian(points)), np.float64)

    def _evaluated(self, points: Floats, order: tuple[int, int]) -> Floats:
        points = np.asarray(points, np.float64)
        out = np.empty((len(points), 2))
        for start in range(0, len(points), CHUNK):
            out[start : start + CHUNK] = self._chunk(points[start : start + CHUNK], order)
        return out

    def _chunk(self, points: Floats, order: tuple[int, int]) -> Floats:
        rows, columns = self.coefficients.shape[:2]
        x, wx = _weights((points[:, 0] - self.origin[0]) / self.spacing[0], columns, order[0])
        y, wy = _weights((points[:, 1] - self.origin[1]) / self.spacing[1], rows, order[1])
        flat = self.coefficients.reshape(-1, 2)
        out = np.zeros((len(points), 2))
        for j in range(4):
            row = (y + (j - 1)) * columns + x
            for i in range(4):
                out += (wx[i] * wy[j])[:, None] * flat[row + (i - 1)]
        return out


_AXES = ((0, (1, 0)), (1, (0, 1)))


def _weights(place: Floats, count: int, order: int) -> tuple[NDArray[np.intp], Floats]:
    """Node to the left and the weights (4, N) of the four nodes around each place, in nodes."""
    inside = np.clip(place, 1, count - 2)
    node = np.minimum(np.floor(inside), count - 3).astype(np.intp)
    t = inside - node
    if order == 0:
        w = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        return node, np.stack(w) / 6
    w = (-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2)
    beyond = (place < 1) | (place > count - 2)
    return node, np.where(beyond, 0.0, np.stack(w) / 2)


@dataclass(frozen=True, eq=False)
class ErrorMap:
    """Expected error in µm per cell of a grid over the H&E slide.

    Attributes
    ----------
    spacing : (x, y)
        Side of a cell in H&E µm; cell (0, 0) begins at the slide's corner.
    error_um : (rows, columns)
        What the error is believed not to exceed; NaN where it could not be measured.
    tissue : (rows, columns)
        Share of the cell that is tissue on the H&E slide, 0..1.
    """

    spacing: tuple[float, float]
    error_um: Floats
    tissue: Floats

    def __post_init__(self) -> None:
        if self.error_um.ndim != 2 or self.error_um.shape != self.tissue.shape:
            raise _broken("an error and a tissue share per cell", f"{self.error_um.shape}")
        if min(self.spacing) <= 0 or not self.error_um.size:
            raise _broken("cells with an area", f"{self.spacing} µm, {self.error_um.shape}")

    def at(self, points_um: NDArray[Any]) -> Floats:
        """Error (N,) in µm at points (N, 2) in H&E µm; NaN where unknown or off the slide."""
        return self._looked_up(self.error_um, points_um, np.nan)

    def tissue_at(self, points_um: NDArray[Any]) -> Floats:
        """Share of tissue (N,) in the cells of points (N, 2) in H&E µm; 0 off the slide."""
        return self._looked_up(self.tissue, points_um, 0.0)

    def _looked_up(self, values: Floats, points_um: NDArray[Any], beyond: float) -> Floats:
        cell = np.floor(np.asarray(points_um, np.float64) / self.spacing)
        rows, columns = values.shape
        inside = np.all((cell >= 0) & (cell < (columns, rows)), axis=1)
        x, y = np.where(inside.reshape(-1, 1), cell, 0).astype(np.intp).T
        return np.where(inside, values[y, x], beyond)

    def excluded(self, limit_um: float) -> NDArray[np.bool_]:
        """Cells (rows, columns) with tissue whose error is over the limit or not known."""
        return (self.tissue > 0) & ~(self.error_um <= limit_um)

    def excluded_share(self, limit_um: float) -> float:
        """Share of the tissue that is excluded, 0..1; 1 without tissue."""
        whole = float(self.tissue.sum())
        return float(self.tissue[self.excluded(limit_um)].sum() / whole) if whole > 0 else 1.0

    def unknown_share(self) -> float:
        """Share of the tissue whose error is not known, 0..1, whatever the limit; 1 without."""
        return self.excluded_share(np.inf)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a registration: what it measured before and after, and what was kept.

    `measure` names the figure; more is better. `note` is for people.
    """

    name: str
    measure: str
    before: float
    after: float
    kept: bool
    mpp: float
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, eq=False)
class SlideTransform:
    """A map from level-0 px of the H&E slide to level-0 px of the IHC slide, and back.

    Attributes
    ----------
    he, ihc : SlideFrame
    affine : (2, 3)
        H&E µm to IHC µm.
    warp : SplineWarp or None
        Displacement after the affine, in the IHC slide's µm.
    error_map : ErrorMap or None
        None when nobody measured how good it is.
    limit_um : float
        Where the error is larger, nothing should be transferred.
    stages : tuple of Stage
    method : str
        ``registered``, or where it was imported from.
    notes : tuple of str
        What a person should know.

    Raises
    ------
    TransformError
        Not finite, not invertible, or folding.
    """

    he: SlideFrame
    ihc: SlideFrame
    affine: Floats
    warp: SplineWarp | None = None
    error_map: ErrorMap | None = None
    limit_um: float = 100.0
    stages: tuple[Stage, ...] = ()
    method: str = "registered"
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.affine.shape != (2, 3) or not np.isfinite(self.affine).all():
            raise _broken("a finite 2 × 3 affine", f"{np.asarray(self.affine).tolist()}")
        if abs(np.linalg.det(self.affine[:, :2])) < LEAST_DETERMINANT:
            raise _broken("an affine that can be inverted", f"{self.affine.tolist()}")
        if not (math.isfinite(self.limit_um) and self.limit_um > 0):
            raise _broken("a positive limit in µm", str(self.limit_um))
        if self.warp is not None and (least := float(self.warp.determinants().min())) <= 0:
            raise TransformError(
                "The transform folds the tissue onto itself.",
                expected="a Jacobian determinant above 0 everywhere",
                found=f"{least:.3g}",
                remedy="register again with a smoother displacement, or leave it out",
            )

    # -- points ----------------------------------------------------------------------------

    def forward(self, points: NDArray[Any]) -> Floats:
        """IHC level-0 px (N, 2) of H&E level-0 px (N, 2), x and y."""
        return self.forward_um(_points(points) * self.he.mpp) / self.ihc.mpp

    def inverse(self, points: NDArray[Any]) -> Floats:
        """H&E level-0 px (N, 2) of IHC level-0 px (N, 2). `TransformError` if not to be solved."""
        return self.inverse_um(_points(points) * self.ihc.mpp) / self.he.mpp

    def forward_um(self, points: NDArray[Any]) -> Floats:
        """IHC µm (N, 2) of H&E µm (N, 2)."""
        moved = self.forward_um_affine(points)
        return moved if self.warp is None else moved + self.warp.displacement(moved)

    def forward_um_affine(self, points: NDArray[Any]) -> Floats:
        """IHC µm (N, 2) of H&E µm (N, 2) by the affine alone."""
        return np.asarray(points @ self.affine[:, :2].T + self.affine[:, 2], np.float64)

    def inverse_um(self, points: NDArray[Any]) -> Floats:
        """H&E µm (N, 2) of IHC µm (N, 2)."""
        moved = points if self.warp is None else _unwarped(self.warp, points)
        return np.asarray(
            np.linalg.solve(self.affine[:, :2], (moved - self.affine[:, 2]).T).T, np.float64
        )

    def trusted(self, points: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each H&E level-0 px (N, 2) lies where the error is within the limit."""
        if self.error_map is None:
            return np.ones(len(points), bool)
        return self.error_map.at(_points(points) * self.he.mpp) <= self.limit_um

    @property
    def excluded_share(self) -> float | None:
        """Share of the H&E tissue that is excluded, 0..1; None when nobody measured."""
        return None if self.error_map is None else self.error_map.excluded_share(self.limit_um)

    def check_slides(
        self,
        he: str | None = None,
        ihc: str | None = None,
        *,
        he_name: str = "",
        ihc_name: str = "",
    ) -> None:
        """`TransformError` when a slide's identity is not that of the transform.

        The names are those of the slides asked about, for the error's words.
        """
        sides = ((he, he_name, self.he, "H&E"), (ihc, ihc_name, self.ihc, "IHC"))
        for asked, name, frame, side in sides:
            if asked is not None and asked != frame.identity:
                raise TransformError(
                    "The transform belongs to another slide.",
                    expected=f"the {side} slide {frame.name!r} ({frame.identity[:12]})",
                    found=f"{name!r} ({asked[:12]})" if name else f"identity {asked[:12]}",
                    remedy="give the transform of this pair, or register it",
                )

    # -- text ------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The transform as JSON; `from_json` gives the very same numbers back."""
        content = {
            "kind": KIND,
            "schema": SCHEMA,
            "method": self.method,
            "he": _frame_dict(self.he),
            "ihc": _frame_dict(self.ihc),
            "frame": "H&E µm to IHC µm: p = A x + b, then p + u(p); µm = level-0 px × mpp",
            "affine": self.affine.tolist(),
            "warp": None if self.warp is None else _warp_dict(self.warp),
            "error_map": None if self.error_map is None else _map_dict(self.error_map),
            "limit_um": self.limit_um,
            "excluded_share": self.excluded_share,
            "stages": [_stage_dict(s) for s in self.stages],
            "notes": list(self.notes),
        }
        return json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> SlideTransform:
        """The transform a text holds. `TransformError` when it is none, or a broken one."""
        try:
            content = json.loads(text)
            _check_kind(content)
            return cls(
                SlideFrame(**_tupled(content["he"])),
                SlideFrame(**_tupled(content["ihc"])),
                _array(content["affine"]),
                None if content["warp"] is None else _read_warp(content["warp"]),
                None if content["error_map"] is None else _read_map(content["error_map"]),
                float(content["limit_um"]),
                tuple(Stage(**s) for s in content["stages"]),
                str(content["method"]),
                tuple(str(n) for n in content["notes"]),
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            found = f"{type(error).__name__}: {str(error)[:150]}"
            raise _broken("JSON as `celldetr register` writes it", found) from error


def identity_affine() -> Floats:
    """The affine (2, 3) that leaves µm as they are."""
    return np.eye(2, 3)


def _unwarped(warp: SplineWarp, points: Floats) -> Floats:
    """The places p with ``p + u(p) = points``, by Newton with halved steps where it overshoots."""
    target = np.asarray(points, np.float64)
    place = target - warp.displacement(target)
    miss = place + warp.displacement(place) - target
    for _ in range(NEWTON_STEPS):
        far = np.flatnonzero(np.abs(miss).max(axis=1, initial=0) > INVERSE_UM)
        if not len(far):
            return place
        step = np.linalg.solve(warp.jacobian(place[far]), miss[far][..., None])[..., 0]
        place[far], miss[far] = _improved(warp, place[far], step, target[far], miss[far])
    raise TransformError(
        "Some points have no place on the other slide.",
        expected="a displacement that can be inverted",
        found=f"{len(far)} points that do not come back",
        remedy="register again with a smoother displacement",
    )


def _improved(
    warp: SplineWarp, place: Floats, step: NDArray[Any], target: Floats, miss: Floats
) -> tuple[Floats, Floats]:
    """Each place after the longest of the steps 1, 1/2, 1/4, … that comes nearer."""
    length = np.ones((len(place), 1))
    old = np.hypot(*miss.T)
    for _ in range(8):
        tried = place - length * step
        left = tried + warp.displacement(tried) - target
        worse = np.hypot(*left.T) >= old
        if not worse.any():
            break
        length[worse] /= 2
    return tried, left


def _points(points: NDArray[Any]) -> Floats:
    array = np.asarray(points, np.float64)
    if array.size == 0:
        return array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise _broken("points (N, 2)", f"shape {array.shape}")
    return array


def _check_kind(content: Any) -> None:
    if not isinstance(content, Mapping) or content.get("kind") != KIND:
        raise _broken("JSON as `celldetr register` writes it", "another kind of JSON")
    if content.get("schema") != SCHEMA:
        raise TransformError(
            "The transform was written by another version.",
            expected=f"schema {SCHEMA}",
            found=f"schema {content.get('schema')}",
            remedy="register again, or install the version that wrote it",
        )


def _frame_dict(frame: SlideFrame) -> dict[str, Any]:
    return {
        "name": frame.name,
        "identity": frame.identity,
        "size": list(frame.size),
        "mpp": list(frame.mpp),
    }


def _warp_dict(warp: SplineWarp) -> dict[str, Any]:
    return {
        "kind": "cubic B-spline coefficients, µm",
        "origin": list(warp.origin),
        "spacing": list(warp.spacing),
        "x": warp.coefficients[..., 0].tolist(),
        "y": warp.coefficients[..., 1].tolist(),
    }


def _map_dict(errors: ErrorMap) -> dict[str, Any]:
    known = [[v if math.isfinite(v) else None for v in row] for row in errors.error_um.tolist()]
    return {
        "spacing": list(errors.spacing),
        "error_um": known,
        "tissue": errors.tissue.tolist(),
    }


def _stage_dict(stage: Stage) -> dict[str, Any]:
    return {name: getattr(stage, name) for name in Stage.__dataclass_fields__}


def _read_warp(content: Mapping[str, Any]) -> SplineWarp:
    coefficients = np.stack([_array(content["x"]), _array(content["y"])], axis=-1)
    return SplineWarp(_pair(content["origin"]), _pair(content["spacing"]), coefficients)


def _read_map(content: Mapping[str, Any]) -> ErrorMap:
    known = [[math.nan if v is None else v for v in row] for row in content["error_um"]]
    return ErrorMap(_pair(content["spacing"]), _array(known), _array(content["tissue"]))


def _array(values: Any) -> Floats:
    array = np.array(values, np.float64)
    if array.size > MOST_NODES:
        raise ValueError(f"{array.size} numbers")
    return array


def _pair(values: Any) -> tuple[float, float]:
    x, y = values
    return float(x), float(y)


def _tupled(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def _broken(expected: str, found: str) -> TransformError:
    return TransformError(
        "This is no transform between slides.",
        expected=expected,
        found=found,
        remedy="write it again with `celldetr register`",
    )
