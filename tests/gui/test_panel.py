import time

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from napari_celldetr.core.config import DetectConfig, describe, from_mapping
from napari_celldetr.core.progress import Progress
from napari_celldetr.gui.form import ConfigForm, make_editor, read_editor, write_editor
from napari_celldetr.gui.panel import Dock, JobRunner, RunBar, progress_words, time_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (42, "about 42 s"), (300, "about 5 min"), (9000, "about 2.5 h")],
)
def test_time_in_words(seconds, words):
    assert time_words(seconds) == words


def test_progress_in_words():
    step = Progress(3, 12, "detecting", cells=1204, seconds=4.0)
    assert progress_words(step) == "3 of 12 tiles · 1,204 cells · 301 cells/s · about 12 s left"
    assert progress_words(Progress(0, 12, "finding tissue")) == "0 of 12 tiles · finding tissue"
    assert progress_words(Progress(12, 12, cells=5, seconds=1.0)).endswith("5 cells/s")


def test_a_form_gives_back_the_defaults_of_its_config(qtbot):
    form = ConfigForm(DetectConfig)
    qtbot.addWidget(form)
    assert from_mapping(DetectConfig, form.values()) == DetectConfig()


def test_advanced_settings_are_folded_away(qtbot):
    form = ConfigForm(DetectConfig, skip=("model",))
    qtbot.addWidget(form)
    assert "model" not in form.values()
    assert not form.editor("tile_px").isVisibleTo(form)
    assert form.editor("device").isVisibleTo(form)
    form.fold.button.setChecked(True)
    assert form.editor("tile_px").isVisibleTo(form)


def test_every_kind_of_setting_is_read_back(qtbot):
    given = {
        "model": "other",
        "threshold": 0.25,
        "mpp": 0.5,
        "device": "cpu",
        "tissue_only": False,
        "tile_px": 512,
        "halo_px": 32,
        "batch": 4,
        "prefetch": 3,
        "flips": True,
    }
    for setting in describe(DetectConfig):
        changed = DetectConfig(**given)
        value = getattr(changed, setting.name)
        editor = make_editor(setting)
        qtbot.addWidget(editor)
        assert read_editor(editor) == setting.default
        if hasattr(editor, "setChecked"):
            editor.setChecked(value)
        elif hasattr(editor, "setCurrentIndex"):
            editor.setCurrentIndex(editor.findData(value))
        elif hasattr(editor, "setText"):
            editor.setText(value)
        else:
            editor.setValue(value)
        assert read_editor(editor) == value
        write_editor(editor, setting.default)
        assert read_editor(editor) == setting.default
        for wrong in ([], object(), "no such choice" if setting.kind is not str else 3):
            write_editor(editor, wrong)
            assert read_editor(editor) == setting.default
        write_editor(editor, value)
        assert read_editor(editor) == value


def test_run_bar_tells_its_state(qtbot):
    bar = RunBar("Go")
    qtbot.addWidget(bar)
    bar.show_busy("Loading the model…")
    assert not bar.run_button.isEnabled()
    assert bar.cancel_button.isEnabled()
    assert bar.bar.maximum() == 0
    bar.show_progress(Progress(1, 4))
    assert (bar.bar.value(), bar.bar.maximum()) == (1, 4)
    bar.show_stopping()
    assert not bar.cancel_button.isEnabled()
    bar.show_idle("Done.")
    assert bar.run_button.isEnabled()
    assert bar.cancel_button.text() == "Cancel"


def test_a_stale_run_is_never_heard_again(qtbot):
    runner = JobRunner()
    heard = []
    runner.finished.connect(heard.append)

    def job(value, seconds):
        yield Progress(0, 1)
        time.sleep(seconds)
        return value

    assert runner.start(lambda: job("stale", 0.2)) == 1
    assert runner.start(lambda: job("new", 0.0)) == 2
    qtbot.waitUntil(lambda: not runner.running, timeout=5000)
    qtbot.wait(400)
    assert heard == ["new"]


def test_cancel_is_answered_at_once(qtbot):
    runner = JobRunner()

    def job():
        while True:
            time.sleep(0.01)
            yield Progress(0, 1)

    runner.start(job)
    qtbot.wait(50)
    with qtbot.waitSignal(runner.stopped, timeout=1000):
        runner.stop()
    assert not runner.running


