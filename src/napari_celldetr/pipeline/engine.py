"""The engine of a detect job: threads that read ahead, one thread that runs the network.

Trouble stays with the tile that has it. A tile that cannot be read, or whose prediction is not
finite, fails with its reason; a batch that does not fit in memory is halved, down to one tile and
then to the CPU; a model that raises is tried tile by tile.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Semaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError, JobError, ModelError
from napari_celldetr.core.predictor import NUMERICAL, Predictor, TilePrediction
from napari_celldetr.core.predictor import SATURATED as SATURATED_FLAG
from napari_celldetr.core.regions import Tile
from napari_celldetr.pipeline.ledger import DONE, FAILED, SATURATED, TileResult
from napari_celldetr.pipeline.measure import apply_class_rule, stain_columns
from napari_celldetr.pipeline.tiles import Geometry, SlideLike, clip, own, read_tile, to_level0

ACCELERATOR_BATCH = 8
_HOPELESS = 8

Pixels = tuple[NDArray[np.uint8], tuple[int, int]]


def batches_of(tiles: Sequence[Tile], size: int) -> list[list[Tile]]:
    """Tiles grouped by their place in the grid, in the order their first members come.

    A batch is a block of `size` grid positions, whichever of them are planned, so what is
    computed together does not depend on where a run started or was interrupted.
    """
    high = next(h for h in range(math.isqrt(size), 0, -1) if size % h == 0)
    wide = size // high
    blocks: dict[tuple[int, int], list[Tile]] = {}
    for tile in tiles:
        blocks.setdefault((tile.index[0] // high, tile.index[1] // wide), []).append(tile)
    return [sorted(block, key=lambda tile: tile.index) for block in blocks.values()]


class Engine:
    """Reads and predicts; use as a context manager, which joins every thread it started."""

    def __init__(
        self, slide: SlideLike, config: DetectConfig, card: Any, geometry: Geometry
    ) -> None:
        self.doing = "loading the model"
        self.warnings: list[str] = []
        self._slide, self._config, self._card, self._geometry = slide, config, card, geometry
        self._predictor: Predictor | None = None
        self._limit = 1
        self._model_failures = 0
        self._stop = Event()
        # The network waits until its last batch is recorded: a kill costs one batch, not more.
        self._recorded = Semaphore(1)
        self._readers = ThreadPoolExecutor(config.prefetch, thread_name_prefix="celldetr-read")
        self._network = ThreadPoolExecutor(1, thread_name_prefix="celldetr-network")

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop what has not begun, wait for what has; afterwards no thread is left."""
        self._stop.set()
        for pool in (self._readers, self._network):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self._readers, self._network):
            pool.shutdown(wait=True)

    @property
    def device(self) -> str:
        """Where the network runs now."""
        return "" if self._predictor is None else str(self._predictor.device)

    @property
    def batch_size(self) -> int:
        """Tiles at once: as configured, else 1 on a CPU (more gains nothing there)."""
        return self._config.batch or (1 if self.device == "cpu" else ACCELERATOR_BATCH)

    def load(self, loader: Callable[[], Predictor]) -> Future[None]:
        """Get the model ready, in the network's thread."""
        return self._network.submit(self._load, loader)

    def run(self, batches: Sequence[list[Tile]]) -> Iterator[Future[list[TileResult]]]:
        """Futures of the batches' results, in order; only a bounded number is under way."""
        ahead = max(2, math.ceil(2 * self._config.prefetch / self.batch_size))
        under_way: deque[Future[list[TileResult]]] = deque()
        self.doing = "detecting"
        for batch in batches:
            reads = [self._readers.submit(self._read, tile) for tile in batch]
            under_way.append(self._network.submit(self._process, batch, reads))
            if len(under_way) > ahead:
                yield under_way.popleft()
        while under_way:
            yield under_way.popleft()

    def recorded(self) -> None:
        """Say that the last result is on disk, so that the next batch may begin."""
        self._recorded.release()

    def _load(self, loader: Callable[[], Predictor]) -> None:
        self._predictor = _guarded(loader)
        self._limit = self.batch_size

    def _read(self, tile: Tile) -> Pixels | str:
        """Pixels, or the reason why there are none."""
        try:
            return read_tile(self._slide, tile, self._geometry)
        except CellDETRError as error:
            return f"unreadable: {error.message}" + (f" ({error.found})" if error.found else "")
        except (OSError, ValueError, MemoryError) as error:
            return f"unreadable: {type(error).__name__}"

    def _process(self, batch: list[Tile], reads: list[Future[Pixels | str]]) -> list[TileResult]:
        results, good = [], []
        for tile, read in zip(batch, reads, strict=True):
            pixels = read.result()
            if isinstance(pixels, str):
                results.append(TileResult(tile.index, FAILED, pixels))
            else:
                good.append((tile, pixels))
        while not self._recorded.acquire(timeout=0.1):
            self._refuse_stopped()
        predictions = self._predict([pixels for _, (pixels, _) in good])
        for (tile, pixels), prediction in zip(good, predictions, strict=True):
            results.append(self._finish(tile, pixels, prediction))
        return results

    def _predict(self, tiles: list[NDArray[np.uint8]]) -> list[TilePrediction | str]:
        """Predictions in order, or reasons; as many at once as memory has allowed so far."""
        found: list[TilePrediction | str] = []
        while len(found) < len(tiles):
            self._refuse_stopped()
            part = tiles[len(found) : len(found) + self._limit]
            try:
                found += self._predict_once(part)
            except MemoryError:
                if not self._back_off(len(part)):
                    found.append("out of memory, even for one tile on the CPU")
        return found

    def _refuse_stopped(self) -> None:
        if self._stop.is_set():
            raise JobError("The run was stopped.")

    def _predict_once(self, part: list[NDArray[np.uint8]]) -> Sequence[TilePrediction | str]:
        assert self._predictor is not None, "load() comes before run()"
        try:
            answer = self._predictor.predict(np.stack(part))
            if len(answer) != len(part):
                raise ModelError(f"The model answered {len(answer)} of {len(part)} tiles.")
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a model may raise anything; it is reported
            if len(part) > 1:
                return [one for tile in part for one in self._predict_once([tile])]
            return [self._model_failed(error)]
        self._model_failures = -1
        return answer

    def _model_failed(self, error: Exception) -> str:
        if self._model_failures >= 0:
            self._model_failures += 1
        reason = f"the model failed: {type(error).__name__}: {str(error)[:200]}"
        if self._model_failures >= _HOPELESS:
            raise JobError(
                f"The model failed on each of the first {_HOPELESS} tiles.",
                expected="a model that runs",
                found=reason,
                remedy="try another device or another model",
            ) from error
        return reason

    def _back_off(self, tried: int) -> bool:
        """Make the next try smaller; False when there is nothing smaller."""
        if tried > 1:
            self._limit = max(1, tried // 2)
            self.warnings.append(f"Out of memory with {tried} tiles at once; {self._limit} now.")
            return True
        if self.device == "cpu" or self._predictor is None:
            return False
        self.warnings.append(f"Out of memory with one tile on {self.device}; on the CPU now.")
        self._predictor = self._predictor.to("cpu")
        return True

    def _finish(self, tile: Tile, pixels: Pixels, prediction: TilePrediction | str) -> TileResult:
        if isinstance(prediction, str):
            return TileResult(tile.index, FAILED, prediction)
        if NUMERICAL in prediction.flags:
            return TileResult(tile.index, FAILED, "numerical: values that are not finite")
        found = prediction.detections
        cells, unusable = own(found, tile, self._geometry, pixels[1])
        if unusable and unusable == len(found):
            return TileResult(tile.index, FAILED, "numerical: every box is degenerate")
        cells = clip(
            to_level0(self._measured(cells, pixels[0]), tile, pixels[1]), self._geometry.size
        )
        if SATURATED_FLAG in prediction.flags:
            reason = "saturated: as many cells as the model can return, some may be missing"
            return TileResult(tile.index, SATURATED, reason, cells)
        note = f"{unusable} degenerate boxes left out" if unusable else ""
        return TileResult(tile.index, DONE, note, cells)

    def _measured(self, cells: Detections, tile: NDArray[np.uint8]) -> Detections:
        rule = self._card.class_rule
        if rule is None:
            return cells
        return apply_class_rule(cells.with_columns(**stain_columns(tile, cells.boxes)), rule)


def _guarded(loader: Callable[[], Predictor]) -> Predictor:
    """Load a model; what is not one of our errors becomes one (napari swallows RuntimeError)."""
    try:
        return loader()
    except CellDETRError:
        raise
    except Exception as error:  # whatever a back end raises
        raise ModelError(
            "The model cannot be loaded.",
            expected="a model this version knows",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="try another device, or take the model folder again from its source",
        ) from error
