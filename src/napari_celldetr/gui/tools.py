"""What the mouse and the keys do to cells on the slide. No Qt: the dock shows what is chosen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area, Edit
from napari_celldetr.core.boxes import paired_iou
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.edits import (
    AREA_WORDS,
    UNKNOWN_WORD,
    add,
    confirm,
    delete,
    mark,
    move,
    relabel,
    unmark,
)
from napari_celldetr.core.errors import AnnotationError, CellDETRError
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.overlay import NO_ROWS, camera_of
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.tool_kinds import HELP, TOOLS, Proposal, Tool

GRAB_PX = 7.0
"""Screen px around a corner of the selected box in which it can be resized."""
REACH_PX = 10.0
"""Screen px from a cell's centre in which a click still means it."""
CLICK_PX = 4.0
"""A drag shorter than this many screen px is a click."""
BRUSH_PX = 14.0
SMALLEST_UM = 1.5
"""Boxes narrower than this are slips of the hand."""
MIDDLE = 0.3
"""Of a box's sides: as near to its centre a click means that cell."""
SAME = 0.5
"""Boxes that share this much (intersection over union) are the same nucleus."""


@dataclass(frozen=True)
class Stroke:
    """From pressing the mouse to letting go: `path` so far, and what each `step` of it does."""

    path: list[tuple[float, float]]
    step: Callable[[bool], None]
    clear: Callable[[], None]
    holds: Callable[[], bool]

    def to(self, *points: tuple[float, float]) -> Stroke:
        """The mouse moves on."""
        for xy in points:
            self.path.append(xy)
            if self.holds():
                self.step(False)
        return self

    def end(self) -> None:
        """The mouse is let go."""
        self.clear()
        if self.holds():
            self.step(True)


