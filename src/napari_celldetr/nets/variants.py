"""The fast network with one thing changed at a time: what each part of CellDETR is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from napari_celldetr.nets.celldetr import CellDETRConfig

# Queries that do not start on a cell need each other to share the cells out, and the only dense
# classes are those of a heatmap network.
_NO_HEATMAP: dict[str, Any] = {"detection_self_attention": True, "dense_class_weight": 0.0}
_SIGMOID: dict[str, Any] = {"geometry": "sigmoid"}

ABLATIONS: dict[str, dict[str, Any]] = {
    "small": {},
    "coupled": {"decoupled": False},
    "free_attention": {"box_constrained": False},
    "coupled_free_attention": {"decoupled": False, "box_constrained": False},
    "self_attention_not_first": {"representation_self_attention": "not_first"},
    "self_attention_all": {"representation_self_attention": "all"},
    "detection_self_attention": {"detection_self_attention": True},
    "parallel": {"mode": "parallel"},
    "score_of_both": {"class_target": "all"},
    "no_dense_classes": {"dense_class_weight": 0.0},
    "only_dense_classes": {"representation_layers": 0, "dense_class_weight": 1.0},
    "no_decoders": {
        "detection_layers": 0,
        "representation_layers": 0,
        "dense_class_weight": 1.0,
    },
    "window_heatmap": _SIGMOID,
    "window_two_stage": _SIGMOID | _NO_HEATMAP | {"query_source": "two_stage"},
    "window_learned": _SIGMOID | _NO_HEATMAP | {"query_source": "learned"},
    "queries_60": {"queries": 60},
    "queries_120": {"queries": 120},
    "queries_480": {"queries": 480},
}
"""What each variant changes in `CellDETRConfig.small`.

``coupled_free_attention`` is a plain Deformable DETR with CellDETR's two decoders. The
``window_`` variants count in shares of a window instead of pixels, as the paper: without a
heatmap nothing else is possible, so ``window_heatmap`` is what the other two compare with.
"""


def ablation_variants(
    num_classes: int, *, mpp: float = 0.5, **changes: Any
) -> dict[str, CellDETRConfig]:
    """Configurations of an ablation by name; the first, ``small``, is the reference.

    Parameters
    ----------
    num_classes : int
    mpp : float
        µm/px that the networks are for.
    **changes
        Fields of `CellDETRConfig` to set in all variants that do not set them themselves.

    Raises
    ------
    ConfigError
        When the changes do not fit a variant.
    """
    return {
        name: replace(CellDETRConfig.small(num_classes, mpp=mpp), **(changes | own))
        for name, own in ABLATIONS.items()
    }