def test_a_flood_of_messages_leaves_the_gui_its_turn(qtbot):
    runner = JobRunner()
    steps, turns, turn = [], set(), 0

    def take(step):
        time.sleep(0.001)
        steps.append(step)
        turns.add(turn)

    runner.progressed.connect(take)

    def job():
        for i in range(500):
            yield Progress(i, 500)
        return None

    runner.start(job)
    while runner.running:
        qtbot.wait(1)
        turn += 1
    assert [step.done for step in steps] == list(range(500))
    # At least half a second of work, handed out in slices of 20 ms.
    assert len(turns) > 5


class Window(QMainWindow):
    """May refuse to be closed."""

    stays = True

    def closeEvent(self, event):  # noqa: N802 - Qt's name
        event.setAccepted(not self.stays)


def test_docks_are_shut_down_when_their_window_agrees_to_close(qtbot):
    told = []

    class Told(Dock):
        def let_go(self):
            told.append(self)

    window = Window()
    docks = [Told(), Told()]
    for dock in docks:
        frame = QDockWidget()
        frame.setWidget(dock)
        window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, frame)
    window.show()
    qtbot.waitExposed(window)
    assert window.close() is False
    assert told == []
    window.stays = False
    assert window.close() is True
    assert sorted(map(id, told)) == sorted(map(id, docks))
    docks[0].shut_down()
    assert len(told) == 2
    window.deleteLater()


def window_with_tabs(qtbot):
    """A window with two docks that share a place, the second in front."""
    window = Window()
    window.show()
    frames = []
    for name in ("one", "two"):
        frame, dock = QDockWidget(name, window), Dock()
        frame.setWidget(dock)
        window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, frame)
        frames.append(frame)
        qtbot.waitUntil(lambda dock=dock: not dock.visibleRegion().isEmpty(), timeout=3000)
    return window, *frames


def test_a_dock_that_is_asked_for_comes_to_the_front(qtbot):
    window, one, two = window_with_tabs(qtbot)

    def in_front(frame):
        return not frame.isHidden() and not frame.widget().visibleRegion().isEmpty()

    qtbot.waitUntil(lambda: in_front(two) and not in_front(one), timeout=3000)
    # What the viewer's menu does with a dock that is there: it hides it if it is "visible".
    one.setVisible(not one.isVisible())
    qtbot.waitUntil(lambda: in_front(one) and not in_front(two), timeout=3000)
    one.setVisible(not one.isVisible())
    qtbot.waitUntil(lambda: one.isHidden() and in_front(two), timeout=3000)
    qtbot.wait(50)
    assert one.isHidden()
    one.setVisible(not one.isVisible())
    qtbot.waitUntil(lambda: in_front(one), timeout=3000)
    window.stays = False
    window.close()
    qtbot.wait(50)
    assert not window.isVisible()
    window.deleteLater()


def test_a_floating_dock_that_is_hidden_lives_on(qtbot):
    told = []

    class Told(Dock):
        def let_go(self):
            told.append(self)

    window = Window()
    window.show()
    frame, dock = QDockWidget("one", window), Told()
    frame.setWidget(dock)
    window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, frame)
    qtbot.waitUntil(dock.isVisible, timeout=3000)
    frame.setFloating(True)
    qtbot.wait(50)
    frame.close()
    assert frame.isHidden()
    frame.show()
    qtbot.wait(50)
    assert told == []
    window.stays = False
    window.close()
    assert told == [dock]
    window.deleteLater()


def test_a_dock_behind_another_can_be_hidden_on_purpose(qtbot):
    window, one, two = window_with_tabs(qtbot)
    one.toggleViewAction().trigger()
    qtbot.wait(100)
    assert one.isHidden()
    one.toggleViewAction().trigger()
    qtbot.waitUntil(lambda: not one.widget().visibleRegion().isEmpty(), timeout=3000)
    two.close()
    qtbot.wait(100)
    assert two.isHidden()
    window.stays = False
    window.close()
    window.deleteLater()


def test_the_viewer_leaves_the_layout_of_a_dock_alone(make_napari_viewer_proxy):
    viewer, dock = make_napari_viewer_proxy(), Dock()
    dock.fill(QWidget())
    viewer.window.add_dock_widget(dock, name="one")
    # It looks through the items only of docks to which it adds a stretch.
    assert dock.layout().count() == 1
