"""A CellDETR as an `AskablePredictor`: uint8 tiles in, cells in tile pixels out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_celldetr.core.boxes import paired_iou, to_xyxy
from napari_celldetr.core.calibration import Calibration
from napari_celldetr.core.detections import Detections, concatenate
from napari_celldetr.core.predictor import (
    NUMERICAL,
    PROBABILITY,
    SATURATED,
    PointAnswers,
    TilePrediction,
)
from napari_celldetr.nets.asking import (
    EncodedTile,
    locate,
    points_of,
    refuse_unaskable,
    spread,
)
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CROWDED, CellDETR, Detected, Encoded, HeatmapQueries
from napari_celldetr.nets.overview import COARSEST
from napari_celldetr.nets.running import LoadedNetwork
from napari_celldetr.nets.slots import clamp_boxes
from napari_celldetr.nets.windows import predict_windows

DUPLICATE_IOU = 0.4
"""Of cells nearer than a third of a nucleus, or overlapping more than this, only the best stays.

Of 7,707 nuclei with masks, 0.3 % have a neighbour whose box overlaps theirs that much."""
_MULTIPLE = 64
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


class CellDETRPredictor(LoadedNetwork[CellDETR]):
    """A loaded CellDETR.

    Parameters
    ----------
    model : CellDETR
    card : ModelCard
    device : str
        ``cpu``, ``cuda:0``, ``mps`` …
    flips : bool
        Average the four mirrored views (shared anchors): slower, slightly more accurate.
        Needs heatmap queries.
    dtype : torch.dtype
        Of convolutions and linear layers; sampling and decisions stay in float32.
    class_columns : bool
        Give every class's probability as a column ``probability_<class>`` as well.

    Where the card holds a calibration, scores and class probabilities are calibrated last of
    all. What comes before, peaks of the heatmap and limits of scores, is in the network's own
    numbers: the card's floor is turned back into them. A lesson has the last word on classes.
    """

    def __init__(
        self,
        model: CellDETR,
        card: ModelCard,
        *,
        device: str = "cpu",
        flips: bool = False,
        dtype: torch.dtype = torch.float32,
        class_columns: bool = False,
    ) -> None:
        super().__init__(model, card, device=device, dtype=dtype)
        self._flips = flips and isinstance(model.proposer, HeatmapQueries)
        self._class_columns = class_columns
        self._calibration = Calibration.from_dict(card.calibration) if card.calibration else None
        self._floor = card.score_floor
        if self._calibration is not None:
            # A hair lower, for float32; what is below in the end is left out in the end.
            self._floor = float(self._calibration.raw(card.score_floor)) * (1 - 1e-5)

    @property
    def _least(self) -> float:
        # Where a score is sqrt(detection · class), a detection of floor² may still reach the floor.
        return self._floor**2 if self._model.config.class_target == "all" else self._floor

    @property
    def class_columns(self) -> bool:
        """Whether cells come with every class's probability; not where classes are measured."""
        return self._class_columns and self._card.class_rule is None

    def to(self, device: str) -> CellDETRPredictor:
        """The same model on another device, in float32 on a CPU."""
        return CellDETRPredictor(
            self._model,
            self._card,
            device=device,
            flips=self._flips,
            dtype=self._dtype_on(device),
            class_columns=self._class_columns,
        )

    def with_class_columns(self) -> CellDETRPredictor:
        """The same model that also gives every class's probability, for calibration."""
        return CellDETRPredictor(
            self._model,
            self._card,
            device=self._device,
            flips=self._flips,
            dtype=self._dtype,
            class_columns=True,
        )

    def predict(self, tiles: NDArray[np.uint8]) -> list[TilePrediction]:
        """See `napari_celldetr.core.predictor.Predictor.predict`."""
        config = self._model.config
        if config.geometry == "sigmoid" and max(tiles.shape[1:3]) > config.window:
            return [predict_windows(self._guarded, tile, config.window) for tile in tiles]
        return self._guarded(tiles)

    def encode_tile(self, tile: NDArray[np.uint8]) -> EncodedTile:
        """`tile` (H, W, 3) as the encoder sees it, to be kept and asked about.

        The tile as it is, also where `flips` averages mirrored views elsewhere. Raises
        `ConfigError` for networks without heatmap queries and for tiles larger than the window
        that a network is tied to, ``MemoryError`` where the device has not enough.
        """
        refuse_unaskable(self._model.config, tile.shape[:2])
        with self._running():
            encoded = self._model.encode(self._prepare(tile[None]))
        return EncodedTile(encoded, tile.shape[:2])

    def ask(self, encoded: EncodedTile, xy: NDArray[Any]) -> PointAnswers:
        """What is at points `xy` (N, 2) in tile px: one row per point, in the order asked.

        A point within a third of a nucleus of a peak of the heatmap asks about that peak, any
        other about itself. Scores are those that `predict` gives, but nothing is suppressed and
        nothing left out. With `flips`, the tile's own view alone is asked. A point's answer does
        not depend on the others; where cells of a network attend to each other (not in those
        that ship), it may differ from what `predict` says of the same peak among its neighbours.
        Raises `ConfigError` for points outside the tile.
        """
        points = points_of(xy, encoded.size)
        config = self._model.config
        attend = config.detection_self_attention or config.representation_self_attention != "none"
        at_once = 1 if attend else max(len(points), 1)
        tables, places = [self._none()], [np.zeros(0, np.int64)]
        with self._running():
            for start in range(0, len(points), at_once):
                table, rows = self._answers(encoded, points[start : start + at_once])
                tables.append(table)
                places.append(start + rows)
        return spread(concatenate(tables), np.concatenate(places), points)

    def heat(self, encoded: EncodedTile) -> tuple[NDArray[np.float32], float]:
        """Probability (h, w) that a nucleus' centre is there, and the side of its px in tile px.

        The heatmap's own probability, which is not calibrated.
        """
        heat = _heat(encoded.encoded)[0, 0]
        stride = encoded.encoded.image[0] / heat.shape[0]
        rows, columns = (-int(-side // stride) for side in encoded.size)
        return heat[:rows, :columns].float().sigmoid().cpu().numpy(), stride

    def _guarded(self, tiles: NDArray[np.uint8]) -> list[TilePrediction]:
        with self._running():
            return self._predict(tiles)

    def _predict(self, tiles: NDArray[np.uint8]) -> list[TilePrediction]:
        if not len(tiles):
            return []
        height, width = tiles.shape[1:3]
        image = self._prepare(tiles)
        views = self._views(image)
        found = self._merge_views(views)
        return [self._cells(views, found, i, height, width) for i in range(len(tiles))]

    def _prepare(self, tiles: NDArray[np.uint8]) -> Tensor:
        image = self._normalized(tiles)
        overview = self._model.config.overview
        multiple = max(_MULTIPLE, COARSEST * overview.scale if overview else 1)
        down, right = (-image.shape[-2] % multiple, -image.shape[-1] % multiple)
        if down or right:
            image = F.pad(image, (0, right, 0, down), mode="replicate")
        return image.contiguous(memory_format=torch.channels_last)

    def _views(self, image: Tensor) -> list[tuple[Encoded, Detected]]:
        # Half the least for peaks: the decoder may raise them.
        floor = self._least / 2
        if not self._flips:
            encoded = self._model.encode(image)
            return [(encoded, self._model.detect(encoded, floor=floor))]
        turned = [self._model.encode(image.flip(f) if f else image) for f in _FLIPS]
        heats = [_heat(e).flip(f) if f else _heat(e) for e, f in zip(turned, _FLIPS, strict=True)]
        proposer = self._model.proposer
        assert isinstance(proposer, HeatmapQueries)
        xy, prior, valid = proposer.pick(torch.stack(heats).mean(0), turned[0].image, floor)
        views = []
        for view, flip in zip(turned, _FLIPS, strict=True):
            queries = proposer.at(view, _mirror(xy, flip), prior, valid)
            views.append((view, self._model.detection(view, queries)))
        return views

    def _merge_views(self, views: list[tuple[Encoded, Detected]]) -> tuple[Tensor, Tensor, Tensor]:
        # Scores, boxes and validity per slot, averaged over views.
        flips = _FLIPS[: len(views)]
        logits = torch.stack([d.logits[-1] for _, d in views]).mean(0)
        boxes = torch.stack(
            [_mirror(d.boxes[-1], f) for (_, d), f in zip(views, flips, strict=True)]
        ).mean(0)
        return logits.float().sigmoid(), boxes.float(), views[0][1].queries.valid

    def _cells(
        self,
        views: list[tuple[Encoded, Detected]],
        found: tuple[Tensor, Tensor, Tensor],
        i: int,
        height: int,
        width: int,
    ) -> TilePrediction:
        scores, boxes, valid = (part[i] for part in found)
        config = self._model.config
        empty = self._none()
        used = torch.nonzero(valid).flatten()
        finite = torch.isfinite(scores[used]).all() & torch.isfinite(boxes[used]).all()
        # A heatmap of NaN has no peaks: that would pass for a tile without cells.
        heats = [e.heat[i] for e, _ in views if e.heat is not None]
        if not bool(finite) or not all(bool(torch.isfinite(h).all()) for h in heats):
            return TilePrediction(empty, frozenset({NUMERICAL}))
        padded = views[0][0].image
        side = boxes.new_tensor([padded[1], padded[0]])
        centre = boxes[:, :2] * side
        inside = (centre >= 0).all(1) & (centre[:, 0] < width) & (centre[:, 1] < height)
        used = torch.nonzero(valid & inside & (scores >= self._least)).flatten()
        px = boxes[used] * side.repeat(2)
        used = used[_best_of_close(px, scores[used], radius=config.offset_px, iou=DUPLICATE_IOU)]
        full = self._saturated(scores, valid, padded)
        flags = frozenset({SATURATED}) if full else frozenset()
        if not len(used):
            return TilePrediction(empty, flags)
        p, embeddings = self._describe(views, boxes[used], used, i)
        if not bool(torch.isfinite(p).all() & torch.isfinite(embeddings).all()):
            return TilePrediction(empty, frozenset({NUMERICAL}))
        table = self._table(scores[used], boxes[used] * side.repeat(2), p, embeddings)
        return TilePrediction(table.above(self._card.score_floor), flags)

    def _answers(
        self, tile: EncodedTile, points: NDArray[np.float64]
    ) -> tuple[Detections, NDArray[np.int64]]:
        # Cells of the points with finite answers, and which these are.
        encoded, config = tile.encoded, self._model.config
        heat = _heat(encoded)
        xy = torch.from_numpy(points.astype(np.float32)).to(self._device)
        # As in `_cells`: one value that is no number is enough to distrust the whole tile.
        if not bool(torch.isfinite(heat).all()):
            return self._none(), np.zeros(0, np.int64)
        radius = config.offset_px
        at, prior = locate(heat, xy, image=encoded.image, size=tile.size, radius=radius)
        proposer = self._model.proposer
        assert isinstance(proposer, HeatmapQueries)
        valid = torch.ones(1, len(at), dtype=torch.bool, device=at.device)
        views = [
            (
                encoded,
                self._model.detection(encoded, proposer.at(encoded, at[None], prior[None], valid)),
            )
        ]
        scores, boxes, _ = (part[0] for part in self._merge_views(views))
        used = torch.nonzero(scores.isfinite() & boxes.isfinite().all(1)).flatten()
        if not len(used):
            return self._none(), np.zeros(0, np.int64)
        p, vectors = self._describe(views, boxes[used], used, 0)
        good = p.isfinite().all(1) & vectors.isfinite().all(1)
        used, side = used[good], boxes.new_tensor([encoded.image[1], encoded.image[0]])
        table = self._table(scores[used], boxes[used] * side.repeat(2), p[good], vectors[good])
        return table, used.cpu().numpy()

    def _none(self) -> Detections:
        return Detections.empty(self._card.class_names, embedding_size=self._model.config.size)

    def _saturated(self, scores: Tensor, valid: Tensor, padded: tuple[int, int]) -> bool:
        # Every slot is taken by something that may be a cell: there may be more.
        proposer = self._model.proposer
        if not isinstance(proposer, HeatmapQueries):
            return bool((scores >= self._floor).all())
        return int(valid.sum()) >= CROWDED * proposer.count(padded)

    def _describe(
        self, views: list[tuple[Encoded, Detected]], boxes: Tensor, used: Tensor, i: int
    ) -> tuple[Tensor, Tensor]:
        # Class probabilities (N, K) and embeddings (N, C), averaged over views.
        config = self._model.config
        # As in training: there, classes of all queries are learned from the boxes as they are.
        if not (config.class_target == "all" and config.mode == "sequential"):
            boxes = clamp_boxes(boxes, views[0][0].image, config.nucleus_px)
        p, vectors = [], []
        for (encoded, detected), flip in zip(views, _FLIPS[: len(views)], strict=True):
            one = _single(encoded, i)
            at = _mirror(boxes, flip)[None]
            shown = None if config.decoupled else detected.features[i, used][None]
            out = self._model.represent(one, at, features=shown)
            p.append(self._shares(one, at, out.logits))
            vector = out.embeddings[0] if out.logits else detected.features[i, used]
            vectors.append(vector.float())
        return torch.stack(p).mean(0), torch.stack(vectors).mean(0)

    def _shares(self, one: Encoded, at: Tensor, logits: list[Tensor]) -> Tensor:
        # Class probabilities (N, K): the network's own, mixed with its overview's.
        share, overview = self._own_shares(one, at, logits), self._model.config.overview
        if overview is None:
            return share
        second = self._model.overview_at(one, at)[0].softmax(-1)
        return share.lerp(second, overview.weight)

    def _own_shares(self, one: Encoded, at: Tensor, logits: list[Tensor]) -> Tensor:
        # The decoder's, mixed with the dense map's.
        config = self._model.config
        dense = None
        if config.dense_class_weight > 0:
            dense = self._model.class_at(one, at)[0].float().softmax(-1)
        if not logits:
            assert dense is not None
            return dense
        share = _probabilities(logits[-1][0], config.class_target)
        return share if dense is None else share.lerp(dense, config.dense_class_weight)

    def _table(self, scores: Tensor, boxes: Tensor, p: Tensor, vectors: Tensor) -> Detections:
        if self._model.config.class_target == "all":
            scores = (scores * p.max(-1).values).sqrt()
        half = boxes[:, 2:] / 2
        xyxy = torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), -1)
        score, share = scores.clamp(0, 1).cpu().numpy(), p.float().cpu().numpy()
        # Calibration changes no order, and rounding must not either.
        best = share.argmax(-1)
        if self._calibration is not None:
            score = self._calibration.score(score).astype(np.float32)
            share = self._calibration.shares(share).astype(np.float32)
        if self._model.lesson is not None:
            share = self._model.lesson.shares(vectors, share)
            best = share.argmax(-1)
        columns = {"class_probability": share[np.arange(len(best)), best]}
        if self.class_columns and share.shape[1] == len(self._card.class_names):
            names = [PROBABILITY + name for name in self._card.class_names]
            columns |= dict(zip(names, share.T, strict=True))
        return Detections(
            xyxy.cpu().numpy(),
            score,
            best.astype(np.int16),
            self._card.class_names,
            vectors.to(torch.float16).cpu().numpy(),
            columns,
        )


