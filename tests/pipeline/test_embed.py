"""Embeddings go to files and come back as they were, from other programs' files too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import FakePredictor, FakeSlide, draw_cells, spaced_centres

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import EmbeddingError, ExportError
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.cell_ids import as_text, cell_ids
from napari_celldetr.pipeline.detect import DetectProgress, detect
from napari_celldetr.pipeline.embed import embed, write_embeddings
from napari_celldetr.pipeline.embedding_files import (
    compare_slides,
    embedding_origin,
    match_embeddings,
    read_cohort,
    read_embeddings,
    refuse_other_embeddings,
)
from napari_celldetr.pipeline.export import read_detections

SIZE = 6


def cells(count: int = 40, seed: int = 0, **source: object) -> Detections:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 900, (count, 2))
    where = Source("a.svs", "slide-a", (0.5, 0.5), "fake", "f" * 64)
    where = Source(**{**{f: getattr(where, f) for f in where.__slots__}, **source})
    return Detections(
        np.concatenate([corner, corner + rng.uniform(8, 20, (count, 2))], axis=1),
        rng.uniform(0.3, 1, count).astype(np.float32),
        rng.integers(-1, 2, count).astype(np.int16),
        ("dark", "red"),
        rng.standard_normal((count, SIZE)).astype(np.float16),
        {"probability_red": rng.random(count).astype(np.float32)},
        where,
    ).ordered()


# --- our own files ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".h5ad"])
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    table = cells()
    path = write_embeddings(table, tmp_path / f"cells{suffix}")
    for back in (read_embeddings(path), read_detections(path)):
        assert back.embeddings is not None
        assert back.embeddings.tobytes() == table.embeddings.tobytes()
        assert (back.boxes == table.boxes).all()
        assert (back.class_labels == table.class_labels).all()
        assert back.class_names == table.class_names
        assert back.source == table.source
    full = read_detections(path)
    np.testing.assert_array_equal(full.columns["probability_red"], table.columns["probability_red"])
    assert "area_um2" in full.columns


def test_parquet_has_a_column_of_ids_and_one_of_vectors(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = cells()
    found = pq.read_table(write_embeddings(table, tmp_path / "cells.parquet"))
    assert found.column("id").to_pylist() == as_text(cell_ids(table))
    assert found.schema.field("embedding").type.list_size == SIZE
    np.testing.assert_array_equal(found.column("embedding").to_pylist(), table.embeddings)
    assert RESEARCH_USE in json.loads(found.schema.metadata[b"celldetr"])["note"]


def test_in_anndata_the_embeddings_are_x(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    table = cells()
    found = anndata.read_h5ad(write_embeddings(table, tmp_path / "cells.h5ad"))
    np.testing.assert_array_equal(found.X, table.embeddings.astype(np.float32))
    assert list(found.obs_names) == as_text(cell_ids(table))
    assert {"score", "class", "x0", "probability_red"} <= set(found.obs.columns)
    assert json.loads(found.uns["source"])["weights_sha256"] == "f" * 64
    assert found.uns["note"] == RESEARCH_USE


@pytest.mark.parametrize("suffix", [".parquet", ".h5ad"])
def test_a_slide_without_cells(suffix: str, tmp_path: Path) -> None:
    empty = Detections.empty(("dark", "red"), source=cells().source)
    path = write_embeddings(empty, tmp_path / f"cells{suffix}")
    assert len(read_detections(path)) == 0


def test_cells_without_embeddings_are_refused(tmp_path: Path) -> None:
    bare = Detections(
        *(getattr(cells(), n) for n in ("boxes", "scores", "class_ids", "class_names"))
    )
    with pytest.raises(EmbeddingError, match="no embeddings"):
        write_embeddings(bare, tmp_path / "cells.parquet")
    with pytest.raises(ExportError, match="not known"):
        write_embeddings(cells(), tmp_path / "cells.csv")
    assert not list(tmp_path.iterdir())


# --- runs --------------------------------------------------------------------------------------


def test_a_stored_detect_run_is_found_again(tmp_path: Path) -> None:
    size = (500, 400)
    slide = FakeSlide(draw_cells(size, spaced_centres(size)))
    config = DetectConfig(tile_px=256, halo_px=16, tissue_only=False)
    model = FakePredictor(embedding_size=SIZE)
    first = drain(detect(slide, config, predictor=model, workspace=tmp_path))
    steps: list[DetectProgress] = []
    again = drain(embed(slide, config, predictor=model, workspace=tmp_path), steps.append)
    assert again == first
    assert steps[-1].report.reused == steps[-1].report.tiles
    assert again.embeddings.shape == (len(first), SIZE)
    with pytest.raises(EmbeddingError, match="no embeddings"):
        drain(embed(slide, config, predictor=FakePredictor(), workspace=tmp_path / "other"))


# --- other programs' files ---------------------------------------------------------------------


def foreign(table: Detections, path: Path, *, by: str, numbered: bool = False) -> Path:
    """What another program might write of the same cells, in another order."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    order = np.random.default_rng(5).permutation(len(table))
    vectors = 2 * table.embeddings.astype(np.float32)[order]
    columns: dict[str, np.ndarray] = {}
    if by == "id":
        columns["id"] = np.array(as_text(cell_ids(table)))[order]
    elif by == "x":
        columns["x"], columns["y"] = (table.centres[order] + 1.5).T
    elif by == "boxes":
        columns.update(zip(("x0", "y0", "x1", "y1"), table.boxes[order].T, strict=True))
    if path.suffix == ".npz":
        np.savez(path, embedding=vectors, **columns)
    elif path.suffix == ".h5ad":
        anndata = pytest.importorskip("anndata")
        pandas = pytest.importorskip("pandas")
        obs = pandas.DataFrame(columns, index=[str(i) for i in range(len(table))])
        obs = obs.set_index("id") if by == "id" else obs
        anndata.AnnData(vectors, obs=obs).write_h5ad(path)
    elif numbered or path.suffix == ".csv":
        columns |= {f"f{i}": vectors[:, i] for i in range(SIZE)}
        made = pa.table({n: pa.array(v) for n, v in columns.items()})
        (pc.write_csv if path.suffix == ".csv" else pq.write_table)(made, path)
    else:
        lists = pa.array([v.tolist() for v in vectors])
        made = pa.table({**{n: pa.array(v) for n, v in columns.items()}, "embedding": lists})
        pq.write_table(made, path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".h5ad", ".csv", ".npz"])
