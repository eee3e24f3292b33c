"""AnnData (.h5ad) for scanpy and squidpy: cells as observations, centres in obsm["spatial"]."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.cell_ids import as_text, cell_ids
from napari_celldetr.pipeline.parquet import CORNERS


def write_h5ad(cells: Detections, path: Path) -> None:
    """Write one file (not atomically: the caller gives a temporary path).

    ``X`` holds the numeric measurements, ``obs`` score, class and box, ``obsm["spatial"]`` the
    centres in level-0 px, ``obsm["embedding"]`` the embeddings, ``uns`` source and note. Raises
    `ExportError` when anndata is not installed.
    """
    try:
        import anndata
        import pandas as pd
    except ImportError as error:
        raise ExportError(
            "AnnData files need a package that is not installed.",
            expected="anndata",
            found="nothing",
            remedy="pip install 'napari-celldetr[export]'",
        ) from error
    numeric = [n for n, v in cells.columns.items() if v.dtype.kind in "buif"]
    obs = pd.DataFrame(
        {"score": cells.scores, **dict(zip(CORNERS, cells.boxes.T, strict=True))},
        index=as_text(cell_ids(cells)),
    )
    codes = np.where(cells.class_ids < 0, len(cells.class_names), cells.class_ids)
    obs["class"] = pd.Categorical.from_codes(codes, [*cells.class_names, "unknown"])
    for name in cells.columns.keys() - set(numeric):
        obs[name] = cells.columns[name].astype(str)
    obsm = {"spatial": cells.centres}
    if cells.embeddings is not None:
        obsm["embedding"] = cells.embeddings.astype(np.float32)
    matrix = np.empty((len(cells), len(numeric)), np.float32)
    for i, name in enumerate(numeric):
        matrix[:, i] = cells.columns[name]
    uns = {"source": cells.source.to_json(), "note": RESEARCH_USE}
    uns["class_names"] = json.dumps(cells.class_names)
    table = anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=numeric), obsm=obsm, uns=uns)
    table.write_h5ad(path)
