"""An overview: a second, coarser network that says what cells are, from more of their surroundings.

A network at 0.25 µm/px sees every nucleus in detail and little around it; one at 0.5 µm/px sees
four times the tissue. Where the first has found the cells, the second is asked for their classes,
and the two opinions are averaged. It is a plain dense network (backbone, pyramid, class map)
without decoders, at a quarter of the pixels. Ensembles of scales are old; what is measured here
is in ``docs/accuracy.md``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.backbones import Backbone, FeaturePyramid
from napari_celldetr.nets.celldetr_config import OverviewConfig

COARSEST = 32
"""Stride that the pyramid comes down from."""


class Overview(nn.Module):
    """Dense class map of an image reduced by `OverviewConfig.scale`.

    Parameters
    ----------
    config : OverviewConfig
    num_classes : int
    """

    def __init__(self, config: OverviewConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        strides = strides_from(config.class_stride)
        self.backbone = Backbone(config.backbone, strides, fold=config.fold_norm)
        self.pyramid = FeaturePyramid(
            self.backbone.channels, config.pyramid_size, light=False, finest_only=True
        )
        self.class_head = dense_head(config.pyramid_size, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image (B, 3, H, W) -> class logits (B, K, H / s, W / s), s = scale · stride.

        Raises `ConfigError` where the sides are not multiples of the scale.
        """
        scale = self.config.scale
        if image.shape[-2] % scale or image.shape[-1] % scale:
            raise ConfigError(
                "This image cannot be reduced for the overview.",
                expected=f"sides that are multiples of {scale} px",
                found=f"{image.shape[-2]} × {image.shape[-1]} px",
                remedy="pad it",
            )
        (features,) = self.pyramid(self.backbone(F.avg_pool2d(image, scale)))
        logits: Tensor = self.class_head(features).float()
        return logits


def strides_from(finest: int) -> tuple[int, ...]:
    """Strides of the pyramid whose finest level is `finest`, each twice the one before."""
    return tuple(s for s in (2, 4, 8, 16, COARSEST) if s >= finest)


def dense_head(size: int, out: int) -> nn.Sequential:
    """Convolutions that read `out` maps from a pyramid level of `size` channels."""
    return nn.Sequential(
        nn.Conv2d(size, size, 3, padding=1, groups=size),
        nn.Conv2d(size, size, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(size, out, 1),
    )
