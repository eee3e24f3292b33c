"""Settings of fine-tuning a detector on a person's corrections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from napari_celldetr.core.config import Field

What = Literal["decoder", "adapters"]


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of *Fine-tune the detector*. The backbone is frozen in either choice."""

    model: Annotated[str, Field("Model", "The model to go on from: a name or a model folder")] = (
        "celldetr-he"
    )
    what: Annotated[
        What,
        Field(
            "What learns",
            "decoder: heads and decoders; adapters: small layers in the encoder as well",
        ),
    ] = "adapters"
    steps: Annotated[
        int, Field("Steps", "At most; the squares held aside may end it sooner", ge=1, le=10_000)
    ] = 160
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Field("Device", "Where the network learns; auto takes a GPU when there is one"),
    ] = "auto"
    other_stain: Annotated[
        bool,
        Field("Another stain", "Teach the model a stain that it was not made for"),
    ] = False
    batch: Annotated[
        int, Field("Tiles at once", "Fewer need less memory", ge=1, le=64, advanced=True)
    ] = 4
    rate: Annotated[
        float,
        Field("Rate", "Times the rates of the model's recipe", ge=0.001, le=10.0, advanced=True),
    ] = 0.25
    rehearsal: Annotated[
        float,
        Field(
            "Rehearsal",
            "Weight of what the model learned before, against forgetting",
            ge=0.0,
            le=10.0,
            advanced=True,
        ),
    ] = 2.0
    own_answers: Annotated[
        float,
        Field(
            "Own answers",
            "Weight of what the model itself says of uncorrected tiles",
            ge=0.0,
            le=10.0,
            advanced=True,
        ),
    ] = 0.0
    guard_steps: Annotated[
        int,
        Field("Steps between checks", "On the squares held aside", ge=1, le=1000, advanced=True),
    ] = 40
    seed: Annotated[int, Field("Seed", "Of chance", ge=0, advanced=True)] = 0
