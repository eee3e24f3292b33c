"""Where this program keeps what is a user's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_data_folder() -> Path:
    """The folder of this program among the user's data, as the system has it; may not exist."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "napari-celldetr"


def user_models_folder() -> Path:
    """Where models that a user made are kept, and looked for; may not exist."""
    return user_data_folder() / "models"


def new_model_folder(name: str, root: Path | None = None) -> Path:
    """A folder for a new model called `name` that is not there yet, among the user's models."""
    home = user_models_folder() if root is None else root
    names = [name, *(f"{name}-{i}" for i in range(2, 1000))]
    return next(home / n for n in names if not (home / n).exists())
