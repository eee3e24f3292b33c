"""kill -9 at any moment: the resumed run ends with the very table of an undisturbed one."""

import multiprocessing
import sys
import time
from pathlib import Path

import killable
import numpy as np
import pytest

from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline import ledger

pytestmark = pytest.mark.usefixtures("one_code")

METHOD = "spawn" if sys.platform == "win32" else "forkserver"


@pytest.fixture(scope="module")
def one_code():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "code_version", killable.fixed_code)
        yield


@pytest.fixture(scope="module")
def processes():
    """Children that start in milliseconds: a clean server that has imported everything."""
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        sys.path.insert(0, str(Path(killable.__file__).parent))
        context.set_forkserver_preload(["killable"])
    return context


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_code):
    """The field, and the table and seconds of a run nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    slide = killable.make_slide()
    np.save(folder / "pixels.npy", slide.pixels)
    start = time.monotonic()
    cells = drain(killable.make_job(str(folder), str(folder / "count"), slide))
    seconds = time.monotonic() - start
    assert (folder / "count").stat().st_size == killable.TILES
    return slide, folder / "pixels.npy", cells, seconds


def kill_and_resume(processes, undisturbed, folder, delay):
    slide, pixels, expected, _ = undisturbed
    count, workspace = folder / "count", folder / "work"
    child = processes.Process(
        target=killable.run_job, args=(str(pixels), str(workspace), str(count))
    )
    child.start()
    begun = Path(f"{count}.begun")
    give_up = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < give_up:
        time.sleep(0.002)
    time.sleep(delay)
    child.kill()
    child.join()
    child.close()
    before = count.stat().st_size if count.exists() else 0
    steps = []
    cells = drain(killable.make_job(str(workspace), str(count), slide), steps.append)
    assert cells.digest() == expected.digest()
    report = steps[-1].report
    assert report.reused + report.done == killable.TILES
    assert count.stat().st_size <= killable.TILES + 1, "more than one batch was done again"
    assert not list(workspace.rglob("*celldetr-tmp"))
    return before


def test_20_kills(processes, undisturbed, tmp_path):
    rng = np.random.default_rng()
    reached = []
    for turn in range(20):
        folder = tmp_path / str(turn)
        folder.mkdir()
        delay = float(rng.uniform(0, undisturbed[3]))
        reached.append(kill_and_resume(processes, undisturbed, folder, delay))
    # The kills must have hit runs under way, not only their beginnings and ends.
    assert sum(0 < r < killable.TILES for r in reached) >= 8, reached


def test_a_run_killed_again_and_again_still_ends_right(processes, undisturbed, tmp_path):
    _, pixels, expected, seconds = undisturbed
    count, workspace = tmp_path / "count", tmp_path / "work"
    for _ in range(4):
        child = processes.Process(
            target=killable.run_job, args=(str(pixels), str(workspace), str(count))
        )
        child.start()
        time.sleep(seconds / 4)
        child.kill()
        child.join()
        child.close()
    cells = drain(killable.make_job(str(workspace), str(count), undisturbed[0]))
    assert cells.digest() == expected.digest()
    assert count.stat().st_size <= killable.TILES + 4


@pytest.mark.large
def test_200_kills(processes, undisturbed, tmp_path):
    rng = np.random.default_rng()
    for turn in range(200):
        folder = tmp_path / str(turn)
        folder.mkdir()
        kill_and_resume(processes, undisturbed, folder, float(rng.uniform(0, undisturbed[3])))
