"""Detect the cells of a slide from Python and look at the table.

Run it as ``python examples/detect_to_table.py [SLIDE] [MODEL]``; without a slide one is
generated, and the model is celldetr-he.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from napari_celldetr import DetectConfig, detect, drain, export, open_slide
from napari_celldetr.slides.synthetic import make_he_slide


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "slide.ome.tif"
        model = sys.argv[2] if len(sys.argv) > 2 else "celldetr-he"
        if not path.exists():
            make_he_slide(path, size=(768, 768), seed=1)
        with open_slide(path) as slide:
            # A job is a generator of progress: drain it, or look at each step yourself.
            job = detect(slide, DetectConfig(model=model), workspace=Path(folder) / "run")
            cells = drain(job, lambda step: print(f"{step.done}/{step.total} tiles"))
            print(len(cells), "cells:", cells.counts())
            print("boxes", cells.boxes.shape, "in level-0 px; columns:", *cells.columns)
            sure = cells.above(0.7)
            print(len(sure), "with a score of 0.7 or more, written to", end=" ")
            print(export(sure, Path(folder) / "sure.geojson", slide=slide).name)


if __name__ == "__main__":
    main()
