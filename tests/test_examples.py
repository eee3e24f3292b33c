"""Every example runs and says what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

SAYS = {
    "detect_to_table": ("cells: {", "sure.geojson"),
    "embeddings": ("numbers each, in cells.parquet", "most like the first cell:"),
    "own_model": ("blobs;", "cells were drawn"),
    "read_a_region": ("(150, 200, 3)", "tissue in it:"),
    "teach_a_head": ("kept aside", "changed class", "as before: True"),
}
"""What each prints; a new example needs a line here."""

NEEDS_MODEL = {
    "detect_to_table": "celldetr-he",
    "embeddings": "celldetr-he",
    "teach_a_head": "celldetr-he",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path, tmp_path):
    model = NEEDS_MODEL.get(path.stem)
    if model is not None and not (ROOT / "models" / model / "card.json").is_file():
        pytest.skip(f"the model {model} is not in this checkout")
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    for text in SAYS[path.stem]:
        assert text in ran.stdout
