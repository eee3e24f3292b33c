"""What *Align slides* says: progress, result and failure, in a pathologist's words."""

from __future__ import annotations

import numpy as np

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Progress
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.register import RegistrationError

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
    "or try File › Open Sample › CellDETR › H&E and IHC sections to align."
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


def turn_words(transform: SlideTransform) -> str:
    """How the H&E has to be turned to lie on the IHC: ``turned by 140° clockwise, mirrored``."""
    matrix = transform.affine[:, :2]
    mirrored = bool(np.linalg.det(matrix) < 0)
    angle = float(np.degrees(np.arctan2(matrix[1, 1], matrix[0, 1]))) - 90
    angle = (angle + 180) % 360 - 180
    way = "clockwise" if angle > 0 else "counter-clockwise"
    turned = f"turned by {abs(angle):.0f}° {way}" if abs(angle) >= 0.5 else "not turned"
    return f"{'mirrored and ' if mirrored else ''}{turned}"


def size_words(transform: SlideTransform) -> str:
    """A difference in size worth telling: ``3 % larger``; empty below 2 %."""
    scale = float(np.sqrt(abs(np.linalg.det(transform.affine[:, :2]))))
    percent = round(100 * (scale - 1))
    if abs(percent) < 2:
        return ""
    return f"{abs(percent)} % {'larger' if percent > 0 else 'smaller'}"


def result_words(transform: SlideTransform) -> str:
    """What was found, in two or three sentences."""
    parts = [turn_words(transform), size_words(transform)]
    said = [f"To lie on the IHC, the H&E is {', '.join(p for p in parts if p)}."]
    errors = transform.error_map
    if errors is None:
        said.append("How far off it is was not measured.")
    else:
        known = errors.error_um[(errors.tissue > 0) & np.isfinite(errors.error_um)]
        if len(known):
            half, most = np.percentile(known, (50, 90))
            said.append(
                f"Expected error: about {um_words(half)} (median), at most {um_words(most)} in "
                "nine tenths of the tissue."
            )
    return " ".join((*said, *transform.notes))


def um_words(um: float) -> str:
    """``0.8 µm``, ``12 µm``."""
    return f"{um:.1f} µm" if um < 9.95 else f"{um:,.0f} µm"


def share_words(transform: SlideTransform) -> str:
    """How much of the tissue is left out."""
    share = transform.excluded_share
    if share is None:
        return "Nothing is left out: the error was not measured."
    return f"{100 * share:.1f} % of the tissue is left out (grey)."


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
