"""The command line as a person meets it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import tifffile
from fakes import FakePredictor, Faults, cell_field, draw_cells, fake_card, spaced_centres
from PIL import Image
from safetensors.numpy import save_file
from scipy import ndimage

from napari_celldetr import RESEARCH_USE, __version__
from napari_celldetr.cli import COMMANDS, build_parser, main
from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.outputs import plan_outputs
from napari_celldetr.cli.screen import Interrupted, PlainMeter, Screen, duration
from napari_celldetr.core.config import DetectConfig, Field, describe
from napari_celldetr.core.errors import ExportError, JobError
from napari_celldetr.core.progress import Progress
from napari_celldetr.pipeline.export import read_detections
from napari_celldetr.training.config import (
    AblateConfig,
    CrossvalidateConfig,
    EvaluateConfig,
    PretrainConfig,
    TrainConfig,
)
from napari_celldetr.training.specs import parse_data

SIZE = (700, 500)
CENTRES = spaced_centres(SIZE)
SMALL_TILES = ("--tile-px", "256", "--halo-px", "16", "--no-tissue-only")


def write_slide(path: Path, pixels: np.ndarray, mpp: float | None = 0.5) -> Path:
    """A tiled OME-TIFF; without `mpp` a plain tiled TIFF that states no pixel size."""
    physical = {f"PhysicalSize{axis}": mpp for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    metadata = {"axes": "YXS", **physical, **units} if mpp else None
    tifffile.imwrite(
        path, pixels, ome=mpp is not None, tile=(256, 256), photometric="rgb", metadata=metadata
    )
    return path


@pytest.fixture
def slide(tmp_path):
    return write_slide(tmp_path / "a slide.tif", draw_cells(SIZE, CENTRES))


@pytest.fixture
def faults(monkeypatch):
    """The fake model in place of every model; what it should do wrong can be set."""
    wrong = Faults()

    def load_model(name, *, device="auto", flips=False):
        return FakePredictor(faults=wrong)

    monkeypatch.setattr("napari_celldetr.nets.registry.load_model", load_model)
    return wrong


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- flags ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class EveryKind:
    must: Annotated[str, Field("Must")]
    count: Annotated[int, Field("Count", "How many, up to 100 %", ge=1, le=9)] = 3
    share: Annotated[float | None, Field("Share", ge=0.0, le=1.0)] = None
    where: Path = Path("here")
    names: tuple[str, ...] = ("a",)
    kind: Literal["x", "y"] = "x"
    on: bool = True
    off: Annotated[bool, Field("Off", advanced=True)] = False


def parsed(*words: str) -> EveryKind:
    parser = ArgumentParser()
    add_config_flags(parser, EveryKind)
    return config_from(parser.parse_args(words), EveryKind)


def test_flags_keep_the_defaults_of_the_config():
    assert parsed("--must", "m") == EveryKind("m")


def test_every_kind_of_setting_has_a_flag():
    words = "--must m --count 9 --share .5 --where there --names b c --kind y --no-on --off"
    expected = EveryKind("m", 9, 0.5, Path("there"), ("b", "c"), "y", False, True)
    assert parsed(*words.split()) == expected


@pytest.mark.parametrize(
    "words", ["", "--must m --count 10", "--must m --count x", "--must m --share nan"]
)
def test_bad_values_are_usage_errors(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(*words.split())
    assert stop.value.code == Exit.USAGE
    assert "usage:" in capsys.readouterr().err


def test_every_detect_setting_is_in_the_help(capsys):
    assert main(["detect", "--help"]) == Exit.OK
    shown = capsys.readouterr().out
    for setting in describe(DetectConfig):
        assert "--" + setting.name.replace("_", "-") in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == Exit.OK
    shown = capsys.readouterr().out
    assert "exit codes:" in shown
    assert RESEARCH_USE in shown


def test_version_and_usage(capsys):
    assert main(["--version"]) == Exit.OK
    assert __version__ in capsys.readouterr().out
    assert main([]) == Exit.USAGE
    assert main(["nonsense"]) == Exit.USAGE
    assert main(["detect"]) == Exit.USAGE


# --- info ----------------------------------------------------------------------------------


def test_info_says_what_a_slide_is(slide, capsys):
    assert main(["info", str(slide)]) == Exit.OK
    shown = capsys.readouterr().out
    for fact in ("a slide.tif", "700 × 500 px (0.35 × 0.25 mm)", "0.5 µm/px", "ome-xml", "mm²"):
        assert fact in shown


def test_info_goes_on_after_a_file_that_is_no_slide(slide, tmp_path, capsys):
    bad = tmp_path / "notes.svs"
    bad.write_text("not an image")
    assert main(["info", str(bad), str(slide)]) == Exit.ERROR
    out, err = capsys.readouterr()
    assert "notes.svs" in err
    assert "What to do:" in err
    assert "700 × 500" in out


def test_info_says_where_the_pixel_size_is_missing(tmp_path, capsys):
    bare = write_slide(tmp_path / "bare.tif", cell_field((300, 300)), mpp=None)
    assert main(["info", str(bare)]) == Exit.OK
    assert "--mpp" in capsys.readouterr().out
    assert main(["info", str(bare), "--mpp", "0.25"]) == Exit.OK
    assert "0.25 µm/px (from: user)" in capsys.readouterr().out


# --- detect --------------------------------------------------------------------------------


@pytest.mark.usefixtures("faults")
def test_detect_finds_the_cells_and_says_so(slide, tmp_path, capsys):
    out = tmp_path / "cells.csv"
    assert main(["detect", str(slide), "-o", str(out), *SMALL_TILES]) == Exit.OK
    shown = capsys.readouterr().out
    assert f"{len(CENTRES)}: dark " in shown
    assert "0 failed" in shown
    assert RESEARCH_USE in shown
    rows = rows_of(out)
    found = np.array([(float(r["x"]), float(r["y"])) for r in rows])
    distance = np.linalg.norm(found[:, None] - CENTRES[None], axis=2)
    assert len(rows) == len(CENTRES)
    assert distance.min(axis=0).max() < 1
    assert list(rows[0])[:8] == ["x", "y", "x0", "y0", "x1", "y1", "score", "class"]


@pytest.mark.usefixtures("faults")
def test_detect_takes_region_threshold_and_pixel_size(slide, tmp_path):
    out = tmp_path / "part.csv"
    words = ["--region", "100", "100", "200", "150", "--threshold", "0.7", "--mpp", "0.4"]
    assert main(["detect", str(slide), "-o", str(out), *words, *SMALL_TILES]) == Exit.OK
    for row in rows_of(out):
        assert 100 <= float(row["x"]) < 300
        assert 100 <= float(row["y"]) < 250
        assert float(row["score"]) >= 0.7
    diameters = [float(row["diameter_um"]) for row in rows_of(out)]
    assert diameters == pytest.approx([0.4 * 12] * len(diameters), rel=0.15)


@pytest.mark.usefixtures("faults")
def test_several_slides_into_a_folder_and_one_bad_one_in_between(slide, tmp_path, capsys):
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"II*\0 broken")
    other = write_slide(tmp_path / "other.tif", draw_cells(SIZE, CENTRES[:40]))
    out = tmp_path / "results"
    words = ["detect", str(slide), str(bad), str(other), "-o", f"{out}/", "--format", "geojson"]
    assert main([*words, *SMALL_TILES]) == Exit.ERROR
    assert sorted(p.name for p in out.iterdir()) == ["a slide.geojson", "other.geojson"]
    assert len(json.loads((out / "other.geojson").read_text())["features"]) == 40
    assert "error: bad.svs" in capsys.readouterr().err


@pytest.mark.usefixtures("faults")
def test_detect_draws_a_picture(slide, tmp_path):
    out = tmp_path / "cells.geojson.gz"
    assert main(["detect", str(slide), "-o", str(out), "--picture", *SMALL_TILES]) == Exit.OK
    with Image.open(tmp_path / "cells.overlay.png") as picture:
        assert picture.width == 2 * SIZE[0]
        assert picture.height > 2 * SIZE[1]
    assert len(read_detections(out)) == len(CENTRES)


def test_failed_tiles_are_named_and_the_exit_code_says_incomplete(tmp_path, capsys, faults):
    pixels = draw_cells(SIZE, CENTRES)
    pixels[10:12, 10:12] = (1, 2, 3)
    slide = write_slide(tmp_path / "s.tif", pixels)
    faults.numerical = (1, 2, 3)
    out = tmp_path / "cells.csv"
    assert main(["detect", str(slide), "-o", str(out), *SMALL_TILES]) == Exit.INCOMPLETE
    shown = capsys.readouterr().out
    assert "1 failed" in shown
    assert "tile 0_0: " in shown
    assert "INCOMPLETE" in shown
    assert 0 < len(rows_of(out)) < len(CENTRES)


def test_saturated_tiles_are_named(tmp_path, capsys, faults):
    pixels = draw_cells(SIZE, CENTRES)
    pixels[10:12, 10:12] = (1, 2, 3)
    faults.saturated = (1, 2, 3)
    slide = write_slide(tmp_path / "s.tif", pixels)
    assert main(["detect", str(slide), "-o", str(tmp_path / "c.csv"), *SMALL_TILES]) == Exit.OK
    shown = capsys.readouterr().out
    assert "1 saturated" in shown
    assert "tile 0_0: " in shown


@pytest.mark.usefixtures("faults")
def test_skipped_tiles_are_counted(tmp_path, capsys):
    pixels = np.full((512, 4096, 3), 255, np.uint8)
    pixels[:, :500] = draw_cells((500, 512), spaced_centres((500, 512)))
    slide = write_slide(tmp_path / "s.tif", pixels)
    words = ["--tile-px", "256", "--halo-px", "16"]
    assert main(["detect", str(slide), "-o", str(tmp_path / "c.csv"), *words]) == Exit.OK
    line = next(r for r in capsys.readouterr().out.splitlines() if "skipped" in r)
    skipped = int(line.split(" skipped")[0].split(", ")[-1])
    assert skipped > 20


@pytest.mark.usefixtures("faults")
def test_a_second_run_reuses_the_first_and_fresh_does_not(slide, tmp_path, capsys):
    words = ["detect", str(slide), "-o", str(tmp_path / "c.csv"), *SMALL_TILES]
    assert main(words) == Exit.OK
    first = (tmp_path / "c.csv").read_bytes()
    assert "earlier run" not in capsys.readouterr().out
    assert main(words) == Exit.OK
    assert "earlier run" in capsys.readouterr().out
    assert (tmp_path / "c.csv").read_bytes() == first
    assert main([*words, "--fresh"]) == Exit.OK
    assert "earlier run" not in capsys.readouterr().out


# --- bad input -----------------------------------------------------------------------------


def refused(words, capsys) -> str:
    """Run, expect exit code 1 and an error with a remedy; what was written to stderr."""
    assert main([str(w) for w in words]) == Exit.ERROR
    err = capsys.readouterr().err
    # On a busy machine a line of progress may stand before it.
    assert any(line.startswith("error: ") for line in err.splitlines())
    assert "What to do:" in err
    assert "Traceback" not in err
    return err


@pytest.mark.usefixtures("faults")
def test_missing_pixel_size_asks_for_mpp(tmp_path, capsys):
    bare = write_slide(tmp_path / "bare.tif", cell_field((300, 300)), mpp=None)
    out = tmp_path / "c.csv"
    assert "--mpp" in refused(["detect", bare, "-o", out], capsys)
    assert not out.exists()
    assert main(["detect", str(bare), "-o", str(out), "--mpp", "0.5"]) == Exit.OK


@pytest.mark.usefixtures("faults")
def test_a_region_outside_the_slide_is_refused(slide, tmp_path, capsys):
    words = ["--region", 9000, 9000, 100, 100]
    assert "region" in refused(["detect", slide, "-o", tmp_path / "c.csv", *words], capsys).lower()


@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize("region", [("0", "0", "0", "10"), ("0", "0", "-5", "10")])
def test_a_region_without_area_is_refused(slide, tmp_path, capsys, region):
    refused(["detect", slide, "-o", tmp_path / "c.csv", "--region", *region], capsys)


def test_an_unknown_suffix_is_refused_before_anything_is_loaded(slide, tmp_path, capsys):
    err = refused(["detect", slide, "-o", tmp_path / "cells.xlsx", "--model", "none"], capsys)
    assert ".parquet, .csv" in err


def test_an_output_folder_that_cannot_be_written_is_refused_first(slide, tmp_path, capsys):
    # A file where a folder should be refuses everybody, root included.
    (tmp_path / "file").write_text("")
    err = refused(["detect", slide, "-o", tmp_path / "file" / "c.csv", "--model", "none"], capsys)
    assert "output folder" in err


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root"
)
def test_a_read_only_output_folder_is_refused_first(slide, tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    err = refused(["detect", slide, "-o", locked / "c.csv", "--model", "none"], capsys)
    assert "output folder" in err


def test_two_slides_of_the_same_name_are_refused(slide, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    twin = write_slide(tmp_path / "b" / slide.name, cell_field((300, 300)))
    err = refused(["detect", slide, twin, "-o", tmp_path / "out", "--model", "none"], capsys)
    assert "same file" in err


def test_an_unknown_model_is_refused(slide, tmp_path, capsys):
    err = refused(["detect", slide, "-o", tmp_path / "c.csv", "--model", "none"], capsys)
    assert "'none'" in err


@pytest.fixture
def wrong_model(tmp_path) -> Path:
    """A model folder whose weights are not those its card names."""
    folder = tmp_path / "models" / "wrong"
    folder.mkdir(parents=True)
    card = fake_card(name="wrong", architecture="celldetr", weights_sha256="0" * 64)
    (folder / "card.json").write_text(card.to_json(), encoding="utf-8")
    save_file({"a": np.zeros(3, np.float32)}, folder / "weights.safetensors")
    return folder


def test_weights_with_another_hash_are_refused_for_all_slides_at_once(
    slide, tmp_path, capsys, wrong_model
):
    other = write_slide(tmp_path / "other.tif", cell_field((300, 300)))
    words = ["detect", slide, other, "-o", tmp_path / "out", "--model", wrong_model]
    err = refused(words, capsys)
    assert "sha256" in err
    assert err.count("error: ") == 1


def test_a_broken_card_is_refused(slide, tmp_path, capsys, wrong_model):
    (wrong_model / "card.json").write_text("{")
    refused(["detect", slide, "-o", tmp_path / "c.csv", "--model", wrong_model], capsys)


# --- outputs -------------------------------------------------------------------------------


def test_one_slide_goes_to_a_file_and_several_to_a_folder(tmp_path):
    a, b = Path("x/a.svs"), Path("x/b.ome.tif")
    assert plan_outputs([a], "r/c.csv")[0].table == Path("r/c.csv")
    assert [o.table for o in plan_outputs([a, b], "r")] == [Path("r/a.csv"), Path("r/b.ome.csv")]
    assert plan_outputs([a], "r/")[0].table == Path("r/a.csv")
    assert plan_outputs([a], str(tmp_path))[0].table == tmp_path / "a.csv"
    one = plan_outputs([a], "r", format="geojson.gz", picture=True)[0]
    assert (one.table, one.picture) == (Path("r/a.geojson.gz"), Path("r/a.overlay.png"))


def test_plan_refuses_a_name_without_format():
    with pytest.raises(ExportError):
        plan_outputs([Path("a.svs")], "cells")


# --- export, models ------------------------------------------------------------------------


@pytest.mark.usefixtures("faults")
def test_export_converts_a_result(slide, tmp_path, capsys):
    first = tmp_path / "cells.parquet"
    assert main(["detect", str(slide), "-o", str(first), *SMALL_TILES]) == Exit.OK
    second = tmp_path / "sub" / "cells.geojson"
    assert main(["export", str(first), str(second), "--slide", str(slide)]) == Exit.OK
    assert f"{len(CENTRES)} cells" in capsys.readouterr().out
    assert len(json.loads(second.read_text())["features"]) == len(CENTRES)
    third = tmp_path / "few.csv"
    assert main(["export", str(first), str(third), "--threshold", "0.75"]) == Exit.OK
    assert all(float(r["score"]) >= 0.75 for r in rows_of(third))


def test_export_refuses_what_it_cannot_read(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    refused(["export", tmp_path / "x.csv", tmp_path / "y.geojson"], capsys)
    refused(["export", tmp_path / "gone.parquet", tmp_path / "y.geojson"], capsys)
    refused(["export", tmp_path / "x.csv", tmp_path / "y.docx"], capsys)


def test_models_of_ones_own_say_where_they_are_and_what_they_lack(tmp_path, capsys, monkeypatch):
    shipped = Path(__file__).parents[1] / "models" / "celldetr-he" / "card.json"
    words = json.loads(shipped.read_text())
    for name, training in (("mine", {}), ("tissue", {"detects": False})):
        (tmp_path / name).mkdir()
        card = words | {"name": "same", "title": name, "training": training}
        (tmp_path / name / "card.json").write_text(json.dumps(card))
    (tmp_path / "tissue" / "weights.safetensors").write_bytes(b"")
    monkeypatch.setenv("CELLDETR_MODELS", str(tmp_path))
    assert main(["models"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    mine = lines[lines.index(f"  in {tmp_path / 'mine'}") - 1 :][:3]
    assert mine[0].startswith("mine ")
    assert "weights are missing" in mine[2]
    tissue = lines[lines.index(f"  in {tmp_path / 'tissue'}") - 1 :][:3]
    assert tissue[0].startswith("tissue ")
    assert "cannot detect" in tissue[2]
    assert not any(line.startswith("same") for line in lines)


def test_models_lists_and_shows_and_checks(tmp_path, capsys, wrong_model, monkeypatch):
    monkeypatch.setenv("CELLDETR_MODELS", str(wrong_model.parent))
    assert main(["models"]) == Exit.OK
    assert "wrong  H&E, 0.5 µm/px: dark, red" in capsys.readouterr().out
    assert main(["models", "wrong"]) == Exit.ERROR
    out, err = capsys.readouterr()
    assert "intended" not in err
    assert "Limits: none" in out
    assert "sha256" in err


# --- screen --------------------------------------------------------------------------------


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def steps(count: int, *, raising: BaseException | None = None, closed: list | None = None):
    try:
        for i in range(count):
            yield Progress(i + 1, count, "detecting", cells=10 * i, seconds=float(i + 1))
        if raising is not None:
            raise raising
    finally:
        if closed is not None:
            closed.append(True)
    return "result"


@pytest.mark.parametrize("err", [StringIO, Terminal])
def test_a_job_is_followed_to_its_result(err):
    result, last = Screen(StringIO(), err()).follow(steps(4), "slide")
    assert result == "result"
    assert last.done == 4


def test_a_terminal_shows_cells_per_second_and_time_left():
    err = Terminal()
    Screen(StringIO(), err).follow(steps(4), "slide")
    assert "cells (" in err.getvalue()
    assert "4/4 tiles" in err.getvalue()


@pytest.mark.parametrize("err", [StringIO, Terminal])
def test_notes_stay_as_lines_of_their_own(err):
    def noted():
        yield Progress(1, 2, "loss 3.61", note="Validation at step 1: F1 detection [0.9]")
        yield Progress(2, 2, "loss 3.60")

    screen = Screen(StringIO(), err())
    screen.follow(noted(), "celldetr-custom", unit="steps")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.err.getvalue()).splitlines()
    assert "Validation at step 1: F1 detection [0.9]" in [line.strip() for line in lines]


def test_the_bar_of_a_training_fits_eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    err = Terminal()

    def job():
        yield Progress(150, 1500, "loss 3.61, F1 .90", seconds=80.6)

    Screen(StringIO(), err).follow(job(), "celldetr-custom", unit="steps")
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", x) for x in err.getvalue().splitlines()]
    assert any("150/1500 steps 12 min 05 s left loss 3.61, F1 .90" in line for line in lines)


def test_a_log_gets_plain_lines(monkeypatch):
    monkeypatch.setattr("napari_celldetr.cli.screen.PLAIN_EVERY_S", 0.0)
    err = StringIO()
    Screen(StringIO(), err).follow(steps(3), "slide")
    lines = err.getvalue().splitlines()
    assert lines[1] == "slide: 2/3 tiles, 10 cells (5/s), 1 s left, detecting"
    assert "\x1b" not in err.getvalue()


def test_a_log_says_nothing_twice_in_a_row(monkeypatch):
    monkeypatch.setattr("napari_celldetr.cli.screen.PLAIN_EVERY_S", 0.0)

    def loading():
        for seconds in range(9):
            yield Progress(0, 4, "loading the model", seconds=float(seconds))
        yield Progress(1, 4, "detecting")
        yield Progress(1, 4, "loading the model")

    err = StringIO()
    Screen(StringIO(), err).follow(loading(), "slide")
    assert err.getvalue().splitlines() == [
        "slide: 0/4 tiles, loading the model",
        "slide: 1/4 tiles, detecting",
        "slide: 1/4 tiles, loading the model",
    ]


def test_an_interrupted_job_is_closed_and_its_last_step_kept():
    closed: list[bool] = []
    job = steps(3, raising=KeyboardInterrupt(), closed=closed)
    with pytest.raises(Interrupted) as stop:
        Screen(StringIO(), StringIO()).follow(job, "slide")
    assert closed == [True]
    assert stop.value.step.done == 3


def test_errors_of_a_job_pass_through():
    with pytest.raises(JobError):
        Screen(StringIO(), StringIO()).follow(steps(1, raising=JobError("no")), "slide")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


# --- Ctrl-C, for real ----------------------------------------------------------------------

PROGRAM = """
import signal
import sys
# A test started in the background of a script inherits Ctrl-C as ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
import fakes
from napari_celldetr.nets import registry
faults = fakes.Faults(seconds=float(sys.argv[2]))
registry.load_model = lambda *a, **k: fakes.FakePredictor(faults=faults)
from napari_celldetr.cli import main
sys.exit(main(sys.argv[3:]))
"""


def start(seconds: float, words: list[str]) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", PROGRAM, here, str(seconds), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tiles_done(workspace: Path) -> int:
    ledgers = list(workspace.glob("*/ledger.sqlite"))
    if not ledgers:
        return 0
    with contextlib.closing(sqlite3.connect(ledgers[0], timeout=1)) as db:
        try:
            return int(db.execute("SELECT count(*) FROM tiles WHERE state='done'").fetchone()[0])
        except sqlite3.OperationalError:
            # The run has made the file but not yet its tables.
            return 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent differently there")
@pytest.mark.usefixtures("faults")
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path, capsys):
    slide = write_slide(tmp_path / "s.tif", cell_field((1500, 1100)))
    workspace, out = tmp_path / "work", tmp_path / "c.csv"
    words = ["detect", str(slide), "-o", str(out), "--workspace", str(workspace), "--batch", "1"]
    run = start(0.3, [*words, *SMALL_TILES])
    deadline = time.monotonic() + 60
    while tiles_done(workspace) < 3 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == Exit.INTERRUPTED, err
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert not out.exists()
    kept = tiles_done(workspace)
    assert kept >= 3

    assert main([*words, *SMALL_TILES]) == Exit.OK
    assert f"{kept} of them from an earlier run" in capsys.readouterr().out
    whole = [*words[:3], str(tmp_path / "whole.csv"), "--batch", "1", *SMALL_TILES]
    assert main([*whole, "--fresh"]) == Exit.OK
    assert (tmp_path / "whole.csv").read_bytes() == out.read_bytes()


# --- training ------------------------------------------------------------------------------

SHORT = ("--batch", "1", "--crop", "64", "--steps", "2", "--warmup", "1", "--workers", "0")
SHORT += ("--device", "cpu", "--precision", "float32")


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """Two patients' fields with labelled points, as a data word."""
    # What a command may do to its own process, it must not do to that of the tests.
    monkeypatch.setattr("napari_celldetr.training.memory.keep_memory", lambda: False)
    folder = tmp_path / "fields"
    for part in ("images", "points"):
        (folder / part).mkdir(parents=True)
    centres = spaced_centres((96, 96))
    kinds = [("red", "blue")[bool(i % 3)] for i in range(len(centres))]
    rows = [f"{x - 0.5:.2f},{y - 0.5:.2f},{k}" for (x, y), k in zip(centres, kinds, strict=True)]
    for patient in ("01", "02"):
        Image.fromarray(draw_cells((96, 96), centres)).save(folder / "images" / f"{patient}_a.png")
        text = "\n".join(["x,y,class", *rows]) + "\n"
        (folder / "points" / f"{patient}_a.csv").write_text(text)
    return f"points:{folder}@0.5"


