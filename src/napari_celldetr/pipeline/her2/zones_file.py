"""A tumour's outlines as QuPath GeoJSON, which `read_zones` and QuPath read as they were drawn."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.errors import DataError, ExportError
from napari_celldetr.pipeline.atomic import replacing
from napari_celldetr.pipeline.her2.tumour import Tumour
from napari_celldetr.pipeline.her2.zones import Zone
from napari_celldetr.pipeline.qupath import MEMBER

CLASSES = {"tumour": ("Tumor", (200, 0, 0)), "cut_out": ("Ignore*", (180, 180, 180))}
"""QuPath's own names, and its colours for them."""


def write_zones(
    tumour: Tumour, path: str | Path, *, offset: tuple[float, float] = (0.0, 0.0)
) -> None:
    """Write the zones of a tumour, what is cut out of it, and what is aligned too badly to count.

    Parameters
    ----------
    tumour : Tumour
    path : path
    offset : (x, y)
        Level-0 px; where the image that QuPath shows of the slide begins. It is subtracted, and
        kept in the file.

    Raises
    ------
    DataError
        There is no outline.
    ExportError
        The file cannot be written.
    """
    if not tumour.zones:
        raise DataError(
            "There is no outline to be saved.",
            expected="a drawn tumour",
            found="none",
            remedy="draw the tumour, or choose it in the list",
        )
    about = {"note": RESEARCH_USE, "offset": list(offset), "tumour": tumour.words}
    content = {
        "type": "FeatureCollection",
        MEMBER: about,
        "features": list(_features(tumour, offset)),
    }
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"{Path(path).name} cannot be written.",
            expected="a folder that can be written to",
            found=error.strerror or type(error).__name__,
            remedy="choose another folder",
        ) from error


def _features(tumour: Tumour, offset: tuple[float, float]) -> Iterator[dict[str, Any]]:
    for zone in tumour.zones:
        yield _feature(zone, "tumour", zone.name, offset)
    for zone in tumour.cut_out:
        yield _feature(zone, "cut_out", zone.name, offset)
    for zone in tumour.untrusted:
        yield _feature(zone, "cut_out", "badly aligned", offset)


def _feature(zone: Zone, kind: str, name: str, offset: tuple[float, float]) -> dict[str, Any]:
    rings = [(ring - offset).tolist() for ring in zone.rings]
    word, color = CLASSES[kind]
    return {
        "type": "Feature",
        "id": str(uuid.uuid4()),
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": word, "color": list(color)},
        },
    }
