"""The network a training begins with: architectures by name, fine-tuning, frozen parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import timm
from torch import Tensor, nn

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR, CellDETRConfig
from napari_celldetr.nets.celldetr_config import NUCLEUS_UM
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.registry import OWN, load_network
from napari_celldetr.training.config import Recipe, RunConfig, TrainConfig

FINE_TUNING = 0.25
"""What the rates of a recipe are multiplied with where a detector is trained further."""

OVERVIEW = "overview."
"""Beginning of the names of an overview's parameters, which no training changes."""

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Architecture:
    """What a name in `RunConfig.architecture` stands for.

    Attributes
    ----------
    registered : str
        The card's `architecture`, see `napari_celldetr.nets.registry`.
    network : type
        Class of its networks; a network keeps its settings in a dataclass `config`.
    settings : callable
        Number of classes and µm/px -> the network's settings.
    build : callable
        Settings and a file of backbone weights (or None) -> network.
    criterion : callable
        Network, class weights and `TrainConfig` -> callable of (network, image, targets) that
        gives the total loss and its parts.
    heads : tuple of str
        Beginnings of the names of parameters that learn at the rate of the heads; those that
        begin with `backbone` learn at the backbone's, all others at the decoders'.
    classifier : tuple of str
        Beginnings of the names of the layers that a linear probe trains.
    backbone : str
    """

    registered: str
    network: type[nn.Module]
    settings: Callable[[int, float], Any]
    build: Callable[[Any, str | None], nn.Module]
    criterion: Callable[[Any, Tensor, TrainConfig], Callable[..., tuple[Tensor, dict[str, float]]]]
    heads: tuple[str, ...]
    classifier: tuple[str, ...]
    backbone: str = "encoder.backbone"


def _celldetr(settings: Callable[[int, float], CellDETRConfig]) -> Architecture:
    return Architecture(
        OWN,
        CellDETR,
        settings,
        lambda config, weights: CellDETR(config, backbone_weights=weights),
        _celldetr_criterion,
        heads=("encoder.pyramid", "encoder.heat_head", "encoder.class_head"),
        classifier=("representation.classify",),
    )


def _celldetr_criterion(model: CellDETR, weights: Tensor, config: TrainConfig) -> Criterion:
    criterion = Criterion.for_model(model, weights)
    if config.boxes != "true":
        from napari_celldetr.nets.noise import BoxNoise

        noise = BoxNoise(config.noise_low, config.noise_high)
        criterion = replace(criterion, boxes=config.boxes, noise=noise)
    if config.soft_negatives:
        criterion = replace(criterion, soft_negatives=True)
    return criterion


ARCHITECTURES = {
    "small": _celldetr(lambda classes, mpp: CellDETRConfig.small(classes, mpp=mpp)),
    "dense": _celldetr(lambda classes, mpp: CellDETRConfig.dense(classes, mpp=mpp)),
    "paper": _celldetr(
        lambda classes, mpp: CellDETRConfig(num_classes=classes, nucleus_px=NUCLEUS_UM / mpp)
    ),
}


@dataclass(frozen=True)
class Start:
    """A network to train.

    `statistics` are mean and standard deviation of its input; `parent` is the card it goes on
    from; `detects` is False where nothing has taught it, or will teach it, to find cells.
    """

    model: nn.Module
    statistics: Statistics
    parent: ModelCard | None = None
    detects: bool = True


def start(config: RunConfig, network: Any = None) -> Start:
    """The network that `config` asks for, or one of other settings given as `network`.

    Raises
    ------
    ConfigError, ModelError
        When it cannot be built, or the model to go on from does not suit.
    """
    architecture = ARCHITECTURES[config.architecture]
    if config.init:
        return _continued(config, architecture)
    count = len(config.class_names)
    wanted = network or architecture.settings(count, config.mpp)
    if config.backbone:
        wanted = replace(wanted, backbone=config.backbone)
    wanted = _moded(wanted, config)
    model = architecture.build(wanted, config.backbone_weights or None)
    return Start(model, input_statistics(wanted.backbone))


def _continued(config: RunConfig, architecture: Architecture) -> Start:
    parent, card = load_network(config.init)
    name = card.training.get("architecture", config.architecture)
    if not isinstance(parent, architecture.network) or name != config.architecture:
        raise ConfigError(
            f"Model {config.init!r} cannot be the start of this training.",
            expected=f"a network of the architecture {config.architecture!r}",
            found=f"{type(parent).__name__} of the architecture {name!r}",
            remedy="start from another model, or name its architecture",
        )
    if config.backbone or config.backbone_weights:
        raise ConfigError(
            "A model to go on from brings its own backbone.",
            expected="either a model to start from or a backbone",
            found=f"{config.init} and {config.backbone or config.backbone_weights}",
            remedy="leave out one of them",
        )
    own: Any = parent.config
    if getattr(parent, "lesson", None) is not None:
        # It speaks of embeddings that training changes.
        cast(Any, parent).lesson = None
    changes: dict[str, Any] = {"num_classes": len(config.class_names)}
    if getattr(own, "overview", None) is not None and config.class_names != card.class_names:
        # It knows the old classes only.
        changes["overview"] = None
    wanted = _moded(replace(own, **changes), config)
    model: nn.Module = parent
    if wanted != own:
        # With other classes everything but the class heads goes on.
        model = architecture.build(wanted, None)
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        state = parent.state_dict()
        fitting = {name: value for name, value in state.items() if value.shape == shapes.get(name)}
        model.load_state_dict(fitting, strict=False)
    probe = isinstance(config, TrainConfig) and config.freeze == "all_but_classifier"
    detects = bool(card.training.get("detects", True)) or not probe
    return Start(model, (card.mean, card.std), card, detects)


