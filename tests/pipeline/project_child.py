"""A second program on a project: says how it got a slide, and does what it is told on stdin.

``project_child.py FOLDER IDENTITY USER [network]``; commands ``add`` and ``save``.
"""

import sys

import numpy as np
from journal_edits import add

from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.pipeline import journal_file
from napari_celldetr.pipeline.project import Project, SlideFacts


def table(count, seed):
    """Cells with a measurement, without the imports that a run would need."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 5000, (count, 2))
    return Detections(
        np.concatenate((low, low + 9), axis=1),
        rng.random(count),
        rng.integers(-1, 2, count),
        ("a", "b"),
        None,
        {"dab_od_mean": rng.random(count).astype(np.float32)},
        Source(slide="s", mpp=(0.5, 0.5)),
    ).ordered()


if __name__ == "__main__":
    folder, identity, user, *network = sys.argv[1:]
    journal_file.on_network = lambda _: bool(network)
    record = Project.open(folder, author=user).slide(SlideFacts("s.tif", identity, (100, 100)))
    journal = record.journal()
    print(record.read_only, flush=True)
    for line in sys.stdin:
        if line.strip() == "add":
            journal.append(add())
        else:
            record.save_cells(table(50, seed=1))
        print("done", flush=True)
