"""Settings of CellDETR: `CellDETRConfig()` is the published reference configuration.

`CellDETRConfig.small()` is the fast one that ships: its queries come from the peaks of a centre
heatmap, its geometry counts in pixels, so that it reads tiles of any size, and its encoder may be
empty.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.attention import Backend
from napari_celldetr.nets.slots import NUCLEUS_PX

NUCLEUS_UM = 6.0
"""Side of a typical nucleus."""
FINE_MPP = 0.35
"""At this µm/px and below `CellDETRConfig.small` reads coarser levels of its backbone."""

OVERVIEW_SCALES = (2, 4, 8)
"""How much coarser than the image an overview may be."""

_LIMITS = {
    "num_classes": (1, 1000),
    "extra_levels": (0, 4),
    "size": (4, 2048),
    "heads": (1, 64),
    "points": (1, 64),
    "feed_forward": (1, 8192),
    "encoder_layers": (0, 24),
    "encoder_stride": (1, 64),
    "detection_layers": (0, 24),
    "representation_layers": (0, 24),
    "queries": (1, 20_000),
    "window": (32, 4096),
    "pyramid_size": (4, 1024),
    "heat_stride": (1, 64),
    "class_stride": (1, 64),
    "context_tokens": (0, 64),
    "adapters": (0, 512),
}


@dataclass(frozen=True)
class OverviewConfig:
    """A second, coarser network that has a say in the classes; see `nets.overview`.

    Attributes
    ----------
    backbone, fold_norm, pyramid_size, class_stride
        As in `CellDETRConfig`; the stride is in px of the reduced image.
    scale : int
        How many px of the image make one px of the reduced image, along each side: 2, 4 or 8.
    weight : float
        Share of the overview in the final class, 0..1.
    """

    backbone: str = "mobilenetv2_100"
    fold_norm: bool = True
    pyramid_size: int = 64
    class_stride: int = 4
    scale: int = 2
    weight: float = 0.5

    def __post_init__(self) -> None:
        whole = {"pyramid_size": (4, 1024), "class_stride": (2, 32), "scale": (2, 8)}
        powers = {"class_stride": (2, 4, 8, 16, 32), "scale": OVERVIEW_SCALES}
        wrong = [
            f"{name} = {getattr(self, name)!r:.80}"
            for name, (low, high) in whole.items()
            if type(getattr(self, name)) is not int or not low <= getattr(self, name) <= high
        ]
        wrong += [
            f"{name} = {getattr(self, name)!r:.80} (a power of 2)"
            for name, known in powers.items()
            if getattr(self, name) not in known
        ]
        if not isinstance(self.backbone, str) or not isinstance(self.fold_norm, bool):
            wrong.append("backbone or fold_norm of the wrong type")
        if not isinstance(self.weight, int | float) or not 0 <= self.weight <= 1:
            wrong.append(f"weight = {self.weight!r:.80}")
        if wrong:
            raise _inconsistent(["overview: " + "; ".join(wrong)])

    @classmethod
    def from_dict(cls, values: Any) -> OverviewConfig:
        """From a card's JSON; `ConfigError` for other keys or values."""
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= known:
            raise _inconsistent([f"overview = {values!r:.80}"])
        return cls(**values)


def _inconsistent(wrong: list[str]) -> ConfigError:
    return ConfigError(
        "This CellDETR cannot be built.",
        expected="a consistent configuration",
        found="; ".join(wrong),
        remedy="change the named settings",
    )


