"""Settings of training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, Protocol

from napari_celldetr.core.config import Field
from napari_celldetr.core.errors import ConfigError
from napari_celldetr.training.specs import DATA_WORDS


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is optimised; the fields are those of `RunConfig`."""

    batch: int
    lr_backbone: float
    lr_heads: float
    lr_decoders: float
    weight_decay: float
    warmup: int
    clip: float


RECIPES = {
    # Reached on two CPU cores in under an hour; large rates suit the small decoders.
    "small": Recipe(8, 4e-4, 2e-3, 5e-4, 0.02, 150, 5.0),
    "dense": Recipe(8, 4e-4, 2e-3, 5e-4, 0.02, 150, 5.0),
    # CellDETR's published settings.
    "paper": Recipe(16, 8e-6, 8e-5, 8e-5, 1e-4, 600, 0.1),
}


class LoopConfig(Protocol):
    """What the loop asks of any training's settings, which are a dataclass with defaults."""

    @property
    def output(self) -> str:
        """Folder of the run."""
        ...

    @property
    def name(self) -> str:
        """Name of the trained model."""
        ...

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        ...

    @property
    def ema(self) -> float:
        """Decay of the weight average."""
        ...

    @property
    def seed(self) -> int:
        """What all random numbers come from."""
        ...

    @property
    def precision(self) -> str:
        """auto, float32 or bfloat16."""
        ...

    @property
    def workers(self) -> int:
        """Loading processes."""
        ...

    @property
    def checkpoint_steps(self) -> int:
        """Steps between checkpoints."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether a checkpoint in the folder is ignored."""
        ...

    @property
    def recipe(self) -> Recipe:
        """How the network is optimised."""
        ...


