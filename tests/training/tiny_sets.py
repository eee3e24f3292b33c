"""Data sets of a few small fields, written as files, and the shortest training on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from napari_celldetr.training.config import TrainConfig

CLASSES = ("lymphocyte", "tumour", "stromal")
COLOURS = ((60, 30, 120), (150, 60, 150), (90, 110, 60))
SIDE = 96


def field(seed: int, cells: int = 12):
    """A pale picture with coloured discs: image, points (pixel numbers), class names, map."""
    rng = np.random.default_rng(seed)
    image = rng.integers(215, 245, (SIDE, SIDE, 3))
    instances = np.zeros((SIDE, SIDE), np.uint16)
    row, column = np.mgrid[:SIDE, :SIDE]
    points, names = [], []
    for i in range(cells):
        x, y = 12 + (i % 4) * 23, 12 + (i // 4) * 23
        x, y = x + int(rng.integers(-3, 4)), y + int(rng.integers(-3, 4))
        disc = (row - y) ** 2 + (column - x) ** 2 <= 36
        image[disc] = COLOURS[i % 3]
        instances[disc] = i + 1
        points.append((x, y))
        names.append(CLASSES[i % 3])
    return image.astype(np.uint8), points, names, instances


def points_folder(root: Path, patients=("01", "02", "03"), split: dict[str, str] | None = None):
    """A folder of points; every patient has one field."""
    for part in ("images", "points"):
        (root / part).mkdir(parents=True)
    rows = ["image,patient,split"]
    for i, patient in enumerate(patients):
        image, points, names, _ = field(i)
        stem = f"{patient}_field"
        Image.fromarray(image).save(root / "images" / f"{stem}.png")
        lines = [f"{x},{y},{name}" for (x, y), name in zip(points, names, strict=True)]
        (root / "points" / f"{stem}.csv").write_text("\n".join(["x,y,class", *lines]) + "\n")
        rows.append(f"{stem}.png,{patient},{(split or {}).get(patient, 'train')}")
    if split is not None:
        (root / "split.csv").write_text("\n".join(rows) + "\n")
    return root


def instances_folder(root: Path, patients=("07", "08")):
    """A folder of instance maps; every patient has one field."""
    for part in ("images", "instances"):
        (root / part).mkdir(parents=True)
    for i, patient in enumerate(patients):
        image, _, _, instances = field(10 + i)
        Image.fromarray(image).save(root / "images" / f"{patient}_1.png")
        Image.fromarray(instances).save(root / "instances" / f"{patient}_1.png")
    return root


def config(root: Path, output: str = "run", **changes) -> TrainConfig:
    """The shortest training: 4 steps of 1 crop of 64 px with a random backbone."""
    values = {
        "data": f"points:{root / 'points'}",
        "output": str(root / output),
        "name": "tiny",
        "steps": 4,
        "batch": 1,
        "crop": 64,
        "warmup": 2,
        "workers": 0,
        "device": "cpu",
        "checkpoint_steps": 2,
    }
    return TrainConfig(**(values | changes))
