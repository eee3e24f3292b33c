"""What `celldetr doctor` looks at: can this installation do its work, and if not, what to do."""

from __future__ import annotations

import importlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from napari_celldetr.core.errors import CellDETRError

OK, WARN, FAIL = "ok", "warn", "fail"
VIEWER_SECONDS = 60
"""How long napari and OpenGL may take to come up in a process of their own."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: `state` is ``ok``, ``warn`` (works with limits) or ``fail``.

    `found` says what is there; `remedy` what to do about it, empty when nothing has to be done.
    """

    name: str
    state: str
    found: str
    remedy: str = ""


def examine() -> Iterator[Check]:
    """Look at everything, one `Check` at a time; nothing is changed and no exception escapes."""
    for look in (_python, _torch, _precision, _openslide, _imagecodecs, _viewer, _opengl):
        yield look()
    yield from _models()
    yield _cache()


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("Python", OK, found)


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch", FAIL, _words(error), "pip install torch, 2.10 or newer")
    from napari_celldetr.nets.registry import choose_device

    device = choose_device("auto")
    name = torch.cuda.get_device_name() if device == "cuda" else device
    found = f"{torch.__version__}, runs on {name}, {torch.get_num_threads()} threads"
    if device == "cpu":
        return Check("torch", OK, found + " (no GPU: slower, cells as good)")
    return Check("torch", OK, found)


def _precision() -> Check:
    """Time one convolution in float32 and bfloat16: half precision only pays with hardware."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("precision", FAIL, _words(error), "see torch above")
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        layer = torch.nn.Conv2d(16, 16, 3, padding=1).to(dtype)
        pixels = torch.zeros(1, 16, 64, 64, dtype=dtype)
        with torch.inference_mode():
            layer(pixels)
            seconds[dtype] = min(_timed(partial(layer, pixels)) for _ in range(3))
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    found = f"float32 on the CPU (bfloat16 would run at {ratio:.2g} times its speed here)"
    return Check("precision", OK, found)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _openslide() -> Check:
    return _library(
        "openslide",
        "openslide-python",
        lambda module: f"library {module.__library_version__}",
        "pip install openslide-python 'openslide-bin>=4.0.1'",
    )


def _imagecodecs() -> Check:
    return _library(
        "imagecodecs",
        "imagecodecs",
        lambda module: "JPEG and JPEG 2000" if module.JPEG8.available else "no JPEG",
        "pip install imagecodecs",
    )


def _library(module: str, package: str, detail: Callable[..., str], remedy: str) -> Check:
    try:
        found = f"{version(package)}, {detail(importlib.import_module(module))}"
    except (ImportError, OSError, AttributeError, PackageNotFoundError) as error:
        return Check(module, FAIL, _words(error), remedy)
    return Check(module, OK, found)


_QT = (
    "import napari, qtpy, qtpy.QtWidgets; print(napari.__version__, qtpy.API_NAME, qtpy.QT_VERSION)"
)

_GL = """
from qtpy.QtGui import QGuiApplication, QOffscreenSurface, QOpenGLContext
app = QGuiApplication([])
surface = QOffscreenSurface(); surface.create()
context = QOpenGLContext()
assert context.create() and context.makeCurrent(surface), "no OpenGL context"
v = context.format()
print(f"OpenGL {v.majorVersion()}.{v.minorVersion()} on the {app.platformName()} platform")
"""


def _viewer() -> Check:
    done, said = _in_own_process(_QT)
    remedy = "for the viewer: pip install 'napari-celldetr[all]'; the command line works without"
    if not done:
        return Check("napari", WARN, said, remedy)
    name, api, qt = said.split()[-3:]
    return Check("napari", OK, f"{name} with {api} {qt}")


def _opengl() -> Check:
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        found = "no display, so no viewer here"
        return Check("OpenGL", WARN, found, "use the command line, or start an X server")
    done, said = _in_own_process(_GL)
    if done:
        return Check("OpenGL", OK, said.splitlines()[-1])
    return Check("OpenGL", WARN, said, "install the system's OpenGL and xcb libraries (README)")


def _in_own_process(code: str) -> tuple[bool, str]:
    """Run `code` where a missing Qt plugin or a GL driver that aborts cannot take us along."""
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=VIEWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, _words(error)
    if ran.returncode == 0:
        return True, ran.stdout.strip()
    lines = ran.stderr.strip().splitlines()
    return False, lines[-1][:200] if lines else f"it died with code {ran.returncode}"


def _models() -> Iterator[Check]:
    from napari_celldetr.nets.card import read_card
    from napari_celldetr.nets.registry import CARD, check_weights, model_folders

    folders = [
        f for root in model_folders() for f in sorted(root.iterdir()) if (f / CARD).is_file()
    ]
    if not folders:
        yield Check("models", FAIL, "none", "install the package again; models come with it")
    for folder in folders:
        name = f"model {folder.name}"
        try:
            card = read_card(folder)
            check_weights(folder, card)
        except CellDETRError as error:
            found = f"{error.message} {error.found or ''}".strip()
            yield Check(name, FAIL, found, error.remedy or "take it again from its source")
        else:
            yield Check(name, OK, f"{card.stain}, {card.mpp:g} µm/px, hash as the card says")


def _cache() -> Check:
    from napari_celldetr.pipeline.ledger import cache_folder

    folder = cache_folder()
    probe = folder / f".celldetr-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        remedy = "set CELLDETR_CACHE to a folder that can be written to"
        return Check("run cache", FAIL, f"{folder}: {_words(error)}", remedy)
    return Check("run cache", OK, f"{folder}, {_free_gb(folder):.0f} GB free")


def _free_gb(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 1e9


def _words(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no details'}"
