"""A running training's state on disk: tensors as safetensors, the rest as JSON, no pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from napari_celldetr.core.errors import JobError

NAME = "checkpoint.safetensors"
BEST = "best.safetensors"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    config: str,
    precision: str = "float32",
) -> None:
    """Write the state after `step` steps so that a crash leaves the old file or the new one.

    `config` is JSON of the settings, `precision` the number format the steps were made in.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("model", model), ("average", average)):
        for key, value in module.state_dict().items():
            tensors[f"{prefix}.{key}"] = (
                value.detach().cpu().clone(memory_format=torch.contiguous_format)
            )
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{index}.{key}"] = (
                torch.as_tensor(value).cpu().clone(memory_format=torch.contiguous_format)
            )
    meta = {"step": str(step), "config": config, "precision": precision}
    _write(folder / NAME, tensors, meta)


def _write(path: Path, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary, metadata=meta)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def save_best(folder: Path, average: nn.Module) -> None:
    """Keep the weights that validated best so far."""
    state = average.state_dict().items()
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state}
    _write(folder / BEST, tensors, {})


def forget_best(folder: Path) -> None:
    """Remove what an earlier run kept."""
    (folder / BEST).unlink(missing_ok=True)


def best_weights(folder: Path) -> dict[str, Tensor]:
    """What `save_best` kept; `JobError` when it cannot be read."""
    try:
        return load_file(folder / BEST)
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def saved_precision(folder: Path) -> str:
    """Number format of the run whose checkpoint is in `folder`; once there was float32 only."""
    with safe_open(folder / NAME, framework="pt") as file:
        return str((file.metadata() or {}).get("precision", "float32"))


def saved_step(folder: Path) -> int:
    """Steps after which the checkpoint in `folder` was saved; 0 where none can be read."""
    try:
        with safe_open(folder / NAME, framework="pt") as file:
            return int((file.metadata() or {}).get("step", 0))
    except (OSError, ValueError, SafetensorError):
        return 0


def saved_settings(folder: Path) -> str | None:
    """Settings, as JSON, of the checkpoint in `folder`; None where none can be read."""
    try:
        with safe_open(folder / NAME, framework="pt") as file:
            text = str((file.metadata() or {})["config"])
        json.loads(text)
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    return text


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    config: str,
    defaults: str = "{}",
) -> int:
    """Restore a run; returns the step it had reached, 0 when there is nothing to restore.

    A setting that the checkpoint does not know, because it was written before there was one, has
    its value in `defaults` (JSON).

    Raises `JobError` when the checkpoint is damaged or of a run with other settings.
    """
    path = folder / NAME
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        step = int(meta["step"])
        json.loads(meta["config"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    refuse_other(folder, json.dumps(json.loads(defaults) | json.loads(meta["config"])), config)
    try:
        for prefix, module in (("model", model), ("average", average)):
            start = len(prefix) + 1
            state = {k[start:]: v for k, v in tensors.items() if k.startswith(prefix + ".")}
            module.load_state_dict(state, strict=True)
        _restore_optimizer(optimizer, tensors)
    except (RuntimeError, ValueError, KeyError) as error:
        raise _unreadable(folder, error) from error
    return step


def _unreadable(folder: Path, error: Exception) -> JobError:
    return JobError(
        f"The checkpoint in {folder.name!r} cannot be continued.",
        expected=f"a complete {NAME} of this version",
        found=f"{type(error).__name__}: {str(error)[:200]}",
        remedy="choose another output folder, or start over with --fresh",
    )


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    raw = optimizer.state_dict()
    states: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
    raw["state"] = states
    optimizer.load_state_dict(raw)


# What may change between a run and its continuation without changing its result.
FREE = {"output", "workers", "checkpoint_steps", "fresh"}


def _relevant(config: str) -> dict[str, Any]:
    return {k: v for k, v in json.loads(config).items() if k not in FREE}


def refuse_other(folder: Path, old: str, new: str) -> None:
    """Raise `JobError` where a folder's settings `old` are not those of `new`, both JSON."""
    a, b = _relevant(old), _relevant(new)
    differ = [k for k in sorted(a | b) if a.get(k) != b.get(k)]
    if not differ:
        return
    first = differ[0]
    model = folder / str(a.get("name", ""))
    remedy = "choose another output folder, or start over with --fresh"
    if differ == ["steps"] and (model / "card.json").is_file():
        remedy = (
            f"to train the finished model for longer, start from it: --init {model}, with another "
            "--output; or start over with --fresh"
        )
    raise JobError(
        f"The folder {folder.name!r} holds a run with other settings.",
        expected="the settings it was begun with",
        found=f"{first} = {b.get(first)!r} instead of {a.get(first)!r}",
        remedy=remedy,
    )