@dataclass(frozen=True)
class RunConfig:
    """What every training asks for. Unset ones take the network's recipe (`recipe`)."""

    data: Annotated[str, Field("Data", f"Data sets: {DATA_WORDS}")] = ""
    split: Annotated[
        Literal["train", "all"], Field("Split", "Fields to take where a set has a split.csv")
    ] = "train"
    output: Annotated[str, Field("Output", "Folder of the run: checkpoint, log, model")] = (
        "runs/celldetr"
    )
    name: Annotated[str, Field("Name", "Name of the trained model")] = "celldetr-custom"
    title: Annotated[str, Field("Title", "Name shown to people")] = ""
    hold_out: Annotated[
        str, Field("Hold out", "Groups (patients) never trained on, separated by commas")
    ] = ""
    architecture: Annotated[
        Literal["small", "dense", "paper"],
        Field("Network", "small is fast; dense is small without decoders; paper is the reference"),
    ] = "small"
    backbone: Annotated[
        str, Field("Backbone", "timm name; empty takes mobilenetv2_100 (small), resnet50 (paper)")
    ] = ""
    backbone_weights: Annotated[
        str, Field("Backbone weights", "Local file with timm's names; empty starts from noise")
    ] = ""
    init: Annotated[str, Field("Start from", "Model to go on from; empty starts afresh")] = ""
    stain: Annotated[Literal["H&E", "H-DAB"], Field("Stain", "What the model is for")] = "H&E"
    mpp: Annotated[float, Field("Pixel size", "µm per px to work at", ge=0.1, le=2.0)] = 0.5
    augmentation: Annotated[
        Literal["none", "light", "default", "strong"],
        Field("Augmentation", "How much crops are varied"),
    ] = "default"
    steps: Annotated[int, Field("Steps", ge=1, le=1_000_000)] = 1500
    batch: Annotated[int | None, Field("Batch", ge=1, le=256)] = None
    crop: Annotated[int, Field("Crop", "Side of a training crop", ge=64, le=1024, unit="px")] = 256
    lr_backbone: Annotated[float | None, Field("Rate, backbone", ge=0, le=1, advanced=True)] = None
    lr_heads: Annotated[
        float | None, Field("Rate, pyramid and heads", ge=0, le=1, advanced=True)
    ] = None
    lr_decoders: Annotated[float | None, Field("Rate, decoders", ge=0, le=1, advanced=True)] = None
    rate_factor: Annotated[
        float | None,
        Field(
            "Rate factor",
            "All rates times this; unset it is 0.25 when a detector is fine-tuned, else 1",
            ge=0,
            le=10,
            advanced=True,
        ),
    ] = None
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
        int, Field("Loading processes", "0 loads in the training process", ge=0, le=64)
    ] = 1
    checkpoint_steps: Annotated[
        int, Field("Checkpoint every", ge=1, le=100_000, unit="steps", advanced=True)
    ] = 100
    fresh: Annotated[bool, Field("Start over", "Ignore a checkpoint in the output folder")] = False

    @property
    def recipe(self) -> Recipe:
        """The network's recipe with what this configuration changes."""
        own = {f.name: getattr(self, f.name) for f in fields(Recipe)}
        changed = {name: value for name, value in own.items() if value is not None}
        return replace(RECIPES[self.architecture], **changed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in order; without labels there is the nucleus alone."""
        return ("nucleus",)

    @property
    def data_classes(self) -> tuple[str, ...]:
        """Class names to read from the data; none when only nuclei are wanted."""
        return () if self.class_names == ("nucleus",) else self.class_names

    @property
    def held_out(self) -> set[str]:
        """Groups that are not trained on."""
        return _words(self.hold_out)


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Settings of `celldetr train`."""

    classes: Annotated[
        str,
        Field(
            "Classes", "Class names, separated by commas; nucleus alone ignores the data's classes"
        ),
    ] = "lymphocyte,tumour,stromal"
    fraction: Annotated[
        float,
        Field(
            "Fraction",
            "Share of the labelled fields to train on; a larger share holds every smaller one",
            ge=0.001,
            le=1,
        ),
    ] = 1.0
    freeze: Annotated[
        Literal["none", "backbone", "all_but_classifier"],
        Field("Freeze", "Parts that keep their weights; all_but_classifier is a linear probe"),
    ] = "none"
    mode: Annotated[
        Literal["sequential", "parallel"] | None,
        Field("Mode", "What is described while training: found boxes or annotated ones"),
    ] = None
    boxes: Annotated[
        Literal["true", "noised", "positive_negative"],
        Field("Boxes", "How parallel mode shows annotated boxes"),
    ] = "true"
    noise_low: Annotated[float, Field("Least box noise", ge=0, le=1, advanced=True)] = 0.1
    noise_high: Annotated[float, Field("Most box noise", ge=0, le=0.99, advanced=True)] = 0.4
    soft_negatives: Annotated[
        bool, Field("Soft negatives", "Unannotated cells count less as background", advanced=True)
    ] = False
    validation: Annotated[
        str,
        Field(
            "Validation",
            "Data sets scored while training; fields of groups that are trained on are left out",
        ),
    ] = ""
    validation_groups: Annotated[
        str, Field("Validation groups", "Only these, separated by commas; empty takes all")
    ] = ""
    validation_split: Annotated[
        Literal["all", "train", "val"],
        Field("Validation split", "Part named in the set's split.csv"),
    ] = "all"
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
    def validated_groups(self) -> set[str]:
        """Groups that validation is confined to; empty for all."""
        return _words(self.validation_groups)


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """Settings of `celldetr pretrain`."""

    output: Annotated[str, Field("Output", "Folder of the run: checkpoint, log, model")] = (
        "runs/pretrain"
    )
    name: Annotated[str, Field("Name", "Name of the pretrained model")] = "celldetr-pretrained"
    images: Annotated[
        str, Field("Images", "Folders of unlabelled pictures, FOLDER[@MPP], separated by spaces")
    ] = ""
    boxes_from: Annotated[
        str,
        Field("Boxes from", "Model that finds the cells; empty takes the boxes of the data sets"),
    ] = ""
    noise_low: Annotated[float, Field("Least box noise", ge=0, le=1)] = 0.1
    noise_high: Annotated[float, Field("Most box noise", ge=0, le=0.99)] = 0.4
    temperature: Annotated[float, Field("Temperature", ge=0.001, le=10)] = 0.1
    copies: Annotated[int, Field("Copies", "Noised copies of each cell", ge=1, le=16)] = 2


@dataclass(frozen=True)
class AblateConfig(TrainConfig):
    """Settings of `celldetr ablate`: those of training, for each variant of the network."""

    output: Annotated[str, Field("Output", "Folder: a run per variant, and the table")] = (
        "runs/ablation"
    )
    steps: Annotated[int, Field("Steps", "Of each variant", ge=1, le=1_000_000)] = 600
    variants: Annotated[
        str, Field("Variants", "Names, separated by commas; empty takes all of them")
    ] = ""
    repeats: Annotated[
        int, Field("Repeats", "Runs per variant, each with its own seed", ge=1, le=20)
    ] = 1


@dataclass(frozen=True)
class CrossvalidateConfig(TrainConfig):
    """Settings of `celldetr crossvalidate`: those of training, for each fold."""

    output: Annotated[str, Field("Output", "Folder: a run per fold, and the report")] = (
        "runs/crossvalidation"
    )
    split: Annotated[
        Literal["train", "all"], Field("Split", "Fields to take where a set has a split.csv")
    ] = "all"
    by: Annotated[
        Literal["group", "site"],
        Field("By", "What is held out together: groups (patients), or all groups of a TCGA site"),
    ] = "group"
    folds: Annotated[int, Field("Folds", "By group; by site each is a fold", ge=2, le=100)] = 5
    only: Annotated[
        str, Field("Only", "Numbers of the folds to run now, separated by commas; empty runs all")
    ] = ""
    flips: Annotated[bool, Field("Average flips", "Slower, slightly more accurate")] = False
    overview_from: Annotated[
        str,
        Field(
            "Overviews from",
            "Output folder of another cross-validation by the same folds: each fold's network gets "
            "that one's as its overview before it is scored",
        ),
    ] = ""
    radii_um: Annotated[
        tuple[float, ...],
        Field("Radii", "A cell found within one counts, in µm; the first chooses thresholds"),
    ] = (3.0, 2.0, 5.0)

    @property
    def radii(self) -> tuple[float, ...]:
        """Radii in µm, each once; `ConfigError` where they are none."""
        values = tuple(dict.fromkeys(self.radii_um))
        if not values or not all(isinstance(v, int | float) and 0.1 <= v <= 50 for v in values):
            raise ConfigError(
                "The radii cannot be used.",
                expected="numbers of µm from 0.1 to 50",
                found=repr(self.radii_um),
                remedy="give e.g. 3 2 5",
            )
        return values


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `celldetr evaluate`."""

    data: Annotated[str, Field("Data", f"Data sets: {DATA_WORDS}")] = ""
    model: Annotated[str, Field("Model", "Name or folder")] = "celldetr-he"
    groups: Annotated[
        str, Field("Groups", "Only these groups (patients), separated by commas; empty takes all")
    ] = ""
    split: Annotated[
        Literal["all", "train", "val"], Field("Split", "Part named in the set's split.csv")
    ] = "all"
    radius_um: Annotated[float, Field("Radius", "A cell found within it counts", ge=0.1, le=50)] = (
        3.0
    )
    radii_um: Annotated[
        tuple[float, ...], Field("More radii", "Also score at these, in µm", ge=0.1, le=50)
    ] = (2.0, 5.0)
    threshold: Annotated[
        float | None, Field("Score threshold", "Empty takes the model's", ge=0, le=1)
    ] = None
    best_threshold: Annotated[
        bool,
        Field("Best threshold", "Report the best F1's threshold on these fields (optimistic)"),
    ] = False
    calibrate: Annotated[
        bool, Field("Calibrate", "Fit what turns the model's scores into probabilities here")
    ] = False
    flips: Annotated[bool, Field("Average flips", "Slower, slightly more accurate")] = False
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Field("Device")] = "auto"
