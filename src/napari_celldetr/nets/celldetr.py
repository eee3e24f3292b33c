"""CellDETR: find cells with a detection decoder, describe them with a representation decoder.

Backbone → multi-scale encoder → **detection decoder** (where are cells, how large) →
**representation decoder** (what is in each box). The second sees only the boxes of the first,
never its features, and looks only inside them (CellDETR, sections 3.1 and 3.2).

`CellDETRConfig()` is the published reference configuration. `CellDETRConfig.small()` is the fast
one that ships: its queries come from the peaks of a centre heatmap, its geometry counts in
pixels, so that it reads tiles of any size, and its encoder may be empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.attention import Backend, DeformableAttention
from napari_celldetr.nets.backbones import Backbone, FeaturePyramid
from napari_celldetr.nets.slots import NUCLEUS_PX
from napari_celldetr.nets.transformer import (
    DecoderLayer,
    EncoderLayer,
    LayerConfig,
    sine_position,
    token_boxes,
)

OFFSET_PX = 4.0
"""Unit in which the pixel geometry counts shifts of a centre."""
CROWDED = 3
"""How many times more queries than in training a heatmap may give at inference."""
NO_PEAK = -1e9
"""Logit of a query slot that holds no heatmap peak."""

_LIMITS = {
    "num_classes": (1, 1000),
    "extra_levels": (0, 4),
    "size": (4, 2048),
    "heads": (1, 64),
    "points": (1, 64),
    "feed_forward": (1, 8192),
    "encoder_layers": (0, 24),
    "encoder_stride": (1, 64),
    "detection_layers": (1, 24),
    "representation_layers": (1, 24),
    "queries": (1, 20_000),
    "window": (32, 4096),
    "pyramid_size": (4, 1024),
    "heat_stride": (1, 64),
    "class_stride": (1, 64),
    "context_tokens": (0, 64),
}


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
    queries, window
        Queries per `window` × `window` px; data-dependent sources scale it with the area.
    query_source
        ``learned`` (Deformable DETR), ``two_stage`` (best encoder tokens) or ``heatmap``.
    geometry
        ``sigmoid``: boxes as shares of the window, for fixed windows (the paper's).
        ``pixel``: shifts and sizes in pixels, for any tile size.
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

    def __post_init__(self) -> None:
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
        if self.context_tokens and self.representation_self_attention == "none":
            wrong.append("context_tokens need representation_self_attention, or no cell sees them")
        self._refuse(wrong)

    def _check_values(self) -> None:
        # A card from elsewhere may hold anything, and a huge number would cost memory.
        wrong = []
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            choices = get_args(kind)
            if kind is int:
                low, high = _LIMITS[name]
                good = type(value) is int and low <= value <= high
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
            raise ConfigError(
                "This CellDETR cannot be built.",
                expected="a consistent configuration",
                found="; ".join(wrong),
                remedy="change the named settings",
            )

    @classmethod
    def small(cls, num_classes: int, **changes: Any) -> CellDETRConfig:
        """The fast configuration: MobileNetV2, heatmap queries, pixel geometry, d = 128."""
        base = cls(
            num_classes=num_classes,
            backbone="mobilenetv2_100",
            fold_norm=True,
            strides=(4, 8, 16),
            extra_levels=0,
            size=128,
            heads=4,
            feed_forward=256,
            dropout=0.0,
            encoder_layers=0,
            detection_layers=2,
            representation_layers=2,
            queries=240,
            query_source="heatmap",
            geometry="pixel",
            detection_self_attention=False,
            class_target="matched",
            projection_norm="none",
            dense_class_weight=0.5,
        )
        return replace(base, **changes)


@dataclass(frozen=True)
class Encoded:
    """What the encoder leaves for the decoders.

    memory (B, S, C) with the (H, W) `shapes` of its levels; `image` is (height, width) in px;
    `tokens` are (1, S, 4) grid cells; `fine` are the pyramid's finest levels, `heat` (B, 1, H, W)
    and `class_map` (B, K, H, W) logits, all None without a heatmap.
    """

    memory: Tensor
    shapes: list[tuple[int, int]]
    image: tuple[int, int]
    tokens: Tensor
    fine: list[Tensor] | None = None
    heat: Tensor | None = None
    class_map: Tensor | None = None

    def of(self, images: list[int]) -> Encoded:
        """The same of some of the images."""
        return Encoded(
            self.memory[images],
            self.shapes,
            self.image,
            self.tokens,
            None if self.fine is None else [f[images] for f in self.fine],
            None if self.heat is None else self.heat[images],
            None if self.class_map is None else self.class_map[images],
        )


@dataclass(frozen=True)
class Queries:
    """Decoder slots: content and position (B, Q, C), references (B, Q, 4) as cx cy w h 0..1.

    `prior` (B, Q) is the proposal's own logit, `valid` (B, Q) marks slots in use, `proposals` are
    the two-stage logits and boxes of every token.
    """

    content: Tensor
    position: Tensor | None
    references: Tensor
    prior: Tensor | None
    valid: Tensor
    proposals: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Detected:
    """Detection decoder's word: per layer logits (B, Q) and boxes (B, Q, 4) cx cy w h in 0..1."""

    logits: list[Tensor]
    boxes: list[Tensor]
    features: Tensor
    queries: Queries


