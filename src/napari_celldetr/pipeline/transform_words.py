"""How the H&E lies on the IHC and how well that is known, in the same words everywhere."""

from __future__ import annotations

import numpy as np

from napari_celldetr.core.transform import SlideTransform


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


def accuracy_words(transform: SlideTransform) -> str:
    """The expected error where it is known: median, and what nine tenths stay below."""
    errors = transform.error_map
    if errors is None:
        return "How far off it is was not measured."
    known = errors.error_um[(errors.tissue > 0) & np.isfinite(errors.error_um)]
    if not len(known):
        return "How far off it is could not be measured anywhere."
    half, most = np.percentile(known, (50, 90))
    return (
        f"Expected error where it is known: about {um_words(half)} (median), at most "
        f"{um_words(most)} in nine tenths of that tissue."
    )


def share_words(transform: SlideTransform) -> str:
    """How much of the tissue is left out, and how much of it only for want of knowledge."""
    errors = transform.error_map
    if errors is None:
        return "Nothing is left out: the error was not measured."
    whole, unknown = errors.excluded_share(transform.limit_um), errors.unknown_share()
    said = f"{100 * whole:.1f} % of the tissue is left out"
    if not whole:
        return f"{said}."
    over = max(whole - unknown, 0.0)
    return (
        f"{said}: {100 * over:.1f} % with an error over {transform.limit_um:g} µm, "
        f"{100 * unknown:.1f} % where it is not known."
    )


def um_words(um: float) -> str:
    """``0.8 µm``, ``12 µm``."""
    return f"{um:.1f} µm" if um < 9.95 else f"{um:,.0f} µm"
