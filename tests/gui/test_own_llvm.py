import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from napari_celldetr import gui

CODE = """
import sys
before = sys.getdlopenflags()
from napari_celldetr.gui.own_llvm import import_triton_apart
import_triton_apart()
import_triton_apart()
assert sys.getdlopenflags() == before
assert "torch" not in sys.modules or "triton" in sys.modules
print("triton" in sys.modules)
"""


@pytest.mark.skipif(not hasattr(os, "RTLD_DEEPBIND"), reason="only Linux has the problem")
def test_triton_is_imported_and_the_flags_are_put_back():
    from importlib.util import find_spec

    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == str(find_spec("triton") is not None)


def test_whatever_loads_a_network_in_the_viewer_keeps_the_llvms_apart():
    """A process that draws dies where torch is imported without it; by chance, not every time."""
    loads = re.compile(
        r"\b(load_(model|patch_predictor|pixel_predictor)|installed_networks|share_lesson|finetune)"
        r"\("
    )
    files = Path(gui.__file__).parent.glob("*.py")
    loading = {f.name: f.read_text() for f in files if loads.search(f.read_text())}
    assert {"detect_job.py", "her2_network.py", "her2_report.py", "tumour_job.py"} <= set(loading)
    assert [n for n, text in loading.items() if "import_triton_apart()" not in text] == []
