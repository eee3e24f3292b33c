"""Forms made from config classes: one editor per setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.core.config import Setting, describe
from napari_celldetr.gui.parts import Fold, narrow_form

CHOICE_WORDS = {
    "auto": "Automatic",
    "cpu": "CPU",
    "cuda": "NVIDIA GPU",
    "mps": "Apple GPU",
}
"""Plain words for choices; others are shown as they are."""


class ConfigForm(QWidget):
    """A config dataclass as a form: plain settings on top, advanced ones folded away.

    `skip` names settings the dock shows in another way.
    """

    changed = Signal()

    def __init__(
        self, config: type, *, skip: Iterable[str] = (), parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        left_out = set(skip)
        self._settings = {s.name: s for s in describe(config) if s.name not in left_out}
        self._editors = {name: self._editor(s) for name, s in self._settings.items()}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        plain = [s for s in self._settings.values() if not s.info.advanced]
        advanced = [s for s in self._settings.values() if s.info.advanced]
        layout.addWidget(self._rows(plain))
        self.fold = Fold("Advanced", self._rows(advanced))
        self.fold.setVisible(bool(advanced))
        layout.addWidget(self.fold)

    def values(self) -> dict[str, Any]:
        """The settings as they stand, ready for ``from_mapping``."""
        return {name: read_editor(w) for name, w in self._editors.items()}

    def show_values(self, values: Mapping[str, Any]) -> None:
        """Show settings, e.g. of an earlier run; what the form does not know is left out."""
        for name, editor in self._editors.items():
            if name in values:
                write_editor(editor, values[name])

    def editor(self, name: str) -> QWidget:
        """The widget of one setting."""
        return self._editors[name]

    def _rows(self, settings: list[Setting]) -> QWidget:
        box = QWidget()
        form = narrow_form(box)
        for setting in settings:
            editor = self._editors[setting.name]
            if isinstance(editor, QCheckBox):
                form.addRow(editor)
            else:
                label = QLabel(setting.info.label)
                label.setToolTip(setting.info.help)
                form.addRow(label, editor)
        return box

    def _editor(self, setting: Setting) -> QWidget:
        editor = make_editor(setting)
        editor.setToolTip(setting.info.help)
        _change_signal(editor).connect(self.changed)
        return editor


def make_editor(setting: Setting) -> QWidget:
    """The right widget for a setting, showing its default."""
    info = setting.info
    suffix = f" {info.unit}" if info.unit else ""
    editor: QWidget
    if setting.choices:
        editor = QComboBox()
        for choice in setting.choices:
            editor.addItem(CHOICE_WORDS.get(choice, choice), choice)
        editor.setCurrentIndex(max(0, editor.findData(setting.default)))
    elif setting.kind is bool:
        editor = QCheckBox(info.label)
        editor.setChecked(bool(setting.default))
    elif setting.kind is int:
        editor = QSpinBox()
        editor.setRange(int(info.ge or 0), int(info.le if info.le is not None else 2**31 - 1))
        editor.setSuffix(suffix)
        if info.zero and editor.minimum() == 0:
            editor.setSpecialValueText(info.zero)
        editor.setValue(int(setting.default or 0))
    elif setting.kind is float:
        editor = optional_spin(setting) if setting.optional else QDoubleSpinBox()
        editor.setSuffix(suffix)
        if not setting.optional:
            editor.setRange(info.ge or 0.0, info.le if info.le is not None else 1e9)
            editor.setValue(float(setting.default))
    else:
        editor = QLineEdit(str(setting.default or ""))
    return editor


def optional_spin(setting: Setting) -> QDoubleSpinBox:
    """A number that may be left open: the lowest position says so."""
    editor = QDoubleSpinBox()
    step = 0.01
    editor.setDecimals(4)
    editor.setSingleStep(step)
    editor.setRange((setting.info.ge or 0.0) - step, setting.info.le or 1e9)
    editor.setSpecialValueText("not set")
    editor.setProperty("optional", True)
    editor.setValue(editor.minimum() if setting.default is None else float(setting.default))
    return editor


def read_editor(editor: QWidget) -> Any:
    """What the user put into a widget of `make_editor`."""
    if isinstance(editor, QComboBox):
        return editor.currentData()
    if isinstance(editor, QCheckBox):
        return editor.isChecked()
    if isinstance(editor, QDoubleSpinBox):
        unset = editor.property("optional") and editor.value() <= editor.minimum()
        return None if unset else round(editor.value(), editor.decimals())
    if isinstance(editor, QSpinBox):
        return editor.value()
    assert isinstance(editor, QLineEdit)
    return editor.text()


def write_editor(editor: QWidget, value: Any) -> None:
    """Put a value into a widget of `make_editor`; one that does not fit changes nothing."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(editor, QComboBox):
        if (place := editor.findData(value)) >= 0:
            editor.setCurrentIndex(place)
    elif isinstance(editor, QCheckBox):
        if isinstance(value, bool):
            editor.setChecked(value)
    elif isinstance(editor, QDoubleSpinBox):
        if value is None and editor.property("optional"):
            editor.setValue(editor.minimum())
        elif number:
            editor.setValue(float(value))
    elif isinstance(editor, QSpinBox):
        if number:
            editor.setValue(int(value))
    elif isinstance(editor, QLineEdit) and isinstance(value, str):
        editor.setText(value)


def _change_signal(editor: QWidget) -> Any:
    if isinstance(editor, QComboBox):
        return editor.currentIndexChanged
    if isinstance(editor, QCheckBox):
        return editor.toggled
    if isinstance(editor, QLineEdit):
        return editor.textChanged
    assert isinstance(editor, QSpinBox | QDoubleSpinBox)
    return editor.valueChanged