@dataclass(frozen=True)
class Represented:
    """Representation decoder's word: embeddings (B, R, C) and class logits (B, R, K) per layer."""

    embeddings: Tensor
    logits: list[Tensor]


class CellDETR(nn.Module):
    """The network. See `CellDETRConfig` for its settings.

    Parameters
    ----------
    config : CellDETRConfig
    backbone_weights : path, optional
        Local ImageNet (or other) weights for the backbone.
    """

    def __init__(
        self, config: CellDETRConfig, *, backbone_weights: str | Path | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, backbone_weights=backbone_weights)
        self.proposer = _proposer(config)
        self.detection = DetectionDecoder(config)
        self.representation = RepresentationDecoder(config)

    def encode(self, image: Tensor) -> Encoded:
        """Normalised image (B, 3, H, W) -> features."""
        encoded: Encoded = self.encoder(image)
        return encoded

    def detect(self, encoded: Encoded, *, floor: float | None = None) -> Detected:
        """Find cells. With `floor`, heatmap peaks below that probability get no query."""
        detected: Detected = self.detection(encoded, self.proposer(encoded, floor))
        return detected

    def represent(
        self,
        encoded: Encoded,
        boxes: Tensor,
        *,
        padding: Tensor | None = None,
        features: Tensor | None = None,
        mask: Tensor | None = None,
        placed: bool = True,
    ) -> Represented:
        """Describe the cells in `boxes` (B, R, 4), cx cy w h in 0..1.

        `padding` (B, R) is True in unused slots; `features` (B, R, C) are the detection decoder's,
        used only when the configuration is not decoupled; `mask` (R, R) is True where attention
        between slots is forbidden; without `placed`, self-attention does not know their places.
        """
        described: Represented = self.representation(
            encoded, boxes, padding=padding, features=features, mask=mask, placed=placed
        )
        return described

    def class_at(self, encoded: Encoded, boxes: Tensor) -> Tensor:
        """Dense class logits (B, R, K) at the centres of `boxes` (B, R, 4)."""
        if encoded.class_map is None:
            raise ConfigError(
                "This network has no dense class map.",
                expected="query_source 'heatmap'",
                found=self.config.query_source,
                remedy="use the representation decoder's classes",
            )
        return sample_features(encoded.class_map, boxes[..., :2])

    def forward(self, image: Tensor) -> tuple[Encoded, Detected]:
        """Encode and detect; the representation decoder is asked with `represent`."""
        encoded = self.encode(image)
        return encoded, self.detect(encoded)

    def set_backend(self, backend: Backend) -> None:
        """Choose how deformable attention is computed everywhere."""
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.backend = backend


def _layer_config(config: CellDETRConfig) -> LayerConfig:
    return LayerConfig(
        config.size,
        config.heads,
        len(config.strides) + config.extra_levels,
        config.points,
        config.feed_forward,
        config.dropout,
        config.backend,
    )


