"""The package keeps its own rules: what it loads, who imports whom, what its manifest names."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import napari_celldetr

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "timm", "qtpy", "PySide6", "PyQt5", "PyQt6", "napari", "vispy", "magicgui")

REPORT = "\nimport sys; print('loaded:', *(m for m in {heavy} if m in sys.modules))"


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after running `code`."""
    program = code + REPORT.format(heavy=HEAVY)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines()[-1].removeprefix("loaded:").split())


QUICK = {
    "the package": "import napari_celldetr",
    "core": "import napari_celldetr.core.merge, napari_celldetr.core.metrics",
    "slides": "import napari_celldetr.slides.readers, napari_celldetr.slides.tissue",
    "the pipeline": "import napari_celldetr.pipeline.detect, napari_celldetr.pipeline.export",
    "the registry": "from napari_celldetr import list_models; list_models()",
    "the help": "from napari_celldetr.cli import main; main(['--help']); main(['detect', '-h'])",
    "the training flags": "from napari_celldetr.cli import main; main(['train', '--help'])",
}


@pytest.mark.parametrize("what", QUICK)
def test_loads_neither_torch_nor_qt(what):
    assert loaded_by(QUICK[what]) == set()


def test_the_manifest_and_what_it_names_load_no_torch():
    code = """
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution("napari-celldetr")
for command in manifest.contributions.commands or []:
    module, _, name = command.python_name.partition(":")
    assert hasattr(__import__(module, fromlist=[name]), name), command
"""
    assert "torch" not in loaded_by(code)


def test_every_public_name_is_there():
    for name in napari_celldetr.__all__:
        assert getattr(napari_celldetr, name) is not None
    assert set(dir(napari_celldetr)) == set(napari_celldetr.__all__)
    with pytest.raises(AttributeError):
        _ = napari_celldetr.nonsense


def test_entry_points_are_installed():
    scripts = {e.name: e.value for e in entry_points(group="console_scripts")}
    assert scripts["celldetr"] == "napari_celldetr.cli:main"
    manifests = {e.name: e.value for e in entry_points(group="napari.manifest")}
    assert manifests["napari-celldetr"] == "napari_celldetr:napari.yaml"


def tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(name)), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def test_imports_go_one_way():
    ran = tool("lint-imports", "--no-cache")
    assert ran.returncode == 0, ran.stdout


def test_the_manifest_is_valid():
    ran = tool("npe2", "validate", "napari-celldetr", "--imports")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def repository_texts() -> list[Path]:
    """Every text file that git knows; empty outside a checkout."""
    ran = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=60)
    names = [n for n in ran.stdout.decode().split("\0") if n]
    kinds = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ""}
    return [ROOT / n for n in names if Path(n).suffix in kinds and (ROOT / n).is_file()]


def test_no_text_names_a_registry_or_carries_a_lock_with_addresses():
    # Written in two halves so that this file does not name them itself.
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "anaconda" + ".org", "npmjs" + ".org"]
    files = repository_texts()
    assert not [f for f in files if f.name == "uv.lock"]
    naming = [f for f in files if any(h in f.read_text("utf-8", "replace") for h in hosts)]
    assert naming == []


def test_the_constraints_pin_what_the_dependencies_ask_for():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    for wanted in map(Requirement, [*project["dependencies"], *extras]):
        found = [p for p in pins if canonicalize_name(p.name) == canonicalize_name(wanted.name)]
        assert found, f"{wanted.name} is not pinned: run make lock"
        for pin in found:
            (version,) = (s.version for s in pin.specifier)
            assert wanted.specifier.contains(version), f"{pin} does not satisfy {wanted}"