class Tools:
    """Mouse and keys of one session.

    `tell` shows a line to the person, `ask` sends a click (x, y) to the model, `changed` is
    called when tool, class or proposal are others, `marked` with the id of an area just drawn.
    """

    def __init__(
        self,
        session: SlideSession,
        *,
        tell: Callable[[str], None],
        ask: Callable[[tuple[float, float]], None],
        changed: Callable[[], None],
    ) -> None:
        self.session = session
        self.tool = Tool.SELECT
        self.class_name: str | None = next(iter(session.cells.class_names), None)
        self.proposal: Proposal | None = None
        self.tell, self.ask, self.changed = tell, ask, changed
        self.class_chosen = False
        self._named: dict[str, int] = {}
        self.marked: Callable[[str], None] = lambda area_id: None
        self.extra_keys: dict[str, Callable[[], None]] = {}
        self._layer: Any = None
        self._renumbered = 0
        session.claims_changed.connect(self._on_claims)

    def _on_claims(self) -> None:
        self._renumbered += 1

    # Being on the canvas ----------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether clicks and keys have a layer that takes them."""
        return self._layer is not None

    @property
    def holds(self) -> bool:
        """Whether it is the present layer that takes them."""
        return self._layer is self.layer

    @property
    def layer(self) -> Any | None:
        """The layer that takes clicks and keys while it is the active one."""
        overlay = self.session.overlay
        return None if overlay is None else overlay.layer("marks")

    def attach(self) -> bool:
        """Take clicks and keys, if there is a layer for it."""
        layer = self.layer
        if layer is None:
            return False
        if layer is not self._layer:
            self._layer = layer
            layer.mouse_drag_callbacks.append(self._on_drag)
            for key, call in self._keys():
                layer.bind_key(key, _quietly(call), overwrite=True)
            layer.bind_key("Space", self._on_space, overwrite=True)
        self.session.viewer.layers.selection.active = layer
        self.choose(self.tool)
        return True

    def detach(self) -> None:
        """Leave the layer as it was."""
        layer, self._layer = self._layer, None
        self.session.claims_changed.disconnect(self._on_claims)
        if layer is None:
            return
        if self._on_drag in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._on_drag)
        for key, _ in self._keys():
            layer.bind_key(key, None, overwrite=True)
        layer.bind_key("Space", None, overwrite=True)
        layer.mouse_pan = True

    def choose(self, tool: Tool) -> None:
        """Use another tool."""
        self.tool = tool
        self.reject()
        self.tell("")
        if self._layer is not None:
            # These tools draw with a drag, which must not move the slide.
            self._layer.mouse_pan = tool in (Tool.SELECT, Tool.ASK)
            self._layer.help = HELP
        self.changed()

    def _keys(self) -> Iterator[tuple[str, Callable[[], None]]]:
        for tool, info in TOOLS.items():
            yield info.key.upper(), lambda tool=tool: self.choose(tool)  # type: ignore[misc]
        for number in range(1, 10):
            yield str(number), lambda i=number: self._class_key(i)  # type: ignore[misc]
        yield "0", lambda: self.use_class(None)
        yield "Delete", self.delete
        yield "Backspace", self.delete
        yield "Enter", self.accept
        yield "Escape", self.escape
        yield "Control-Z", self.undo
        yield "Control-Shift-Z", self.redo
        yield from self.extra_keys.items()

    def _on_space(self, layer: Any) -> Generator[None, None, None]:
        before, layer.mouse_pan = layer.mouse_pan, True
        yield
        layer.mouse_pan = before

    # Doing ------------------------------------------------------------------------------

    def _class_key(self, number: int) -> None:
        names = self.session.cells.class_names
        if number <= len(names):
            self.use_class(names[number - 1])

    def use_class(self, name: str | None) -> None:
        """Relabel what is selected; the class is also that of cells to come."""
        self.class_name, self.class_chosen = name, True
        if self.proposal is not None:
            old = self.proposal
            self.propose(Proposal(old.box, name, old.score))
        elif len(self.session.selected):
            self._do(lambda: relabel(self.session.cells, self.session.selected, name))
        self.changed()

    def delete(self) -> None:
        """Delete what is selected."""
        if len(self.session.selected):
            self._do(lambda: delete(self.session.cells, self.session.selected))

    def accept(self) -> None:
        """Accept the proposal, or say that what is selected is right."""
        proposal = self.proposal
        if proposal is not None:
            self.reject()
            self._add(proposal.box, proposal.class_name, proposal.score)
        elif len(self.session.selected):
            self._do(lambda: confirm(self.session.cells, self.session.selected))

    def answer(self, proposal: Proposal) -> None:
        """What the model sees where it was asked: a proposal, unless that cell is there."""
        x0, y0, x1, y1 = proposal.box
        row = self._cell_at(((x0 + x1) / 2, (y0 + y1) / 2))
        if row is not None and _overlap(proposal.box, self.session.cells.boxes[row]) >= SAME:
            self._show_cell(row)
        else:
            self.tell("")
            self.propose(proposal)

    def _cell_at(self, xy: tuple[float, float]) -> int | None:
        """The cell whose box holds a place."""
        return self.session.cells.nearest(xy, 0.0)

    def _is_middle(self, xy: tuple[float, float], row: int) -> bool:
        """Whether a place is well within a cell, not on another one that its box overlaps."""
        x0, y0, x1, y1 = self.session.cells.boxes[row].tolist()
        x, y = (xy[0] - (x0 + x1) / 2) / (x1 - x0), (xy[1] - (y0 + y1) / 2) / (y1 - y0)
        return bool(max(abs(x), abs(y)) <= MIDDLE)

    def _show_cell(self, row: int) -> None:
        self.session.select(np.array([row]))
        cells = self.session.cells
        name = [*cells.class_names, UNKNOWN_WORD][int(cells.class_ids[row])]
        self.tell(f"There is a cell here already: {name}. It is selected; Enter confirms it.")

    def propose(self, proposal: Proposal) -> None:
        """Show what the model sees."""
        self.proposal = proposal
        self._sketch(_corners(proposal.box))
        self.changed()

    def reject(self) -> None:
        """Drop the proposal."""
        if self.proposal is not None:
            self.proposal = None
            self._sketch(None)
            self.changed()

    def escape(self) -> None:
        """Drop the proposal, else the selection."""
        if self.proposal is not None:
            self.reject()
        elif len(self.session.selected):
            self.session.select(NO_ROWS)

    def undo(self) -> None:
        """Take the last edit back."""
        self._turn(self.session.undo, "undo", "Taken back")

    def redo(self) -> None:
        """Bring the last undone edit back."""
        self._turn(self.session.redo, "redo", "Done again")

    def remove_area(self, area_id: str) -> None:
        """Take a drawn area away; the cells in it stay as they are."""
        self._do(lambda: unmark(self.session.cells, area_id))

    def _turn(self, call: Callable[[], str | None], name: str, words: str) -> None:
        try:
            what = call()
        except AnnotationError as error:
            self.tell(str(error))
            return
        nothing = f"There is nothing to {name}."
        self.tell(f"{words}: {what}." if what else nothing)

    def _do(self, make: Callable[[], Edit]) -> Rows:
        try:
            edit = make()
            rows = self.session.edit(edit)
        except CellDETRError as error:
            self.tell(str(error))
            return NO_ROWS
        changes = bool(len(edit) or edit.areas)
        self.tell(done_words(edit.what) if changes else "That is how it is already.")
        return rows

    # The mouse --------------------------------------------------------------------------

    def _on_drag(self, layer: Any, event: Any) -> Generator[None, None, None]:
        if event.button != 1:
            return
        shift = "Shift" in {str(m) for m in event.modifiers}
        start = self._xy(event)
        stroke = self.stroke(start, shift=shift)
        keeps_pan = layer.mouse_pan
        if self.tool is Tool.SELECT and self._grip(start) is not None:
            layer.mouse_pan = False
        yield
        while event.type == "mouse_move":
            stroke.to(self._xy(event))
            yield
        layer.mouse_pan = keeps_pan
        stroke.end()

    def _xy(self, event: Any) -> tuple[float, float]:
        world = np.asarray(event.position, np.float64)[-2:]
        x, y = self.session.frame.from_world(world[None])[0]
        return float(x), float(y)

    def stroke(self, start: tuple[float, float], *, shift: bool = False) -> Stroke:
        """What pressing the mouse at a point (x, y) begins with the present tool."""
        begin = {
            Tool.SELECT: self._drag_select,
            Tool.ADD: self._drag_add,
            Tool.ASK: self._drag_ask,
            Tool.PAINT: self._drag_paint,
            Tool.LASSO: self._drag_lasso,
            Tool.REGION: self._drag_region,
            Tool.AREA: self._drag_area,
        }[self.tool]
        path = [start]
        begun = self._renumbered
        # Other claims have other rows: a stroke that began on the old ones does nothing more.
        return Stroke(
            path,
            begin(path, shift),
            lambda: self._sketch(None),
            lambda: self._renumbered == begun,
        )

    def _moved(self, path: list[tuple[float, float]]) -> bool:
        reach = CLICK_PX / self._zoom()
        return bool(np.hypot(*(np.array(path) - path[0]).T).max() > reach)

    def _zoom(self) -> float:
        """Screen px per level-0 px."""
        zoom = camera_of(self.session.viewer).zoom * float(np.mean(self.session.frame.scale))
        return max(float(zoom), 1e-6)

    def _drag_select(self, path: list[tuple[float, float]], shift: bool) -> Callable[[bool], None]:
        grip = self._grip(path[0])

        def step(ends: bool) -> None:
            if not self._moved(path):
                if ends:
                    self._click_select(path[0], shift=shift)
                return
            if grip is None:
                return
            row, box = grip[0], grip[1](path[-1])
            if not ends:
                self._sketch(_corners(box))
            else:
                self._do(lambda: move(self.session.cells, row, self._checked(box)))

        return step

    def _click_select(self, xy: tuple[float, float], *, shift: bool) -> None:
        row = self.session.cells.nearest(xy, REACH_PX / self._zoom())
        now = self.session.selected
        if row is None:
            if not shift:
                self.session.select(NO_ROWS)
        elif not shift:
            self.session.select(np.array([row]))
        elif row in now:
            self.session.select(now[now != row])
        else:
            self.session.select(np.append(now, row))

    def _grip(
        self, xy: tuple[float, float]
    ) -> tuple[int, Callable[[tuple[float, float]], tuple[float, float, float, float]]] | None:
        """The one selected cell and how its box follows the mouse, when `xy` is on it."""
        if len(self.session.selected) != 1:
            return None
        row = int(self.session.selected[0])
        x0, y0, x1, y1 = (float(v) for v in self.session.cells.boxes[row])
        grab = min(GRAB_PX / self._zoom(), min(x1 - x0, y1 - y0) / 3)
        for fixed, corner in (
            ((x1, y1), (x0, y0)),
            ((x0, y1), (x1, y0)),
            ((x0, y0), (x1, y1)),
            ((x1, y0), (x0, y1)),
        ):
            if max(abs(xy[0] - corner[0]), abs(xy[1] - corner[1])) <= grab:
                return row, lambda to, fixed=fixed: _box_of(fixed, to)
        if not (x0 <= xy[0] <= x1 and y0 <= xy[1] <= y1):
            return None

        def shifted(to: tuple[float, float]) -> tuple[float, float, float, float]:
            dx, dy = to[0] - xy[0], to[1] - xy[1]
            return x0 + dx, y0 + dy, x1 + dx, y1 + dy

        return row, shifted

    def _drag_add(self, path: list[tuple[float, float]], shift: bool) -> Callable[[bool], None]:
        def step(ends: bool) -> None:
            drawn = self._moved(path)
            box = _box_of(path[0], path[-1]) if drawn else self.usual_box(path[0])
            if not ends:
                self._sketch(_corners(box) if drawn else None)
                return
            self._add(box, self.class_name)

        return step

    def _add(
        self, box: tuple[float, float, float, float], name: str | None, score: float = 1.0
    ) -> None:
        cells = self.session.cells
        other = self._cell_at(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        twice = other is not None and _overlap(box, cells.boxes[other]) >= SAME
        scores = np.array([score], np.float32)
        rows = self._do(
            lambda: add(cells, np.array([self._checked(box)], np.float32), name, scores=scores)
        )
        if len(rows):
            self.session.select(rows[-1:])
        if len(rows) and twice:
            self.tell("Added a cell, but another one lies here. Ctrl-Z takes this one back.")

    def usual_box(self, xy: tuple[float, float]) -> tuple[float, float, float, float]:
        """A box of usual size around a point, as large as the nuclei nearby."""
        half = self.session.usual_size(xy) / 2
        return xy[0] - half, xy[1] - half, xy[0] + half, xy[1] + half

    def _checked(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        mpp = self.session.frame.mpp or (0.5, 0.5)
        least = SMALLEST_UM / float(np.mean(mpp))
        x0, y0, x1, y1 = box
        width, height = self.session.size
        if min(x1 - x0, y1 - y0) < least:
            raise AnnotationError(
                "This box is too small for a cell.",
                expected=f"sides of {SMALLEST_UM:g} µm at least",
                found=f"{(x1 - x0) * mpp[0]:.1f} × {(y1 - y0) * mpp[1]:.1f} µm",
                remedy="drag a larger box, or click for one of usual size",
            )
        if not (0 <= (x0 + x1) / 2 < width and 0 <= (y0 + y1) / 2 < height):
            raise AnnotationError(
                "This place is beside the slide.",
                expected="a cell on the slide",
                found=f"x {(x0 + x1) / 2:.0f}, y {(y0 + y1) / 2:.0f}",
                remedy="click on the slide",
            )
        return box

    def _drag_ask(self, path: list[tuple[float, float]], shift: bool) -> Callable[[bool], None]:
        def step(ends: bool) -> None:
            if ends and not self._moved(path):
                self.reject()
                # A key is meant for the answer now, not for a cell selected before.
                self.session.select(NO_ROWS)
                row = self._cell_at(path[0])
                if row is not None and self._is_middle(path[0], row):
                    self._show_cell(row)
                else:
                    self.ask(path[0])

        return step

    def _drag_paint(self, path: list[tuple[float, float]], shift: bool) -> Callable[[bool], None]:
        touched: dict[int, None] = {}

        def step(ends: bool) -> None:
            if len(path) == 1 or not ends:
                touched.update(dict.fromkeys(self._under_brush(path[-2:]).tolist()))
            rows = np.array(list(touched), np.int64)
            if not ends:
                self.session.select(rows)
                return
            self.session.select(NO_ROWS)
            if len(rows):
                self._do(lambda: relabel(self.session.cells, rows, self.class_name))

        return step

    def _under_brush(self, line: list[tuple[float, float]]) -> Rows:
        """Kept cells nearer than the brush to a stroke of one or two points."""
        reach = BRUSH_PX / self._zoom()
        a, b = np.array(line[0]), np.array(line[-1])
        low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        x0, y0 = np.floor(low).astype(int).tolist()
        x1, y1 = (np.ceil(high).astype(int) + 1).tolist()
        rows = self.session.cells.rows_in(Region.from_edges(x0, y0, x1, y1))
        centres = self.session.cells.centres[rows].astype(np.float64)
        along = b - a
        length = float(along @ along)
        share = np.clip((centres - a) @ along / length, 0, 1) if length else np.zeros(len(rows))
        apart = np.hypot(*(centres - (a + share[:, None] * along)).T)
        near: Rows = rows[apart <= reach]
        return near

    def _drag_lasso(self, path: list[tuple[float, float]], shift: bool) -> Callable[[bool], None]:
        def step(ends: bool) -> None:
            if not ends:
                self._sketch(np.array(path))
                return
            area = self._area(path, "region")
            rows = NO_ROWS if area is None else self.session.cells.rows_within(area)
            if shift:
                rows = np.union1d(self.session.selected, rows)
            self.session.select(rows)
            self.tell("")

        return step

    def _drag_region(self, path: list[tuple[float, float]], shift: bool) -> Callable[[bool], None]:
        return self._drag_around(path, "region")

    def _drag_area(self, path: list[tuple[float, float]], shift: bool) -> Callable[[bool], None]:
        return self._drag_around(path, "complete")

    def _drag_around(self, path: list[tuple[float, float]], kind: Any) -> Callable[[bool], None]:
        def step(ends: bool) -> None:
            if not ends:
                self._sketch(np.array(path))
                return
            area = self._area(path, kind)
            if area is not None and area.crosses_itself:
                self.tell("This line crosses itself: draw around the area in one loop.")
            elif area is not None:
                self._mark(area)

        return step

    def _mark(self, area: Area) -> None:
        before = len(self.session.cells.annotations.areas)
        self._do(lambda: mark(self.session.cells, area))
        areas = self.session.cells.annotations.areas
        if len(areas) > before:
            self._named[area.kind] = int(area.name.rpartition(" ")[2])
            self.marked(next(reversed(areas)))

    def _area(self, path: list[tuple[float, float]], kind: Any) -> Area | None:
        if not self._moved(path) or len(path) < 3:
            return None
        path = self._thinned(path)
        try:
            return Area(tuple(path), kind, self._area_name(kind))
        except AnnotationError:
            # A line there and back encloses nothing: a slip of the hand, as a click is.
            return None

    def _area_name(self, kind: str) -> str:
        """A name that no area has had: what is noted of one must not become another's."""
        word = AREA_WORDS[kind].capitalize()
        taken = [a.name for a in self.session.cells.annotations.areas.values()]
        numbers = [int(n) for name in taken if (n := name.removeprefix(f"{word} ")).isdecimal()]
        most = max([self._named.get(kind, 0), *numbers], default=0)
        return f"{word} {most + 1}"

    def _thinned(self, path: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """A hand-drawn line without points that the screen cannot tell apart."""
        least, kept = 1 / self._zoom(), [path[0]]
        for xy in path[1:]:
            if max(abs(xy[0] - kept[-1][0]), abs(xy[1] - kept[-1][1])) >= least:
                kept.append(xy)
        return kept if len(kept) >= 3 else path

    def _sketch(self, corners: NDArray[np.floating] | None) -> None:
        if self.session.overlay is not None:
            self.session.overlay.sketch(corners, zoom=self._zoom())


PAST = {
    "add": "Added",
    "change": "Changed",
    "confirm": "Confirmed",
    "delete": "Deleted",
    "mark": "Marked",
    "move": "Moved",
    "remove": "Removed",
    "resize": "Resized",
}


def done_words(what: str) -> str:
    """What an edit has done; ``delete 1 cell`` becomes ``Deleted 1 cell.`` in the dock."""
    verb, _, rest = what.partition(" ")
    return f"{PAST[verb]} {rest.replace(', confirm', ', confirmed')}."


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    boxes = np.array([one, other], np.float64)
    return float(paired_iou(boxes[:1], boxes[1:])[0])


def _quietly(call: Callable[[], None]) -> Callable[[Any], None]:
    def pressed(_layer: Any) -> None:
        call()

    return pressed


def _box_of(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float, float, float]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])


def _corners(box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
