"""Classifiers of patches and pixels small enough to train in seconds, and their cards."""

from __future__ import annotations

from dataclasses import asdict

import tiny_nets
import torch

from napari_celldetr.nets.card import CLASSIFY, SEGMENT, ModelCard
from napari_celldetr.nets.maskformer import MaskFormer, MaskFormerConfig
from napari_celldetr.nets.patch_vit import PatchViT, PatchViTConfig


def patch_config(**changes) -> PatchViTConfig:
    values = {"num_classes": 3, "backbone": "mobilenetv2_050", "patch": 64, "stride": 16}
    values |= {"size": 16, "depth": 2, "heads": 2, "feed_forward": 16, "dropout": 0.0}
    return PatchViTConfig(**(values | changes))


def mask_config(**changes) -> MaskFormerConfig:
    values = {"num_classes": 3, "backbone": "mobilenetv2_050", "pyramid_size": 16, "size": 16}
    values |= {"heads": 2, "feed_forward": 16, "layers": 2, "queries": 6, "window": 128}
    return MaskFormerConfig(**(values | changes))


def patch_vit(seed: int = 0, **changes) -> PatchViT:
    torch.manual_seed(seed)
    return PatchViT(patch_config(**changes)).eval()


def maskformer(seed: int = 0, **changes) -> MaskFormer:
    torch.manual_seed(seed)
    return MaskFormer(mask_config(**changes)).eval()


def card(network: PatchViT | MaskFormer, **changes) -> ModelCard:
    patches = isinstance(network, PatchViT)
    values = {
        "architecture": "patch-vit" if patches else "maskformer",
        "task": CLASSIFY if patches else SEGMENT,
        "arguments": asdict(network.config),
    }
    return tiny_nets.card(tiny_nets.small_config(), **(values | changes))