def _heat(encoded: Encoded) -> Tensor:
    assert encoded.heat is not None
    return encoded.heat


def _probabilities(logits: Tensor, target: str) -> Tensor:
    return logits.float().softmax(-1) if target == "matched" else logits.float().sigmoid()


def _single(encoded: Encoded, i: int) -> Encoded:
    part = slice(i, i + 1)
    return Encoded(
        encoded.memory[part],
        encoded.shapes,
        encoded.image,
        encoded.tokens,
        class_map=None if encoded.class_map is None else encoded.class_map[part],
        overview_map=None if encoded.overview_map is None else encoded.overview_map[part],
    )


def _mirror(boxes: Tensor, flip: tuple[int, ...]) -> Tensor:
    """Boxes or points (…, 4 or 2) in 0..1, mirrored along the flipped image axes."""
    out = boxes.clone()
    if -1 in flip:
        out[..., 0] = 1 - out[..., 0]
    if -2 in flip:
        out[..., 1] = 1 - out[..., 1]
    return out


def _best_of_close(boxes: Tensor, scores: Tensor, *, radius: float, iou: float) -> Tensor:
    """Indices that survive suppression of duplicates.

    Of boxes (N, 4), cx cy w h in px, with centres nearer than `radius` or overlapping by more
    than `iou`, only the best scored stays.
    """
    if len(boxes) < 2:
        return torch.arange(len(boxes), device=boxes.device)
    from scipy.spatial import cKDTree

    box = boxes.double().cpu().numpy()
    # Boxes that overlap that much have centres nearer than half the larger side.
    reach = max(radius, float(box[:, 2:].max()) / 2 * np.sqrt(2))
    pairs = cKDTree(box[:, :2]).query_pairs(reach, output_type="ndarray")
    first, second = box[pairs[:, 0]], box[pairs[:, 1]]
    near = np.hypot(*(first[:, :2] - second[:, :2]).T) <= radius
    pairs = pairs[near | (paired_iou(to_xyxy(first), to_xyxy(second)) > iou)]
    rank = np.argsort(np.argsort(-scores.double().cpu().numpy(), kind="stable"))
    alive = np.ones(len(box), bool)
    # Stronger pairs first, so that a cell already beaten beats nobody.
    better = np.where((rank[pairs[:, 0]] < rank[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1])
    for winner, loser in better[np.argsort(rank[better[:, 0]], kind="stable")]:
        if alive[winner]:
            alive[loser] = False
    return torch.from_numpy(np.flatnonzero(alive)).to(boxes.device)
