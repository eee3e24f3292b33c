"""*HER2*: measure membranes, read coverage where one looks, see how the score comes about.

The dock puts its parts together: `her2_runs` measures, `her2_readout` shows, `her2_where` knows
the tumour, `her2_keeping` what outlives the window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from napari.utils.notifications import show_error
from qtpy.QtWidgets import QWidget

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.gui.detect_job import shared_models
from napari_celldetr.gui.her2_body import TUMOUR_AREAS, Her2Body
from napari_celldetr.gui.her2_choices import Choices
from napari_celldetr.gui.her2_control import CONFIRM_CONTROL
from napari_celldetr.gui.her2_job import Measured
from napari_celldetr.gui.her2_keeping import Her2Keeping, Restored
from napari_celldetr.gui.her2_layers import Her2Layers
from napari_celldetr.gui.her2_pointer import CellPointer
from napari_celldetr.gui.her2_readout import Readout, scopes_of
from napari_celldetr.gui.her2_runs import Her2Runs
from napari_celldetr.gui.her2_save import OutlineSaver
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.her2_tumour import LAYER_KEY, NOTHING_KEY
from napari_celldetr.gui.her2_where import TumourChooser, bounds_of
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.panel import Dock
from napari_celldetr.gui.parts import SlideBox, single_shot, wrapped_label
from napari_celldetr.gui.session import SlideSession, session_of
from napari_celldetr.gui.sources import is_slide_layer
from napari_celldetr.pipeline.her2.result import Control, Her2Result
from napari_celldetr.pipeline.her2.tumour import Tumour

JUDGE_MS, RENEW_MS = 50, 400
MIN_MPP = 0.1
EMPTY_TEXT = (
    "No slide is open. Drag a HER2 IHC slide into the window, or use File › Open Sample › CellDETR."
)
BEGIN_TEXT = (
    "Measure HER2 finds the nuclei, outlines the cells and reads their membranes. "
    "Then say where the invasive tumour is."
)
MEASURE_AGAIN = "The tumour is another one since this was measured: press Measure HER2 again"
HIDDEN_TEXT = "This slide is hidden: it is measured, not what you see in its place."
COVERED_TEXT = "Another slide lies on top of this one: hide that to see what is measured."
DRAW_FIRST = "Draw the tumour on the slide, or choose it in the list."
NOTHING_FITS = (
    "What was measured earlier is of other nuclei than the slide has now: measure it again."
)


class Her2Dock(Dock):
    """The dock widget. `models` and `workspace` are for tests and scripts."""

    def __init__(
        self,
        napari_viewer: Any,
        *,
        models: Any = None,
        workspace: Path | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.session: SlideSession | None = None
        self.covered: Her2Result | None = None
        self._kept: dict[int, tuple[SlideSession, Her2Layers, Her2State]] = {}
        self._said: WeakKeyDictionary[SlideSession, Choices] = WeakKeyDictionary()
        self._ended = ""
        self._build()
        body = self.body
        self.readout = Readout(self.viewer, body, self)
        self.runs = Her2Runs(
            body.run_bar, models=models or shared_models(), workspace=workspace, parent=self
        )
        self.where = TumourChooser(self.viewer, body.tumour_box, body.draw_button, self)
        self.saver = OutlineSaver(body.save_button, self.where, self)
        self.keeping = Her2Keeping(self._choices, self)
        self._connect()
        self.slide_box.list_slides()

    @property
    def state(self) -> Her2State | None:
        """Measured cells of the slide."""
        return self.readout.state

    @property
    def layers(self) -> Her2Layers | None:
        """What is drawn of them."""
        return self.readout.layers

    @property
    def pointer(self) -> CellPointer:
        """The cell that is pointed at."""
        return self.readout.pointer

    def _build(self) -> None:
        column = self.start_column("HER2", width=365)
        self.slide_box = SlideBox(self.viewer, "The HER2 IHC slide that is measured")
        self.empty_label = wrapped_label(EMPTY_TEXT)
        self.body = Her2Body()
        for widget in (self.slide_box, self.empty_label, self.body):
            column.addWidget(widget)
        self.finish_column(column)
        self.pin(self.body.pinned)

    def _connect(self) -> None:
        body = self.body
        self._rejudge = single_shot(self, JUDGE_MS, self._judge)
        self._renew = single_shot(self, RENEW_MS, self._on_cells)
        self.slide_box.chosen.connect(self._on_slide)
        self.runs.measured.connect(self._on_measured)
        self.runs.ended.connect(self._on_ended)
        self.keeping.restored.connect(self._on_restored)
        self.keeping.told.connect(self._on_ended)
        self.where.changed.connect(self._use_tumour)
        self.where.guided.connect(body.show_guide)
        body.run_bar.run_clicked.connect(self.run)
        body.run_bar.cancel_clicked.connect(self.runs.stop)
        body.mpp_spin.valueChanged.connect(self._check_ready)
        body.where.currentIndexChanged.connect(self._on_where)
        body.cut_out_button.clicked.connect(self.where.cut_out)
        body.nuclei_tick.toggled.connect(self._show_nuclei)
        body.cutoffs.changed.connect(self._rejudge.start)
        self.saver.told.connect(self._on_ended)
        body.control.calibrated.connect(self.calibrate)
        body.control.undone.connect(self.forget_control)
        body.control.drawn.connect(self.where.draw_control)
        for signal in (self.scroll_bar.valueChanged, self.scroll_bar.rangeChanged):
            signal.connect(lambda *_: body.pinned.look())
        body.report_button.clicked.connect(self._on_report)
        body.reporter.told.connect(self._on_ended)
        body.network.button.clicked.connect(self.ask_network)
        self.viewer.layers.events.removed.connect(self._on_removed)

    def let_go(self) -> None:
        """Stop everything this dock started; cells and finished tiles are kept."""
        self.keeping.flush()
        self._abandon()
        for timer in (self._rejudge, self._renew):
            timer.stop()
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.readout.let_go()
        self.where.let_go()
        self.slide_box.let_go()
        self._join(None)

    def _abandon(self) -> None:
        for running in (self.runs, self.body.reporter, self.body.network.runs):
            running.abandon()

    # Slides -----------------------------------------------------------------------------

    def _on_slide(self, layer: Any | None) -> None:
        self.slide_box.setVisible(self.slide_box.count() > 1)
        self._ended = ""
        self._join(layer)
        self.empty_label.setVisible(layer is None)
        self.body.setVisible(layer is not None)
        self.body.show_slide(missing_mpp=layer is not None and Frame.of_layer(layer).mpp is None)
        self._check_ready()

    def _join(self, layer: Any | None) -> None:
        now = None if layer is None else session_of(self.viewer, layer, self)
        old = self.session
        if old is now:
            return
        if old is not None:
            if old.layer in self.viewer.layers:
                self.keeping.flush()
            self._abandon()
            for signal, call in self._signals(old):
                signal.disconnect(call)
            old.layer.events.visible.disconnect(self._check_ready)
            old.leave(self)
            self._said[old] = Choices(self.body.cutoffs.cutoffs, self.where.key)
        self.session, self.covered = now, None
        kept = self._kept.get(id(now))
        layers, state = (None, None) if kept is None else kept[1:]
        self._say_again(now, state)
        self.readout.follow(now, state, layers)
        self.keeping.follow(now)
        if now is not None:
            for signal, call in self._signals(now):
                signal.connect(call)
            now.layer.events.visible.connect(self._check_ready)
        self._show_all()
        self._restore()

    def _say_again(self, session: SlideSession | None, state: Her2State | None) -> None:
        """What was said of this slide while the window was open; of a new one, nothing."""
        said = Choices(Cutoffs(), NOTHING_KEY)
        if session is not None:
            said = self._said.get(session, said)
        self.body.cutoffs.show_cutoffs(said.cutoffs)
        self.where.follow(session, said.tumour)
        if state is not None:
            state.choose(cutoffs=said.cutoffs, tumour=self.where.tumour())

    def _signals(self, session: SlideSession) -> tuple[tuple[Any, Any], ...]:
        return (
            (session.cells_changed, self._renew.start),
            (session.claims_changed, self._renew.start),
            (session.selection_changed, self.readout.cell_selected),
            (session.view_changed, self._on_view),
            (session.opened, self._on_opened),
        )

    def _on_view(self) -> None:
        self.readout.view_moved()
        self.where.restyle()

    def _on_removed(self, event: Any) -> None:
        for key, (session, layers, _) in list(self._kept.items()):
            if session.layer == event.value:
                del self._kept[key]
                layers.remove()

    # What was measured earlier ----------------------------------------------------------

    def _on_opened(self) -> None:
        self._restore()
        self._check_ready()

    def _restore(self) -> None:
        if self.state is None and not self.runs.running:
            self.keeping.restore()

    def _on_restored(self, found: Restored) -> None:
        session = self.session
        if session is None or self.state is not None:
            return
        state, chosen = found.state, found.choices
        state.keep(session.cells.boxes[session.cells.kept])
        state.settle()
        if not len(state):
            self._on_ended(NOTHING_FITS)
            return
        try:
            self._use_choices(chosen, session)
        except CellDETRError as error:
            show_error(str(error))
        self.take(state)
        self._on_ended(found.sentence())

    def _use_choices(self, chosen: Choices | None, session: SlideSession) -> None:
        if chosen is not None:
            self.body.cutoffs.show_cutoffs(chosen.cutoffs)
            self.where.restore(chosen.tumour, chosen.shapes(session.frame))

    def _choices(self) -> Choices:
        frame = Frame() if self.session is None else self.session.frame
        key = self.where.key
        return Choices.of(self.body.cutoffs.cutoffs, key, self.where.own_layers(key), frame)

    # Measuring --------------------------------------------------------------------------

    def _check_ready(self, _value: Any = None) -> None:
        if not self.runs.running:
            missing = self._missing()
            told = (self._ended, missing, self._unseen())
            said = " ".join(text for text in told if text)
            begin = "" if self.state is not None else BEGIN_TEXT
            self.body.run_bar.show_idle(said or begin, can_run=not missing)

    def _unseen(self) -> str:
        """That the slide is not what a person sees; '' where it is."""
        layers, session = list(self.viewer.layers), self.session
        if session is None or session.layer not in layers:
            return ""
        if not session.layer.visible:
            return HIDDEN_TEXT
        above = layers[layers.index(session.layer) + 1 :]
        covered = any(layer.visible and is_slide_layer(layer) for layer in above)
        return COVERED_TEXT if covered else ""

    def _missing(self) -> str:
        session = self.session
        if session is None:
            return "Open a slide to start."
        if session.state == "opening":
            return "Opening what is known of this slide…"
        drawn = self.body.where.currentData() == TUMOUR_AREAS
        return DRAW_FIRST if drawn and not self.where.tumour().zones else ""

    def _on_where(self, _index: int = 0) -> None:
        """The drawn tumour: the one outline there is, else the person draws one."""
        drawn = self.body.where.currentData() == TUMOUR_AREAS
        if drawn and not self.where.tumour().zones:
            outlines = self.where.outlines()
            if len(outlines) == 1:
                self.where.choose(outlines[0])
            elif not outlines:
                self.where.draw()
        self._check_ready()

    def run(self) -> None:
        """Find nuclei where there are none yet, then measure; errors are told."""
        if self.runs.running or self._missing() or self.session is None:
            return
        self._ended = ""
        self.keeping.abandon()
        session = self.session
        self._use_mpp(session)
        tumour = self.where.tumour()
        try:
            where = self.body.where.currentData()
            self.runs.begin(session, where, tumour, self.body.cutoffs.cutoffs)
        except CellDETRError as error:
            show_error(str(error))
            self._on_ended(error.message)

    def _use_mpp(self, session: SlideSession) -> None:
        """Take the pixel size that a person gave; what was measured with another goes."""
        wanted, before = self.body.mpp_spin.value(), session.frame
        if wanted < MIN_MPP or not self.body.mpp_spin.isVisibleTo(self.body):
            return
        if before.mpp is None or abs(before.mpp[0] - wanted) > 1e-6:
            session.use_mpp(wanted)
            self.where.move(before, session.frame)
            self._forget(session)

    def _forget(self, session: SlideSession) -> None:
        """Nothing is measured of this slide."""
        kept, self.covered = self._kept.pop(id(session), None), None
        if kept is not None:
            kept[1].remove()
        self.readout.follow(session, None, None)
        self.readout.show()

    def calibrate(self, key: str, expected_od: float) -> None:
        """Measure again, with the stain as strong as it should be in the control `key`.

        The person is asked first.
        """
        region = bounds_of(self.where.meant(key))
        if self.session is None or region is None or self.runs.running:
            return
        name = key.removeprefix(LAYER_KEY)
        if self.where.ask(CONFIRM_CONTROL.format(name=name, od=expected_od)):
            self._ended = ""
            self.runs.measure(self.session, control=Control(region, expected_od))

    def forget_control(self) -> None:
        """Measure again, with the stain as it is on the slide."""
        if self.session is not None and not self.runs.running:
            self._ended = ""
            self.runs.measure(self.session)

    def _on_ended(self, text: str) -> None:
        self._ended = text
        self._check_ready()

    def _on_measured(self, found: Measured) -> None:
        if found.state is not None:
            self.take(found.state)
        elif found.covered is not None:
            self.covered = found.covered
            self.body.show_covered(found.covered)

    # Results ----------------------------------------------------------------------------

    def take(self, state: Her2State) -> None:
        """Show these measurements, with the cut-offs and the tumour that are chosen."""
        session = self.session
        if session is None:
            return
        first, layers = self.state is None, self.layers
        state.choose(cutoffs=self.body.cutoffs.cutoffs, tumour=self.where.tumour())
        if not self.runs.running:
            state.keep(session.cells.boxes[session.cells.kept])
            self.keeping.note()
        if layers is None:
            name = Path(session.layer.name).stem
            layers = Her2Layers(self.viewer, session.frame, session.size, name=name)
        layers.frame = session.frame
        self.covered = None
        self.readout.follow(session, state, layers)
        layers.take(state)
        self._kept[id(session)] = (session, layers, state)
        if first:
            self._show_nuclei(self.body.nuclei_tick.isChecked())
        self._show_all()

    def _show_all(self) -> None:
        self.where.offer()
        self._offer_outlines()
        if self.state is not None:
            self.body.cutoffs.show_cutoffs(self.state.asked.cutoffs)
        self.readout.show()

    def _judge(self) -> None:
        """Other cut-offs: figures and colours follow at once, slow intervals once they rest."""
        if self.state is not None:
            self.state.choose(cutoffs=self.body.cutoffs.cutoffs)
            self._ask()

    def _ask(self) -> None:
        self.readout.judging.ask()
        if self.readout.judging.busy:
            self.readout.show_scope()
        self.keeping.note()

    def _on_cells(self) -> None:
        """Cells were corrected, or found: those that are gone leave the count at once."""
        session, state = self.session, self.state
        self.where.offer()
        self._check_ready()
        if session is not None and state is not None and not self.runs.running:
            state.keep(session.cells.boxes[session.cells.kept])
            self._ask()

    def _use_tumour(self) -> None:
        tumour = self.where.tumour()
        self.body.offer_scopes(scopes_of(tumour))
        self._offer_outlines()
        self._check_ready()
        if self.state is not None:
            self.state.choose(tumour=tumour)
            self._ask()
        elif self.covered is not None:
            same = _same(tumour, self.covered.tumour)
            self.body.reporter.offer(self.covered, why_not="" if same else MEASURE_AGAIN)
            self._on_ended("" if same else f"{MEASURE_AGAIN}.")

    def _offer_outlines(self) -> None:
        self.body.control.offer(self.where.controls())
        self.saver.offer()

    def _show_nuclei(self, shown: bool) -> None:
        overlay = None if self.session is None else self.session.overlay
        if overlay is not None:
            overlay.hide(not shown)

    def ask_network(self) -> None:
        """Ask the pixel network about the cells that count, or stop asking."""
        if self.session is not None and self.state is not None:
            self.body.network.press(self.session, self.state)

    # Report -----------------------------------------------------------------------------

    def _on_report(self) -> None:
        shown = self.state or self.covered
        if self.session is not None and shown is not None:
            self.body.reporter.ask(self.session, shown)

    def write_report(self, path: str | Path) -> None:
        """Write what is shown as ``.html`` or ``.json``."""
        shown = self.state or self.covered
        if self.session is not None and shown is not None:
            self.body.reporter.write(self.session, shown, path)


def _same(one: Tumour, other: Tumour) -> bool:
    """Whether two tumours are the same places, said by the same."""
    names = ("source", "zones", "cut_out", "untrusted")
    return all(getattr(one, name) == getattr(other, name) for name in names)
