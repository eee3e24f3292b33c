"""Which two slides are a pair, and how large their pixels are where a slide does not say."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QDoubleSpinBox, QFormLayout, QHBoxLayout, QLabel, QToolButton, QWidget

from napari_celldetr.gui.layers import SLIDE_KEY, Frame
from napari_celldetr.gui.parts import SlideBox, narrow_form
from napari_celldetr.gui.sources import is_slide_layer

SMALLEST_MPP = 0.1
ENTERED_KEY = "celldetr_mpp_entered"
"""In the metadata of a layer: the pixel size in µm that was entered for it here."""
USUAL_MPP = "The slide does not say it. 0.25 is usual for a 40× scan, 0.5 for 20×."
IHC_WORDS = ("ihc", "her2", "her-2", "dab", "ki67", "ki-67", "er_", "pr_", "p53")


class PairBox(QWidget):
    """The two lists of slides, the button that exchanges them, and pixel sizes to enter.

    `chosen` is sent whenever one of the slides is another, `entered` when a pixel size is.
    """

    chosen = Signal()
    entered = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.he_box = SlideBox(viewer, "The H&E slide")
        self.ihc_box = SlideBox(viewer, "The IHC slide of the same block")
        self._sized: dict[SlideBox, Any] = {}
        self._tips = {box: box.toolTip() for box in (self.he_box, self.ihc_box)}
        self.swap_button = QToolButton()
        self.swap_button.setText("⇅")
        self.swap_button.setToolTip("Exchange the two slides")
        row = QHBoxLayout()
        row.addWidget(self.ihc_box, 1)
        row.addWidget(self.swap_button)
        form = narrow_form(self)
        form.addRow("H&&E", self.he_box)
        he_row = _mpp_row(form, "H&&E pixels")
        form.addRow("IHC", row)
        self.mpp = {"he": he_row, "ihc": _mpp_row(form, "IHC pixels")}
        self.he_box.chosen.connect(self._on_slides)
        self.ihc_box.chosen.connect(self._on_slides)
        self.swap_button.clicked.connect(self.swap)
        for _, spin in self.mpp.values():
            spin.valueChanged.connect(lambda _: self.entered.emit())

    def list_slides(self) -> None:
        """List the slides as they are now, and suggest a pair."""
        self.he_box.list_slides()
        self.ihc_box.list_slides()
        self.suggest()

    def suggest(self) -> None:
        """Two different slides, the IHC told by its name where that says so."""
        slides = [layer for layer in self._viewer.layers if is_slide_layer(layer)]
        he, ihc = self.he_box.layer, self.ihc_box.layer
        if len(slides) < 2 or he is None or he != ihc:
            return
        stained = [la for la in slides if any(w in la.name.lower() for w in IHC_WORDS)]
        new_ihc = stained[-1] if stained else slides[-1]
        new_he = next(la for la in slides if la != new_ihc)
        self.he_box.setCurrentIndex(slides.index(new_he))
        self.ihc_box.setCurrentIndex(slides.index(new_ihc))

    def swap(self) -> None:
        """Exchange the two slides."""
        he, ihc = self.he_box.currentIndex(), self.ihc_box.currentIndex()
        self.he_box.setCurrentIndex(ihc)
        self.ihc_box.setCurrentIndex(he)

    @property
    def pair(self) -> tuple[Any, Any] | None:
        """The layers of the H&E and the IHC; None while they are not two."""
        he, ihc = self.he_box.layer, self.ihc_box.layer
        return None if he is None or ihc is None or he == ihc else (he, ihc)

    @property
    def lacks_slides(self) -> bool:
        """Whether there are no two slides to choose from."""
        return self.he_box.layer is None or self.he_box.count() < 2

    def missing(self) -> str:
        """What has to be done before the slides can be aligned; empty if nothing."""
        if self.lacks_slides or self.ihc_box.layer is None:
            one = self.he_box.count() == 1
            return "Open the other slide to start." if one else "Open both slides to start."
        if self.pair is None:
            return "Choose two different slides."
        if _file_of(self.pair[0]) == _file_of(self.pair[1]) is not None:
            return "Both are the same file. Choose two different slides."
        for side, layer, (_, spin) in zip(
            ("H&E", "IHC"), self.pair, self.mpp.values(), strict=True
        ):
            if _lacks_size(layer) and spin.value() < SMALLEST_MPP:
                return f"Enter the pixel size of the {side} to start. {USUAL_MPP}"
        return ""

    def give_sizes(self, pair: tuple[Any, Any]) -> bool:
        """Give layers that do not say it the size that was entered; whether one was changed."""
        changed = False
        for layer, (_, spin) in zip(pair, self.mpp.values(), strict=True):
            before = layer.metadata.get(ENTERED_KEY)
            if _lacks_size(layer) and before != spin.value():
                scale = Frame.of_layer(layer).scale
                layer.scale = tuple(spin.value() / (before or 1.0) * s for s in scale)
                layer.units = ("um", "um")
                layer.metadata[ENTERED_KEY] = spin.value()
                changed |= before is not None
        return changed

    def let_go(self) -> None:
        """Follow the viewer no longer."""
        self.he_box.let_go()
        self.ihc_box.let_go()
        self._sized.clear()

    def _on_slides(self, _layer: Any = None) -> None:
        for box, (label, spin) in zip((self.he_box, self.ihc_box), self.mpp.values(), strict=True):
            layer = box.layer
            missing = layer is not None and _lacks_size(layer)
            label.setVisible(missing)
            spin.setVisible(missing)
            if layer != self._sized.get(box):
                # What was entered was another slide's.
                self._sized[box] = layer
                spin.blockSignals(True)
                spin.setValue(0.0 if layer is None else layer.metadata.get(ENTERED_KEY, 0.0))
                spin.blockSignals(False)
            # Long names are cut in the box.
            box.setToolTip(self._tips[box] if layer is None else f"{self._tips[box]}: {layer.name}")
        self.chosen.emit()


def _lacks_size(layer: Any) -> bool:
    """Whether a slide does not say itself how large its pixels are."""
    return ENTERED_KEY in layer.metadata or Frame.of_layer(layer).mpp is None


def _file_of(layer: Any) -> Any:
    return layer.metadata.get(SLIDE_KEY)


def _mpp_row(form: QFormLayout, text: str) -> tuple[QLabel, QDoubleSpinBox]:
    label, spin = QLabel(text), QDoubleSpinBox()
    spin.setDecimals(4)
    spin.setSingleStep(0.01)
    spin.setRange(0.0, 2.0)
    spin.setSpecialValueText("please enter")
    spin.setSuffix(" µm/px")
    spin.setToolTip(f"How wide one pixel is. {USUAL_MPP}")
    form.addRow(label, spin)
    return label, spin
