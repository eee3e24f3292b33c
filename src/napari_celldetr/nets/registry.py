"""Model names and folders -> cards, networks and predictors. Loads torch only when asked to.

A model is a folder with ``card.json`` and ``weights.safetensors``. Nothing is downloaded, nothing
is unpickled, and no other model is taken in place of one that cannot be loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from napari_celldetr.core.errors import ConfigError, ModelError
from napari_celldetr.core.user_folders import user_models_folder
from napari_celldetr.nets.card import CLASSIFY, DETECT, SEGMENT, ModelCard, read_card

if TYPE_CHECKING:
    import torch

    from napari_celldetr.core.predictor import Predictor
    from napari_celldetr.nets.patch_predictor import ViTPatchPredictor
    from napari_celldetr.nets.pixel_predictor import MaskFormerPredictor

OWN = "celldetr"
"""Architecture of the detectors that this package builds itself."""
PATCH_VIT = "patch-vit"
MASKFORMER = "maskformer"
OWN_TASKS = {OWN: DETECT, PATCH_VIT: CLASSIFY, MASKFORMER: SEGMENT}
"""Architectures that this package builds itself, and what they are for."""
CARD = "card.json"
WEIGHTS = "weights.safetensors"
MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_TENSORS = 20_000
_TYPES = {"F16", "F32", "BF16", "I64"}


def model_folders() -> list[Path]:
    """Folders searched for models: ``CELLDETR_MODELS`` (path list), the installed ones, the user's.

    The user's own come last, so that none of them takes the place of an installed one unseen.
    """
    extra = [Path(p) for p in os.environ.get("CELLDETR_MODELS", "").split(os.pathsep) if p]
    package = Path(__file__).resolve().parents[1]
    # A wheel carries the models inside the package; a source checkout has them beside src/.
    own = [package / "models", package.parents[1] / "models"]
    return [p for p in [*extra, *own, user_models_folder()] if p.is_dir()]


def is_shipped(folder: str | Path) -> bool:
    """Whether a model folder is one that came with this package, not a user's own."""
    package = Path(__file__).resolve().parents[1]
    home = Path(folder).resolve().parent
    return home in (package / "models", package.parents[1] / "models")


def list_models(task: str | None = DETECT) -> list[ModelCard]:
    """Cards of the models for a task, by name; a name found first hides later ones.

    Detectors unless another of `napari_celldetr.nets.card.TASKS` is named; None takes all. A
    folder whose card cannot be used is left out; `broken_models` names it and says why.
    """
    cards = [card for card in _scan().values() if isinstance(card, ModelCard)]
    return [card for card in cards if task is None or card.task == task]


def model_places() -> dict[str, Path]:
    """Folder of every listed or broken model, by the name that `find_model` takes."""
    places: dict[str, Path] = {}
    for root in model_folders():
        for folder in sorted(root.iterdir()):
            if (folder / CARD).is_file():
                places.setdefault(folder.name, folder)
    return dict(sorted(places.items()))


def broken_models() -> dict[str, ModelError]:
    """Why each model folder with an unusable card is not listed."""
    return {name: card for name, card in _scan().items() if isinstance(card, ModelError)}


def _scan() -> dict[str, ModelCard | ModelError]:
    return {name: _card_or_error(folder) for name, folder in model_places().items()}


def _card_or_error(folder: Path) -> ModelCard | ModelError:
    try:
        return read_card(folder)
    except ModelError as error:
        return error


def find_model(name_or_folder: str | Path) -> Path:
    """Folder of a model, by name or path; `ModelError` lists what there is."""
    given = Path(name_or_folder)
    if given.is_dir() and (given / CARD).is_file():
        return given
    for root in model_folders():
        if given.name == str(given) and (root / given / CARD).is_file():
            return root / given
    names = sorted({c.name for c in list_models(None)})
    raise ModelError(
        f"No model {str(name_or_folder)!r}.",
        expected="the name of an installed model or a model folder with card.json",
        found=f"installed models: {', '.join(names) or 'none'}",
        remedy="check the name with `celldetr models`",
    )


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def check_weights(folder: str | Path, card: ModelCard) -> Path:
    """Path of the weights after checking header limits and hash; `ModelError` when not as said."""
    path = Path(folder) / WEIGHTS
    try:
        _check_header(path)
        found = file_sha256(path)
    except OSError as error:
        raise _bad_weights(card, "a readable weights file", str(error)) from error
    if found != card.weights_sha256:
        raise _bad_weights(card, f"sha256 {card.weights_sha256[:16]}…", f"{found[:16]}…")
    return path


def _bad_weights(card: ModelCard, expected: str, found: str) -> ModelError:
    return ModelError(
        f"The weights of model {card.name!r} cannot be used.",
        expected=expected,
        found=found,
        remedy="take the model folder again from its source; nothing was loaded",
    )


