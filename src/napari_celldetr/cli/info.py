"""`celldetr info`: what a slide is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.screen import Screen
from napari_celldetr.core.errors import CellDETRError

if TYPE_CHECKING:
    from napari_celldetr.slides.slide import Slide
    from napari_celldetr.slides.tissue import TissueMask


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `info`."""
    parser.add_argument("slides", nargs="+", type=Path, metavar="SLIDE")
    parser.add_argument("--mpp", type=float, help="µm per pixel to use instead of the file's")


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Print what each slide is; one that cannot be opened does not stop the others."""
    outcome = Exit.OK
    for path in args.slides:
        try:
            _show(path, args.mpp, screen)
        except CellDETRError as error:
            screen.error(error, about=path.name)
            outcome = Exit.ERROR
    return outcome


def _show(path: Path, mpp: float | None, screen: Screen) -> None:
    from napari_celldetr.slides.readers import open_slide

    with open_slide(path, mpp=mpp) as slide:
        screen.say(slide.name)
        screen.rows(_facts(slide), indent=2)
        for warning in slide.warnings:
            screen.say(f"  warning: {warning}")


def _facts(slide: Slide) -> list[tuple[str, str]]:
    from napari_celldetr.slides.tissue import tissue_mask

    width, height = slide.size
    bounds = slide.bounds
    facts = [
        ("size", f"{width} × {height} px" + _physical(slide.size, slide.mpp)),
        ("levels", _levels(slide)),
        ("pixel size", _pixel_size(slide)),
        ("objective", f"{slide.objective:g}×" if slide.objective else "not stated"),
        ("tissue", _tissue(tissue_mask(slide), slide)),
        ("identity", slide.identity()[:16]),
    ]
    if (bounds.x, bounds.y, bounds.width, bounds.height) != (0, 0, width, height):
        where = f"{bounds.width} × {bounds.height} px at {bounds.x}, {bounds.y}"
        facts.insert(1, ("scanned part", where))
    return facts


def _levels(slide: Slide) -> str:
    stored = slide.real_levels
    sizes = [(*slide.level_sizes[i], slide.downsamples[i]) for i in stored]
    text = ", ".join(f"{w} × {h} (1/{step:g})" for w, h, step in sizes)
    lazy = len(slide.level_sizes) > len(stored)
    return text + ("; smaller ones are made when needed" if lazy else "")


def _physical(size: tuple[int, int], mpp: tuple[float, float] | None) -> str:
    if mpp is None:
        return ""
    return f" ({size[0] * mpp[0] / 1000:.2f} × {size[1] * mpp[1] / 1000:.2f} mm)"


def _pixel_size(slide: Slide) -> str:
    if slide.mpp is None:
        return f"not known ({slide.mpp_source}); give it with --mpp"
    x, y = slide.mpp
    value = f"{x:.4g}" if abs(x - y) < 1e-6 else f"{x:.4g} × {y:.4g}"
    return f"{value} µm/px (from: {slide.mpp_source})"


def _tissue(mask: TissueMask, slide: Slide) -> str:
    share = float(mask.array.mean())
    area = "" if slide.mpp is None or mask.area_um2 is None else f"{mask.area_um2 / 1e6:.2f} mm², "
    return f"{area}{share:.0%} of the slide"
