"""What *Review cells* says of cells, answers, corrections and saving, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from napari_celldetr.core.annotations import SAID, Status
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.tool_kinds import Proposal

NO_CELL = 0.05
"""A lower score is as good as none."""


def proposal_words(proposal: Proposal, threshold: float) -> str:
    """What the model sees where it was asked, and how sure it is."""
    name, score = proposal.class_name or "unknown type", proposal.score
    if score < NO_CELL:
        return f"The model sees no cell here (score {score:.2f}). Its best guess would be {name}."
    said = f"The model sees a cell here: {name}, score {score:.2f}."
    if score < threshold:
        below = f"{score:.2f} is below the {threshold:.2f} that you show"
        said = f"The model is unsure: {name}, score {score:.2f}; {below}."
    return f"{said} Press a class's number to change it before accepting."


def selection_words(session: SlideSession) -> str:
    """What is selected; of a single cell all that is known."""
    rows = session.selected
    if not len(rows):
        return "Nothing is selected."
    if len(rows) > 1:
        counts = [f"{n:,} {name}" for name, n in session.cells.counts(rows).items() if n]
        return f"{len(rows):,} cells selected: {', '.join(counts)}."
    row = int(rows[0])
    names = [*session.cells.class_names, "unknown"]
    words = [names[int(session.cells.class_ids[row])]]
    status = Status(int(session.cells.status[row]))
    if SAID[status]:
        (key,) = session.cells.keys_of(rows).tolist()
        said = session.cells.annotations.cells.get((key[0], key[1]))
        words.append(f"{STATUS_TEXT[status]} by {said.author}" if said else STATUS_TEXT[status])
        if said is not None and said.claim is not None and said.claim[1] != said.class_id:
            words.append(f"the model said {names[said.claim[1]]}")
    else:
        words.append(f"the model's claim, score {session.cells.scores[row]:.2f}")
    mpp = session.frame.mpp
    if mpp is not None:
        x0, y0, x1, y1 = session.cells.boxes[row].tolist()
        words.append(f"{(x1 - x0) * mpp[0]:.1f} × {(y1 - y0) * mpp[1]:.1f} µm")
    return "; ".join(words) + "."


STATUS_TEXT: Mapping[Status, str] = {
    Status.CONFIRMED: "confirmed",
    Status.RECLASSED: "class changed",
    Status.MOVED: "moved",
    Status.ADDED: "added",
}


def corrected_words(session: SlideSession) -> str:
    """How much of the slide's cells people have touched."""
    cells = session.cells
    said = int(SAID[cells.status[cells.kept]].sum())
    gone = int((cells.status == Status.DELETED).sum())
    if not said and not gone:
        return "No corrections yet."
    return f"People added, changed or confirmed {said:,} of these, and deleted {gone:,}."


def back_words(session: SlideSession) -> str:
    """What has come back with a slide that was worked on earlier."""
    cells = session.cells
    kept = int(cells.kept.sum())
    said = len(cells.annotations.cells)
    corrected = f", {said:,} of them touched by people," if said else ""
    return f"{kept:,} cells of earlier work{corrected} are back, and the view."


def saved_words(session: SlideSession) -> str:
    """Whether the corrections are on disk."""
    if session.state == "opening":
        return "Looking for earlier work on this slide…"
    if session.read_only:
        return f"Read only. {session.read_only}"
    saved = session.saved
    if saved is None:
        return "Corrections are kept until the slide is closed: export them."
    return str(saved.words)
