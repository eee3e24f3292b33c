"""What a run's log says: settings, a line per step, a line per validation."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_celldetr.core.errors import JobError

LOG = "log.jsonl"


@dataclass
class History:
    """A run so far.

    `steps` and `seconds` hold a number per step; `parts` a column per part of the loss, `rates`
    one per group of parameters; `validations` the lines of validations as they are.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    precision: dict[str, Any] = field(default_factory=dict)
    steps: array[float] = field(default_factory=lambda: array("d"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    parts: dict[str, array[float]] = field(default_factory=dict)
    rates: dict[str, array[float]] = field(default_factory=dict)
    validations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        """Take in a line of the log."""
        if "settings" in line:
            self.settings, self.precision = line["settings"], line.get("precision", {})
        elif "validation" in line:
            self.validations.append(line)
        else:
            self._add_step(dict(line))

    def _add_step(self, line: dict[str, Any]) -> None:
        before = len(self.steps)
        self.steps.append(line.pop("step"))
        self.seconds.append(line.pop("seconds"))
        rates = line.pop("rates", {})
        for columns, values in ((self.rates, rates), (self.parts, line)):
            for name, value in values.items():
                if name not in columns:
                    columns[name] = array("d", [float("nan")] * before)
                columns[name].append(value)
            for column in columns.values():
                # A part that this step does not have.
                column.extend([float("nan")] * (before + 1 - len(column)))

    @property
    def elapsed(self) -> float:
        """Seconds that the run took, its interruptions left out."""
        last = self.validations[-1]["seconds"] if self.validations else 0.0
        return max(float(self.seconds[-1]) if len(self.seconds) else 0.0, float(last))


def read_history(folder: Path) -> History:
    """The history in a run's folder, empty where there is none.

    A last line that was being written when the process died is left out. Raises `JobError` when
    another line is not one of ours.
    """
    history = History()
    for line in read_lines(folder / LOG):
        history.add(line)
    return history


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a log, see `read_history`."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(text):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or not {"step", "settings"} & set(entry):
                raise ValueError("not a line of a log")
        except ValueError as error:
            if number == len(text) - 1:
                break
            raise JobError(
                f"Line {number + 1} of the log {path.name} cannot be read.",
                expected="the log of a training run",
                found=f"{error}: {line[:80]}",
                remedy="choose another output folder, or start over with --fresh",
            ) from error
        lines.append(entry)
    return lines
