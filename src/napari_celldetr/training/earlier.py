"""What an earlier run left in a folder: the same run at its end, or another one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from napari_celldetr.core.config import to_json
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.card import read_card
from napari_celldetr.training.checkpoint import NAME, refuse_other, saved_settings, saved_step
from napari_celldetr.training.config import LoopConfig
from napari_celldetr.training.history import LOG, read_history

FINISHED = "Already finished; nothing was trained. --fresh trains it again."


def finished_before(config: LoopConfig, settings: str) -> Job[bool]:
    """Whether the folder holds this very run at its end; yields a `Progress` that says so.

    `settings` are `Work.settings`. The log is asked where there is no checkpoint, and the
    model's card where there is no log. Raises `JobError` when they are of another run.
    """
    folder = Path(config.output)
    found = None if config.fresh else _settings_there(folder, config, settings)
    if found is None:
        return False
    old, done = found
    refuse_other(
        folder, json.dumps(json.loads(to_json(type(config)())) | json.loads(old)), settings
    )
    if done < config.steps or not has_model(folder / config.name):
        return False
    yield Progress(done, config.steps, note=FINISHED)
    return True


def has_model(folder: Path) -> bool:
    """Whether a folder holds a model."""
    return (folder / "card.json").is_file() and (folder / "weights.safetensors").is_file()


def _settings_there(folder: Path, config: LoopConfig, settings: str) -> tuple[str, int] | None:
    # Settings as JSON and steps done of whatever run is there; None for none.
    if (folder / NAME).is_file():
        old = saved_settings(folder)
        return None if old is None else (old, saved_step(folder))
    history = read_history(folder)
    if history.settings:
        return json.dumps(history.settings), len(history.steps)
    if (folder / LOG).is_file() or not has_model(folder / config.name):
        return None
    return _of_card(folder / config.name, config, settings), config.steps


def _of_card(model: Path, config: LoopConfig, settings: str) -> str:
    # A card holds what unset settings came to, and the number format in place of what was asked.
    training, ours = read_card(model).training, json.loads(settings)
    known = {k: training[k] for k in ours if k in training and k != "precision"}
    resolved = asdict(config.recipe)
    known |= {k: ours[k] for k in resolved if training.get(k) == resolved[k]}
    return json.dumps(ours | known)
