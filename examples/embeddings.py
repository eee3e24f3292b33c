"""What the model sees in each cell: embeddings as a table, a map of them, and look-alikes.

Run it as ``python examples/embeddings.py [SLIDE] [MODEL]``; without a slide one is generated,
and the model is celldetr-he.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from napari_celldetr import DetectConfig, drain, open_slide
from napari_celldetr.core.space.lasso import inside_polygon
from napari_celldetr.core.space.pca import fit_pca
from napari_celldetr.core.space.similar import nearest
from napari_celldetr.pipeline.embed import embed, write_embeddings
from napari_celldetr.slides.synthetic import make_he_slide


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "slide.ome.tif"
        model = sys.argv[2] if len(sys.argv) > 2 else "celldetr-he"
        if not path.exists():
            make_he_slide(path, size=(768, 768), seed=1)
        with open_slide(path) as slide:
            job = embed(slide, DetectConfig(model=model), workspace=Path(folder) / "run")
            cells = drain(job)
        vectors = cells.embeddings
        print(f"{len(vectors)} cells, {vectors.shape[1]} numbers each, in", end=" ")
        print(write_embeddings(cells, Path(folder) / "cells.parquet").name)
        pca = fit_pca(vectors)
        places = pca.project(vectors)
        print(f"two main axes hold {100 * pca.explained.sum():.0f} % of the variance")
        line = np.median(places, axis=0) + places.std(axis=0) * [(-1, -1), (1, -1), (0, 1.5)]
        print(inside_polygon(places, line).sum(), "cells lie in a triangle around the middle")
        alike = nearest(vectors, vectors[0], 6)[1:]
        print("most like the first cell:", *cells.class_labels[alike])


if __name__ == "__main__":
    main()
