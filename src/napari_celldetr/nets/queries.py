"""Where CellDETR's queries come from: parameters, encoder tokens, or peaks of a heatmap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_celldetr.nets.celldetr_config import CellDETRConfig
from napari_celldetr.nets.transformer import sine_position

CROWDED = 3
"""How many times more queries than in training a heatmap may give at inference."""
NO_PEAK = -1e9
"""Logit of a query slot that holds no heatmap peak."""


@dataclass(frozen=True)
class Encoded:
    """What the encoder leaves for the decoders.

    memory (B, S, C) with the (H, W) `shapes` of its levels; `image` is (height, width) in px;
    `tokens` are (1, S, 4) grid cells; `fine` are the pyramid's finest levels, `heat` (B, 1, H, W)
    and `class_map` (B, K, H, W) logits, all None without a heatmap; `overview_map` (B, K, h, w)
    are the class logits of an overview, None without one.
    """

    memory: Tensor
    shapes: list[tuple[int, int]]
    image: tuple[int, int]
    tokens: Tensor
    fine: list[Tensor] | None = None
    heat: Tensor | None = None
    class_map: Tensor | None = None
    overview_map: Tensor | None = None

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
            None if self.overview_map is None else self.overview_map[images],
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


def box_head(size: int) -> nn.Sequential:
    """Features (…, size) -> changes of boxes (…, 4); starts by leaving boxes as they are."""
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


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logits of shares, kept `eps` from 0 and 1."""
    x = x.clamp(eps, 1 - eps)
    return torch.log(x / (1 - x))


def make_proposer(config: CellDETRConfig) -> nn.Module:
    """The source of queries that `config` names."""
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
        self.box = box_head(config.size)
        nn.init.constant_(self.logit.bias, -4.0)
        self.content = nn.Linear(config.size, config.size)
        self.position = nn.Linear(2 * config.size, config.size)

    def forward(self, encoded: Encoded, floor: float | None = None) -> Queries:
        """The best tokens of each image; `floor` is not used."""
        tokens = self.memory(encoded.memory)
        logits = self.logit(tokens).squeeze(-1).float()
        boxes = (self.box(tokens).float() + inverse_sigmoid(encoded.tokens)).sigmoid()
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
        size = self.config.nucleus_px * self.log_size(content).float().clamp(-2, 2).exp() / image
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