@pytest.mark.parametrize(("by", "word"), [("id", "id"), ("x", "place"), ("boxes", "place")])
def test_vectors_come_to_their_cells(suffix: str, by: str, word: str, tmp_path: Path) -> None:
    table = cells()
    path = foreign(table, tmp_path / f"theirs{suffix}", by=by)
    found = match_embeddings(table, path)
    assert found.by == word
    assert len(found.rows) > 0.8 * len(table)
    wanted = 2 * table.embeddings.astype(np.float32)[found.rows]
    np.testing.assert_allclose(found.vectors.astype(np.float32), wanted, rtol=1e-3)
    with_vectors = found.onto(table)
    assert (with_vectors.boxes == table.boxes[found.rows]).all()
    assert f"{len(found.rows)} of 40 cells" in found.sentence()


def test_numbered_columns_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("x,y,v_10,v_9,v_2\n1,1,10,9,2\n", encoding="utf-8")
    one = Detections([[0, 0, 2, 2]], [1], [-1], ())
    assert match_embeddings(one, path).vectors.tolist() == [[2, 9, 10]]


def test_a_file_with_boxes_is_a_table_of_cells(tmp_path: Path) -> None:
    table = cells()
    back = read_embeddings(foreign(table, tmp_path / "theirs.npz", by="boxes"))
    assert len(back) == len(table)
    assert (back.class_ids == -1).all()
    assert back.source.model == "embeddings of theirs.npz"
    with pytest.raises(EmbeddingError, match="nothing of where"):
        read_embeddings(foreign(table, tmp_path / "theirs.parquet", by="id"))


def test_only_cells_within_three_micrometres_are_the_same(tmp_path: Path) -> None:
    table = cells()
    # 1.5 px on each side are 1.06 µm at 0.5 µm/px, and 6.4 µm at 3 µm/px.
    path = foreign(table, tmp_path / "theirs.npz", by="x")
    assert len(match_embeddings(table, path).rows)
    coarse = table.with_source(Source(mpp=(3.0, 3.0)))
    with pytest.raises(EmbeddingError, match="does not fit these cells"):
        match_embeddings(coarse, path)


def test_a_file_that_fits_no_cell_is_refused(tmp_path: Path) -> None:
    table = cells()
    with pytest.raises(EmbeddingError, match="does not fit"):
        match_embeddings(cells(seed=9), foreign(table, tmp_path / "a.parquet", by="id"))
    with pytest.raises(EmbeddingError, match="which cells"):
        match_embeddings(table, foreign(table, tmp_path / "b.parquet", by="nothing"))
    ours = write_embeddings(table, tmp_path / "c.parquet")
    with pytest.raises(EmbeddingError, match="another slide"):
        match_embeddings(table.with_source(Source("b.svs", "slide-b")), ours)