class Encoder(nn.Module):
    """Backbone, optional pyramid with heatmap and class map, projections, encoder layers."""

    def __init__(
        self, config: CellDETRConfig, *, backbone_weights: str | Path | None = None
    ) -> None:
        super().__init__()
        self.config = config
        heat = config.query_source == "heatmap"
        fine = {config.heat_stride, config.class_stride} if heat else set()
        coarse = {32} if heat else set()
        self.strides = tuple(sorted({*config.strides, *fine, *coarse}))
        self.backbone = Backbone(
            config.backbone, self.strides, fold=config.fold_norm, weights=backbone_weights
        )
        channels = list(self.backbone.channels)
        self.pyramid: FeaturePyramid | None = None
        if heat:
            self.pyramid = FeaturePyramid(channels, config.pyramid_size)
            channels = [config.pyramid_size] * len(channels)
            self.heat_head = _head(config.pyramid_size, 1)
            self.class_head = _head(config.pyramid_size, config.num_classes)
            # A focal loss starts well when everything is called background.
            nn.init.constant_(cast(nn.Linear, self.heat_head[-1]).bias, -3.0)
        used = [channels[self.strides.index(s)] for s in config.strides]
        self.project = nn.ModuleList(
            _projection(c, config.size, 1, config.projection_norm) for c in used
        )
        self.extra = nn.ModuleList(
            _projection(used[-1] if i == 0 else config.size, config.size, 3, config.projection_norm)
            for i in range(config.extra_levels)
        )
        levels = len(config.strides) + config.extra_levels
        self.level_embedding = nn.Parameter(torch.randn(levels, config.size) * 0.02)
        self.first_encoded = sum(s < config.encoder_stride for s in config.strides)
        inner = replace(_layer_config(config), levels=levels - self.first_encoded)
        self.layers = nn.ModuleList(EncoderLayer(inner) for _ in range(config.encoder_layers))

    def forward(self, image: Tensor) -> Encoded:
        """(B, 3, H, W) -> `Encoded`."""
        features = self.backbone(image)
        fine = heat = classes = None
        if self.pyramid is not None:
            features = self.pyramid(features)
            fine = [features[self.strides.index(self.config.heat_stride)]]
            fine.append(features[self.strides.index(self.config.class_stride)])
            heat = self.heat_head(fine[0]).float()
            classes = self.class_head(fine[1]).float()
        used = [features[self.strides.index(s)] for s in self.config.strides]
        levels = [project(f) for project, f in zip(self.project, used, strict=True)]
        last = used[-1]
        for extra in self.extra:
            last = extra(last)
            levels.append(last)
        shapes = [(f.shape[-2], f.shape[-1]) for f in levels]
        tokens = token_boxes(shapes, device=image.device, dtype=torch.float32)
        memory = self._encode([f.flatten(2).transpose(1, 2) for f in levels], shapes, tokens)
        size = (image.shape[-2], image.shape[-1])
        return Encoded(memory, shapes, size, tokens, fine, heat, classes)

    def _encode(
        self, levels: list[Tensor], shapes: list[tuple[int, int]], tokens: Tensor
    ) -> Tensor:
        first = self.first_encoded
        raw = torch.cat([f + e for f, e in zip(levels, self.level_embedding, strict=True)], 1)
        skipped = sum(h * w for h, w in shapes[:first])
        if not len(self.layers):
            return raw
        memory, cells = raw[:, skipped:], tokens[:, skipped:]
        position = sine_position(cells[..., :2], self.config.size).to(memory.dtype)
        for layer in self.layers:
            memory = layer(memory, position, cells, shapes[first:])
        return torch.cat((raw[:, :skipped], memory), 1)


