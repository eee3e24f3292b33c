"""Mouse and keys on cells, without a window: what each stroke and key does to the table."""

import numpy as np
import pytest
from napari.components import ViewerModel
from tables import NAMES, table_of
from viewer_fakes import session_with, slide_image

from napari_celldetr.core.annotations import Status
from napari_celldetr.gui.prepared import prepare
from napari_celldetr.gui.tool_kinds import TOOLS, Proposal, Tool, key_sheet
from napari_celldetr.gui.tools import Tools

BOXES = [[100 * i, 100, 100 * i + 16, 116] for i in range(1, 9)]
CENTRES = [(100.0 * i + 8, 108.0) for i in range(1, 9)]


@pytest.fixture
def tools():
    viewer = ViewerModel()
    slide = viewer.add_layer(slide_image(np.zeros((1500, 2000, 3), np.uint8)))
    session = session_with(table_of(BOXES), viewer, slide)
    viewer.scene.camera.zoom = 2.0
    told, asked = [], []
    made = Tools(session, tell=told.append, ask=asked.append, changed=lambda: None)
    made.told, made.asked = told, asked
    made.attach()
    return made


def click(tools, xy, **options):
    tools.stroke(xy, **options).end()


def drag(tools, *path, **options):
    tools.stroke(path[0], **options).to(*path[1:]).end()


def centres(tools):
    now = tools.session.corrected().cells
    return sorted((float(x), float(y)) for x, y in now.centres)


def selected(tools):
    cells = tools.session.cells
    return sorted((float(x), float(y)) for x, y in cells.centres[tools.session.selected])


def status_at(tools, xy):
    cells = tools.session.cells
    return Status(int(cells.status[cells.nearest(xy, 5)]))


def class_at(tools, xy):
    cells = tools.session.cells
    return [*cells.class_names, None][cells.class_ids[cells.nearest(xy, 5)]]


def test_clicks_select_add_and_take_away(tools):
    click(tools, CENTRES[0])
    assert selected(tools) == CENTRES[:1]
    click(tools, CENTRES[3], shift=True)
    assert selected(tools) == [CENTRES[0], CENTRES[3]]
    click(tools, CENTRES[0], shift=True)
    assert selected(tools) == [CENTRES[3]]
    click(tools, (1500, 900))
    assert selected(tools) == []


def test_a_tremble_of_the_hand_is_a_click(tools):
    drag(tools, CENTRES[0], (CENTRES[0][0] + 1, CENTRES[0][1] + 1))
    assert selected(tools) == CENTRES[:1]
    assert centres(tools) == CENTRES


def test_a_selected_cell_is_moved_and_resized(tools):
    click(tools, CENTRES[0])
    drag(tools, CENTRES[0], (130, 130), (158, 168))
    assert (158.0, 168.0) in centres(tools)
    assert status_at(tools, (158, 168)) is Status.MOVED
    # Now its lower right corner.
    drag(tools, (166, 176), (180, 190), (186, 196))
    row = int(tools.session.selected[0])
    assert tools.session.cells.boxes[row].tolist() == [150, 160, 186, 196]
    tools.undo()
    tools.undo()
    assert centres(tools) == CENTRES


def test_dragging_elsewhere_moves_nothing(tools):
    click(tools, CENTRES[0])
    drag(tools, CENTRES[1], (400, 400), (500, 500))
    assert centres(tools) == CENTRES
    assert selected(tools) == CENTRES[:1]


def test_a_cell_is_added_by_click_and_by_box(tools):
    tools.choose(Tool.ADD)
    tools.use_class("red")
    click(tools, (500, 500))
    assert class_at(tools, (500, 500)) == "red"
    cells = tools.session.cells
    box = cells.boxes[cells.nearest((500, 500), 5)]
    # As large as those around, or as is usual where there are none.
    assert np.allclose(box[2:] - box[:2], 16)
    drag(tools, (700, 700), (720, 715), (740, 730))
    assert cells.boxes[cells.nearest((720, 715), 5)].tolist() == [700, 700, 740, 730]
    assert len(centres(tools)) == 10


@pytest.mark.parametrize(
    ("path", "said"),
    [(((700, 700), (702, 730)), "too small"), (((-90, -90), (-60, -60)), "beside the slide")],
)
def test_slips_are_told_and_add_nothing(tools, path, said):
    tools.choose(Tool.ADD)
    drag(tools, *path)
    assert said in tools.told[-1]
    assert centres(tools) == CENTRES


