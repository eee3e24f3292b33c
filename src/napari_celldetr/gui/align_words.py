"""What *Align slides* says: progress, result and failure, in a pathologist's words."""

from __future__ import annotations

import numpy as np

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Progress
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.register import RegistrationError
from napari_celldetr.pipeline.transform_words import (
    accuracy_words,
    share_words,
    size_words,
    turn_words,
    um_words,
)

STEPS = {
    "features": "Looking for common structures",
    "trying rotations": "Trying every rotation, mirrored ones too",
    "comparing starts": "Comparing the best positions",
    "affine": "Improving turn, size and position",
    "comparing tissue": "Checking that it is the same tissue",
    "bending": "Following where the tissue is stretched",
    "measuring the error": "Measuring how far off it still is",
    "opening the slides": "Opening the slides",
    "preparing the view": "Preparing the view",
}
EMPTY_TEXT = (
    "Two slides are needed: an H&E and an IHC of the same block. Drag their files into the window, "
    "or try File › Open Sample › CellDETR › H&E and IHC sections, for aligning only."
)
LANDMARK_HELP = (
    "What to do: check that both slides are of one block. If they are, press Set landmarks under "
    "Landmarks and click at least three places that you know again on both slides, spread over "
    "the tissue. Then press Align with landmarks."
)


def step_words(step: Progress) -> str:
    """``Bending … · step 5 of 12``."""
    said = step.message.removesuffix(" (stages)")
    text = STEPS.get(said, said[:1].upper() + said[1:])
    return f"{text}…" if not step.total else f"{text}… (step {step.done + 1} of {step.total})"


def result_words(transform: SlideTransform) -> str:
    """What was found, in two or three sentences."""
    parts = [turn_words(transform), size_words(transform)]
    said = f"To lie on the IHC, the H&E is {', '.join(p for p in parts if p)}."
    return " ".join((said, accuracy_words(transform), *transform.notes))


def left_out_words(transform: SlideTransform) -> str:
    """How much of the tissue is left out, and how that is shown."""
    said = share_words(transform)
    return f"{said} It is grey." if transform.excluded_share else said


def failure_words(error: CellDETRError) -> str:
    """Why there is no alignment; of tissue that does not match, without the figures behind it."""
    told = error.found and not isinstance(error, RegistrationError)
    found = f" Found: {error.found}." if told else ""
    return f"Not aligned. {error.message}{found}"


def error_words(error_um: float | None, *, trusted: bool) -> str:
    """What is known of a place under the cursor; empty off the tissue."""
    if error_um is None:
        return ""
    if np.isnan(error_um):
        return "Here: not known how far off; left out"
    out = "" if trusted else "; left out"
    return f"Here: up to about {um_words(error_um)} off{out}"
