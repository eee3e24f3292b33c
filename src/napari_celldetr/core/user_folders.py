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
