"""What is measured on one evaluated data set, and how it is shown to people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.metrics import (
    NUCLEUS_AREAS_UM2,
    CocoScores,
    Froc,
    HoverNetScores,
    PointField,
    PointScores,
    Reliability,
    ScoredObjects,
    box_objects,
    calibration_error,
    coco_scores,
    froc,
    hits_by_score,
    hovernet_scores,
    match_points,
    point_scores_at,
    threshold_curve,
)
from napari_celldetr.training.fields import Field

OFFICIAL_UM = 3.0
"""Radius of HoVer-Net and PanNuke: 12 px at 0.25 µm/px."""
BOOTSTRAP = 1000


@dataclass(frozen=True, eq=False)
class Judged:
    """One evaluated field at the model's scale: its labels, and every cell found there."""

    field: Field
    found: Detections
    mpp: float

    @property
    def area_mm2(self) -> float:
        """Area that the labels speak of."""
        height, width = self.field.image.shape[:2]
        valid = self.field.valid
        pixels = height * width if valid is None else int(valid.sum())
        return pixels * self.mpp**2 / 1e6

    def points(self, threshold: float = 0.0) -> PointField:
        """True cells, and found ones scored at least `threshold`."""
        found = self.found.above(threshold)
        return PointField(
            np.asarray(self.field.points, np.float64),
            np.asarray(found.centres, np.float64),
            self.field.class_ids.astype(np.int64),
            found.class_ids.astype(np.int64),
            self.field.name,
            np.asarray(found.scores, np.float64),
            self.area_mm2,
        )