def test_train_says_where_to_watch_and_how_it_validates(labelled, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", "--data", labelled, "--output", str(out), "--classes", "red,blue"]
    words += ["--hold-out", "02", "--validation", labelled, "--name", "mine", *SHORT]
    assert main(words) == Exit.OK
    shown, err = capsys.readouterr()
    assert f"Watch it in a browser: {out / 'progress.html'}" in err
    assert "Validation, F1" in shown
    assert ["step", "detection", "class", "mean", "red", "blue", "threshold"] in [
        line.split() for line in shown.splitlines()
    ]
    assert "Score threshold 0." in shown
    assert f"Trained model: {out / 'mine'}" in shown
    assert RESEARCH_USE in shown
    card = json.loads((out / "mine" / "card.json").read_text())
    assert card["training"]["precision"] == "float32"
    assert card["class_names"] == ["red", "blue"]
    assert "Training on 1 field of 1 group" in err
    assert "Validation at step 2: F1" in err
    assert main(words) == Exit.OK
    assert "Already finished; nothing was trained" in capsys.readouterr().err
    words += ["--seed", "1"]
    assert "other settings" in refused(words, capsys)
    assert main([*words, "--fresh"]) == Exit.OK


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("", "No data set is named"),
        ("fields", "fields"),
        ("points:fields@wide", "points:fields@wide"),
        ("points:nowhere", "nowhere"),
    ],
)
def test_a_training_that_cannot_begin_names_what_is_wrong(data, named, labelled, tmp_path, capsys):
    out = tmp_path / "run"
    assert named in refused(["train", "--data", data, "--output", out, *SHORT], capsys)
    assert not out.exists()