def _projection(channels: int, size: int, kernel: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(channels, size, kernel, stride=1 if kernel == 1 else 2, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    if norm == "none":
        return nn.Sequential(conv)
    return nn.Sequential(conv, nn.GroupNorm(32 if size % 32 == 0 else 4, size))


def _head(size: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(size, size, 3, padding=1, groups=size),
        nn.Conv2d(size, size, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(size, out, 1),
    )


def _box_head(size: int) -> nn.Sequential:
    # Starts by leaving boxes as they are.
    wide = [nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU()]
    last = nn.Linear(size, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*wide, last)


def sample_features(features: Tensor, xy: Tensor) -> Tensor:
    """Bilinear features (B, C, H, W) at points (B, Q, 2) in 0..1 -> (B, Q, C)."""
    grid = (xy * 2 - 1).unsqueeze(1)
    # In the points' dtype: half a number's digits would move points by pixels.
    out = F.grid_sample(features.to(grid.dtype), grid, align_corners=False, padding_mode="border")
    return out.to(features.dtype).squeeze(2).transpose(1, 2)


def _inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    x = x.clamp(eps, 1 - eps)
    return torch.log(x / (1 - x))


def _proposer(config: CellDETRConfig) -> nn.Module:
    kinds = {
        "learned": LearnedQueries,
        "two_stage": TwoStageQueries,
        "heatmap": HeatmapQueries,
    }
    return kinds[config.query_source](config)


class LearnedQueries(nn.Module):
    """Queries that are parameters: the same guesses for every image."""

    def __init__(self, config: CellDETRConfig) -> None:
        super().__init__()
        self.content = nn.Embedding(config.queries, config.size)
        self.position = nn.Embedding(config.queries, config.size)
        self.reference = nn.Linear(config.size, 4)
        nn.init.xavier_uniform_(self.reference.weight)
        small = math.log(0.08 / 0.92)
        with torch.no_grad():
            self.reference.bias.copy_(torch.tensor([0.0, 0.0, small, small]))

    def forward(self, encoded: Encoded, floor: float | None = None) -> Queries:
        """As many queries as there are parameters, whatever the image."""
        batch = len(encoded.memory)
        position = self.position.weight.expand(batch, -1, -1)
        content = self.content.weight.expand(batch, -1, -1)
        references = self.reference(position).sigmoid()
        valid = torch.ones(references.shape[:2], dtype=torch.bool, device=references.device)
        return Queries(content, position, references, None, valid)


class TwoStageQueries(nn.Module):
    """Queries from the encoder tokens that most look like a cell (Deformable DETR, two-stage)."""

    def __init__(self, config: CellDETRConfig) -> None:
        super().__init__()
        self.config = config
        self.memory = nn.Sequential(nn.Linear(config.size, config.size), nn.LayerNorm(config.size))
        self.logit = nn.Linear(config.size, 1)
        self.box = _box_head(config.size)
        nn.init.constant_(self.logit.bias, -4.0)
        self.content = nn.Linear(config.size, config.size)
        self.position = nn.Linear(2 * config.size, config.size)

    def forward(self, encoded: Encoded, floor: float | None = None) -> Queries:
        """The best tokens of each image; `floor` is not used."""
        tokens = self.memory(encoded.memory)
        logits = self.logit(tokens).squeeze(-1).float()
        boxes = (self.box(tokens).float() + _inverse_sigmoid(encoded.tokens)).sigmoid()
        height, width = encoded.image
        count = round(self.config.queries * height * width / self.config.window**2)
        count = min(max(count, 1), tokens.shape[1])
        best = logits.detach().topk(count, dim=1).indices[..., None]
        references = boxes.detach().gather(1, best.expand(-1, -1, 4))
        picked = tokens.gather(1, best.expand(-1, -1, tokens.shape[-1]))
        where = torch.cat(
            [sine_position(references[..., i : i + 2], self.config.size) for i in (0, 2)], -1
        )
        valid = torch.ones(references.shape[:2], dtype=torch.bool, device=references.device)
        return Queries(
            self.content(picked.detach()),
            self.position(where.to(picked.dtype)),
            references,
            None,
            valid,
            (logits, boxes),
        )


class HeatmapQueries(nn.Module):
    """Queries from the peaks of the centre heatmap (heatmap-guided query method)."""

    def __init__(self, config: CellDETRConfig) -> None:
        super().__init__()
        self.config = config
        self.fine = nn.Linear(config.pyramid_size, config.size)
        self.coarse = nn.Linear(config.pyramid_size, config.size)
        self.heat = nn.Linear(1, config.size)
        self.norm = nn.LayerNorm(config.size)
        self.log_size = nn.Linear(config.size, 2)
        nn.init.zeros_(self.log_size.weight)
        nn.init.zeros_(self.log_size.bias)
        self.position: nn.Linear | None = None
        if config.geometry == "sigmoid":
            self.position = nn.Linear(config.size, config.size)

    def forward(self, encoded: Encoded, floor: float | None = None) -> Queries:
        """Peaks of the network's own heatmap, see `pick`."""
        assert encoded.heat is not None
        return self.at(encoded, *self.pick(encoded.heat.detach(), encoded.image, floor))

    def pick(
        self, heat: Tensor, image: tuple[int, int], floor: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Places to look at: xy (B, Q, 2) in 0..1, prior logits and validity (B, Q), best first.

        Without `floor` as many as `count` says. With it, only peaks of at least that
        probability, and up to `CROWDED` times as many, so that dense fields lose none.
        """
        count = self.count(image)
        if floor is None:
            xy, prior = peaks(heat, count)
            return xy, prior, prior > NO_PEAK / 2
        xy, prior = peaks(heat, CROWDED * count)
        valid = (prior > NO_PEAK / 2) & (prior.sigmoid() >= floor)
        used = max(int(valid.sum(1).max()), 1)
        return xy[:, :used], prior[:, :used], valid[:, :used]

    def at(self, encoded: Encoded, xy: Tensor, prior: Tensor, valid: Tensor) -> Queries:
        """Queries at given places: xy (B, Q, 2) in 0..1, prior logits and validity (B, Q)."""
        assert encoded.fine is not None
        prior = prior.clamp(-20, 20)
        content = self.norm(
            self.fine(sample_features(encoded.fine[0], xy))
            + self.coarse(sample_features(encoded.fine[1], xy))
            + self.heat(prior[..., None].to(encoded.memory.dtype))
        )
        height, width = encoded.image
        image = xy.new_tensor([width, height])
        size = NUCLEUS_PX * self.log_size(content).float().clamp(-2, 2).exp() / image
        references = torch.cat((xy, size), -1)
        position = None
        if self.position is not None:
            where = sine_position(xy, self.config.size).to(content.dtype)
            position = self.position(where)
        return Queries(content, position, references, prior, valid)

    def count(self, image: tuple[int, int]) -> int:
        """Number of queries for an image of (height, width) px."""
        share = image[0] * image[1] / self.config.window**2
        return max(round(self.config.queries * share), 1)


def peaks(heat: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Local maxima of a heatmap.

    Parameters
    ----------
    heat : (B, 1, H, W)
        Logits.
    count : int
        How many to return per image (at most H·W).

    Returns
    -------
    xy : (B, count, 2)
        Positions in 0..1, best first.
    logit : (B, count)
        Their logits; slots without a peak hold `NO_PEAK`.
    """
    _, _, height, width = heat.shape
    best = F.max_pool2d(heat, 3, stride=1, padding=1)
    only = heat.masked_fill(heat < best, NO_PEAK).flatten(1)
    logit, index = only.topk(min(count, height * width), dim=1)
    x = (index % width).float().add(0.5) / width
    y = torch.div(index, width, rounding_mode="floor").float().add(0.5) / height
    return torch.stack((x, y), -1), logit


class DetectionDecoder(nn.Module):
    """Standard deformable decoder with iterative box refinement."""

    def __init__(self, config: CellDETRConfig) -> None:
        super().__init__()
        self.config = config
        count = config.detection_layers
        shared = _layer_config(config)
        self.layers = nn.ModuleList(
            DecoderLayer(shared, self_attention=config.detection_self_attention)
            for _ in range(count)
        )
        self.logit = nn.ModuleList(nn.Linear(config.size, 1) for _ in range(count))
        self.box = nn.ModuleList(_box_head(config.size) for _ in range(count))
        heat = config.query_source == "heatmap"
        for logit in self.logit:
            if heat:
                nn.init.zeros_(cast(nn.Linear, logit).weight)
            nn.init.constant_(cast(nn.Linear, logit).bias, 0.0 if heat else -4.0)

    def forward(self, encoded: Encoded, queries: Queries) -> Detected:
        """Refine every query's box layer by layer."""
        content, references = queries.content, queries.references
        padding = None if bool(queries.valid.all()) else ~queries.valid
        logits, boxes = [], []
        for layer, logit, box in zip(self.layers, self.logit, self.box, strict=True):
            value = cast(DecoderLayer, layer).cross.project(encoded.memory)
            at = references[..., :2] if self.config.geometry == "pixel" else references
            content = layer(content, queries.position, at, value, encoded.shapes, padding=padding)
            refined = self._refine(references, box(content).float(), encoded.image)
            score = logit(content).squeeze(-1).float()
            logits.append(score if queries.prior is None else score + queries.prior)
            boxes.append(refined)
            references = refined.detach()
        return Detected(logits, boxes, content, queries)

    def _refine(self, references: Tensor, delta: Tensor, image: tuple[int, int]) -> Tensor:
        if self.config.geometry == "sigmoid":
            return (delta + _inverse_sigmoid(references)).sigmoid()
        side = references.new_tensor([image[1], image[0]])
        centre = references[..., :2] + delta[..., :2] * OFFSET_PX / side
        size = references[..., 2:] * delta[..., 2:].clamp(-2, 2).exp()
        return torch.cat((centre, size), -1)


class RepresentationDecoder(nn.Module):
    """One embedding and one class per box, from what lies inside the box."""

    def __init__(self, config: CellDETRConfig) -> None:
        super().__init__()
        self.config = config
        shared = _layer_config(config)
        count = config.representation_layers
        # Layers from this one on have self-attention.
        attends_from = {"none": count, "not_first": 1, "all": 0}
        first = attends_from[config.representation_self_attention]
        self.layers = nn.ModuleList(
            DecoderLayer(
                shared,
                self_attention=i >= first,
                box_constrained=config.box_constrained,
            )
            for i in range(count)
        )
        self.content = nn.Linear(2, config.size)
        self.position = nn.Linear(2, config.size)
        self.classify = nn.ModuleList(
            nn.Linear(config.size, config.num_classes) for _ in range(config.representation_layers)
        )
        if config.class_target == "all":
            for layer in self.classify:
                nn.init.constant_(cast(nn.Linear, layer).bias, -4.0)
        self.context: nn.Parameter | None = None
        if config.context_tokens:
            # All look at the same box: without a content of their own they would be one token.
            self.context = nn.Parameter(torch.randn(config.context_tokens, config.size) * 0.02)

    def forward(
        self,
        encoded: Encoded,
        boxes: Tensor,
        *,
        padding: Tensor | None = None,
        features: Tensor | None = None,
        mask: Tensor | None = None,
        placed: bool = True,
    ) -> Represented:
        """Boxes (B, R, 4) -> embeddings and class logits. See `CellDETR.represent`."""
        boxes = boxes.detach()
        content, position = self._queries(boxes, encoded.image, encoded.memory.dtype)
        if not self.config.decoupled:
            if features is None:
                raise ConfigError(
                    "A network without location-feature decoupling needs detection features.",
                    expected="features (B, R, C)",
                    found="None",
                    remedy="pass the detection decoder's features of the same boxes",
                )
            content = features
        slots = boxes.shape[1]
        if self.context is not None:
            whole = boxes.new_tensor([0.5, 0.5, 1.0, 1.0]).expand(len(boxes), len(self.context), 4)
            more, where = self._queries(whole, encoded.image, encoded.memory.dtype)
            boxes = torch.cat((boxes, whole), 1)
            content = torch.cat((content, more + self.context), 1)
            position = torch.cat((position, where), 1)
            padding, mask = _room_for(len(self.context), boxes, padding, mask)
        logits = []
        for layer, classify in zip(self.layers, self.classify, strict=True):
            value = cast(DecoderLayer, layer).cross.project(encoded.memory)
            content = layer(
                content,
                position,
                boxes,
                value,
                encoded.shapes,
                padding=padding,
                mask=mask,
                placed=placed,
            )
            logits.append(classify(content[:, :slots]).float())
        return Represented(content[:, :slots], logits)

    def _queries(
        self, boxes: Tensor, image: tuple[int, int], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        centre, size = boxes[..., :2], boxes[..., 2:]
        if self.config.geometry == "pixel":
            # In pixels, and within the coarsest memory cell: a tile's size and place must not
            # change what a cell looks like.
            side = boxes.new_tensor([image[1], image[0]])
            cell = float(self.config.strides[-1])
            centre = (centre * side / cell) % 1.0 - 0.5
            size = (size * side / NUCLEUS_PX).clamp(min=0.05).log()
        return self.content(size.to(dtype)), self.position(centre.to(dtype))


def _room_for(
    tokens: int, boxes: Tensor, padding: Tensor | None, mask: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """Padding (B, R) and mask (R, R) of slots whose last are context tokens.

    Tokens see each other and no cell, so that nothing passes through them from cell to cell.
    """
    total = boxes.shape[1]
    wide = torch.zeros(total, total, dtype=torch.bool, device=boxes.device)
    wide[-tokens:, :-tokens] = True
    if mask is not None:
        wide[:-tokens, :-tokens] = mask
    return None if padding is None else F.pad(padding, (0, tokens)), wide
