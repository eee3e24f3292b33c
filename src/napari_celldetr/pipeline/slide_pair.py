"""Two slides are a pair when they are an H&E and an IHC: not one file twice, not exchanged.

Asked before any work, since a slide lies on itself perfectly and a network would look for tumour
in the wrong stain. A stain that cannot be told from its colours passes.
"""

from __future__ import annotations

from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.her2.stain_kind import guess_stain
from napari_celldetr.slides.slide import Slide


def refuse_same(he: Slide, ihc: Slide) -> None:
    """`SlideError` where both are the same pixels."""
    if he.identity() == ihc.identity():
        raise SlideError(
            "The H&E and the IHC are the same slide.",
            expected="an H&E slide and an IHC slide, two files",
            found=f"{ihc.name!r} twice",
            remedy="choose the other slide for one of the two",
        )


def refuse_other_pair(transform: SlideTransform, he: Slide | None, ihc: Slide) -> None:
    """`TransformError`, with the slides' names, where a transform is that of other slides."""
    transform.check_slides(
        None if he is None else he.identity(),
        ihc.identity(),
        he_name="" if he is None else he.name,
        ihc_name=ihc.name,
    )


def check_stains(he: Slide, ihc: Slide) -> tuple[str, ...]:
    """Sentences about a slide that looks stained as the other should be.

    Raises
    ------
    SlideError
        Both do: they are exchanged. Or one cannot be read.
    """
    first, second = guess_stain(he), guess_stain(ihc)
    is_brown, is_pink = first.kind == "H-DAB", second.kind == "H&E"
    if is_brown and is_pink:
        raise SlideError(
            "The H&E and the IHC slide are exchanged.",
            expected="the H&E slide first, then the IHC",
            found=f"{he.name!r} as H&E ({first.why}), {ihc.name!r} as IHC ({second.why})",
            remedy="give them the other way round",
        )
    notes = []
    if is_brown:
        notes.append(f"The slide given as H&E, {he.name!r}, looks like IHC: {first.why}.")
    if is_pink:
        notes.append(f"The slide given as IHC, {ihc.name!r}, looks like H&E: {second.why}.")
    return tuple(f"{note} Check that the two are not exchanged." for note in notes)
