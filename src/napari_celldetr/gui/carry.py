"""Regions drawn on one slide, carried to the other as a new layer that says where it is from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.transform import SlideTransform, TransformError
from napari_celldetr.gui.layers import HALF, Frame
from napari_celldetr.pipeline.her2.tumour import WORDS, alignment_of
from napari_celldetr.pipeline.warp import Mover, Outline, carry_outline

CARRIED_KEY = "celldetr_carried"
CLASS_COLUMNS = ("class", "classification", "kind", "name", "label")
"""Features of shapes that may say what they are."""
SOURCE_KEY = "source"
"""In what `CARRIED_KEY` holds: who says that this is tumour, where no person drew it."""
ALIGNMENT_KEY = "celldetr_alignment"
"""In the metadata of a layer that was carried, beside `CARRIED_KEY`: the registration that carried
it, as the mapping of an `Alignment`, which ``Alignment(**mapping)`` gives back. Its `excluded_um2`
is the area, on the H&E slide, of the shapes whose feature ``left_out`` says that they do not count.
"""
ROUND_CORNERS = 96
POINTS_ACROSS = 64
"""Of the grid on which the tissue in a region is looked at."""
CLOSED = ("rectangle", "polygon", "ellipse")
KEPT_COLOR, OUT_COLOR = "#00e676", "#9e9e9e"
LINE_PX = 3.0

Floats = NDArray[np.float64]
Reading = Callable[[Floats], Floats]
"""World (N, 2) y, x to level-0 px (N, 2) of the slide the region was drawn on."""


@dataclass(frozen=True)
class Carried:
    """The layer of carried regions, and how many of them are left out."""

    layer: Any
    count: int
    excluded: int

    def sentence(self) -> str:
        """What became of them, in words for people."""
        regions = "1 region" if self.count == 1 else f"{self.count} regions"
        if not self.excluded:
            return f"{regions} carried over."
        verb = "lies" if self.excluded == 1 else "lie"
        return (
            f"{regions} carried over; {self.excluded} {verb} where the slides are not aligned "
            "well enough, drawn grey."
        )


def carry_regions(
    source: Any,
    reading: Reading,
    transform: SlideTransform,
    *,
    frame: Frame,
    inverse: bool,
    zoom: float = 1.0,
) -> Carried:
    """The shapes of a Shapes layer on the other slide, whose `frame` is given.

    `reading` says where they are on their own slide; `inverse` goes from the IHC to the H&E;
    `zoom` is screen px per world unit. `ConfigError` for a layer without shapes.
    """
    kinds = list(source.shape_type)
    if not kinds:
        raise ConfigError(
            "There are no regions in this layer.",
            expected="a shapes layer with something drawn in it",
            found=f"{source.name!r}, which is empty",
            remedy="draw a region first, or choose another layer",
        )
    outlines = []
    for data, kind in zip(source.data, kinds, strict=True):
        line = reading(_world(source, _corners(np.asarray(data, np.float64)[:, -2:], kind)))
        ring = np.concatenate([line, line[:1]]) if kind in CLOSED else line
        outline = carry_outline(ring, transform, inverse=inverse)
        if kind in CLOSED:
            outline = _judged_inside(outline, line, transform, inverse=inverse)
        outlines.append(outline)
    layer = layer_of_outlines(
        outlines,
        transform,
        closed=[kind in CLOSED for kind in kinds],
        frame=frame,
        name=source.name,
        inverse=inverse,
        zoom=zoom,
        source=source.metadata.get(CARRIED_KEY, {}).get(SOURCE_KEY, ""),
        said={n: list(source.features[n]) for n in CLASS_COLUMNS if n in source.features},
    )
    return Carried(layer, len(outlines), sum(o.excluded for o in outlines))


def layer_of_outlines(
    outlines: Sequence[Outline],
    transform: SlideTransform,
    *,
    frame: Frame,
    name: str,
    closed: Sequence[bool] | None = None,
    inverse: bool = False,
    zoom: float = 1.0,
    source: str = "",
    said: Mapping[str, list[Any]] | None = None,
) -> Any:
    """Carried outlines as a Shapes layer; `name` is that of the layer they come from.

    `closed` says which are rings (all, if not given). `source` is a key of the words of who says
    that this is tumour, where no person drew it; `said` are features of their own.
    """
    closed = [True] * len(outlines) if closed is None else closed
    rings = [o.corners[:-1] if c else o.corners for o, c in zip(outlines, closed, strict=True)]
    origin = transform.ihc.name if inverse else transform.he.name
    side = "IHC" if inverse else "H&E"
    features: dict[str, list[Any]] = {
        "from": [f"{side} · {origin}"] * len(outlines),
        "error_um": [o.error_um for o in outlines],
        "left_out": [o.excluded for o in outlines],
        **(said or {}),
    }
    lost = sum(
        _area_um2(ring, transform, inverse=inverse)
        for ring, outline, is_ring in zip(rings, outlines, closed, strict=True)
        if outline.excluded and is_ring
    )
    about = {"from": side, "slide": origin, "layer": name}
    if source:
        features["found_by"] = [WORDS[source]] * len(outlines)
        about |= {SOURCE_KEY: source, "origin": WORDS[source]}
    metadata: dict[str, Any] = {CARRIED_KEY: about}
    metadata[ALIGNMENT_KEY] = asdict(alignment_of(transform, lost))
    return Shapes(
        [ring[:, ::-1] - HALF for ring in rings],
        shape_type=["polygon" if c else "path" for c in closed],
        ndim=2,
        name=f"{name} · from {side}",
        edge_color=[OUT_COLOR if o.excluded else KEPT_COLOR for o in outlines],
        face_color="transparent",
        edge_width=max(LINE_PX / zoom / frame.scale[0], 1.0),
        features=features,
        metadata=metadata,
        **frame.layer_options(),
    )


def _judged_inside(
    outline: Outline, ring: Floats, transform: SlideTransform, *, inverse: bool
) -> Outline:
    """A carried ring judged by the tissue in it, where there is any.

    People draw around tissue, over glass, where nothing is known of the alignment: the corners
    would say that it is not to be trusted. `ring` is where it was drawn, its slide's level-0 px.
    """
    mover = Mover(transform, inverse)
    before = _points_in(ring)
    try:
        after = mover.move(before)
    except TransformError:
        return outline
    on_he = (after if inverse else before) * transform.he.mpp
    errors, bad = mover.errors(before, after)
    known_map = transform.error_map
    if known_map is None or not (tissue := known_map.tissue_at(on_he) > 0).any():
        return outline
    known = errors[tissue & np.isfinite(errors)]
    worst = float(known.max()) if len(known) else math.nan
    return Outline(outline.corners, worst, bool(bad[tissue].mean() > 0.5))


def _points_in(ring: Floats) -> Floats:
    """Points (N, 2) on a grid over a ring (M, 2)."""
    low, extent = ring.min(axis=0), np.ptp(ring, axis=0)
    step = max(float(extent.max()) / POINTS_ACROSS, 1e-6)
    picture = Image.new("L", tuple((np.ceil(extent / step).astype(int) + 1).tolist()))
    ImageDraw.Draw(picture).polygon([tuple(p) for p in ((ring - low) / step).tolist()], fill=1)
    rows, columns = np.nonzero(np.asarray(picture))
    return np.asarray(low + np.stack([columns, rows], axis=1) * step, np.float64)


def _area_um2(ring: Floats, transform: SlideTransform, *, inverse: bool) -> float:
    """Area on the H&E slide of a carried ring, which is in level-0 px of the slide it is on now."""
    on_he = (ring if inverse else transform.inverse(ring)) * transform.he.mpp
    x, y = (on_he - on_he[0]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _corners(data: Floats, kind: str) -> Floats:
    """Corners (N, 2) y, x; an ellipse, which is kept as its box, becomes a polygon."""
    if kind != "ellipse":
        return data
    centre = data.mean(axis=0)
    across, down = (data[1] - data[0]) / 2, (data[3] - data[0]) / 2
    angle = np.linspace(0, 2 * np.pi, ROUND_CORNERS, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(angle) * across + np.sin(angle) * down, np.float64)


def _world(layer: Any, corners: Floats) -> Floats:
    world = [layer.data_to_world(corner) for corner in corners]
    return np.asarray(world, np.float64)[:, -2:]
