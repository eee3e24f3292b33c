"""A head: the model's word where nothing was taught, and the same numbers however they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_celldetr.core import head as head_module
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.head import FLOOR, UNTOLD, Head, no_lesson, offsets
from napari_celldetr.core.taught import Taught

NAMES = ("a", "b", "c")


def claims(n: int = 40, *, stored: bool = True, size: int = 6, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 500, (n, 2))
    p = rng.dirichlet([1, 1, 1], n).astype(np.float32)
    columns = {"class_probability": p.max(axis=1)}
    if stored:
        columns |= {f"probability_{name}": p[:, i] for i, name in enumerate(NAMES)}
    return Detections(
        np.column_stack((corner, corner + 10)),
        rng.uniform(0.2, 1, n),
        p.argmax(axis=1),
        NAMES,
        rng.normal(size=(n, size)).astype(np.float16),
        columns,
    )


def some_head(size: int = 6, **changes: Any) -> Head:
    rng = np.random.default_rng(5)
    values: dict[str, Any] = {
        "class_names": (*NAMES, "new"),
        "model_classes": NAMES,
        "mean": rng.normal(size=size),
        "std": rng.uniform(0.5, 2, size),
        "weight": rng.normal(size=(4, size)),
        "bias": rng.normal(size=4),
        "temperature": 1.5,
    }
    return Head(**(values | changes))


def test_without_a_lesson_the_models_word_stands() -> None:
    cells = claims()
    head = no_lesson(NAMES, 6)
    taught = head.teach(cells)
    assert np.array_equal(taught.class_ids, cells.class_ids)
    assert np.allclose(taught.probability, cells.columns["class_probability"], atol=3e-3)


def test_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "BLOCK", 7)
    cells, head = claims(), some_head()
    assert cells.embeddings is not None
    z = (cells.embeddings.astype(np.float64) - head.mean) / head.std
    word = np.log(
        np.maximum([[*(cells.columns[f"probability_{n}"][i] for n in NAMES), 0] for i in range(40)],
                   FLOOR)
    )  # fmt: skip
    logits = (word + z @ head.weight.T.astype(np.float64) + head.bias) / 1.5
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(head.all_probabilities(cells), expected, atol=1e-5)
    taught = head.teach(cells)
    assert np.array_equal(taught.class_ids, expected.argmax(axis=1))
    assert np.allclose(taught.probability, expected.max(axis=1), atol=1e-5)


def test_runs_without_all_probabilities_share_the_rest_evenly() -> None:
    cells = claims(stored=False)
    p = np.exp(offsets(cells, (*NAMES, "new")))
    sure = cells.columns["class_probability"]
    rows = np.arange(len(cells))
    assert np.allclose(p[rows, cells.class_ids], sure, atol=1e-6)
    assert np.allclose(p[:, :3].sum(axis=1), 1, atol=3e-3)
    assert np.allclose(p[:, 3], FLOOR)


def test_the_poorest_run_and_a_class_that_is_not_known() -> None:
    cells = claims(4, stored=False)
    bare = Detections(cells.boxes, cells.scores, [0, 1, 2, -1], NAMES, cells.embeddings)
    p = np.exp(offsets(bare, NAMES))
    assert np.allclose(p[[0, 1, 2], [0, 1, 2]], UNTOLD)
    assert np.allclose(p[3], 1 / 3)


def test_cells_without_an_embedding_keep_what_they_have() -> None:
    cells = claims()
    assert cells.embeddings is not None
    vectors = cells.embeddings.copy()
    vectors[3] = np.nan
    blind = Detections(
        cells.boxes, cells.scores, cells.class_ids, NAMES, vectors, dict(cells.columns)
    )
    taught = some_head().teach(blind)
    assert taught.class_ids[3] == cells.class_ids[3]
    assert taught.probability[3] == cells.columns["class_probability"][3]
    assert np.isfinite(taught.probability).all()


@pytest.mark.parametrize("kind", ["size", "classes", "none"])
def test_claims_of_another_model_are_refused(kind: str) -> None:
    cells = claims(size=7 if kind == "size" else 6)
    if kind == "classes":
        cells = Detections(
            cells.boxes, cells.scores, cells.class_ids, ("x", "y", "z"), cells.embeddings
        )
    if kind == "none":
        cells = Detections(cells.boxes, cells.scores, cells.class_ids, NAMES)
    with pytest.raises(DataError, match="another model"):
        some_head().teach(cells)


def test_no_cells() -> None:
    assert len(some_head().teach(Detections.empty(NAMES))) == 0


def test_there_and_back_and_its_digest() -> None:
    head = some_head()
    again = Head.of(head.arrays(), head.class_names, head.model_classes)
    assert again.digest() == head.digest()
    assert some_head(temperature=1.6).digest() != head.digest()
    with pytest.raises(DataError, match="no head"):
        Head.of({"mean": head.mean}, head.class_names, head.model_classes)


@pytest.mark.parametrize(
    "changes",
    [
        {"std": np.zeros(6)},
        {"bias": np.full(4, np.nan)},
        {"weight": np.zeros((3, 6))},
        {"class_names": ("x", "b", "c", "new")},
        {"temperature": 0.0},
    ],
)
def test_heads_that_do_not_fit_together(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="does not fit"):
        some_head(**changes)


def test_taught_claims_are_the_same_cells() -> None:
    cells = claims()
    told = some_head().teach(cells).on(cells)
    assert np.array_equal(told.boxes, cells.boxes)
    assert told.class_names == (*NAMES, "new")
    with pytest.raises(DataError, match="do not fit"):
        Taught(NAMES, np.array([0, 7], np.int16), np.ones(2, np.float32))
