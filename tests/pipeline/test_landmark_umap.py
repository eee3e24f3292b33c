"""Landmark UMAP runs in a process of its own that can be killed, and says what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_celldetr.core.errors import EmbeddingError, JobError
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline import landmark_umap as module
from napari_celldetr.pipeline.landmark_umap import UmapConfig, landmark_umap, umap_installed

needs_umap = pytest.mark.skipif(not umap_installed(), reason="umap-learn is not installed")

STAND_IN = """
import json, sys, time
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
points = np.load(folder / "points.npy")
assert json.loads((folder / "settings.json").read_text())["neighbours"] == 15
{middle}
np.save(folder / "positions.npy", points[:, :2])
"""


def groups(cells: int = 900) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    group = np.arange(cells) % 3
    return (rng.standard_normal((cells, 20)) + 12 * np.eye(20)[group]).astype(np.float16), group


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Replaces the program of the child process, and keeps the processes that were started."""
    started: list[subprocess.Popen] = []
    usual = subprocess.Popen

    def program(middle: str = "") -> list[subprocess.Popen]:
        script = tmp_path / "stand_in.py"
        script.write_text(STAND_IN.format(middle=middle), encoding="utf-8")

        def start(command: list[str], **kwargs: object) -> subprocess.Popen:
            assert command[1:3] == ["-m", "napari_celldetr.pipeline.umap_child"]
            started.append(usual([sys.executable, str(script), command[3]], **kwargs))
            return started[-1]

        monkeypatch.setattr(subprocess, "Popen", start)
        monkeypatch.setattr(module, "umap_installed", lambda: True)
        return started

    return program


def test_every_cell_is_placed_by_the_landmarks(child) -> None:  # type: ignore[no-untyped-def]
    child('print("Epochs completed:  50%| 100/200 [00:01", file=sys.stderr)')
    vectors, group = groups()
    steps = []
    found = drain(landmark_umap(vectors, UmapConfig(landmarks=120)), steps.append)
    assert found.shape == (900, 2)
    # The child's positions are the first two components: a cell lies near its own group.
    middles = np.stack([found[group == g].mean(axis=0) for g in range(3)])
    nearest = np.square(found[:, None] - middles).sum(axis=2).argmin(axis=1)
    assert (nearest == group).mean() > 0.99
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    assert steps[-1].done == 100
    assert any("120 landmarks" in s.message for s in steps)


def test_cancelling_kills_the_child(child) -> None:  # type: ignore[no-untyped-def]
    started = child("time.sleep(600)")
    job = landmark_umap(groups()[0], UmapConfig(landmarks=100))
    while not started:
        next(job)
    next(job)
    assert started[0].poll() is None
    job.close()
    assert started[0].poll() is not None


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        ('raise ValueError("no layout today")', "no layout today"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("sys.exit(0)", "no message"),
    ],
)
def test_what_the_child_says_is_told(child, middle: str, words: str) -> None:  # type: ignore[no-untyped-def]
    child(middle)
    with pytest.raises(JobError, match=words):
        drain(landmark_umap(groups()[0], UmapConfig(landmarks=100)))


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "umap_installed", lambda: False)
    with pytest.raises(JobError, match=r"napari-celldetr\[umap\]"):
        drain(landmark_umap(groups()[0]))


def test_too_few_cells_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "umap_installed", lambda: True)
    with pytest.raises(EmbeddingError, match="at least 10"):
        drain(landmark_umap(np.zeros((9, 4), np.float16)))


@needs_umap
def test_groups_stay_groups() -> None:
    vectors, group = groups(400)
    found = drain(landmark_umap(vectors, UmapConfig(landmarks=150)))
    apart = np.square(found[:, None] - found[None]).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1)[:, :5]
    assert (group[near] == group[:, None]).mean() > 0.98
