"""The jobs behind *Align slides*: all that takes time, and nothing that touches the viewer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import CellDETRError, JobError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.transform import ErrorMap, SlideTransform, TransformError
from napari_celldetr.gui.detect_job import SlideSource
from napari_celldetr.gui.landmarks import Pair
from napari_celldetr.gui.warped import WarpedPyramid
from napari_celldetr.pipeline.register import RegisterConfig
from napari_celldetr.pipeline.slide_pair import check_stains, refuse_same
from napari_celldetr.pipeline.warp import Mover

if TYPE_CHECKING:
    from napari_celldetr.pipeline.import_transform import Physical
    from napari_celldetr.slides.slide import Slide

VEIL_PX = 320
"""Pixels along the longer side of the picture of what is left out."""
ROWS_AT_ONCE = 32

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AlignRequest:
    """What the user asked for; `landmarks` in level-0 px.

    `levels` are the H&E layer's arrays, finest first, of which its picture on the IHC is made.
    """

    he: SlideSource
    ihc: SlideSource
    config: RegisterConfig = field(default_factory=RegisterConfig)
    landmarks: tuple[Pair, ...] = ()
    levels: Sequence[Any] = ()


@dataclass(frozen=True)
class Veil:
    """The error map as the IHC slide sees it.

    Attributes
    ----------
    error_um, tissue : (h, w)
        Expected error, NaN where unknown; and the H&E's share of tissue, over the IHC's frame.
    factor : float
        IHC level-0 px per pixel.
    """

    error_um: Floats
    tissue: Floats
    factor: float

    def left_out(self, limit_um: float) -> NDArray[np.uint8]:
        """1 where there is tissue whose error is over the limit or unknown, (h, w)."""
        return ((self.tissue > 0) & ~(self.error_um <= limit_um)).astype(np.uint8)


@dataclass(frozen=True)
class Aligned:
    """A transform, ready to be shown.

    `veil` is None where nobody measured the error; `pyramid` is the H&E's picture on the IHC,
    None where it has still to be made.
    """

    transform: SlideTransform
    veil: Veil | None
    pyramid: WarpedPyramid | None = None


def align_job(request: AlignRequest) -> Job[Aligned]:
    """Open both slides and find where one lies on the other. `CellDETRError` when that fails."""
    from napari_celldetr.pipeline.register import register

    return _guarded(
        request,
        lambda he, ihc: register(he, ihc, request.config, landmarks=request.landmarks),
    )


def load_job(request: AlignRequest, path: Path, physical: Physical | None = None) -> Job[Aligned]:
    """Take over a transform from a file; one that comes without an error map is measured here."""
    return _guarded(request, lambda he, ihc: _loaded(request, path, physical, he, ihc))


def _loaded(
    request: AlignRequest, path: Path, physical: Physical | None, he: Slide, ihc: Slide
) -> Job[SlideTransform]:
    from napari_celldetr.pipeline.import_transform import import_transform
    from napari_celldetr.pipeline.register import frame_of, measure

    yield Progress(0, 0, f"reading {path.name}")
    found = import_transform(path, frame_of(he), frame_of(ihc), physical)
    if found.error_map is not None:
        return found
    found = replace(found, limit_um=request.config.limit_um)
    return (yield from measure(he, ihc, found))


def says_lengths(path: Path) -> bool:
    """Whether a file says itself what its numbers mean: one of ours, or pairs of points."""
    from napari_celldetr.core.transform import KIND
    from napari_celldetr.pipeline.import_transform import PAIR_COLUMNS, PICKLES

    if path.suffix.lower() in PICKLES or not path.is_file():
        # It is refused, with words of its own.
        return True
    with path.open("rb") as file:
        head = file.read(2000).decode("utf-8", "replace")
    return f'"{KIND}"' in head or all(name in head for name in PAIR_COLUMNS)


def _guarded(
    request: AlignRequest, work: Callable[[Slide, Slide], Job[SlideTransform]]
) -> Job[Aligned]:
    try:
        yield Progress(0, 0, "opening the slides")
        with request.he.open() as he, request.ihc.open() as ihc:
            refuse_same(he, ihc)
            notes = check_stains(he, ihc)
            transform = yield from work(he, ihc)
            transform = replace(transform, notes=(*notes, *transform.notes))
        yield Progress(0, 0, "preparing the view")
        veil = None
        if transform.error_map is not None:
            veil = yield from make_veil(transform, transform.error_map)
        pyramid = None
        if request.levels:
            pyramid = WarpedPyramid(request.levels, Mover(transform))
            yield from pyramid.prepare()
        return Aligned(transform, veil, pyramid)
    except CellDETRError:
        raise
    except MemoryError as error:
        raise JobError(
            "There was not enough memory to align the slides.",
            expected="room for both slides at the resolution that is compared",
            found=str(error)[:200] or "MemoryError",
            remedy="close other programs and try again",
        ) from error
    except Exception as error:
        raise JobError(
            "The alignment stopped because of an unexpected error.",
            found=f"{type(error).__name__}: {error}"[:300],
            remedy="try again; if it comes back, report it with this text",
        ) from error


def make_veil(transform: SlideTransform, errors: ErrorMap) -> Generator[Progress, None, Veil]:
    """The error map over the frame of the IHC slide, a few rows at a time."""
    size = np.array(transform.ihc.size)
    factor = max(1.0, float(size.max()) / VEIL_PX)
    columns, rows = (int(np.ceil(s / factor - 1e-9)) for s in size)
    error, tissue = np.full((rows, columns), np.nan), np.zeros((rows, columns))
    x = (np.arange(columns) + 0.5) * factor
    for top in range(0, rows, ROWS_AT_ONCE):
        y = (np.arange(top, min(top + ROWS_AT_ONCE, rows)) + 0.5) * factor
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        um = on_he(transform, points) * transform.he.mpp
        part = slice(top, top + len(y))
        error[part] = errors.at(um).reshape(len(y), -1)
        tissue[part] = errors.tissue_at(um).reshape(len(y), -1)
        yield Progress(top, rows, "preparing the view")
    return Veil(error, tissue, factor)


def on_he(transform: SlideTransform, points: Floats) -> Floats:
    """H&E level-0 px (N, 2); far off the slide where the displacement has no inverse."""
    try:
        return transform.inverse(points)
    except TransformError:
        return np.full((len(points), 2), -1e9)