@dataclass(frozen=True)
class CellDETRConfig:
    """Everything that shapes the network; defaults are the paper's.

    Attributes
    ----------
    num_classes : int
    backbone, fold_norm
        timm name; whether batch norm is folded into convolutions.
    strides, extra_levels
        Backbone strides used as memory; coarser levels added by stride-2 convolutions.
    size, heads, points, feed_forward, dropout
        Transformer widths.
    encoder_layers, encoder_stride
        Number of encoder layers; levels finer than `encoder_stride` bypass them.
    detection_layers, representation_layers
        0 of the first leaves the heatmap's peaks as they are, 0 of the second takes classes from
        the dense map alone (heatmap source only). Without either it is a plain dense detector.
    queries, window
        Queries per `window` × `window` px; data-dependent sources scale it with the area.
    query_source
        ``learned`` (Deformable DETR), ``two_stage`` (best encoder tokens) or ``heatmap``.
    geometry
        ``sigmoid``: boxes as shares of the window, for fixed windows (the paper's).
        ``pixel``: shifts and sizes in pixels, for any tile size.
    nucleus_px : float
        Side of a typical nucleus in px, the unit of the pixel geometry: 6 µm.
    detection_self_attention : bool
    representation_self_attention
        ``none`` (as the paper says), ``not_first`` (as its released code does) or ``all``.
    decoupled : bool
        Representation queries from box size and centre alone (True) or from the detection
        decoder's features (False).
    box_constrained : bool
        Representation attention inside the box only.
    mode
        ``sequential``: the representation decoder sees predicted boxes while training too.
        ``parallel``: it sees annotated boxes while training, kept predictions at inference.
    class_target
        ``matched``: classes by softmax on cells only, the score is the detection decoder's.
        ``all``: classes by sigmoid on every query; the score combines both decoders.
    pyramid_size, heat_stride, class_stride
        Width of the pyramid that carries the heatmap, and the strides of heatmap and dense
        class map (heatmap source only).
    projection_norm
        ``group``: group norm behind each projection, as Deformable DETR. ``none``: without it a
        cell's result cannot depend on what lies elsewhere in its tile.
    dense_class_weight : float
        Share of the dense class map in the final class, 0..1 (heatmap source only).
    context_tokens : int
        Further slots of the representation decoder that look at the whole image (CellDETR,
        supplement A.1). Cells see them through self-attention; they see no cell.
    overview : OverviewConfig or None
        A second network at a coarser scale that has a say in the classes. Not used and not
        changed while training.
    adapters : int
        Channels of the bottleneck of a residual adapter on every pyramid level, or behind every
        projection where there is no pyramid (see `nets.adapters`); 0 for none.
    """

    num_classes: int = 5
    backbone: str = "resnet50"
    fold_norm: bool = False
    strides: tuple[int, ...] = (8, 16, 32)
    extra_levels: int = 1
    size: int = 256
    heads: int = 8
    points: int = 4
    feed_forward: int = 1024
    dropout: float = 0.1
    encoder_layers: int = 6
    encoder_stride: int = 8
    detection_layers: int = 3
    representation_layers: int = 3
    queries: int = 900
    window: int = 256
    query_source: Literal["learned", "two_stage", "heatmap"] = "learned"
    geometry: Literal["sigmoid", "pixel"] = "sigmoid"
    nucleus_px: float = NUCLEUS_PX
    detection_self_attention: bool = True
    representation_self_attention: Literal["none", "not_first", "all"] = "none"
    decoupled: bool = True
    box_constrained: bool = True
    mode: Literal["sequential", "parallel"] = "sequential"
    class_target: Literal["matched", "all"] = "all"
    pyramid_size: int = 64
    heat_stride: int = 2
    class_stride: int = 4
    projection_norm: Literal["group", "none"] = "group"
    dense_class_weight: float = 0.0
    context_tokens: int = 0
    backend: Backend = "embedding_bag"
    overview: OverviewConfig | None = None
    adapters: int = 0

    def __post_init__(self) -> None:
        if self.overview is not None and not isinstance(self.overview, OverviewConfig):
            object.__setattr__(self, "overview", OverviewConfig.from_dict(self.overview))
        self._check_values()
        object.__setattr__(self, "strides", tuple(self.strides))
        wrong = []
        if self.geometry == "pixel" and self.query_source != "heatmap":
            wrong.append("geometry 'pixel' needs query_source 'heatmap'")
        if self.size % self.heads:
            wrong.append(f"size {self.size} is not a multiple of {self.heads} heads")
        if self.size % 4:
            wrong.append(f"size {self.size} is not a multiple of 4")
        if self.dense_class_weight and self.query_source != "heatmap":
            wrong.append("dense_class_weight needs query_source 'heatmap'")
        dense = self.query_source == "heatmap"
        if not self.detection_layers and not dense:
            wrong.append("detection_layers 0 needs query_source 'heatmap'")
        if not self.representation_layers and self.dense_class_weight != 1:
            wrong.append("representation_layers 0 needs dense_class_weight 1")
        if self.context_tokens and self.representation_self_attention == "none":
            wrong.append("context_tokens need representation_self_attention, or no cell sees them")
        if self.overview is not None and self.class_target != "matched":
            wrong.append("an overview needs class_target 'matched'")
        self._refuse(wrong)

    def _check_values(self) -> None:
        # A card from elsewhere may hold anything, and a huge number would cost memory.
        wrong = []
        for name, kind in get_type_hints(type(self)).items():
            if name == "overview":
                continue
            value = getattr(self, name)
            choices = get_args(kind)
            if kind is int:
                low, high = _LIMITS[name]
                good = type(value) is int and low <= value <= high
            elif name == "nucleus_px":
                good = isinstance(value, int | float) and 2 <= value <= 500
            elif kind is float:
                good = isinstance(value, int | float) and 0 <= value <= 1
            elif name == "strides":
                good = isinstance(value, list | tuple) and 0 < len(value) <= 6
                good = good and all(type(s) is int and 1 <= s <= 64 for s in value)
                good = good and sorted(set(value)) == list(value)
            else:
                good = value in choices if choices else isinstance(value, kind)
            if not good:
                wrong.append(f"{name} = {value!r:.80}")
        self._refuse(wrong)

    @staticmethod
    def _refuse(wrong: list[str]) -> None:
        if wrong:
            raise _inconsistent(wrong)

    @property
    def offset_px(self) -> float:
        """Unit in which the pixel geometry counts shifts of a centre; doubles are nearer."""
        return self.nucleus_px / 3

    @classmethod
    def small(cls, num_classes: int, *, mpp: float = 0.5, **changes: Any) -> CellDETRConfig:
        """The fast configuration: MobileNetV2, heatmap queries, pixel geometry, d = 128.

        Its heatmap has 1 µm a pixel at the 0.5 and at the 0.25 µm/px of the image; the finer
        image is read by a network twice as deep where it counts, at about three times the cost.
        """
        step = 2 if mpp <= FINE_MPP else 1
        base = cls(
            num_classes=num_classes,
            backbone="mobilenetv2_100",
            fold_norm=True,
            strides=(4 * step, 8 * step, 16 * step),
            extra_levels=0,
            size=128,
            heads=4,
            feed_forward=256,
            dropout=0.0,
            encoder_layers=0,
            detection_layers=2,
            representation_layers=2,
            queries=240,
            window=256 * step,
            query_source="heatmap",
            heat_stride=2 * step,
            class_stride=4 * step,
            geometry="pixel",
            nucleus_px=NUCLEUS_UM / mpp,
            detection_self_attention=False,
            class_target="matched",
            projection_norm="none",
            dense_class_weight=0.5,
        )
        return replace(base, **changes)

    @classmethod
    def dense(cls, num_classes: int, *, mpp: float = 0.5, **changes: Any) -> CellDETRConfig:
        """`small` without its decoders: peaks of a heatmap, classes from a map.

        The baseline that every decoder has to beat.
        """
        plain = {"detection_layers": 0, "representation_layers": 0, "dense_class_weight": 1.0}
        return cls.small(num_classes, mpp=mpp, **(plain | changes))
