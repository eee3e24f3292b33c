"""What a person changed that moves a score, in words that stand beside it wherever it is shown."""

from __future__ import annotations

from dataclasses import fields

from napari_celldetr.core.her2 import Cutoffs

_NAMES = {"trace": "stained"}
_SHARES = ("complete", "trace")


def changed_cutoffs(cutoffs: Cutoffs) -> str:
    """``intense 0.40 instead of 0.60``, one for each that is not the usual one; '' for none."""
    usual = Cutoffs()
    names = [f.name for f in fields(Cutoffs) if getattr(cutoffs, f.name) != getattr(usual, f.name)]
    return ", ".join(
        f"{_NAMES.get(n, n)} {_value(n, cutoffs)} instead of {_value(n, usual)}" for n in names
    )


def _value(name: str, cutoffs: Cutoffs) -> str:
    value = getattr(cutoffs, name)
    return f"{100 * value:g} %" if name in _SHARES else f"{value:.2f}"


def remarks(cutoffs: Cutoffs, gain: float | None) -> list[str]:
    """Sentences on changed cut-offs, and on a control that made the stain `gain` times as dark.

    `gain` is None without a control.
    """
    changed = changed_cutoffs(cutoffs)
    found = [f"Cut-offs changed: {changed}."] if changed else []
    if gain is not None:
        found.append(f"Stain evened out to a control: DAB × {gain:.2f}.")
    return found