def test_keys_relabel_confirm_and_delete_what_is_selected(tools):
    click(tools, CENTRES[0])
    tools._class_key(2)
    assert class_at(tools, CENTRES[0]) == "red"
    assert status_at(tools, CENTRES[0]) is Status.RECLASSED
    click(tools, CENTRES[1])
    tools.accept()
    assert status_at(tools, CENTRES[1]) is Status.CONFIRMED
    click(tools, CENTRES[2])
    tools.delete()
    assert CENTRES[2] not in centres(tools)
    assert selected(tools) == []
    tools.undo()
    assert CENTRES[2] in centres(tools)
    tools.redo()
    assert CENTRES[2] not in centres(tools)
    assert tools.told[-1] == "Done again: delete 1 cell."
    tools.redo()
    assert tools.told[-1] == "There is nothing to redo."


def test_a_class_key_beyond_the_classes_does_nothing(tools):
    click(tools, CENTRES[0])
    tools._class_key(9)
    assert tools.session.can_undo is None


def test_the_lasso_selects_what_it_holds(tools):
    tools.choose(Tool.LASSO)
    drag(tools, (90, 80), (340, 80), (340, 140), (90, 140))
    assert selected(tools) == CENTRES[:3]
    drag(tools, (490, 80), (560, 80), (560, 140), (490, 140), shift=True)
    assert selected(tools) == [*CENTRES[:3], CENTRES[4]]
    drag(tools, (90, 80), (340, 80))
    assert selected(tools) == []


def test_painting_relabels_what_the_brush_touches_in_one_edit(tools):
    tools.choose(Tool.PAINT)
    tools.use_class("red")
    drag(tools, (90, 108), (250, 108), (330, 108))
    assert [class_at(tools, c) for c in CENTRES[:4]] == ["red", "red", "red", "dark"]
    assert tools.session.can_undo == "change 3 cells to red"
    assert selected(tools) == []
    click(tools, CENTRES[5])
    assert class_at(tools, CENTRES[5]) == "red"


def test_an_area_is_marked_as_complete(tools):
    tools.choose(Tool.AREA)
    drag(tools, (90, 80), (340, 80), (340, 140), (90, 140))
    (area,) = tools.session.cells.annotations.areas.values()
    assert area.kind == "complete"
    assert area.area_px == 250 * 60
    assert len(tools.session.overlay.layer("areas").data) == 4
    tools.undo()
    assert not tools.session.cells.annotations.areas
    assert len(tools.session.overlay.layer("areas").data) == 0


def test_a_complete_area_confirms_its_cells_and_a_region_says_nothing(tools):
    marked = []
    tools.marked = marked.append
    around = (90, 80), (340, 80), (340, 140), (90, 140)
    tools.choose(Tool.REGION)
    drag(tools, *around)
    assert tools.told[-1] == "Marked region."
    assert {status_at(tools, c) for c in CENTRES} == {Status.CLAIMED}
    tools.choose(Tool.AREA)
    drag(tools, *around)
    assert tools.told[-1] == "Marked complete area, confirmed 3 cells."
    assert [status_at(tools, c) for c in CENTRES[:4]] == [Status.CONFIRMED] * 3 + [Status.CLAIMED]
    areas = tools.session.cells.annotations.areas
    assert [a.kind for a in areas.values()] == ["region", "complete"]
    assert marked == list(areas)
    tools.remove_area(marked[1])
    assert tools.told[-1] == "Removed complete area."
    assert list(areas) == marked[:1]
    assert status_at(tools, CENTRES[0]) is Status.CONFIRMED
    tools.undo()
    tools.undo()
    assert list(areas) == marked[:1]
    assert {status_at(tools, c) for c in CENTRES} == {Status.CLAIMED}


@pytest.mark.parametrize("tool", [Tool.AREA, Tool.REGION])
def test_an_area_drawn_as_an_eight_is_refused(tools, tool):
    tools.choose(tool)
    drag(tools, (90, 80), (340, 180), (340, 80), (90, 190))
    assert "crosses itself" in tools.told[-1]
    assert not tools.session.cells.annotations.areas


@pytest.mark.parametrize("tool", [Tool.LASSO, Tool.AREA, Tool.REGION])
def test_a_click_with_a_drawing_tool_draws_nothing(tools, tool):
    tools.choose(tool)
    click(tools, CENTRES[0])
    assert tools.session.can_undo is None


