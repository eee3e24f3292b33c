"""timm feature extractors -> feature levels; folded batch norm; a light feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_celldetr.core.errors import ModelError

# MobileNetV2's weights come from a TensorFlow-style network: asymmetric "same" padding.
_EXTRA: dict[str, dict[str, Any]] = {"mobilenetv2_100": {"pad_type": "same"}}


class Backbone(nn.Module):
    """Features of an image at chosen strides.

    Parameters
    ----------
    name : str
        Any timm model that offers ``features_only``, e.g. ``resnet50``, ``mobilenetv2_100``.
    strides : sequence of int
        Which levels to return, ascending.
    fold : bool
        Fold batch norm into the convolutions (after loading weights, if any): fewer operations
        and no running statistics to disturb when fields are few.
    weights : path, optional
        Local ``.npz``, ``.safetensors`` with timm's names. Nothing is ever downloaded.

    Attributes
    ----------
    channels : tuple of int
        Channels of each returned level.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int],
        *,
        fold: bool = True,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        probe = _create(name)
        reductions = cast(Any, probe.feature_info).reduction()
        missing = [s for s in strides if s not in reductions]
        if missing:
            raise ModelError(
                f"Backbone {name!r} has no features at stride {missing}.",
                expected=f"strides out of {reductions}",
                found=str(list(strides)),
                remedy="choose other strides or another backbone",
            )
        wanted = tuple(reductions.index(s) for s in strides)
        self.body = _create(name, out_indices=wanted)
        self.channels: tuple[int, ...] = tuple(cast(Any, self.body.feature_info).channels())
        if weights is not None:
            load_backbone_weights(self.body, weights)
        if fold:
            fold_batch_norm(self.body)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B, 3, H, W) -> features (B, C_i, H / s_i, W / s_i)."""
        return list(self.body(image))


def _create(name: str, **options: Any) -> nn.Module:
    if not timm.is_model(name):
        # timm takes other names as places to download from.
        raise ModelError(
            f"No backbone {name!r}.",
            expected="a model that comes with timm",
            found="another name",
            remedy="see timm.list_models()",
        )
    try:
        return timm.create_model(
            name, features_only=True, pretrained=False, **_EXTRA.get(name, {}), **options
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"No backbone {name!r}.",
            expected="a timm model that offers features_only",
            found=str(error)[:200],
            remedy="see timm.list_models()",
        ) from error


def load_backbone_weights(body: nn.Module, path: str | Path) -> None:
    """Load local weights with timm's names; every parameter of `body` must be there."""
    path = Path(path)
    try:
        if path.suffix == ".npz":
            # numpy leaves a file open that turns out to be damaged.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                state = {k: torch.from_numpy(arrays[k]) for k in arrays.files}
        else:
            state = load_file(path)
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, SafetensorError) as error:
        raise ModelError(
            f"Backbone weights {path.name!r} cannot be read.",
            expected="a .npz or .safetensors file with timm's names",
            found=str(error)[:200],
            remedy="check the path",
        ) from error
    own = body.state_dict()
    needed = [k for k in own if not k.endswith("num_batches_tracked")]
    bad = [k for k in needed if k not in state or state[k].shape != own[k].shape]
    if bad:
        raise ModelError(
            f"Backbone weights {path.name!r} do not fit.",
            expected=f"{len(needed)} tensors of this backbone",
            found=f"{len(bad)} missing or of another shape, e.g. {bad[0]}",
            remedy="take the weights of the same timm model",
        )
    body.load_state_dict({k: state[k] for k in needed}, strict=False)


@torch.no_grad()
def fold_batch_norm(module: nn.Module) -> None:
    """Fold every batch norm into the convolution before it, in place.

    Relies on timm's habit of naming a norm directly after its convolution.
    """
    last: nn.Conv2d | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            last = child
        elif isinstance(child, nn.BatchNorm2d) and last is not None:
            _fold_pair(last, child)
            # timm's BatchNormAct2d carries the activation along.
            setattr(module, name, getattr(child, "act", nn.Identity()))
            last = None
        else:
            fold_batch_norm(child)


def _fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    conv.weight.mul_(scale.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(shift.clone())


class FeaturePyramid(nn.Module):
    """Top-down pyramid (Lin et al. 2017): every level gets `size` channels and wider context.

    Every level gets a 3×3 convolution after the sum; the finest is the costliest, so its
    convolution is depth-wise separable when `light`. With `finest_only` the other levels are
    summed but not given.
    """

    def __init__(
        self,
        channels: Sequence[int],
        size: int,
        *,
        light: bool = True,
        finest_only: bool = False,
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, size, 1) for c in channels)
        self.smooth = nn.ModuleList(
            _separable(size) if light and i == 0 else nn.Conv2d(size, size, 3, padding=1)
            for i in range(1 if finest_only else len(channels))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Levels (B, C_i, H_i, W_i), fine to coarse -> the same with `size` channels each."""
        top = [lat(f) for lat, f in zip(self.lateral, features, strict=True)]
        for i in range(len(top) - 2, -1, -1):
            size = top[i].shape[-2:]
            top[i] = F.interpolate(top[i + 1], size=size, mode="nearest").add_(top[i])
        return [F.relu_(s(t)) for s, t in zip(self.smooth, top, strict=False)]


def _separable(size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(size, size, 3, padding=1, groups=size), nn.Conv2d(size, size, 1))
