"""The table of an ablation: for a screen, as Markdown, as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from napari_celldetr import RESEARCH_USE


@dataclass(frozen=True)
class VariantRun:
    """One run of one variant.

    `scores` are those of `training.validation.Scores`; `parameters` a count; `ms_per_mpx` the
    network's time for a million px at inference; `seconds_per_step` the median while training;
    `failed` says why there is nothing else.
    """

    seed: int
    scores: dict[str, Any] | None = None
    parameters: int | None = None
    ms_per_mpx: float | None = None
    seconds_per_step: float | None = None
    device: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Outcome:
    """All runs of one variant; `changes` are its settings that differ from the first one's."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    runs: tuple[VariantRun, ...] = ()

    def values(self, of: Callable[[VariantRun], float | None]) -> list[float]:
        """What is known of one figure, a number per run."""
        found = [of(run) for run in self.runs if not run.failed]
        return [float(v) for v in found if v is not None]


@dataclass(frozen=True)
class AblationReport:
    """Outcomes of all variants so far, and the settings they share."""

    outcomes: tuple[Outcome, ...]
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {"settings": self.settings, "variants": [asdict(o) for o in self.outcomes]}

    def as_text(self) -> str:
        """The table for a screen, in columns, with what to know about it."""
        rows = self._rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = []
        for row in rows:
            first, *others = (w.ljust(n) for w, n in zip(row, widths, strict=True))
            lines.append("  ".join([first, *(o.strip().rjust(len(o)) for o in others)]).rstrip())
        return "\n".join([*lines, "", *self._notes(), RESEARCH_USE])

    def as_markdown(self) -> str:
        """The table as a Markdown page."""
        head, *body = self._rows()
        lines = ["# Ablation", "", _row(head), _row(["---", *["---:"] * (len(head) - 1)])]
        lines += [_row(row) for row in body]
        changes = [
            f"- `{o.name}`: " + (", ".join(f"{k} = {v!r}" for k, v in o.changes.items()) or "as is")
            for o in self.outcomes
        ]
        return "\n".join([*lines, "", *changes, "", *self._notes(), "", RESEARCH_USE]) + "\n"

    def _class_names(self) -> list[str]:
        for outcome in self.outcomes:
            for run in outcome.runs:
                if run.scores:
                    return list(run.scores["classes"])
        return []

    def _rows(self) -> list[list[str]]:
        names = self._class_names()
        head = ["variant", "detection F1", "class mean F1", *names]
        head += ["parameters, M", "ms per Mpx", "s per step"]
        return [head, *(self._row_of(outcome, names) for outcome in self.outcomes)]

    def _row_of(self, outcome: Outcome, names: Sequence[str]) -> list[str]:
        def score(key: str) -> Callable[[VariantRun], float | None]:
            return lambda run: None if run.scores is None else run.scores[key]

        def of_class(name: str) -> Callable[[VariantRun], float | None]:
            return lambda run: None if run.scores is None else run.scores["classes"].get(name)

        name = outcome.name + (" (failed)" if any(r.failed for r in outcome.runs) else "")
        return [
            name,
            _spread(outcome.values(score("detection")), 3),
            _spread(outcome.values(score("class_mean")), 3),
            *(_spread(outcome.values(of_class(n)), 3) for n in names),
            _spread([v / 1e6 for v in outcome.values(lambda r: r.parameters)], 2, spread=False),
            _spread(outcome.values(lambda r: r.ms_per_mpx), 0, spread=False),
            _spread(outcome.values(lambda r: r.seconds_per_step), 2, spread=False),
        ]

    def _notes(self) -> list[str]:
        runs = [r for o in self.outcomes for r in o.runs]
        scores = next((r.scores for r in runs if r.scores), None)
        notes = [f"{self.settings.get('steps')} steps per run, the same data and rates for all."]
        names = {o.name for o in self.outcomes}
        if any(name.startswith("window_") for name in names):
            notes.append(
                "Networks that count in shares of a window are matched and weighed by the "
                "paper's losses, the others by those of pixels: compare them among themselves."
            )
        if "score_of_both" in names:
            notes.append("score_of_both learns classes by sigmoid, without class weights.")
        if scores:
            notes.append(
                f"F1 on {scores['fields']} fields ({scores['cells']} cells) of groups that were "
                "not trained on; a cell counts within 3 µm. Each run's score threshold is the one "
                "that suits these fields best, so all figures are a little optimistic."
            )
        if max((len(o.runs) for o in self.outcomes), default=0) > 1:
            notes.append("Mean ± standard deviation over seeds.")
        else:
            notes.append("One seed each: differences of a few thousandths mean nothing.")
        devices = sorted({r.device for r in runs if r.device})
        if devices:
            notes.append(f"Times measured on {', '.join(devices)}.")
        notes += [
            f"{o.name}, seed {r.seed}: {r.failed}"
            for o in self.outcomes
            for r in o.runs
            if r.failed
        ]
        return notes


def _row(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _spread(values: Sequence[float], digits: int, *, spread: bool = True) -> str:
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return "–"
    text = f"{mean(known):.{digits}f}"
    return text + (f" ± {stdev(known):.{digits}f}" if spread and len(known) > 1 else "")
