"""The doctor sees what is wrong, and never falls ill itself."""

from __future__ import annotations

import hashlib
import subprocess

import numpy as np
import pytest
from fakes import fake_card
from safetensors.numpy import save_file

from napari_celldetr.cli import main
from napari_celldetr.cli.exits import Exit
from napari_celldetr.pipeline import doctor
from napari_celldetr.pipeline.doctor import FAIL, OK, WARN, Check, examine


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder of models with a good one; the installed ones are not looked at."""
    folder = tmp_path / "models" / "good"
    folder.mkdir(parents=True)
    save_file({"a": np.zeros(3, np.float32)}, folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    card = fake_card(name="good", weights_sha256=digest)
    (folder / "card.json").write_text(card.to_json(), encoding="utf-8")
    monkeypatch.setattr(
        "napari_celldetr.nets.registry.model_folders", lambda: [tmp_path / "models"]
    )
    return tmp_path / "models"


@pytest.fixture
def no_viewer(monkeypatch):
    """napari and OpenGL are not started."""
    monkeypatch.setattr(doctor, "_in_own_process", lambda code: (False, "no Qt"))


@pytest.mark.usefixtures("models")
def test_a_working_installation_has_nothing_that_fails():
    checks = {check.name: check for check in examine()}
    assert {c.name for c in checks.values() if c.state == FAIL} == set()
    for name in ("Python", "torch", "openslide", "imagecodecs", "model good", "run cache"):
        assert checks[name].state == OK
    assert checks["napari"].state == OK
    assert "hash as the card says" in checks["model good"].found


@pytest.mark.usefixtures("no_viewer")
def test_without_a_viewer_the_rest_still_works(models):
    checks = {check.name: check for check in examine()}
    assert checks["napari"].state == WARN
    assert checks["napari"].remedy


@pytest.mark.usefixtures("no_viewer")
def test_changed_weights_are_found(models, capsys):
    (models / "good" / "weights.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}changed")
    assert main(["doctor"]) == Exit.ERROR
    shown = capsys.readouterr().out
    assert "fail  model good:" in shown
    assert "do: take the model folder again" in shown


@pytest.mark.usefixtures("no_viewer")
def test_missing_models_and_a_useless_cache_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_celldetr.nets.registry.model_folders", list)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CELLDETR_CACHE", str(tmp_path / "file" / "cache"))
    checks = {check.name: check for check in examine()}
    assert checks["models"].state == FAIL
    assert checks["run cache"].state == FAIL
    assert "CELLDETR_CACHE" in checks["run cache"].remedy


def test_a_library_that_cannot_be_imported_is_named():
    check = doctor._library("no_such_module", "numpy", str, "install it")
    expected = Check("no_such_module", FAIL, check.found, "install it")
    assert check == expected
    assert "ModuleNotFoundError" in check.found


def test_a_probe_that_dies_or_hangs_is_reported(monkeypatch):
    assert doctor._in_own_process("import os; os.abort()")[0] is False
    assert doctor._in_own_process("print('fine')") == (True, "fine")
    assert "ValueError: bad" in doctor._in_own_process("raise ValueError('bad')")[1]

    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    assert "TimeoutExpired" in doctor._in_own_process("")[1]


def test_without_a_display_opengl_is_not_tried(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert doctor._opengl().state == WARN
