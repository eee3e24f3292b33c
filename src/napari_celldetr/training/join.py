"""Join two trained networks: a fine one that finds the cells, a coarse one for an overview."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from napari_celldetr.core.calibration import Calibration
from napari_celldetr.core.errors import ModelError
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.celldetr_config import OVERVIEW_SCALES, OverviewConfig
from napari_celldetr.nets.overview import Overview, strides_from
from napari_celldetr.nets.registry import CARD, load_network, save_model

WEIGHT = OverviewConfig.weight
"""Share of the overview in the classes: two opinions, one voice each."""
_TOLERANCE = 0.02


def join(
    fine: str | Path, coarse: str | Path, output: str | Path, *, weight: float = WEIGHT
) -> ModelCard:
    """Write into `output` the model `fine` with the model `coarse` as its overview.

    Parameters
    ----------
    fine, coarse : str or path
        Names or folders. Both are CellDETR networks with the same classes and input statistics;
        `coarse` has a heatmap (the architectures ``small`` and ``dense``) and works at 2, 4 or
        8 times the µm/px of `fine`. Of it, backbone, pyramid and class map are taken.
    output : str or path
        Folder of the new model, named after it.
    weight : float
        Share of the overview in the final class, 0..1.

    Returns
    -------
    ModelCard
        The new model's card: that of `fine`, without its figures and without the calibration
        of its classes, which hold no longer. Where cells are found, and their scores, are as
        before.

    Raises
    ------
    ModelError
        When one of the two cannot be loaded, they do not suit each other, or `output` holds a
        model already.
    ConfigError
        When `weight` is not a share.
    """
    if (Path(output) / CARD).exists():
        raise ModelError(
            f"There is a model in {Path(output).name!r} already.",
            expected="a new folder",
            found=f"{CARD} in {output}",
            remedy="choose another folder, or delete this one",
        )
    first, card = _celldetr(fine)
    second, other = _celldetr(coarse)
    scale = _scale(first, card, second, other)
    settings = OverviewConfig(
        backbone=second.config.backbone,
        fold_norm=second.config.fold_norm,
        pyramid_size=second.config.pyramid_size,
        class_stride=second.config.class_stride,
        scale=scale,
        weight=weight,
    )
    config = replace(first.config, overview=settings)
    joined = CellDETR(config)
    joined.load_state_dict(first.state_dict(), strict=False)
    assert joined.overview is not None
    joined.overview.load_state_dict(_taken(second, joined.overview))
    calibration = card.calibration
    if calibration is not None:
        scores = replace(Calibration.from_dict(calibration), class_temperature=1.0)
        calibration = scores.to_dict()
    folder = Path(output)
    done = replace(
        card,
        name=folder.name,
        title=folder.name if card.title == card.name else card.title,
        arguments=asdict(config),
        metrics={},
        limits="Not evaluated yet.",
        calibration=calibration,
        data=[*card.data, *(d for d in other.data if d not in card.data)],
        training=card.training
        | {"overview": {"weights_sha256": other.weights_sha256, "training": other.training}},
        parent=card.weights_sha256,
    )
    return save_model(folder, joined, done)


def _celldetr(model: str | Path) -> tuple[CellDETR, ModelCard]:
    network, card = load_network(model)
    if not isinstance(network, CellDETR):
        raise _unsuited(card, "a CellDETR network", type(network).__name__)
    return network, card


def _scale(first: CellDETR, card: ModelCard, second: CellDETR, other: ModelCard) -> int:
    if second.config.query_source != "heatmap":
        raise _unsuited(other, "a network with a dense class map", second.config.query_source)
    for network, own in ((first, card), (second, other)):
        if network.config.overview is not None:
            raise _unsuited(own, "a network without an overview", "one that has one")
    if first.config.class_target != "matched":
        raise _unsuited(card, "classes of cells alone (class_target 'matched')", "'all'")
    needed = set(strides_from(second.config.class_stride))
    coarser = second.config.class_stride > second.config.heat_stride
    if not coarser or not needed <= set(second.encoder.strides):
        raise _unsuited(
            other,
            "a class map coarser than the heatmap, and all strides from there to 32",
            f"class map at {second.config.class_stride}, strides {second.encoder.strides}",
        )
    if card.class_names != other.class_names:
        names = ", ".join(card.class_names)
        raise _unsuited(other, f"the classes {names}", ", ".join(other.class_names))
    if (card.mean, card.std) != (other.mean, other.std):
        raise _unsuited(other, f"input statistics {card.mean}, {card.std}", str(other.mean))
    ratio = other.mpp / card.mpp
    scale = round(ratio)
    if scale not in OVERVIEW_SCALES or abs(ratio / scale - 1) > _TOLERANCE:
        times = " or ".join(f"{s * card.mpp:g}" for s in OVERVIEW_SCALES)
        raise _unsuited(other, f"{times} µm/px: 2, 4 or 8 times the other's", f"{other.mpp:g}")
    return scale


def _taken(coarse: CellDETR, overview: Overview) -> dict[str, Any]:
    # The pyramid's levels finer than the class map are left behind.
    encoder = coarse.encoder
    skipped = encoder.strides.index(coarse.config.class_stride)
    pyramid = encoder.pyramid
    assert pyramid is not None
    parts: dict[str, nn.Module] = {
        "backbone": encoder.backbone,
        "class_head": encoder.class_head,
        "pyramid.smooth.0": pyramid.smooth[skipped],
    }
    for level in range(len(overview.pyramid.lateral)):
        parts[f"pyramid.lateral.{level}"] = pyramid.lateral[skipped + level]
    return {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}


def _unsuited(card: ModelCard, expected: str, found: str) -> ModelError:
    return ModelError(
        f"Model {card.name!r} cannot be joined with the other.",
        expected=expected,
        found=found,
        remedy="choose two models trained for it; see docs/models.md",
    )
