import os
import subprocess
import sys

import pytest

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
