"""Labels from spatial transcriptomics: 10x Xenium cells on the H&E of the same section.

A run's folder holds ``cells.parquet`` (or .csv, .csv.gz: cell_id, x_centroid, y_centroid in µm,
optionally nucleus_area), optionally ``nucleus_boundaries`` (cell_id, vertex_x, vertex_y in µm,
optionally label_id) and ``experiment.xenium``. Beside them stand the H&E picture, the affine of
`alignment`, and a table of cell types. A cell whose type is not known, or is mapped to ``-``,
is a nucleus of class -1: it teaches where nuclei are, and not what they are.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.alignment import (
    XENIUM_UM,
    Alignment,
    check_alignment,
    read_alignment,
)
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.datasets import shares
from napari_celldetr.training.fields import Field
from napari_celldetr.training.label_files import Parts, data_error
from napari_celldetr.training.polygons import Ring
from napari_celldetr.training.slide_fields import (
    HALO_UM,
    TILE_PX,
    SlideCells,
    cut_fields,
    slide_mpp,
)

TABLES = (".parquet", ".csv.gz", ".csv")
ID_COLUMNS = ("cell_id", "Barcode", "barcode")
TYPE_COLUMNS = ("type", "cell_type", "group", "cluster", "Cluster", "annotation")
FEWEST_ON_SLIDE = 0.05
FEW_ON_SLIDE = 0.5
FEWEST_TYPED = 10
"""Typed cells a field must have for its composition to mean something."""
COMPOSITION_UM = 128.0
"""Side of a field that knows only its composition: a crop of 256 px at 0.5 µm/px shows it all."""


@dataclass(frozen=True, eq=False)
class XeniumNuclei:
    """Nuclei of a run: the cell each belongs to, centre (N, 2) in µm, outline in µm or ()."""

    cell_ids: list[str]
    centres_um: NDArray[np.float64]
    outlines_um: list[Ring]

    def __len__(self) -> int:
        return len(self.cell_ids)


def read_xenium(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None = None,
    image: str = "",
    alignment: str = "",
    types: str = "",
    labels: Literal["points", "composition"] = "points",
    complete: bool = False,
    tile: int | None = None,
) -> Iterator[Field]:
    """Fields where a run's cells lie on its H&E picture.

    Parameters
    ----------
    root : folder of the run
    mpp : float or None
        µm per level-0 px of the H&E picture, replacing what it says.
    image, alignment, types : str
        H&E picture, affine (see `alignment`), and table of types (cell_id and type, as a CSV or
        Parquet file); below `root` or absolute. Without a name the only ``*he_image.*`` and
        ``*he_imagealignment.csv`` are taken, and no types.
    labels : str
        ``points`` gives nuclei; ``composition`` only each field's class shares, for pictures
        whose alignment is too coarse for single cells.
    complete : bool
        Whether, in the rectangle of the capture area that holds cells, a place without a nucleus
        is background. By default it may be one that the assay missed.
    tile : int or None
        Largest side of a field in level-0 px. None takes `TILE_PX`, and `COMPOSITION_UM` for
        compositions, since those teach only a crop that shows the whole field.

    The group is the folder's name. Warns when few cells lie on the picture, and when nuclei do
    not lie on haematoxylin (`check_alignment`). Raises `DataError` and `SlideError`.
    """
    from napari_celldetr.slides.readers import open_slide

    path = _one(root, image, "*he_image.*", "H&E picture", "image")
    matrix = _one(root, alignment, "*he_imagealignment.csv", "alignment", "align")
    affine = read_alignment(matrix, pixel_um=_pixel_um(root))
    nuclei = read_nuclei(root)
    words = _types_of(nuclei, root / types) if types else [""] * len(nuclei)
    classes.check_names(words, root.resolve().name)
    class_ids = classes.ids(words, root.resolve().name)
    stem = root.resolve().name
    if not parts.wants(stem):
        return
    with open_slide(path, mpp=mpp) as slide:
        affine.check_scale(slide)
        cells = _on_slide(nuclei, class_ids, affine, slide.size, root)
        check = check_alignment(slide, cells.points)
        if check.looks_off:
            warnings.warn(f"{stem}: the alignment looks off: {check.as_text()}.", stacklevel=2)
        areas = [_capture_area(nuclei, affine)]
        whole = labels == "points"
        side = TILE_PX if whole else round(COMPOSITION_UM / slide_mpp(slide))
        for field in cut_fields(
            slide,
            cells,
            areas,
            stem=stem,
            group=parts.group(stem, stem),
            class_names=classes.names,
            complete=complete and parts.complete(stem),
            tile=tile or side,
            halo_um=HALO_UM if whole else 0.0,
        ):
            made = field if whole else composition_only(field)
            if made is not None:
                yield made


def composition_only(field: Field) -> Field | None:
    """The field with its class shares in place of its cells; None with too few typed cells."""
    typed = int((field.class_ids >= 0).sum())
    if typed < FEWEST_TYPED:
        return None
    return replace(
        field,
        points=np.zeros((0, 2), np.float32),
        sizes=np.zeros((0, 2), np.float32),
        class_ids=np.zeros(0, np.int16),
        complete=False,
        instances=None,
        composition=shares(np.ones(len(field)), field.class_ids, field.class_names),
    )


# --- files -----------------------------------------------------------------------------------


def _one(root: Path, name: str, pattern: str, what: str, option: str) -> Path:
    found = [root / name] if name else sorted(root.glob(pattern))
    if len(found) != 1 or not found[0].exists():
        raise data_error(
            f"The {what} of {root.name!r} is not clear.",
            f"one file {pattern} in the folder, or its name as ?{option}=",
            ", ".join(p.name for p in found) or "none",
            "name the file",
        )
    return found[0]


def _pixel_um(root: Path) -> float:
    """µm per Xenium px as the run says, else what all runs have had."""
    path = root / "experiment.xenium"
    if not path.is_file():
        return XENIUM_UM
    try:
        value = float(json.loads(path.read_text(encoding="utf-8"))["pixel_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"File {path.name!r} cannot be read.",
            expected="JSON with pixel_size in µm",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="copy it from the run again, or remove it",
        ) from error
    if not 0.05 <= value <= 2:
        raise data_error(
            f"File {path.name!r} states an impossible pixel size.",
            "pixel_size of 0.05 to 2 µm",
            str(value),
            "copy it from the run again",
        )
    return value


def read_columns(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Columns of a Parquet, CSV or gzipped CSV file; ids as text. Raises `DataError`."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    text = (*ID_COLUMNS, *TYPE_COLUMNS)
    try:
        if path.suffix == ".parquet":
            names = parquet.read_schema(path).names
            table = parquet.read_table(path, columns=_there(names, needed, optional))
        else:
            convert = csv.ConvertOptions(column_types={name: pa.string() for name in text})
            table = csv.read_csv(path, convert_options=convert)
            table = table.select(_there(table.column_names, needed, optional))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"Table {path.name!r} cannot be read.",
            expected="a Parquet or CSV file with columns " + ", ".join(needed),
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="copy it from the run again",
        ) from error
    lacking = [name for name in needed if name not in table.column_names]
    if lacking:
        raise data_error(
            f"Table {path.name!r} lacks columns.",
            ", ".join(needed),
            "no " + ", ".join(lacking),
            "check that the table belongs to a Xenium run",
        )
    return {
        name: _as_text(table[name]) if name in text else _as_number(table[name], name, path)
        for name in table.column_names
    }


def _there(names: Sequence[str], needed: Sequence[str], optional: Sequence[str]) -> list[str]:
    return [name for name in names if name in (*needed, *optional)]


def _as_text(column: Any) -> NDArray[Any]:
    """Text whatever the type: ids have been numbers, bytes and strings; '' for none."""
    import pyarrow as pa

    return np.asarray(column.cast(pa.string()).fill_null("").to_numpy(), object)


def _as_number(column: Any, name: str, path: Path) -> NDArray[np.float64]:
    try:
        return np.asarray(column.to_numpy(), np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Table {path.name!r}: column {name!r} holds no numbers.",
            expected="numbers",
            found=str(error)[:200],
            remedy="copy it from the run again",
        ) from error


def _table(root: Path, stem: str) -> Path | None:
    return next((p for p in (root / f"{stem}{end}" for end in TABLES) if p.is_file()), None)


def read_nuclei(root: str | Path) -> XeniumNuclei:
    """Nuclei of a run, in µm.

    With ``nucleus_boundaries`` every outline is a nucleus, centred in its box; a cell may have
    several. Without, each cell is one, at its centroid. Cells whose nucleus_area is 0 or missing
    have no nucleus and are left out. Raises `DataError`.
    """
    root = Path(root)
    path = _table(root, "cells")
    if path is None:
        raise data_error(
            f"The folder {root.name!r} is no Xenium run.",
            "cells.parquet, cells.csv.gz or cells.csv in it",
            "none" if root.is_dir() else "that the folder itself does not exist",
            "name the folder of the run",
        )
    cells = read_columns(path, ("cell_id", "x_centroid", "y_centroid"), ("nucleus_area",))
    ids = cells["cell_id"].tolist()
    centres = np.stack([cells["x_centroid"], cells["y_centroid"]], axis=1)
    if not ids or len(set(ids)) != len(ids) or not np.isfinite(centres).all():
        raise data_error(
            f"Table {path.name!r} cannot be used.",
            "cells, each cell_id once, with finite centroids",
            f"{len(ids)} cells, {len(set(ids))} ids",
            "copy it from the run again",
        )
    outlined = _table(root, "nucleus_boundaries")
    if outlined is not None:
        return _outlined(outlined, set(ids))
    area = cells.get("nucleus_area")
    rows = np.flatnonzero(area > 0) if area is not None else np.arange(len(ids))
    return XeniumNuclei([ids[r] for r in rows], centres[rows], [])


def _outlined(path: Path, known: set[str]) -> XeniumNuclei:
    table = read_columns(path, ("cell_id", "vertex_x", "vertex_y"), ("label_id",))
    ids = table["cell_id"]
    label = table.get("label_id", np.zeros(len(ids)))
    vertices = np.stack([table["vertex_x"], table["vertex_y"]], axis=1)
    strange = set(ids.tolist()) - known
    if strange or not np.isfinite(vertices).all() or not len(ids):
        raise data_error(
            f"Table {path.name!r} does not belong to the cells.",
            "finite vertices of cells in the run's table",
            f"{len(strange)} other cells, e.g. {sorted(strange)[:3]}" if strange else "no numbers",
            "copy it from the same run",
        )
    # Vertices of an outline stand together, in order.
    starts = np.flatnonzero(np.r_[True, (ids[1:] != ids[:-1]) | (label[1:] != label[:-1])])
    outlines = np.split(vertices, starts[1:])
    low, high = np.minimum.reduceat(vertices, starts), np.maximum.reduceat(vertices, starts)
    return XeniumNuclei(ids[starts].tolist(), (low + high) / 2, outlines)


def _types_of(nuclei: XeniumNuclei, path: Path) -> list[str]:
    """The type of every nucleus' cell, '' where the table does not name it."""
    table = read_columns(path, (), (*ID_COLUMNS, *TYPE_COLUMNS)) if path.is_file() else {}
    keys = [name for name in ID_COLUMNS if name in table]
    values = [name for name in TYPE_COLUMNS if name in table]
    if not keys or not values:
        raise data_error(
            f"The table of types {path.name!r} cannot be used.",
            f"a column {' or '.join(ID_COLUMNS)} and a column {' or '.join(TYPE_COLUMNS)}",
            (", ".join(table) or "neither") if path.is_file() else "no such file",
            "rename the columns",
        )
    types = dict(zip(table[keys[0]].tolist(), table[values[0]].tolist(), strict=True))
    words = [types.get(cell, "") for cell in nuclei.cell_ids]
    if not any(words):
        raise data_error(
            f"The table of types {path.name!r} names none of the run's cells.",
            "ids like " + ", ".join(nuclei.cell_ids[:3]),
            ", ".join(list(types)[:3]),
            "use the table of this very run",
        )
    return words