@dataclass(frozen=True, eq=False)
class SetFigures:
    """Figures of one data set beside its main table.

    Attributes
    ----------
    radii : dict of float to PointScores
        By radius in µm, ascending; radii inside are in px.
    official, gated : HoverNetScores
        HoVer-Net's rule within 3 µm, as published and gated.
    detection : dict of str to Reliability
        Of the score of every found cell, by binning (``width``, ``mass``).
    classes : dict of str to Reliability
        Of the class confidence of matched cells; empty where classes are not known.
    froc : Froc
    boxes : CocoScores or None
        Where extents are known.
    best : (threshold, F1) or None
        Of the best threshold on these very fields, where asked for.
    """

    radii: dict[float, PointScores]
    official: HoverNetScores
    gated: HoverNetScores
    detection: dict[str, Reliability]
    classes: dict[str, Reliability]
    froc: Froc
    boxes: CocoScores | None
    best: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; NaN becomes None."""
        best = None
        if self.best is not None and math.isfinite(self.best[1]):
            best = {
                "threshold": self.best[0],
                "f1": self.best[1],
                "note": "optimistic: chosen on the fields it is reported on",
            }
        return {
            "radii_um": {f"{r:g}": s.to_dict() for r, s in self.radii.items()},
            "hovernet_published": self.official.to_dict(),
            "hovernet_gated": self.gated.to_dict(),
            "calibration_detection": {k: r.to_dict() for k, r in self.detection.items()},
            "calibration_class": {k: r.to_dict() for k, r in self.classes.items()},
            "froc": self.froc.to_dict(),
            "boxes": None if self.boxes is None else self.boxes.to_dict(),
            "best_threshold": best,
        }

    def to_text(self) -> str:
        """The figures for people, a few lines."""
        lines = [*self._f1_table(), "", self._detection_line()]
        lines += [self._class_line()] if self.classes else []
        lines += [self._froc_line()]
        lines += [self._box_line()] if self.boxes is not None else []
        if self.best is not None:
            threshold, f1 = self.best
            lines.append(
                f"Best threshold on these very fields: {threshold:.3f}, F1 {_three(f1)} "
                "(optimistic: chosen where it is reported)."
            )
        return "\n".join(lines)

    def _f1_table(self) -> list[str]:
        names = self.official.class_names
        heads = ["detection", *names, *(["class mean"] if names else [])]
        widths = [max(len(h) + 2, 9) for h in heads]
        lines = [f"{'F1 by rule':40}" + _row(heads, widths)]
        for radius, scores in self.radii.items():
            values = [scores.f1, *(c.f1 for c in scores.classes), scores.class_mean]
            lines.append(f"{f'gated one-to-one, {radius:g} µm':40}" + _row(values, widths))
        for hovernet in (self.gated, self.official):
            values = [hovernet.f_d, *hovernet.class_f1, hovernet.class_mean]
            title = f"{hovernet.rule}, {OFFICIAL_UM:g} µm"
            lines.append(f"{title:40}" + _row(values, widths))
        return lines

    def _detection_line(self) -> str:
        width, mass = self.detection["width"], self.detection["mass"]
        return (
            f"Calibration error of the score (ECE): {_three(width.ece)}{_interval(width.interval)}"
            f", equal-mass bins {_three(mass.ece)}; {width.count} found cells of any score."
        )

    def _class_line(self) -> str:
        width, mass = self.classes["width"], self.classes["mass"]
        return (
            f"Calibration error of the class (ECE): {_three(width.ece)}{_interval(width.interval)}"
            f", equal-mass bins {_three(mass.ece)}; {width.count} matched cells."
        )

    def _froc_line(self) -> str:
        found = self.froc
        parts = ", ".join(f"{_three(v)} at {rate:g}" for rate, v in found.at.items())
        return (
            f"Sensitivity by false positives per {found.unit} (FROC): {parts}; "
            f"mean {_three(found.mean)}{_interval(found.intervals.get('mean'))}."
        )

    def _box_line(self) -> str:
        assert self.boxes is not None
        boxes = self.boxes
        areas = ", ".join(
            f"{name} {_three(part.ap)} (n {part.n_truth})" for name, part in boxes.areas.items()
        )
        return (
            f"Box AP: {_three(boxes.overall.ap)}{_interval(boxes.intervals.get('AP'))}, "
            f"AP50 {_three(boxes.at(0.5))}, AP75 {_three(boxes.at(0.75))}, "
            f"AR {_three(boxes.overall.ar)}; by true area {areas}."
        )


def _three(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _interval(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f" [{_three(pair[0])}, {_three(pair[1])}]"


def _row(values: Sequence[Any], widths: Sequence[int]) -> str:
    texts = [v if isinstance(v, str) else _three(v) for v in values]
    # A table without classes has no class mean either: what has no head is not shown.
    return "".join(f"{t:>{w}}" for t, w in zip(texts, widths, strict=False))


def set_figures(
    items: Sequence[Judged],
    *,
    radii_um: Sequence[float],
    radius_um: float,
    threshold: float,
    class_names: Sequence[str],
    best_threshold: bool = False,
) -> SetFigures:
    """Measure a data set.

    Parameters
    ----------
    items : sequence of Judged
    radii_um : sequence of float
        Radii of the point tables.
    radius_um : float
        Radius of hits for calibration, FROC and the best threshold.
    threshold : float
        Of the tables; calibration of the score, FROC and AP look at every found cell.
    class_names : sequence of str
        Empty where the labels have no classes.
    """
    mpp = items[0].mpp
    every = [item.points() for item in items]
    shown = [item.points(threshold) for item in items]
    radius, official = radius_um / mpp, OFFICIAL_UM / mpp
    px = {um: um / mpp for um in sorted(set(radii_um))}
    table = point_scores_at(shown, list(px.values()), class_names=class_names, bootstrap=BOOTSTRAP)
    scores, hits, number = scores_and_hits(every, radius)
    return SetFigures(
        radii={um: table[r] for um, r in px.items()},
        official=hovernet_scores(shown, official, class_names=class_names, bootstrap=BOOTSTRAP),
        gated=hovernet_scores(
            shown, official, class_names=class_names, gated=True, bootstrap=BOOTSTRAP
        ),
        detection=_both_binnings(scores, hits, number),
        classes=_class_reliability(items, radius, threshold) if class_names else {},
        froc=froc(every, radius, per="mm2", bootstrap=BOOTSTRAP),
        boxes=_box_scores(items, mpp, radius, class_names),
        best=threshold_curve(every, radius).best() if best_threshold else None,
    )


def scores_and_hits(
    fields: Sequence[PointField], radius: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Score of every found cell, whether it is right, and the number of its field: (N,) each."""
    scores = [np.asarray(f.scores, np.float64) for f in fields]
    hits = [
        hits_by_score(f.truth_xy, f.found_xy, s, radius)
        for f, s in zip(fields, scores, strict=True)
    ]
    number = np.repeat(np.arange(len(fields)), [len(s) for s in scores])
    return np.concatenate(scores), np.concatenate(hits), number.astype(np.int64)


