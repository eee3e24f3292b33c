"""Does a click bring a cell back? Cells taken out of real fields, and cells that were never found.

Usage: python tools/check_asking.py DATA [--model NAME] [--cells N] [--threads N]

DATA holds the folder he_brca_m2c; its validation fields are read. First, N annotated cells that
the detector found (within 3 µm) are taken out at random and clicked at their annotated points:
the share brought back within 3 µm, how many are the cell that was taken out, and the latency.
Then N annotated cells that it missed at its threshold: the share whose box contains the point,
and the median score. Both also for all such cells. Exit status 1 when fewer than 95 % of the
cells taken out come back, or when the median click takes a second or more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from scipy.optimize import linear_sum_assignment

from napari_celldetr import load_model, open_slide
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.pipeline.ask import Asker
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import parse_data

NEAR_UM = 3.0


@dataclass(frozen=True)
class Click:
    """One click: its field, the asked point, the answer, and the cell that it had been."""

    field: Field
    point: np.ndarray
    answer: Detections
    taken: Detections | None

    @property
    def mpp(self) -> float:
        """The field's µm per px."""
        assert self.field.mpp is not None
        return self.field.mpp

    @property
    def apart_um(self) -> float:
        """From the point to the centre of the answer."""
        return float(np.hypot(*(self.answer.centres[0] - self.point)) * self.mpp)

    @property
    def contains(self) -> bool:
        """Whether the answer's box contains the point."""
        x0, y0, x1, y1 = self.answer.boxes[0]
        return bool(x0 <= self.point[0] <= x1 and y0 <= self.point[1] <= y1)

    @property
    def same(self) -> bool:
        """Whether the cell that was taken out is the answer, within 0.5 µm."""
        assert self.taken is not None
        gap = np.hypot(*(self.answer.centres[0] - self.taken.centres[0]))
        return bool(gap * self.mpp < NEAR_UM / 6)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="celldetr-he")
    parser.add_argument("--cells", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(given.model, device="cpu")
    spec = parse_data(f"points:{given.data / 'he_brca_m2c'}@0.5")[0]
    fields = load_fields(spec, class_names=model.card.class_names, split="val")
    found: list[Click] = []
    missed: list[Click] = []
    for field in fields:
        for click in clicks_on(field, model):
            (missed if click.taken is None else found).append(click)
    chance = np.random.default_rng(0)
    some = [found[i] for i in chance.permutation(len(found))[: given.cells]]
    hard = [missed[i] for i in chance.permutation(len(missed))[: given.cells]]
    back = say_found(some, model.card.threshold)
    say_found(found, model.card.threshold)
    say_missed(hard)
    say_missed(missed)
    latency = say_seconds([seconds(click, model) for click in some])
    return int(back < 0.95 or latency >= 1)


@contextmanager
def asker_of(field: Field, model: Predictor) -> Iterator[Asker]:
    """An asker on a field that was written as a slide."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "field.ome.tif"
        tifffile.imwrite(path, field.image, ome=True, tile=(256, 256))
        with open_slide(path, mpp=field.mpp, probe=False) as slide:
            yield Asker(slide, model)


def clicks_on(field: Field, model: Predictor) -> Iterator[Click]:
    """Every annotated cell of a field, clicked."""
    cells = model.predict(field.image[None])[0].detections.above(model.card.threshold)
    inside = ((field.points >= 0) & (field.points < field.image.shape[1::-1])).all(axis=1)
    points = field.points[inside]
    gap = np.hypot(*np.moveaxis(points[:, None] - cells.centres[None], 2, 0)) * field.mpp
    rows, columns = linear_sum_assignment(np.where(gap <= NEAR_UM, gap, 1e6))
    partner = {r: c for r, c in zip(rows, columns, strict=True) if gap[r, c] <= NEAR_UM}
    with asker_of(field, model) as asker:
        answers = asker.ask(points)
    for i, point in enumerate(points):
        taken = cells.select(np.array([partner[i]])) if i in partner else None
        yield Click(field, point, answers.select(np.array([i])), taken)


def seconds(click: Click, model: Predictor) -> tuple[float, float]:
    """How long this click takes as the first one, and another one right after it nearby."""
    with asker_of(click.field, model) as asker:
        asker.ask(np.zeros((0, 2)))
        times = [time.perf_counter()]
        for shift in (0.0, 0.5):
            asker.ask(click.point[None] - shift * (click.point > 1))
            times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1]


def say_found(clicks: list[Click], threshold: float) -> float:
    """Print how cells that were taken out came back, and return their share."""
    back = float(np.mean([c.apart_um <= NEAR_UM for c in clicks]))
    print(
        f"{len(clicks)} cells taken out: {back:.1%} back within {NEAR_UM:g} µm, "
        f"{np.mean([c.same for c in clicks]):.1%} the very same cell, "
        f"{np.mean([c.answer.scores[0] >= threshold for c in clicks]):.1%} above the threshold"
    )
    return back


def say_seconds(times: list[tuple[float, float]]) -> float:
    """Print how long clicks take, and return the median of first ones in s."""
    first, second = 1000 * np.array(times).T
    for kind, values in (("first click", first), ("another one nearby", second)):
        print(
            f"{kind}: {np.median(values):.0f} ms in the median, nine of ten within "
            f"{np.quantile(values, 0.9):.0f} ms ({torch.get_num_threads()} thread(s))"
        )
    return float(np.median(first)) / 1000


def say_missed(clicks: list[Click]) -> None:
    """Print what clicks on cells gave that the detector had not found."""
    print(
        f"{len(clicks)} cells that were missed: {np.mean([c.contains for c in clicks]):.1%} of the "
        f"boxes contain the point, {np.mean([c.apart_um <= NEAR_UM for c in clicks]):.1%} are "
        f"within {NEAR_UM:g} µm, median score {np.median([c.answer.scores[0] for c in clicks]):.2f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
