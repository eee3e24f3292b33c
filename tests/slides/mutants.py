"""Child process: open and read damaged slides, one line of JSON for each.

Arguments: folder of whole slides, folder to work in, first seed, how many. Every mutant is
opened without the trial opening, which is harder than what a user meets.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path

from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.regions import Region
from napari_celldetr.slides.readers import open_slide

NASTY = [0, 1, 2, 0x7F, 0x80, 0xFF]


def mutate(path: Path, chance: random.Random) -> None:
    """Damage a file, or one file of a folder, in one of several ways."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        described = [p for p in files if p.name.startswith(".z") or p.suffix == ".json"]
        path = chance.choice(described if chance.random() < 0.7 else files)
    data = bytearray(path.read_bytes())
    # Headers and directories sit at the start or the end: half of the damage goes there.
    for _ in range(chance.choice([1, 1, 3, 20])):
        if not data:
            break
        at = chance.randrange(len(data))
        if chance.random() < 0.5:
            near = chance.randrange(min(600, len(data)))
            at = near if chance.random() < 0.5 else len(data) - 1 - near
        kind = chance.randrange(5)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + 4] = bytes(chance.choice(NASTY) for _ in data[at : at + 4])
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + chance.randrange(1, 64)]
        else:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 64)))
    path.write_bytes(bytes(data))


def use(path: Path) -> str:
    """Open and read here and there; the outcome in a word."""
    try:
        with open_slide(path, probe=False) as slide:
            width, height = slide.size
            for x, y in ((0, 0), (width // 2, height // 2), (width - 200, height - 200)):
                slide.read(Region(x, y, 256, 256))
            for level in range(1, min(len(slide.level_sizes), 5)):
                slide.read_level(level, 0, 0, 128, 128)
            slide.identity()
    except SlideError:
        return "refused"
    return "read"


def main() -> None:
    """Make, try and report every mutant."""
    warnings.simplefilter("error")
    whole, work = Path(sys.argv[1]), Path(sys.argv[2])
    originals = sorted(whole.iterdir())
    for original in originals:
        assert use(original) == "read", original.name
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(int(sys.argv[3]), int(sys.argv[3]) + int(sys.argv[4])):
        chance = random.Random(seed)
        original = originals[seed % len(originals)]
        path = work / f"{seed}_{original.name}"
        shutil.copytree(original, path) if original.is_dir() else shutil.copy(original, path)
        mutate(path, chance)
        print(json.dumps({"seed": seed, "name": original.name}), flush=True)
        start = time.monotonic()
        try:
            outcome = use(path)
        except Exception as error:  # noqa: BLE001 - finding any other kind is the point
            outcome = f"{type(error).__name__}: {error}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
        report = {"seed": seed, "outcome": outcome, "s": time.monotonic() - start, "gib": grown}
        print(json.dumps(report), flush=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
