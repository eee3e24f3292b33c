"""Open a slide, look at what it is, and read one region at 1 µm/px.

Run it as ``python examples/read_a_region.py [SLIDE]``; without a slide one is generated.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from napari_celldetr import Region, open_slide
from napari_celldetr.slides.synthetic import make_he_slide
from napari_celldetr.slides.tissue import tissue_mask


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "slide.ome.tif"
        if not path.exists():
            make_he_slide(path, size=(1024, 768), seed=1)
        with open_slide(path) as slide:
            print(slide.name, slide.size, "px,", slide.mpp, "µm/px from", slide.mpp_source)
            region = Region(200, 100, 400, 300)
            pixels = slide.read(region, mpp=1.0)
            print("a region of 400 × 300 px, read at 1 µm/px:", pixels.shape)
            print("tissue in it:", f"{tissue_mask(slide).fraction(region):.0%}")


if __name__ == "__main__":
    main()
