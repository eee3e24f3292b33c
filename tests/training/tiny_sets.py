"""Data sets of a few small fields in all layouts, as files, and the shortest training on them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import io

from napari_celldetr.training.config import TrainConfig

CLASSES = ("lymphocyte", "tumour", "stromal")
COLOURS = ((60, 30, 120), (150, 60, 150), (90, 110, 60))
SIDE = 96
PANNUKE_SIDE = 256


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
        "precision": "float32",
        "checkpoint_steps": 2,
    }
    return TrainConfig(**(values | changes))


def picture(path: Path, side=(40, 60), value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*side, 3), value, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


# --- arrays


def pannuke_arrays(seed: int = 0, count: int = 2, dtype=np.float64):
    """Images, masks and tissues: three nuclei in every patch, the third cut by the border.

    Patch 0: id 4 (neoplastic) x 10..20, y 30..36; id 9 (dead) x 100..101, y 50..51; id 7
    (epithelial) x 250..256, y 0..8. Further patches are shifted down by 3 px each but for id 7.
    """
    chance = np.random.default_rng(seed)
    side = PANNUKE_SIDE
    images = chance.integers(1, 256, (count, side, side, 3)).astype(dtype)
    masks = np.zeros((count, side, side, 6), dtype)
    for i in range(count):
        masks[i, 30 + 3 * i : 36 + 3 * i, 10:20, 0] = 4
        masks[i, 50 + 3 * i : 51 + 3 * i, 100:101, 3] = 9
        masks[i, 0:8, 250:256, 4] = 7
        masks[i, :, :, 5] = masks[i, :, :, :5].max(axis=-1) == 0
    return images, masks, np.array(["Breast", "Bile-duct"] * count)[:count]


def pannuke_fold(root: Path, number: int, *, nested: bool = True, dtype=np.float64):
    """One fold as published (``Fold 1/images/fold1/images.npy``), or its arrays in one folder."""
    images, masks, types = pannuke_arrays(number, dtype=dtype)
    top, fold = root / f"Fold {number}", f"fold{number}"
    at = top / "images" / fold if nested else root / fold
    at_masks = top / "masks" / fold if nested else root / fold
    for folder in (at, at_masks):
        folder.mkdir(parents=True, exist_ok=True)
    np.save(at / "images.npy", images)
    np.save(at / "types.npy", types)
    np.save(at_masks / "masks.npy", masks)
    return at


def conic(root: Path):
    """Two patches of one picture and one of another; ids 3 (lymphocyte) and 8 (connective)."""
    root.mkdir(parents=True, exist_ok=True)
    images = np.full((3, 32, 32, 3), 180, np.uint8)
    labels = np.zeros((3, 32, 32, 2), np.uint16)
    labels[:, 4:10, 6:9] = (3, 3)
    labels[:, 20:24, 20:28] = (8, 6)
    np.save(root / "images.npy", images)
    np.save(root / "labels.npy", labels)
    names = ["consep_1-0000", "consep_1-0001", "glas_2-0000"]
    (root / "patch_info.csv").write_text("\n".join(["patch_info", *names]) + "\n")
    return root


# --- MATLAB


def instance_map(ids=(5, 2, 11)):
    """Map (40, 60): first id x 6..12, y 4..10; second x 30..34, y 20..30; third 50..60, 1..3."""
    pixels = np.zeros((40, 60), np.int32)
    pixels[4:10, 6:12], pixels[20:30, 30:34], pixels[1:3, 50:60] = ids
    return pixels


CENTROIDS = {"first": (8.5, 6.5), "second": (31.5, 24.5), "third": (54.5, 1.5)}


def consep(root: Path, ids=(1, 2, 3), types=(2, 4, 6), part: str = "Train"):
    """One picture with its .mat file and overlay; `types` in the order of ascending ids."""
    folder, stem = root / part, f"{part.lower()}_1"
    picture(folder / "Images" / f"{stem}.png")
    picture(folder / "Overlay" / f"{stem}.png", value=3)
    (folder / "Labels").mkdir()
    by_id = dict(zip(ids, CENTROIDS.values(), strict=True))
    values = {
        "inst_map": instance_map(ids).astype(np.float64),
        "type_map": np.zeros((40, 60)),
        "inst_type": np.array(types, np.float64)[:, None],
        "inst_centroid": np.array([by_id[i] for i in sorted(ids)]),
    }
    io.savemat(folder / "Labels" / f"{stem}.mat", values)
    return folder


def lizard(root: Path, **changes):
    """One picture; ids 5, 2, 11 with classes 3, 6, 1, in rows of another order."""
    picture(root / "Lizard_Images1" / "crag_7.png")
    (root / "Lizard_Labels" / "Labels").mkdir(parents=True)
    rows = [(11, 1, (1, 3, 50, 60), "third"), (5, 3, (4, 10, 6, 12), "first")]
    rows.append((2, 6, (20, 30, 30, 34), "second"))
    values = {
        "inst_map": instance_map(),
        "id": np.array([[r[0]] for r in rows], np.uint16),
        "class": np.array([[r[1]] for r in rows], np.uint8),
        "bbox": np.array([r[2] for r in rows], np.uint16),
        "centroid": np.array([CENTROIDS[r[3]] for r in rows]),
    }
    values.update(changes)
    values = {name: value for name, value in values.items() if value is not None}
    io.savemat(root / "Lizard_Labels" / "Labels" / "crag_7.mat", values)
    return root


# --- COCO


def encode_counts(counts):
    """COCO's compressed run lengths, straight from their description."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def run_lengths(mask):
    """Runs down the columns, background first."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    return [0, *runs] if flat[0] else runs


def coco(root: Path, annotations=None, **changes):
    """Two images, the second without annotations; a box, a polygon, two masks and a crowd."""
    mask = np.zeros((40, 60), bool)
    mask[20:26, 30:34] = True
    crowd = np.zeros((40, 60), bool)
    crowd[30:40, 0:20] = True
    octagon = [12, 10, 14, 10, 16, 12, 16, 14, 14, 16, 12, 16, 10, 14, 10, 12]
    runs = run_lengths(mask)
    standard = [
        {
            "id": 1,
            "image_id": 70,
            "category_id": 3,
            "bbox": [10, 10, 6, 6],
            "segmentation": [octagon],
        },
        {
            "id": 2,
            "image_id": 70,
            "category_id": 5,
            "segmentation": {"size": [40, 60], "counts": runs},
        },
        {
            "id": 3,
            "image_id": 70,
            "category_id": 5,
            "bbox": [40.5, 30.25, 4, 5.5],
            "segmentation": [[40.5, 30.25, 44.5, 30.25, 44.5, 35.75, 40.5, 35.75]],
        },
        {
            "id": 4,
            "image_id": 70,
            "category_id": 9,
            "iscrowd": 1,
            "bbox": [0, 30, 20, 10],
            "segmentation": {"size": [40, 60], "counts": encode_counts(run_lengths(crowd))},
        },
    ]
    for name in ("p1_a.png", "p2_b.png"):
        picture(root / "images" / name)
    content = {
        "images": [
            {"id": 70, "file_name": "p1_a.png", "height": 40, "width": 60},
            {"id": 8, "file_name": "p2_b.png", "height": 40, "width": 60},
        ],
        "categories": [
            {"id": 3, "name": "tumour"},
            {"id": 5, "name": "lymphocyte"},
            {"id": 9, "name": "clump"},
        ],
        "annotations": standard if annotations is None else annotations,
    }
    (root / "labels.json").write_text(json.dumps(content | changes))
    return root


# --- QuPath


def square(x, y, side, height=None):
    bottom = y + (side if height is None else height)
    return [[[x, y], [x + side, y], [x + side, bottom], [x, bottom], [x, y]]]


def feature(kind, geometry, name=None, **more):
    properties = {"objectType": kind}
    if name is not None:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    return {"type": "Feature", "id": "x", "geometry": geometry, "properties": properties, **more}


def polygon(coordinates):
    return {"type": "Polygon", "coordinates": coordinates}


def geojson(path: Path, features, *, compress: bool = False):
    data = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


# --- Xenium


def ellipse(box, vertices=12):
    angle = 2 * np.pi * np.arange(vertices) / vertices
    low, high = np.array(box[:2]), np.array(box[2:])
    ring = (low + high) / 2 + (high - low) / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([ring, ring[:1]])


def xenium(root: Path, boxes, words, matrix, *, pixel_um=0.2125, parquet=False, outlines=True):
    """A run whose nuclei are the given boxes (N, 4) in H&E px, and its matrix H&E px -> Xenium px.

    The last cell has no nucleus; the one before it is in no table of types.
    """
    import pyarrow as pa
    from pyarrow import csv
    from pyarrow import parquet as pq

    def to_um(pixels):
        return (pixels @ matrix[:2, :2].T + matrix[:2, 2]) * pixel_um

    root.mkdir(parents=True, exist_ok=True)
    ids = [f"aaaa{i:04d}-1" for i in range(len(boxes))]
    centres = to_um((boxes[:, :2] + boxes[:, 2:]) / 2)
    cells = {
        "cell_id": ids,
        "x_centroid": centres[:, 0],
        "y_centroid": centres[:, 1],
        "transcript_counts": np.arange(len(ids)),
        "cell_area": np.full(len(ids), 60.0),
        "nucleus_area": np.r_[np.full(len(ids) - 1, 25.0), 0.0],
    }
    rings = [to_um(ellipse(box)) for box in boxes[:-1]]
    vertices = np.concatenate(rings)
    bounds = {
        "cell_id": [i for i, ring in zip(ids, rings, strict=False) for _ in ring],
        "vertex_x": vertices[:, 0],
        "vertex_y": vertices[:, 1],
    }

    def write(name, columns):
        table = pa.table(columns)
        if parquet:
            pq.write_table(table, root / f"{name}.parquet")
            return
        with pa.CompressedOutputStream(str(root / f"{name}.csv.gz"), "gzip") as stream:
            csv.write_csv(table, stream)

    write("cells", cells)
    if outlines:
        write("nucleus_boundaries", bounds)
    lines = ["cell_id,group", *(f"{i},{w}" for i, w in zip(ids[:-2], words[:-2], strict=True))]
    (root / "types.csv").write_text("\n".join(lines) + "\n")
    (root / "experiment.xenium").write_text(json.dumps({"pixel_size": pixel_um}))
    np.savetxt(root / "run_he_imagealignment.csv", matrix, delimiter=",")
    return root
