"""The main job on two small images that every installation has: `celldetr demo`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.core.config import DetectConfig, from_mapping
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.metrics import match_points
from napari_celldetr.core.progress import Job

if TYPE_CHECKING:
    from napari_celldetr.slides.slide import Slide

IHC_MPP = 0.5
"""The IHC image does not say; its columnar nuclei are 10 × 26 px, in life about 5 × 13 µm."""

HE_SIZE = (1536, 1536)
HE_SEED = 7
NEAR_UM = 3.0
"""A found cell this close to a drawn one is that cell."""


@dataclass(frozen=True, slots=True)
class Case:
    """One image of the demo: its `key` names the folder, `title` is for people."""

    key: str
    title: str
    model: str
    make: Callable[[Path], tuple[Path, Detections | None]]
    """Writes the image into a folder; its path, and the cells drawn into it where known."""
    mpp: float | None = None
    note: str = ""
    """What to know before believing the result."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case gave. `known` counts the cells drawn into the image, `hit` those found."""

    case: Case
    slide: Path
    cells: Detections
    files: tuple[Path, ...]
    known: int | None = None
    hit: int | None = None


def cases() -> list[Case]:
    """A real IHC image and a generated H&E slide whose cells are known."""
    return [
        Case(
            "ihc",
            "colon, DAB and haematoxylin (scikit-image's sample)",
            "celldetr-ihc",
            _ihc,
            IHC_MPP,
            "this stain lies in cytoplasm and membranes, for which the model is not made: "
            "nuclei in the brown glands are unreliable",
        ),
        Case("he", "a generated H&E slide", "celldetr-he", _he),
    ]


def run_case(case: Case, out: Path, *, device: str = "auto") -> Job[Outcome]:
    """Make the image of a case, detect its cells, and write table, GeoJSON and picture.

    Everything goes to ``out/<key>/``: the image, ``cells.geojson``, ``cells.csv``,
    ``overlay.png``. Yields what `detect` yields. Raises `CellDETRError` as its parts do, and
    `ExportError` when the folder cannot be made.
    """
    from napari_celldetr.pipeline.detect import detect
    from napari_celldetr.slides.readers import open_slide

    folder = _folder(out / case.key)
    path, known = case.make(folder)
    values = {"model": case.model, "device": device, "mpp": case.mpp}
    config = from_mapping(DetectConfig, values)
    with open_slide(path, mpp=case.mpp) as slide:
        cells = yield from detect(slide, config, workspace=folder / "run", fresh=True)
        files = _write(slide, cells, _colors(case.model), folder)
        hit = None if known is None else _hits(known, cells, slide)
    return Outcome(case, path, cells, files, None if known is None else len(known), hit)


def _write(
    slide: Slide, cells: Detections, colors: Mapping[str, tuple[int, int, int]], folder: Path
) -> tuple[Path, ...]:
    from napari_celldetr.pipeline.export import export
    from napari_celldetr.pipeline.picture import draw_overlay, write_picture

    tables = [folder / "cells.geojson", folder / "cells.csv"]
    for table in tables:
        export(cells, table, slide=slide, colors=colors)
    picture = folder / "overlay.png"
    write_picture(draw_overlay(slide, cells, colors), picture)
    return (*tables, picture)


def _colors(model: str) -> dict[str, tuple[int, int, int]]:
    from napari_celldetr.nets.card import read_card
    from napari_celldetr.nets.registry import find_model

    card = read_card(find_model(model))
    return dict(zip(card.class_names, card.class_colors, strict=True))


def _hits(known: Detections, cells: Detections, slide: Slide) -> int:
    mpp = slide.mpp[0] if slide.mpp else 1.0
    return len(match_points(known.centres, cells.centres, NEAR_UM / mpp)[0])


def _ihc(folder: Path) -> tuple[Path, None]:
    from PIL import Image
    from skimage.data import immunohistochemistry

    path = folder / "ihc.png"
    Image.fromarray(immunohistochemistry()).save(path)  # type: ignore[no-untyped-call]
    return path, None


def _he(folder: Path) -> tuple[Path, Detections]:
    from napari_celldetr.slides.synthetic import make_he_slide

    path = folder / "he.ome.tif"
    return path, make_he_slide(path, size=HE_SIZE, seed=HE_SEED)


def _folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            "The demo's folder cannot be made.",
            expected="a folder that can be written to",
            found=error.strerror or type(error).__name__,
            remedy="choose another one with --out",
        ) from error
    return folder