def typed_pairs(
    items: Sequence[Judged], radius: float, threshold: float
) -> tuple[list[Detections], NDArray[np.int64], NDArray[np.int64]]:
    """Shown cells matched to true ones of known class: rows per field, true class, field number."""
    rows, truth, number = [], [], []
    for i, item in enumerate(items):
        found = item.found.above(threshold)
        a, b, _ = match_points(item.field.points, found.centres, radius)
        ids = item.field.class_ids[a].astype(np.int64)
        known = ids >= 0
        rows.append(found.select(b[known]))
        truth.append(ids[known])
        number.append(np.full(int(known.sum()), i))
    return rows, np.concatenate(truth), np.concatenate(number).astype(np.int64)


def _both_binnings(
    values: NDArray[np.float64], right: NDArray[np.bool_], number: NDArray[np.int64]
) -> dict[str, Reliability]:
    return {
        "width": calibration_error(values, right, fields=number, bootstrap=BOOTSTRAP),
        "mass": calibration_error(values, right, binning="mass"),
    }


def _class_reliability(
    items: Sequence[Judged], radius: float, threshold: float
) -> dict[str, Reliability]:
    rows, truth, number = typed_pairs(items, radius, threshold)
    if not len(truth) or not all("class_probability" in r.columns for r in rows if len(r)):
        return {}
    confidence = np.concatenate([r.columns["class_probability"] for r in rows if len(r)])
    claimed = np.concatenate([r.class_ids for r in rows])
    return _both_binnings(np.clip(confidence.astype(np.float64), 0, 1), claimed == truth, number)


# --- boxes -------------------------------------------------------------------------------------


def _box_scores(
    items: Sequence[Judged], mpp: float, radius: float, class_names: Sequence[str]
) -> CocoScores | None:
    """AP over the fields whose extents are known; None without any."""
    objects = [_box_objects(item, radius) for item in items]
    known = [o for o in objects if o is not None]
    if not known:
        return None
    return coco_scores(
        known, class_names=class_names, areas=NUCLEUS_AREAS_UM2, mpp=mpp, bootstrap=BOOTSTRAP
    )


def _box_objects(item: Judged, radius: float) -> ScoredObjects | None:
    """True and found boxes, cut at the border of the field; None where no extent is known.

    A cell whose extent is not known stays out, and with it what was found on it.
    """
    field, found = item.field, item.found
    sizes = _visible_sizes(field)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(sizes).all(axis=1))
    if not known.any():
        return None
    centres = field.points.astype(np.float64)
    _, on_unknown, _ = match_points(centres[~known], found.centres, radius)
    _, on_known, _ = match_points(centres[known], found.centres, radius)
    stays = np.ones(len(found), bool)
    stays[np.setdiff1d(on_unknown, on_known)] = False
    found = found.select(stays)
    half = sizes[known] / 2
    truth = np.concatenate([centres[known] - half, centres[known] + half], axis=1)
    return box_objects(
        _cut(truth, field),
        _cut(found.boxes.astype(np.float64), field),
        found.scores,
        truth_ids=field.class_ids[known],
        found_ids=found.class_ids,
        truth_areas=_areas(field, known, sizes),
        name=field.name,
    )


def _visible_sizes(field: Field) -> NDArray[np.float64]:
    """Width and height (N, 2) of each cell; of one that the border cuts, what is visible."""
    sizes = field.sizes.astype(np.float64)
    if field.instances is None:
        return sizes
    from scipy import ndimage

    slices = ndimage.find_objects(field.instances, max_label=len(field))
    for i in np.flatnonzero(~np.isfinite(sizes).all(axis=1)):
        if slices[i] is not None:
            rows, columns = slices[i]
            sizes[i] = columns.stop - columns.start, rows.stop - rows.start
    return sizes


def _areas(
    field: Field, known: NDArray[np.bool_], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """px² of the cells of known extent: of the mask where there is one, else of the box."""
    boxes = sizes.prod(axis=1)
    if field.instances is not None:
        masks = np.bincount(field.instances.ravel(), minlength=len(field) + 1)[1 : len(field) + 1]
        boxes = np.where(masks > 0, masks, boxes)
    return np.asarray(boxes[known], np.float64)


def _cut(boxes: NDArray[np.float64], field: Field) -> NDArray[np.float64]:
    height, width = field.image.shape[:2]
    return np.clip(boxes, 0, [width, height, width, height])
