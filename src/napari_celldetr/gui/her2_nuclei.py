"""Whose nuclei HER2 is measured on: those a slide has, or those of the H-DAB model. No Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_celldetr.core.config import DetectConfig, from_mapping, to_json
from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.regions import Region

STAIN = "H-DAB"
ENOUGH = 0.02
"""A view counts as looked at when less of it than this was not."""


@dataclass(frozen=True)
class Search:
    """Nuclei must be looked for first, with the model of `card`."""

    card: Any
    config: DetectConfig

    def identity(self, session: Any) -> tuple[Any, ...]:
        """What makes claims comparable: who made them, and at what scale."""
        return (self.card.weights_sha256, to_json(self.config), session.frame.mpp)


def search_for(session: Any, region: Region, models: Any) -> Search | None:
    """How to find the nuclei of a region; None where they are known already.

    Nuclei that a person had found with another model are used as they are: a second model's would
    take their place, and with them what was corrected.
    """
    card = next((c for c in models.cards() if c.stain == STAIN), None)
    some = bool(session.cells.kept.any())
    others = some and (card is None or session.weights != card.weights_sha256)
    looked = session.coverage is not None and session.coverage.missing(region) <= ENOUGH
    if others or (some and looked):
        return None
    if card is None:
        raise ModelError(
            "No model for nuclei in H-DAB is installed.",
            expected=f"a model whose stain is {STAIN}",
            found=", ".join(c.name for c in models.cards()) or "none",
            remedy="find the cells with Detect cells, or install celldetr-ihc",
        )
    return Search(card, _config(session, card))


def _config(session: Any, card: Any) -> DetectConfig:
    """The settings of the slide's own run, so that its cells stay; else the usual ones."""
    if session.weights == card.weights_sha256 and session.settings:
        return from_mapping(DetectConfig, session.settings)
    return DetectConfig(model=card.name)