def _check_header(path: Path) -> None:
    # Own caps before the library reads anything: a hostile header must not cost memory.
    name = path.parent.name
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = file.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else MAX_HEADER_BYTES + 1
        if length > min(MAX_HEADER_BYTES, size):
            raise ModelError(
                f"The weights of model {name!r} have an impossible header.",
                expected=f"a safetensors header of at most {MAX_HEADER_BYTES} bytes",
                found=f"{length} bytes in a file of {size}",
                remedy="take the model folder again from its source",
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        tensors = {k: v for k, v in header.items() if k != "__metadata__"}
        kinds = {str(v["dtype"]) for v in tensors.values()}
        shapes_ok = all(isinstance(d, int) and d >= 0 for v in tensors.values() for d in v["shape"])
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"The weights of model {name!r} have an unreadable header.",
            expected="a safetensors file",
            found=type(error).__name__,
            remedy="take the model folder again from its source",
        ) from error
    if len(tensors) > MAX_TENSORS or not kinds <= _TYPES or not shapes_ok:
        raise ModelError(
            f"The weights of model {name!r} hold what a model of ours never holds.",
            expected=f"at most {MAX_TENSORS} tensors of types {sorted(_TYPES)}",
            found=f"{len(tensors)} tensors of types {sorted(kinds)[:5]}",
            remedy="take the model folder again from its source",
        )


def build_network(card: ModelCard) -> torch.nn.Module:
    """The untrained network a card describes.

    Other architectures come by entry point in the group ``napari_celldetr.nets``: a function
    of the card that returns a module with a method ``make_predictor(card, *, device, flips)``.
    """
    if card.architecture in OWN_TASKS:
        return _own_network(card)
    network: torch.nn.Module = _plugin(card).load()(card)
    return network


def _own_network(card: ModelCard) -> torch.nn.Module:
    task = OWN_TASKS[card.architecture]
    if card.task != task:
        raise _bad_card(card, f"a network to {task}", f"{card.architecture} to {card.task}")
    network, kind = _own_classes(card.architecture)
    known = {f.name for f in dataclasses.fields(kind)}
    if not set(card.arguments) <= known:
        raise ModelError(
            f"Model {card.name!r} asks for settings this version does not know.",
            expected=", ".join(sorted(known)),
            found=", ".join(sorted(set(card.arguments) - known)),
            remedy="update napari-celldetr",
        )
    try:
        config = kind(**card.arguments)
    except ConfigError as error:
        raise _bad_card(card, error.expected or "", error.found or "") from error
    named = card.class_names if card.lesson is None else card.lesson["model_classes"]
    if config.num_classes != len(named) and not card.class_rule:
        raise _bad_card(card, f"{config.num_classes} class names", f"{len(named)} class names")
    made: Any = network(config)
    if card.lesson is not None:
        from napari_celldetr.nets.lesson_head import LessonHead

        made.lesson = LessonHead(len(card.class_names), config.num_classes, config.size)
    whole: torch.nn.Module = made
    return whole


def _own_classes(architecture: str) -> tuple[Any, Any]:
    # Network and settings.
    if architecture == PATCH_VIT:
        from napari_celldetr.nets.patch_vit import PatchViT, PatchViTConfig

        return PatchViT, PatchViTConfig
    if architecture == MASKFORMER:
        from napari_celldetr.nets.maskformer import MaskFormer, MaskFormerConfig

        return MaskFormer, MaskFormerConfig
    from napari_celldetr.nets.celldetr import CellDETR, CellDETRConfig

    return CellDETR, CellDETRConfig


def _bad_card(card: ModelCard, expected: str, found: str) -> ModelError:
    return ModelError(
        f"The card of model {card.name!r} describes no network of ours.",
        expected=expected,
        found=found,
        remedy="take the model folder again from its source",
    )


def _plugin(card: ModelCard) -> Any:
    found = {e.name: e for e in entry_points(group="napari_celldetr.nets")}
    if card.architecture not in found:
        raise ModelError(
            f"Model {card.name!r} needs an architecture that is not installed.",
            expected=", ".join([*OWN_TASKS, *sorted(found)]),
            found=card.architecture,
            remedy="install the package that provides it",
        )
    return found[card.architecture]