@pytest.mark.parametrize(
    ("name", "made", "words"),
    [
        ("a.npz", {"embedding": np.full((3, 4), 1e6), "x": np.zeros(3), "y": np.zeros(3)}, "65504"),
        ("a.npz", {"embedding": np.zeros((3, 4)), "x": np.zeros(2)}, "2 values of x"),
        ("a.npz", {"x": np.zeros(2), "y": np.zeros(2)}, "columns x, y"),
        ("a.npz", {"embedding": np.zeros((3, 4)).astype(str)}, "columns embedding"),
        ("a.npz", {"embedding": np.array([None], object)}, "ValueError"),
        ("a.npz", None, "cannot be read"),
        ("a.parquet", None, "cannot be read"),
        ("a.csv", None, "cannot be read"),
        ("a.h5ad", None, "cannot be read"),
        ("missing.npz", None, "no such file"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_vectors_is_refused(
    name: str, made: dict | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if made is not None:
        np.savez(path, **made)
    elif not name.startswith("missing"):
        path.write_bytes(b"")
    with pytest.raises(EmbeddingError, match=words):
        match_embeddings(cells(), path)


def test_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    for second in ([1.0], [1.0, 2, 3], None):
        lists = pa.array([[1.0, 2], second], pa.list_(pa.float32()))
        pq.write_table(pa.table({"x": [0.0, 1], "y": [0.0, 1], "embedding": lists}), path)
        with pytest.raises(EmbeddingError, match="different lengths"):
            match_embeddings(cells(), path)


def test_expressed_genes_are_no_embeddings(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    sparse = pytest.importorskip("scipy.sparse")
    path = tmp_path / "genes.h5ad"
    anndata.AnnData(sparse.csr_matrix((3, 20_000), dtype=np.float32)).write_h5ad(path)
    with pytest.raises(EmbeddingError, match="20000"):
        match_embeddings(cells(), path)


def test_anndata_of_a_kind_that_is_not_known_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "odd.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros((3, 4))
        file.create_group("obs").attrs.update({"encoding-type": "odd", "encoding-version": "9"})
    with pytest.raises(EmbeddingError, match="cannot be read"):
        match_embeddings(cells(), path)


def test_embeddings_of_another_model_are_refused(tmp_path: Path) -> None:
    table = cells()
    refuse_other_embeddings(table, size=SIZE, origin="f" * 64)
    refuse_other_embeddings(table, size=SIZE, origin="")
    for size, origin in [(SIZE + 1, "f" * 64), (SIZE, "e" * 64)]:
        with pytest.raises(EmbeddingError, match="another model"):
            refuse_other_embeddings(table, size=size, origin=origin)
    imported = match_embeddings(table, foreign(table, tmp_path / "a.npz", by="id")).onto(table)
    # The cells are the same, with the same ids; their embeddings are not the model's any more.
    assert (cell_ids(imported) == cell_ids(table)).all()
    assert embedding_origin(imported.source) == "a.npz"
    with pytest.raises(EmbeddingError, match=r"made by a\.npz"):
        refuse_other_embeddings(imported, size=SIZE, origin=embedding_origin(table.source))
    path = foreign(table, tmp_path / "b.npz", by="id")
    again = match_embeddings(imported, path).onto(imported)
    with pytest.raises(EmbeddingError, match=r"made by b\.npz"):
        refuse_other_embeddings(again, size=SIZE, origin="a.npz")


# --- cohorts -------------------------------------------------------------------------------------


def test_slides_of_a_cohort_are_compared(tmp_path: Path) -> None:
    alike = [cells(300, seed, slide=f"{seed}.svs", slide_id=str(seed)) for seed in (1, 2)]
    paths = [write_embeddings(t, tmp_path / f"{i}.parquet") for i, t in enumerate(alike)]
    found = compare_slides(paths)
    assert [m.class_name for m in found] == ["all", "dark", "red"]
    assert found[0].slides == ("1.svs", "2.svs")
    assert found[0].apart < 0.1
    assert compare_slides(paths[:1]) == []


def test_a_cohort_of_two_models_is_refused(tmp_path: Path) -> None:
    one, other = cells(slide_id="1"), cells(slide_id="2", weights_sha256="e" * 64)
    paths = [write_embeddings(t, tmp_path / f"{i}.h5ad") for i, t in enumerate((one, other))]
    assert len(read_cohort(paths[:1])) == 1
    with pytest.raises(EmbeddingError, match="another model"):
        read_cohort(paths)
