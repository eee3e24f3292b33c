"""Asking the model about one place of a slide. Nothing touches Qt."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import Models, SlideSource
from napari_celldetr.gui.tool_kinds import Proposal


@dataclass
class SlideAsker:
    """Asks one model about one slide; slide and model stay open from the first question on."""

    source: SlideSource
    models: Models
    model: str
    mpp: tuple[float, float] | None = None
    device: str = "auto"
    _asker: Any = field(default=None, repr=False)
    _slide: Any = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def ask(self, xy: tuple[float, float]) -> Job[Proposal]:
        """What the model sees at a point (x, y) in level-0 px."""
        yield Progress(0, 0, "Asking the model…")
        with self._lock:
            found = self._open().ask(np.array([xy], np.float64))
        box = tuple(found.boxes[0].tolist())
        name = str(found.class_labels[0]) if found.class_ids[0] >= 0 else None
        return Proposal(box, name, float(found.scores[0]))

    def heatmap(self, region: Region) -> Job[tuple[NDArray[np.float32], float]]:
        """Probability that a nucleus has its centre there, and level-0 px per pixel of it."""
        yield Progress(0, 0, "Asking the model…")
        with self._lock:
            asker = self._open()
        found: tuple[NDArray[np.float32], float] = yield from asker.heatmap(region)
        return found

    def _open(self) -> Any:
        from napari_celldetr.pipeline.ask import Asker

        if self._asker is None:
            predictor = self.models.load(self.model, device=self.device, flips=False)
            self._slide = self.source.open()
            self._asker = Asker(self._slide, predictor)
        return self._asker

    def close(self) -> None:
        """Close the slide; may be called twice."""
        with self._lock:
            if self._slide is not None:
                self._slide.close()
            self._slide = self._asker = None