# --- places ----------------------------------------------------------------------------------


def _on_slide(
    nuclei: XeniumNuclei,
    class_ids: NDArray[np.int16],
    affine: Alignment,
    size: tuple[int, int],
    root: Path,
) -> SlideCells:
    """The nuclei that lie on the picture, in its level-0 px."""
    points = affine.to_pixels(nuclei.centres_um)
    sizes = np.full_like(points, np.nan)
    outlines: list[list[Ring]] = [[] for _ in range(len(nuclei))]
    if nuclei.outlines_um:
        starts = np.cumsum([0, *(len(o) for o in nuclei.outlines_um)])[:-1]
        vertices = affine.to_pixels(np.concatenate(nuclei.outlines_um))
        low, high = np.minimum.reduceat(vertices, starts), np.maximum.reduceat(vertices, starts)
        points, sizes = (low + high) / 2, high - low
        outlines = [[ring] for ring in np.split(vertices, starts[1:])]
    inside = np.asarray(((points >= 0) & (points < size)).all(axis=1))
    share = float(inside.mean()) if len(inside) else 0.0
    if share < FEWEST_ON_SLIDE:
        raise data_error(
            f"The cells of {root.name!r} do not lie on the H&E picture.",
            "an affine from H&E px to Xenium px, and the picture of the same section",
            f"{100 * share:.1f} % of {len(inside)} cells inside",
            "check the matrix; it may run the other way",
        )
    if share < FEW_ON_SLIDE:
        warnings.warn(
            f"{root.name}: only {100 * share:.0f} % of the cells lie on the H&E picture.",
            stacklevel=2,
        )
    rows = np.flatnonzero(inside)
    return SlideCells(points[rows], sizes[rows], class_ids[rows], [outlines[r] for r in rows])


def _capture_area(nuclei: XeniumNuclei, affine: Alignment) -> list[Ring]:
    """The rectangle in the experiment's frame that holds all nuclei, as it lies on the H&E."""
    (x0, y0), (x1, y1) = nuclei.centres_um.min(axis=0), nuclei.centres_um.max(axis=0)
    margin = 1.0  # µm, so that the outermost centres are inside
    corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    outward = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * margin
    return [affine.to_pixels(np.array(corners) + outward)]
