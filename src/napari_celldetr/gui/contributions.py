"""What the manifest offers: a reader for slides, writers for cells, sample data. No torch here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from napari.utils.notifications import show_error, show_warning

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError, SlideError
from napari_celldetr.gui.layers import (
    CELLS_KEY,
    Frame,
    class_rgba,
    point_data,
    slide_layer,
    typical_size,
)
from napari_celldetr.pipeline.demo import IHC_MPP
from napari_celldetr.slides.readers import open_slide

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
Reader: TypeAlias = Callable[[str], Sequence[Any]]

SLIDE_ONLY = {".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu"}
"""Nothing but a slide has these: a file that cannot be opened is a damaged slide."""
NOTHING: list[tuple[None]] = [(None,)]
"""What a napari reader returns when there is nothing to add."""


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """The reader of one slide; None for a stack of files and for what is not a slide.

    A damaged slide is told in a notification instead of an exception.
    """
    if not isinstance(path, str | os.PathLike):
        if len(path) != 1:
            return None
        path = path[0]
    if is_label_image(Path(path)):
        return None
    try:
        layers = [slide_layer(open_slide(path))]
    except SlideError as error:
        return _refused(Path(path), error)
    if is_damaged(Path(path)):
        show_warning(
            f"{Path(path).name} ends before it should. What is missing is shown hatched; take the "
            "file again from its source."
        )
    return lambda _path: layers


def is_label_image(path: Path) -> bool:
    """Whether a folder is a label image that our export wrote: no slide."""
    if not path.is_dir():
        return False
    from napari_celldetr.pipeline.label_raster import is_ours

    return bool(is_ours(path))


def _refused(path: Path, error: SlideError) -> Reader | None:
    if path.suffix.lower() in SLIDE_ONLY:
        text = str(error)
        return lambda _path: _tell(text)
    if is_damaged(path):
        show_warning(str(error))
    return None


def _tell(text: str) -> list[tuple[None]]:
    show_error(text)
    return NOTHING


TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_damaged(path: Path) -> bool:
    """Whether a file says it is a TIFF but ends before it should: not foreign, but broken."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith(TIFF_HEADS):
        return False
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True))
            return max(ends, default=0) > path.stat().st_size
    except Exception:  # noqa: BLE001 - any parser error means that it cannot be read as TIFF
        return True


def write_cells(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write the cells behind one of our Points layers; the suffix of `path` chooses the format.

    The whole table above the score is written, not only what is drawn. Raises `ExportError` for
    points that do not come from *Detect cells*.
    """
    store = attributes.get("metadata", {}).get(CELLS_KEY)
    if not hasattr(store, "write"):
        raise ExportError(
            "These points are not detected cells.",
            expected="the points layer that Detect cells made",
            found=str(attributes.get("name", "another layer")),
            remedy="choose that layer, or save these points with napari's own CSV writer",
        )
    store.write(path)
    return [path]


def sample_ihc() -> list[LayerData]:
    """scikit-image's colon section stained for FHL2 (DAB) with haematoxylin, 512 × 512 px."""
    import skimage.data as samples

    options = {
        **Frame.of_mpp((IHC_MPP, IHC_MPP)).layer_options(),
        "name": "IHC sample",
        "rgb": True,
        "multiscale": False,
    }
    pixels: Any = samples.immunohistochemistry  # untyped there
    return [(pixels(), options, "image")]


SAMPLE_SIZE = (2048, 2048)
SAMPLE_SEED = 7


def sample_he() -> list[LayerData]:
    """A generated H&E slide file and, hidden at first, the cells that were drawn into it."""
    from napari_celldetr.slides.synthetic import make_he_slide

    folder = _samples()
    path = folder / "generated-he.ome.tif"
    # The same bytes each time, so that yesterday's corrections are found again. It may be open.
    fresh = folder / f"generated-he-{os.getpid()}.ome.tif"
    truth = make_he_slide(fresh, size=SAMPLE_SIZE, seed=SAMPLE_SEED)
    _put(fresh, path)
    slide = open_slide(path, probe=False)
    return [slide_layer(slide), known_cells(truth, slide.mpp)]


def _samples() -> Path:
    from napari_celldetr.pipeline.ledger import cache_folder

    folder = cache_folder().parent / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _put(fresh: Path, path: Path) -> None:
    """Put a file where an older one may be open."""
    try:
        fresh.replace(path)
    except PermissionError:
        fresh.unlink()


def sample_her2() -> list[LayerData]:
    """A generated HER2 slide file and the outline of its tumour."""
    from napari_celldetr.pipeline.samples import HER2_FILES, write_her2

    folder = _samples()
    path = folder / HER2_FILES[0]
    fresh = folder / f"generated-her2-{os.getpid()}.ome.tif"
    truth = write_her2(fresh)
    _put(fresh, path)
    slide = open_slide(path, probe=False)
    return [slide_layer(slide), drawn_tumour(truth.tumour, slide.mpp)]


def drawn_tumour(corners: Any, mpp: tuple[float, float] | None) -> LayerData:
    """The outline of a tumour (M, 2), level-0 px, as a Shapes layer."""
    options = {
        **Frame.of_mpp(mpp).layer_options(),
        "name": "Tumour (as generated)",
        "shape_type": "polygon",
        "edge_color": "#00e5ff",
        "face_color": [0.0, 0.0, 0.0, 0.0],
        "edge_width": 4.0,
    }
    return [point_data(corners)], options, "shapes"


def sample_pair() -> list[LayerData]:
    """Two generated sections of the same tissue, H&E and IHC, mirrored, turned and stretched."""
    from napari_celldetr.pipeline.samples import PAIR_FILES, write_pair

    folder = _samples()
    paths = [folder / name for name in PAIR_FILES]
    if not all(path.exists() for path in paths):
        write_pair(folder)
    return [slide_layer(open_slide(path, probe=False)) for path in paths]


TRUTH_COLORS = ((40, 70, 220), (220, 40, 40), (30, 150, 60), (200, 140, 0), (140, 60, 180))


def known_cells(truth: Detections, mpp: tuple[float, float] | None) -> LayerData:
    """The true cells of a generated slide as a hidden Points layer."""
    colors = [TRUTH_COLORS[i % len(TRUTH_COLORS)] for i in range(len(truth.class_names))]
    options = {
        **Frame.of_mpp(mpp).layer_options(),
        "name": "Known cells",
        "size": typical_size(truth) or 10.0,
        "face_color": np.zeros(4),
        "border_color": class_rgba(truth.class_ids, colors),
        "border_width": 0.12,
        "visible": False,
        "features": {"class": truth.class_labels},
    }
    return point_data(truth.centres), options, "points"