def load_network(name_or_folder: str | Path) -> tuple[torch.nn.Module, ModelCard]:
    """Network with its weights, in float32 on the CPU, and its card."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = find_model(name_or_folder)
    card = read_card(folder)
    path = check_weights(folder, card)
    # Our own network is built without memory first: a card that asks for a giant costs nothing.
    ours = card.architecture in OWN_TASKS
    with torch.device("meta") if ours else contextlib.nullcontext():
        network = build_network(card)
    try:
        state = load_file(path)
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        network.load_state_dict(state, strict=True, assign=ours)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise _bad_weights(card, "the tensors this architecture has", str(error)[:300]) from error
    return network.requires_grad_(True), card


def load_model(
    name_or_folder: str | Path,
    *,
    device: str = "auto",
    flips: bool = False,
    class_columns: bool = False,
) -> Predictor:
    """A detector ready to predict.

    Parameters
    ----------
    name_or_folder : str or path
    device : str
        ``auto`` takes CUDA, then Apple's MPS, then the CPU; or name one.
    flips : bool
        Average mirrored views.
    class_columns : bool
        Give the probability of every class as a column ``probability_<class>`` as well, which is
        what lessons start from. Architectures of other packages do as they like.

    Raises
    ------
    ModelError
        When the card, the weights, their hash or the device is not as it should be, or the model
        is not one that detects.
    """
    # A mistyped name should not cost the import of torch.
    card = read_card(find_model(name_or_folder))
    refuse_other_task(card, DETECT)
    _refuse_pretrained(card)
    from napari_celldetr.nets.celldetr import CellDETR
    from napari_celldetr.nets.predictor import CellDETRPredictor

    chosen = choose_device(device)
    network, card = load_network(name_or_folder)
    if not isinstance(network, CellDETR):
        # An architecture that came by entry point brings its own way of predicting.
        own: Predictor = cast(Any, network).make_predictor(card, device=chosen, flips=flips)
        return own
    return CellDETRPredictor(
        network,
        card,
        device=chosen,
        flips=flips,
        dtype=_dtype(chosen),
        class_columns=class_columns,
    )


def load_patch_predictor(name_or_folder: str | Path, *, device: str = "auto") -> ViTPatchPredictor:
    """A patch classifier ready to predict; arguments and errors are those of `load_model`."""
    refuse_other_task(read_card(find_model(name_or_folder)), CLASSIFY)
    from napari_celldetr.nets.patch_predictor import ViTPatchPredictor
    from napari_celldetr.nets.patch_vit import PatchViT

    chosen = choose_device(device)
    network, card = load_network(name_or_folder)
    if not isinstance(network, PatchViT):
        # An architecture that came by entry point brings its own way of predicting.
        own: ViTPatchPredictor = cast(Any, network).make_predictor(card, device=chosen, flips=False)
        return own
    return ViTPatchPredictor(network, card, device=chosen, dtype=_dtype(chosen))


def load_pixel_predictor(
    name_or_folder: str | Path, *, device: str = "auto"
) -> MaskFormerPredictor:
    """A pixel classifier ready to predict; arguments and errors are those of `load_model`."""
    refuse_other_task(read_card(find_model(name_or_folder)), SEGMENT)
    from napari_celldetr.nets.maskformer import MaskFormer
    from napari_celldetr.nets.pixel_predictor import MaskFormerPredictor

    chosen = choose_device(device)
    network, card = load_network(name_or_folder)
    if not isinstance(network, MaskFormer):
        own: MaskFormerPredictor = cast(Any, network).make_predictor(
            card, device=chosen, flips=False
        )
        return own
    return MaskFormerPredictor(network, card, device=chosen, dtype=_dtype(chosen))


def refuse_other_task(card: ModelCard, task: str) -> None:
    """`ModelError` where a model is for another task than the one wanted."""
    if card.task == task:
        return
    names = ", ".join(c.name for c in list_models(task)) or "none installed"
    raise ModelError(
        f"Model {card.name!r} is for another task.",
        expected=f"a model to {task}",
        found=f"a model to {card.task}",
        remedy=f"choose another model ({names})",
    )


def _refuse_pretrained(card: ModelCard) -> None:
    if card.training.get("detects", True):
        return
    raise ModelError(
        f"Model {card.name!r} is pretrained only: it cannot detect cells.",
        expected="a model whose detection was trained",
        found="a trunk and a representation decoder to go on from",
        remedy=f"train it with `celldetr train --init {card.name}`, or choose another model",
    )


def choose_device(device: str) -> str:
    """Resolve ``auto``; `ModelError` when a named device is not there."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.split(":")[0], False):
        raise ModelError(
            f"Device {device!r} is not available.",
            expected=", ".join(k for k, v in there.items() if v),
            found=device,
            remedy="choose auto or cpu",
        )
    return device


def _dtype(device: str) -> torch.dtype:
    import torch

    # On a CPU float32 is the form whose results are promised to be reproducible.
    return torch.float16 if device.startswith("cuda") else torch.float32


def save_model(folder: str | Path, network: torch.nn.Module, card: ModelCard) -> ModelCard:
    """Write fp16 weights and the card (its hash filled in) into `folder`; returns the card."""
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        k: v.detach().cpu().to(torch.float16 if v.is_floating_point() else v.dtype).contiguous()
        for k, v in network.state_dict().items()
    }
    temporary = folder / (WEIGHTS + ".part")
    save_file(state, temporary)
    done = dataclasses.replace(card, weights_sha256=file_sha256(temporary))
    temporary.replace(folder / WEIGHTS)
    (folder / CARD).write_text(done.to_json(), encoding="utf-8")
    return done