def test_pretrain_leads_to_train(labelled, tmp_path, capsys):
    folder = Path(labelled.removeprefix("points:").removesuffix("@0.5"))
    (folder / "instances").mkdir()
    for picture in (folder / "images").iterdir():
        dark = np.asarray(Image.open(picture)).mean(axis=2) < 230
        ids, _ = ndimage.label(dark)
        Image.fromarray(ids.astype(np.uint16)).save(folder / "instances" / picture.name)
    out = tmp_path / "pre"
    words = ["pretrain", "--data", f"instances:{folder}@0.5", "--output", str(out), *SHORT]
    assert main(words) == Exit.OK
    assert f"celldetr train --init {out / 'celldetr-pretrained'}" in capsys.readouterr().out
    model = out / "celldetr-pretrained"
    slide = write_slide(tmp_path / "s.tif", draw_cells((96, 96), spaced_centres((96, 96))))
    words = ["detect", slide, "-o", tmp_path / "c.csv", "--model", model]
    assert "cannot detect" in refused(words, capsys)
    words = ["train", "--init", str(model), "--data", labelled, "--classes", "red,blue"]
    assert main([*words, "--output", str(tmp_path / "run"), *SHORT]) == Exit.OK


def test_ablate_prints_its_table_and_reads_it_back(labelled, tmp_path, capsys):
    out = tmp_path / "ablation"
    words = ["ablate", "--data", labelled, "--output", str(out), "--classes", "red,blue"]
    words += ["--hold-out", "02", "--variants", "coupled", *SHORT]
    assert main(words) == Exit.OK
    first = capsys.readouterr().out
    assert "variant" in first
    assert "coupled" in first
    assert str(out / "ablation.md") in first
    assert main(words) == Exit.OK
    assert capsys.readouterr().out == first
    assert "no such variant" in refused([*words, "--variants", "none of ours"], capsys)


