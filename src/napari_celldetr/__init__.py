"""napari-celldetr: interactive cell detection on whole-slide pathology images.

Research use only. Not a medical device; not for diagnostic or treatment decisions.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

RESEARCH_USE = "Research use only. Not a medical device; not for diagnostic or treatment decisions."

_PUBLIC = {
    "open_slide": "napari_celldetr.slides.readers",
    "detect": "napari_celldetr.pipeline.detect",
    "load_model": "napari_celldetr.nets.registry",
    "list_models": "napari_celldetr.nets.registry",
    "export": "napari_celldetr.pipeline.export",
    "drain": "napari_celldetr.core.progress",
    "Detections": "napari_celldetr.core.detections",
    "Region": "napari_celldetr.core.regions",
    "DetectConfig": "napari_celldetr.core.config",
    "CellDETRError": "napari_celldetr.core.errors",
}

__all__ = ["RESEARCH_USE", "__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
