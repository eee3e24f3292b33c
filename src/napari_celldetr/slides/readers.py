"""open_slide: the one door to every slide."""

from __future__ import annotations

import os
from pathlib import Path

from napari_celldetr.slides.formats import Reader, open_backend, read_head, refuse_bombs
from napari_celldetr.slides.probe import probe as probe_file
from napari_celldetr.slides.slide import Slide

__all__ = ["Reader", "open_slide"]


def open_slide(
    path: str | os.PathLike[str], *, mpp: float | None = None, probe: bool = True
) -> Slide:
    """Open a slide of any known format.

    Parameters
    ----------
    path : file, or folder of an OME-Zarr
    mpp : float, optional
        µm per level-0 px, replacing what the file says.
    probe : bool
        Try an unknown file first in a limited child process (about half a second, once a file).

    Raises
    ------
    SlideError
        When the path is not a slide, is damaged, or would cost more than is sane.
    """
    place = Path(path)
    head = read_head(place)
    refuse_bombs(place, head)
    if probe:
        probe_file(place)
    backend = open_backend(place, head)
    try:
        return Slide(place, backend, mpp=mpp)
    except BaseException:
        backend.close()
        raise
