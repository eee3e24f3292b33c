"""Settings of trainings on samples: patches with a class, or images with a class per pixel."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from napari_celldetr.core.config import Field
from napari_celldetr.training.config import Recipe


@dataclass(frozen=True)
class SampleConfig:
    """What both trainings ask for. Unset ones take the task's recipe (`recipe`)."""

    output: Annotated[str, Field("Output", "Folder of the run: checkpoint, log, model")] = (
        "runs/samples"
    )
    name: Annotated[str, Field("Name", "Name of the trained model")] = "custom"
    title: Annotated[str, Field("Title", "Name shown to people")] = ""
    classes: Annotated[str, Field("Classes", "Class names in order, separated by commas")] = ""
    stain: Annotated[Literal["H&E", "H-DAB"], Field("Stain", "What the model is for")] = "H-DAB"
    mpp: Annotated[float, Field("Pixel size", "µm per px of the samples", ge=0.1, le=2.0)] = 0.5
    crop: Annotated[int, Field("Crop", "Side of a sample", ge=32, le=1024, unit="px")] = 256
    augmentation: Annotated[
        Literal["none", "flips", "scanner", "stain"],
        Field(
            "Augmentation",
            "flips and quarter turns; scanner adds light, optics and compression; stain also "
            "changes the amount of each dye, which must not be where that amount is the class",
        ),
    ] = "scanner"
    backbone_weights: Annotated[
        str, Field("Backbone weights", "Local file with timm's names; empty starts from noise")
    ] = ""
    init: Annotated[str, Field("Start from", "Model to go on from; empty starts afresh")] = ""
    steps: Annotated[int, Field("Steps", ge=1, le=1_000_000)] = 1500
    batch: Annotated[int | None, Field("Batch", ge=1, le=1024)] = None
    lr_backbone: Annotated[float | None, Field("Rate, backbone", ge=0, le=1, advanced=True)] = None
    lr_heads: Annotated[
        float | None, Field("Rate, pyramid and heads", ge=0, le=1, advanced=True)
    ] = None
    lr_decoders: Annotated[float | None, Field("Rate, transformer", ge=0, le=1, advanced=True)] = (
        None
    )
    weight_decay: Annotated[float | None, Field("Weight decay", ge=0, le=1, advanced=True)] = None
    warmup: Annotated[int | None, Field("Warm-up steps", ge=0, le=100_000, advanced=True)] = None
    clip: Annotated[float | None, Field("Gradient clip", ge=0, le=1000, advanced=True)] = None
    ema: Annotated[float, Field("Averaging", "Decay of the weight average", ge=0, le=1)] = 0.998
    seed: Annotated[int, Field("Seed", ge=0, le=2**31)] = 0
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Field("Device")] = "auto"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field("Precision", "auto takes bfloat16 where a short trial shows it to be faster"),
    ] = "auto"
    workers: Annotated[
        int, Field("Loading processes", "0 makes samples in the training process", ge=0, le=64)
    ] = 1
    checkpoint_steps: Annotated[
        int, Field("Checkpoint every", ge=1, le=100_000, unit="steps", advanced=True)
    ] = 100
    fresh: Annotated[bool, Field("Start over", "Ignore a checkpoint in the output folder")] = False
    validate_steps: Annotated[int, Field("Validate every", ge=1, le=1_000_000, unit="steps")] = 250
    keep: Annotated[
        Literal["last", "best"],
        Field("Keep", "Weights of the last step, or those that validated best"),
    ] = "last"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in order."""
        return tuple(c.strip() for c in self.classes.split(",") if c.strip())

    @property
    def recipe(self) -> Recipe:
        """The task's recipe with what this configuration changes."""
        own = {f.name: getattr(self, f.name) for f in fields(Recipe)}
        changed = {name: value for name, value in own.items() if value is not None}
        return replace(self._own_recipe(), **changed)

    def _own_recipe(self) -> Recipe:
        raise NotImplementedError


@dataclass(frozen=True)
class PatchTrainConfig(SampleConfig):
    """Settings of a training to classify patches; `crop` is the patch."""

    classes: Annotated[str, Field("Classes", "Class names in order, separated by commas")] = (
        "other,tumour"
    )
    stain: Annotated[Literal["H&E", "H-DAB"], Field("Stain", "What the model is for")] = "H&E"
    crop: Annotated[int, Field("Patch", "Side of a patch", ge=32, le=1024, unit="px")] = 224
    smoothing: Annotated[
        float, Field("Smoothing", "Share of a label spread over all classes", ge=0, le=0.5)
    ] = 0.05

    def _own_recipe(self) -> Recipe:
        return Recipe(16, 2e-4, 1e-3, 5e-4, 0.05, 100, 5.0)


@dataclass(frozen=True)
class PixelTrainConfig(SampleConfig):
    """Settings of a training to segment pixels; the first class is the background."""

    classes: Annotated[str, Field("Classes", "Class names in order, separated by commas")] = (
        "background,0,1+,2+,3+"
    )
    no_mask: Annotated[
        float, Field("Weight of no mask", "Among the classes of a query", ge=0, le=1, advanced=True)
    ] = 0.1

    def _own_recipe(self) -> Recipe:
        return Recipe(4, 3e-4, 1e-3, 5e-4, 0.05, 100, 5.0)
