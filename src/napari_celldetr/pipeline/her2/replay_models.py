"""The models of a report as they are here: with the same weights, or the replay is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.pipeline.her2.content import NUCLEI_ROLE, PIXEL_ROLE, STAIN_ROLE, Content
from napari_celldetr.pipeline.her2.networks import Networks

Models = Mapping[str, Mapping[str, Any]]
SAME_VERSION = "install the version of the package that wrote the report"


def check_models(content: Content, networks: Networks | None, predictor: Predictor | None) -> None:
    """`ModelError` unless every model that is asked again has the weights of the report.

    What is given is known by the hash of its own weights, whatever it is called. Nuclei that were
    given are not looked for again, and need no model.
    """
    models = models_of(content)
    if NUCLEI_ROLE in models and content["nuclei"]["source"] == "detected":
        name, remedy = content["config"]["model"], "give the folder of the model with --model"
        card = _installed(name, remedy) if predictor is None else predictor.card
        _check(models[NUCLEI_ROLE], card, remedy)
    for role, given in (
        (STAIN_ROLE, networks and networks.stain),
        (PIXEL_ROLE, networks and networks.pixels),
    ):
        if role not in models or (networks is not None and given is None):
            continue
        card = given.card if given else _installed(models[role]["name"], SAME_VERSION)
        _check(models[role], card, SAME_VERSION)


def models_of(content: Content) -> Models:
    """The models of a report by their role."""
    return {str(model["role"]): model for model in content["models"]}


def same_networks(models: Models, device: str) -> Networks:
    """Those networks that the report has an answer of."""
    from napari_celldetr.nets.registry import load_patch_predictor, load_pixel_predictor

    stain, pixels = models.get(STAIN_ROLE), models.get(PIXEL_ROLE)
    return Networks(
        None,
        None if stain is None else load_patch_predictor(str(stain["name"]), device=device),
        None if pixels is None else load_pixel_predictor(str(pixels["name"]), device=device),
    )


def _installed(name: object, remedy: str) -> Any:
    from napari_celldetr.nets.card import read_card
    from napari_celldetr.nets.registry import find_model

    try:
        return read_card(find_model(str(name)))
    except ModelError as error:
        raise ModelError(
            error.message, expected=error.expected, found=error.found, remedy=remedy
        ) from error


def _check(model: Mapping[str, Any], card: Any, remedy: str) -> None:
    if card.weights_sha256 != model["weights_sha256"]:
        raise ModelError(
            f"The model {card.name!r} is not the one of the report.",
            expected=f"{model['name']!r}, weights {str(model['weights_sha256'])[:12]}",
            found=f"weights {card.weights_sha256[:12]}",
            remedy=remedy,
        )
