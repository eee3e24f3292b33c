"""Teach a model a class it does not know, see whether it helped, and take it back.

The slide is drawn here. "Teaching" is labelling its largest and smallest cells; in the viewer a
person does that. Everything that happens is in memory: nothing is written.
"""

import tempfile
from pathlib import Path

import numpy as np

from napari_celldetr import DetectConfig, detect, drain, load_model, open_slide
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.edits import relabel
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.teach import TeachSettings, teach, what_changes
from napari_celldetr.slides.synthetic import make_he_slide

folder = Path(tempfile.mkdtemp())
make_he_slide(folder / "drawn.ome.tif", size=(700, 600), mpp=0.4975, seed=3)
model = load_model("celldetr-he", device="cpu", class_columns=True)
with open_slide(folder / "drawn.ome.tif") as slide:
    config = DetectConfig(tissue_only=False)
    found = drain(detect(slide, config, predictor=model, workspace=folder, keep_floor=True))

# Claims, and what people say of them.
table = CellTable(found.class_names, cell_ids, threshold=model.card.threshold)
table.replace(Claims.prepared(found, cell_ids))
kept = np.flatnonzero(table.kept)
by_size = kept[np.argsort(np.prod(table.boxes[kept, 2:] - table.boxes[kept, :2], axis=1))]
table.apply(relabel(table, by_size[-30:], "large one"), author="me")
table.apply(relabel(table, by_size[:30], "lymphocyte"), author="me")

# A lesson: fitted on four fifths of the labels, judged on the others.
lesson = drain(teach(table.copy(), TeachSettings(author="me", mpp=found.source.mpp)))
assert lesson.verdict is not None
print(lesson.verdict.sentence())
changes, rows = what_changes(table, lesson)
print(changes.sentence())

# Applied to every claim at once, and taken back.
before = table.class_ids.copy()
table.teach(lesson.head)
print("cells:", table.counts())
table.teach(None)
print("as before:", bool((table.class_ids == before).all()))
