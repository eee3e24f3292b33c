"""UMAP in a process of its own: numba's compiler keeps away from the viewer, and can be killed.

    python -m napari_celldetr.pipeline.umap_child FOLDER

FOLDER holds ``points.npy`` and ``settings.json`` and gets ``positions.npy``; what goes on is
written to stderr.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np

POINTS, SETTINGS, POSITIONS = "points.npy", "settings.json", "positions.npy"


def main(folder: Path) -> None:
    """Read, lay out, write."""
    from umap import UMAP

    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    points = np.load(folder / POINTS, allow_pickle=False)
    warnings.simplefilter("ignore")
    layout = UMAP(
        n_components=2,
        n_neighbors=min(settings["neighbours"], len(points) - 1),
        min_dist=settings["min_distance"],
        random_state=settings["seed"],
        n_jobs=1,
        verbose=True,
        tqdm_kwds={"file": sys.stderr, "mininterval": 0.2},
    )
    found = np.asarray(layout.fit_transform(points), np.float32)
    unfinished = folder / ("part-" + POSITIONS)
    np.save(unfinished, found)
    unfinished.replace(folder / POSITIONS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
