"""CellDETR: find cells with a detection decoder, describe them with a representation decoder.

Backbone → multi-scale encoder → **detection decoder** (where are cells, how large) →
**representation decoder** (what is in each box). The second sees only the boxes of the first,
never its features, and looks only inside them (CellDETR, sections 3.1 and 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.adapters import adapters
from napari_celldetr.nets.attention import Backend, DeformableAttention
from napari_celldetr.nets.backbones import Backbone, FeaturePyramid
from napari_celldetr.nets.celldetr_config import CellDETRConfig
from napari_celldetr.nets.lesson_head import LessonHead
from napari_celldetr.nets.overview import Overview, dense_head
from napari_celldetr.nets.queries import (
    CROWDED,
    NO_PEAK,
    Encoded,
    HeatmapQueries,
    LearnedQueries,
    Queries,
    TwoStageQueries,
    box_head,
    inverse_sigmoid,
    make_proposer,
    peaks,
    sample_features,
)
from napari_celldetr.nets.transformer import (
    DecoderLayer,
    EncoderLayer,
    LayerConfig,
    sine_position,
    token_boxes,
)

__all__ = [
    "CROWDED",
    "NO_PEAK",
    "CellDETR",
    "CellDETRConfig",
    "Detected",
    "DetectionDecoder",
    "Encoded",
    "Encoder",
    "HeatmapQueries",
    "LearnedQueries",
    "Queries",
    "RepresentationDecoder",
    "Represented",
    "TwoStageQueries",
    "peaks",
    "sample_features",
]


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
        self.proposer = make_proposer(config)
        self.detection = DetectionDecoder(config)
        self.representation = RepresentationDecoder(config)
        self.overview = Overview(config.overview, config.num_classes) if config.overview else None
        self.lesson: LessonHead | None = None

    def encode(self, image: Tensor) -> Encoded:
        """Normalised image (B, 3, H, W) -> features; with an overview, but not while training."""
        encoded: Encoded = self.encoder(image)
        if self.overview is None or self.training:
            return encoded
        return replace(encoded, overview_map=self.overview(image))

    def encode_features(self, features: list[Tensor], image: tuple[int, int]) -> Encoded:
        """What `encode` makes of an image (height, width) whose backbone features are known.

        Without an overview, as while training.
        """
        return self.encoder.read(features, image)

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

    def overview_at(self, encoded: Encoded, boxes: Tensor) -> Tensor:
        """The overview's class logits (B, R, K) at the centres of `boxes` (B, R, 4)."""
        if encoded.overview_map is None:
            raise ConfigError(
                "This image was encoded without an overview.",
                expected="a network with an overview, not in training",
                found="no overview map",
                remedy="give the network an overview with `celldetr join`",
            )
        return sample_features(encoded.overview_map, boxes[..., :2])

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
            self.heat_head = dense_head(config.pyramid_size, 1)
            self.class_head = dense_head(config.pyramid_size, config.num_classes)
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
        adapted = [config.size] * levels if self.pyramid is None else channels
        self.adapters = adapters(adapted, config.adapters)
        self.first_encoded = sum(s < config.encoder_stride for s in config.strides)
        inner = replace(_layer_config(config), levels=levels - self.first_encoded)
        self.layers = nn.ModuleList(EncoderLayer(inner) for _ in range(config.encoder_layers))

    def forward(self, image: Tensor) -> Encoded:
        """(B, 3, H, W) -> `Encoded`."""
        return self.read(self.backbone(image), (image.shape[-2], image.shape[-1]))

    def read(self, features: list[Tensor], size: tuple[int, int]) -> Encoded:
        """Backbone features (B, C_i, H / s_i, W / s_i) of images (height, width) -> `Encoded`."""
        fine = heat = classes = None
        if self.pyramid is not None:
            features = self._adapted(self.pyramid(features))
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
        if self.pyramid is None:
            levels = self._adapted(levels)
        shapes = [(f.shape[-2], f.shape[-1]) for f in levels]
        tokens = token_boxes(shapes, device=levels[0].device, dtype=torch.float32)
        memory = self._encode([f.flatten(2).transpose(1, 2) for f in levels], shapes, tokens)
        return Encoded(memory, shapes, size, tokens, fine, heat, classes)

    def _adapted(self, levels: list[Tensor]) -> list[Tensor]:
        if not len(self.adapters):
            return levels
        return [adapt(level) for adapt, level in zip(self.adapters, levels, strict=True)]

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
        self.box = nn.ModuleList(box_head(config.size) for _ in range(count))
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
        if not self.layers:
            assert queries.prior is not None
            logits, boxes = [queries.prior], [references]
        return Detected(logits, boxes, content, queries)

    def _refine(self, references: Tensor, delta: Tensor, image: tuple[int, int]) -> Tensor:
        if self.config.geometry == "sigmoid":
            return (delta + inverse_sigmoid(references)).sigmoid()
        side = references.new_tensor([image[1], image[0]])
        centre = references[..., :2] + delta[..., :2] * self.config.offset_px / side
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
            size = (size * side / self.config.nucleus_px).clamp(min=0.05).log()
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