def _moded(settings: Any, config: RunConfig) -> Any:
    if not isinstance(config, TrainConfig):
        return settings
    if config.freeze == "all_but_classifier" and hasattr(settings, "dense_class_weight"):
        # The probed layer alone says what a cell is.
        settings = replace(settings, dense_class_weight=0.0, overview=None)
    if config.mode is not None:
        settings = replace(settings, mode=config.mode)
    if config.boxes != "true" and settings.mode != "parallel":
        raise ConfigError(
            "Annotated boxes are shown in parallel mode only.",
            expected="mode parallel with these boxes",
            found=f"mode {settings.mode}, boxes {config.boxes}",
            remedy="choose mode parallel or boxes true",
        )
    return settings


def rate_factor(config: RunConfig, begun: Start) -> float:
    """What the recipe's rates are multiplied with.

    A detector that is trained further takes smaller steps, so that it keeps what it knows. A
    pretrained network has its heads still to learn, and a linear probe starts afresh.
    """
    if config.rate_factor is not None:
        return config.rate_factor
    if begun.parent is None or not begun.parent.training.get("detects", True):
        return 1.0
    if isinstance(config, TrainConfig) and config.freeze == "all_but_classifier":
        return 1.0
    return FINE_TUNING if isinstance(config, TrainConfig) else 1.0


def freeze(model: nn.Module, config: TrainConfig) -> None:
    """Fix the parts that keep their weights: no gradients, no dropout, no running statistics."""
    architecture = ARCHITECTURES[config.architecture]
    for name, parameter in model.named_parameters():
        fixed = name.startswith(OVERVIEW)
        if config.freeze == "backbone":
            fixed = fixed or name.startswith(architecture.backbone)
        elif config.freeze == "all_but_classifier":
            fixed = not name.startswith(architecture.classifier)
        parameter.requires_grad_(not fixed)
    if config.freeze == "none":
        return
    for name, module in model.named_modules():
        if config.freeze == "all_but_classifier" or name.startswith(architecture.backbone):
            module.eval()


def parameter_groups(
    config: RunConfig, model: nn.Module, *, factor: float = 1.0
) -> dict[str, dict[str, Any]]:
    """Parameters that learn, by group (backbone, heads, decoders), with their highest rate."""
    architecture = ARCHITECTURES[config.architecture]
    return grouped(
        model,
        config.recipe,
        backbone=(architecture.backbone,),
        heads=architecture.heads,
        factor=factor,
    )


def grouped(
    model: nn.Module,
    recipe: Recipe,
    *,
    backbone: tuple[str, ...],
    heads: tuple[str, ...],
    factor: float = 1.0,
) -> dict[str, dict[str, Any]]:
    """Parameters that learn, by the beginnings of their names; what is left is the decoders'."""
    rates = {
        "backbone": recipe.lr_backbone,
        "heads": recipe.lr_heads,
        "decoders": recipe.lr_decoders,
    }
    groups: dict[str, dict[str, Any]] = {}
    members: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(backbone):
            members["backbone"].append(parameter)
        elif name.startswith(heads):
            members["heads"].append(parameter)
        else:
            members["decoders"].append(parameter)
    for name, parameters in members.items():
        if parameters:
            groups[name] = {"params": parameters, "lr": rates[name] * factor}
    return groups


_STATISTICS: dict[str, Statistics] = {
    # Its weights come from elsewhere than timm's.
    "mobilenetv2_100": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    # CellDETR's published figures for PanNuke.
    "resnet50": ((0.7048, 0.5733, 0.7413), (0.1787, 0.2259, 0.1903)),
}


def input_statistics(backbone: str) -> Statistics:
    """Mean and standard deviation of the input, as the backbone's weights expect."""
    if backbone in _STATISTICS:
        return _STATISTICS[backbone]
    known = timm.get_pretrained_cfg(backbone)
    if known is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    (a, b, c), (u, v, w) = known.mean, known.std
    return (a, b, c), (u, v, w)


def settings_of(model: nn.Module) -> dict[str, Any]:
    """The network's settings as the card keeps them."""
    config: Any = model.config
    return asdict(config)