@pytest.mark.parametrize("command", ["train", "pretrain", "ablate"])
def test_an_interrupted_training_says_that_it_goes_on(command, labelled, monkeypatch, capsys):
    def job(config):
        yield Progress(1, 9, "step 1 of 9")
        raise KeyboardInterrupt

    monkeypatch.setattr(f"napari_celldetr.training.{command}.{command}", job)
    assert main([command, "--data", labelled]) == Exit.INTERRUPTED
    assert "the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "ablate", "crossvalidate"])
def test_an_interrupted_training_names_the_step_it_goes_on_from(
    command, labelled, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    words = [command, "--data", labelled, "--output", str(out), "--classes", "red,blue", *SHORT]
    words += {
        "ablate": ["--variants", "coupled", "--hold-out", "02"],
        "crossvalidate": ["--folds", "2"],
    }.get(command, [])
    real = PlainMeter.show

    def pressed(self, step):
        real(self, step)
        if step.done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(PlainMeter, "show", pressed)
    assert main(words) == Exit.INTERRUPTED
    assert "goes on from step 1 of 2" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("napari_celldetr.training.memory.keep_memory", lambda: False)
    assert main(words) == Exit.OK


@pytest.mark.parametrize("command", ["evaluate", "crossvalidate"])
@pytest.mark.parametrize("radii", [["2", "4"], ["2,4"], ["2,", "4"]])
def test_radii_are_taken_with_spaces_and_with_commas(command, radii):
    words = [command, "--data", "points:x", "--radii-um", *radii]
    kind = {"evaluate": EvaluateConfig, "crossvalidate": CrossvalidateConfig}[command]
    assert config_from(build_parser(words).parse_args(words), kind).radii_um == (2.0, 4.0)


def documented() -> list[str]:
    """Every example of a `celldetr` command in docs/cli.md."""
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    blocks = "\n".join(text.split("```")[1::2]).replace("\\\n", " ")
    return [line for line in blocks.splitlines() if line.startswith("celldetr ")]


@pytest.mark.parametrize("example", documented())
def test_the_documented_commands_are_commands(example):
    words = shlex.split(example, comments=True)[1:]
    args = build_parser(words).parse_args(words)
    configs = {"train": TrainConfig, "pretrain": PretrainConfig, "ablate": AblateConfig}
    if args.command in configs:
        config = config_from(args, configs[args.command])
        assert parse_data(config.data or f"points:{config.images}")


def test_training_keeps_its_memory(labelled, monkeypatch):
    called = []
    monkeypatch.setattr(
        "napari_celldetr.training.memory.keep_memory", lambda: called.append(1) or True
    )
    for command in ("train", "pretrain", "ablate"):
        assert main([command, "--data", "nonsense"]) == Exit.ERROR
    assert len(called) == 3


# --- with the real model -------------------------------------------------------------------


@pytest.fixture
def he_model() -> str:
    folder = Path(__file__).parents[1] / "models" / "celldetr-he"
    if not (folder / "card.json").is_file():
        pytest.skip("the model celldetr-he is not in this checkout")
    return str(folder)


def test_the_real_model_finds_cells_in_a_real_slide(shared_data, tmp_path, he_model, capsys):
    slide = shared_data / "slides" / "CMU-1-Small-Region.svs"
    out = tmp_path / "cells.csv"
    words = ["--region", "700", "700", "500", "500", "--model", he_model, "--device", "cpu"]
    assert main(["detect", str(slide), "-o", str(out), *words]) == Exit.OK, capsys.readouterr().err
    # The epithelium in this half millimetre square holds a few hundred nuclei.
    assert 100 < len(rows_of(out)) < 1500
