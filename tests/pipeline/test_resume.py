"""kill -9 at any moment: the resumed run ends with the very table of an undisturbed one."""

import time

import killable
import numpy as np
import pytest

from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline import ledger

pytestmark = pytest.mark.usefixtures("one_code")


@pytest.fixture(scope="module")
def one_code():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "code_version", killable.fixed_code)
        yield


@pytest.fixture(scope="module")
def processes():
    return killable.processes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_code):
    """The field, its file, and the table of a run nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    slide = killable.make_slide()
    np.save(folder / "pixels.npy", slide.pixels)
    cells = drain(killable.make_job(str(folder), str(folder / "count"), slide))
    assert (folder / "count").stat().st_size == killable.TILES
    return slide, folder / "pixels.npy", cells


def run_and_kill(processes, pixels, workspace, count, rng):
    """Start a run and kill it at a random tile, at a random moment of that tile."""
    child = processes.Process(
        target=killable.run_job, args=(str(pixels), str(workspace), str(count))
    )
    before = size(count)
    # A kill can cost a batch that is done again, so more than all tiles may have been counted.
    at = before + int(rng.integers(0, max(killable.TILES - before, 0) + 1))
    child.start()
    while size(count) < at and child.is_alive():
        time.sleep(0.001)
    time.sleep(float(rng.uniform(0, 0.03)))
    child.kill()
    child.join()
    child.close()


def size(count):
    return count.stat().st_size if count.exists() else 0


def kill_and_resume(processes, undisturbed, folder, rng):
    slide, pixels, expected = undisturbed
    folder.mkdir()
    count, workspace = folder / "count", folder / "work"
    run_and_kill(processes, pixels, workspace, count, rng)
    before = size(count)
    steps = []
    cells = drain(killable.make_job(str(workspace), str(count), slide), steps.append)
    assert cells.digest() == expected.digest()
    report = steps[-1].report
    assert report.reused + report.done == killable.TILES
    assert size(count) <= killable.TILES + 1, "more than one batch was done again"
    assert not list(workspace.rglob("*celldetr-tmp"))
    return before


@pytest.mark.timeout(1200)
def test_20_kills(processes, undisturbed, tmp_path):
    rng = np.random.default_rng()
    reached = [kill_and_resume(processes, undisturbed, tmp_path / str(i), rng) for i in range(20)]
    # The kills must have hit runs under way, not only their beginnings and ends.
    assert sum(0 < r < killable.TILES for r in reached) >= 10, reached


def test_a_run_killed_again_and_again_still_ends_right(processes, undisturbed, tmp_path):
    slide, pixels, expected = undisturbed
    count, workspace = tmp_path / "count", tmp_path / "work"
    rng = np.random.default_rng()
    for _ in range(4):
        run_and_kill(processes, pixels, workspace, count, rng)
    cells = drain(killable.make_job(str(workspace), str(count), slide))
    assert cells.digest() == expected.digest()
    assert size(count) <= killable.TILES + 4


@pytest.mark.large
@pytest.mark.timeout(7200)
def test_200_kills(processes, undisturbed, tmp_path):
    rng = np.random.default_rng()
    for turn in range(200):
        kill_and_resume(processes, undisturbed, tmp_path / str(turn), rng)
