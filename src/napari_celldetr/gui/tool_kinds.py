"""The tools of *Review cells*: their names, keys and hints, and the sheet of all keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Tool(StrEnum):
    """What a click or a drag means."""

    SELECT = "select"
    ADD = "add"
    ASK = "ask"
    PAINT = "paint"
    LASSO = "lasso"
    REGION = "region"
    AREA = "area"


@dataclass(frozen=True)
class ToolInfo:
    """How a tool is offered: `key` chooses it, `hint` says what the mouse does then."""

    name: str
    key: str
    hint: str


TOOLS: dict[Tool, ToolInfo] = {
    Tool.SELECT: ToolInfo(
        "Select",
        "v",
        "Click a cell to select it, Shift-click for more. Drag the selected cell to move it, its "
        "corners to resize it.",
    ),
    Tool.ADD: ToolInfo(
        "Add",
        "a",
        "Click where a cell is missing, or drag its box. A number then changes its class.",
    ),
    Tool.ASK: ToolInfo(
        "Ask",
        "q",
        "Click a missed cell: the model says what it sees there. Enter accepts, Esc rejects.",
    ),
    Tool.PAINT: ToolInfo(
        "Paint",
        "p",
        "Drag over cells to give them the chosen class.",
    ),
    Tool.LASSO: ToolInfo(
        "Lasso",
        "l",
        "Drag around cells to select them all.",
    ),
    Tool.REGION: ToolInfo(
        "Region",
        "r",
        "Drag around an area to count in, a tumour for instance.",
    ),
    Tool.AREA: ToolInfo(
        "Complete area",
        "c",
        "Drag around an area in which every cell is right: its cells are confirmed, its empty "
        "places mean “no cell”.",
    ),
}
"""Tools in the order in which they are offered."""

OTHER_KEYS: tuple[tuple[str, str], ...] = (
    ("1 … 9", "class of the selected cells; with none selected, of the next ones"),
    ("0", "class unknown"),
    ("Delete", "delete the selected cells"),
    ("Enter", "the selected cells are right; accept the model's answer"),
    ("Esc", "select nothing; reject the model's answer"),
    ("Ctrl-Z", "undo"),
    ("Ctrl-Shift-Z", "redo"),
    ("N", "next disagreement with the model"),
    ("H", "hide or show the cells"),
    ("Space", "hold to move the slide with any tool"),
    ("F1", "show or hide these keys"),
)


NO_LETTER = "\u200b"
HELP = "CellDETR keys: V select, A add, Q ask, 1–9 class, Del delete, Ctrl-Z undo, F1 all keys"
"""What the viewer's status bar says instead of napari's own keys for points."""


def key_sheet() -> str:
    """All keys, one a line, for the canvas."""
    rows = [(info.key.upper(), info.name.lower()) for info in TOOLS.values()]
    lines = [f"{key}:  {words}" for key, words in [*rows, *OTHER_KEYS]]
    # The viewer draws the box behind its text a little too small, and measures no blanks at an
    # end: a letter without width stands there.
    longest = max(map(len, lines))
    lines = [f"{x}      {NO_LETTER}" if len(x) == longest else x for x in lines]
    return "\n".join([*lines, NO_LETTER, NO_LETTER])


@dataclass(frozen=True)
class Proposal:
    """What the model sees where someone clicked; not a cell until it is accepted."""

    box: tuple[float, float, float, float]
    class_name: str | None
    score: float