def test_an_answer_is_a_proposal_until_it_is_accepted(tools):
    tools.choose(Tool.ASK)
    click(tools, (500, 500))
    assert tools.asked == [(500, 500)]
    tools.propose(Proposal((490, 490, 512, 510), "dark", 0.4))
    assert centres(tools) == CENTRES
    assert len(tools.session.overlay.layer("sketch").data) == 4
    tools.escape()
    assert tools.proposal is None
    assert len(tools.session.overlay.layer("sketch").data) == 0
    tools.propose(Proposal((490, 490, 512, 510), "dark", 0.4))
    tools._class_key(2)
    assert tools.proposal.class_name == "red"
    tools.accept()
    assert class_at(tools, (501, 500)) == "red"
    cells = tools.session.cells
    assert cells.scores[cells.nearest((501, 500), 5)] == np.float32(0.4)
    assert status_at(tools, (501, 500)) is Status.ADDED


def test_asking_at_a_cell_that_is_there_selects_it(tools):
    tools.choose(Tool.ASK)
    click(tools, CENTRES[1])
    assert tools.asked == []
    assert selected(tools) == [CENTRES[1]]
    assert "here already: dark" in tools.told[-1]
    tools.accept()
    assert status_at(tools, CENTRES[1]) is Status.CONFIRMED
    # Asked beside it, the model may mean the same nucleus.
    x, y = CENTRES[2]
    tools.answer(Proposal((x - 7, y - 8, x + 9, y + 8), "red", 0.9))
    assert tools.proposal is None
    assert selected(tools) == [CENTRES[2]]
    tools.answer(Proposal((x + 4, y + 4, x + 20, y + 20), "red", 0.9))
    assert tools.proposal is not None


def test_adding_a_cell_twice_is_told(tools):
    tools.choose(Tool.ADD)
    click(tools, (500, 500))
    assert tools.told[-1] == "Added 1 cell as dark."
    click(tools, (501, 500))
    assert "another one lies here" in tools.told[-1]
    assert len(centres(tools)) == len(CENTRES) + 2
    tools.undo()
    assert tools.told[-1] == "Taken back: add 1 cell as dark."
    tools.choose(Tool.SELECT)
    assert tools.told[-1] == ""


def test_a_number_after_adding_changes_the_added_cell(tools):
    tools.choose(Tool.ADD)
    click(tools, (500, 500))
    tools._class_key(2)
    assert tools.told[-1] == "Changed 1 cell to red."
    assert class_at(tools, (500, 500)) == "red"
    tools._class_key(2)
    assert tools.told[-1] == "That is how it is already."


def test_a_stroke_that_outlives_its_claims_does_nothing(tools):
    session = tools.session
    click(tools, CENTRES[0])
    stroke = tools.stroke(CENTRES[0]).to((200, 300))
    other = prepare(table_of(BOXES[3:]), session.size, mpp=0.5)
    session.take(other, keep=False)
    stroke.to((300, 300)).end()
    assert session.can_undo is None
    assert centres(tools) == CENTRES[3:]


def test_unknown_stays_chosen(tools):
    tools.choose(Tool.ADD)
    tools._class_key(2)
    tools.use_class(None)
    assert tools.class_chosen
    click(tools, (500, 500))
    click(tools, (700, 700))
    assert class_at(tools, (500, 500)) is None
    assert class_at(tools, (700, 700)) is None


def test_choosing_another_tool_drops_the_proposal(tools):
    tools.propose(Proposal((490, 490, 512, 510), "dark", 0.4))
    tools.choose(Tool.SELECT)
    assert tools.proposal is None


def test_drawing_tools_keep_the_slide_still(tools):
    for tool in Tool:
        tools.choose(tool)
        assert tools.layer.mouse_pan == (tool in (Tool.SELECT, Tool.ASK))
    space = tools._on_space(tools.layer)
    next(space)
    assert tools.layer.mouse_pan
    with pytest.raises(StopIteration):
        next(space)
    assert not tools.layer.mouse_pan
    tools.detach()
    assert tools.session.overlay.layer("marks").mouse_pan


def test_read_only_corrections_are_told_and_hold_nothing(tools):
    tools.session.read_only = "ada on ws-7 since 9:00"
    click(tools, CENTRES[0])
    tools.delete()
    assert "ada on ws-7" in tools.told[-1]
    tools.undo()
    assert "looked at only" in tools.told[-1]
    assert centres(tools) == CENTRES


def test_every_key_is_on_the_sheet(tools):
    sheet = key_sheet()
    for info in TOOLS.values():
        assert f"{info.key.upper()}:" in sheet
    bound = {key for key, _ in tools._keys()}
    assert {"V", "A", "Q", "P", "L", "C", "0", "1", "9", "Delete", "Enter", "Escape"} <= bound
    assert tools.session.cells.class_names == NAMES
