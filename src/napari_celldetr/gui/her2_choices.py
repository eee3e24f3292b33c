"""What a person chose for a slide in the HER2 dock, as plain values: cut-offs, tumour, its shapes.

Shapes are kept in level-0 px, so that they come back on the slide wherever it lies. No Qt here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from napari.layers import Shapes

from napari_celldetr.core.config import from_mapping
from napari_celldetr.core.errors import CellDETRError, DataError
from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.gui.carry import ALIGNMENT_KEY, CARRIED_KEY
from napari_celldetr.gui.her2_tumour import LAYER_KEY, corners_of, is_cut_out, is_shapes
from napari_celldetr.gui.layers import Frame, point_data

SCHEMA = 1
OPEN_FORMS = ("line", "path")


@dataclass(frozen=True)
class Choices:
    """Cut-offs, the key of the tumour, and the layers of shapes that it is made of."""

    cutoffs: Cutoffs
    tumour: str
    layers: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, cutoffs: Cutoffs, key: str, layers: Iterable[Any], frame: Frame) -> Choices:
        """What is chosen now: the layer that is the tumour, and those that are cut out of it."""
        meant = [
            layer
            for layer in layers
            if is_shapes(layer) and (LAYER_KEY + layer.name == key or is_cut_out(layer.name))
        ]
        return cls(cutoffs, key, tuple(_described(layer, frame) for layer in meant))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "schema": SCHEMA,
            "cutoffs": asdict(self.cutoffs),
            "tumour": self.tumour,
            "layers": list(self.layers),
        }

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Choices | None:
        """What `to_dict` gave; None of nothing. `DataError` for anything else."""
        if not said:
            return None
        try:
            if said["schema"] != SCHEMA:
                raise ValueError("another schema")
            cutoffs = from_mapping(Cutoffs, said["cutoffs"])
            return cls(cutoffs, str(said["tumour"]), tuple(said["layers"]))
        except (CellDETRError, LookupError, TypeError, ValueError) as error:
            raise _refused(error) from error

    def shapes(self, frame: Frame) -> list[Any]:
        """The layers, made anew. `DataError` where what was kept is none."""
        try:
            return [_layer(said, frame) for said in self.layers]
        except (LookupError, TypeError, ValueError) as error:
            raise _refused(error) from error


def _described(layer: Any, frame: Frame) -> dict[str, Any]:
    closed = [i for i, form in enumerate(layer.shape_type) if form not in OPEN_FORMS]
    features = {
        str(name): [_plain(layer.features[name].iloc[i]) for i in closed] for name in layer.features
    }
    return {
        "name": layer.name,
        "forms": [layer.shape_type[i] for i in closed],
        "corners": [np.round(corners_of(layer, i, frame), 2).tolist() for i in closed],
        "colors": np.round(layer.edge_color, 4)[closed].tolist(),
        "width": float(np.max(layer.edge_width, initial=0)) or 1.0,
        "features": features,
        "metadata": {k: layer.metadata[k] for k in _KEPT if k in layer.metadata},
    }


_KEPT = (CARRIED_KEY, ALIGNMENT_KEY)


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and not np.isfinite(plain):
        return None
    return plain if isinstance(plain, str | bool | int | float) else None


def _layer(said: Mapping[str, Any], frame: Frame) -> Any:
    corners = [np.array(c, np.float64).reshape(-1, 2) for c in said["corners"]]
    return Shapes(
        [point_data(c.astype(np.float32)) for c in corners],
        shape_type=[str(f) for f in said["forms"]],
        ndim=2,
        name=str(said["name"]),
        edge_color=np.array(said["colors"], np.float32).reshape(-1, 4),
        face_color="transparent",
        edge_width=float(said["width"]),
        features={str(k): list(v) for k, v in said["features"].items()},
        metadata=json.loads(json.dumps(said["metadata"])),
        **frame.layer_options(),
    )


def _refused(error: Exception) -> DataError:
    return DataError(
        "What was chosen for this slide earlier cannot be read.",
        expected="what napari-celldetr writes",
        found=f"{type(error).__name__}: {str(error)[:120]}",
        remedy="choose the tumour and the cut-offs again",
    )
