"""A trained network gets further classes, or adapters, and gives what it gave before.

Rows of the old classes stay as they are. A new class begins without weights and with a small
prior, so that it takes next to nothing from the old ones until it has been taught.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from napari_celldetr.nets.celldetr import CellDETR

NEW_CLASS_LOGIT = -6.0
"""Below the mean logit of the old classes: a share of about 0.2 % each."""


def widened(model: CellDETR, classes: int, *, adapters: int = 0) -> CellDETR:
    """The same network for `classes` classes, the old ones first, with adapters of that width.

    Adapters that are there already stay as they are. An overview knows the old classes only: it
    goes where there are new ones.
    """
    config = model.config
    wanted = replace(
        config,
        num_classes=classes,
        adapters=config.adapters or adapters,
        overview=config.overview if classes == config.num_classes else None,
    )
    if wanted == config:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = CellDETR(wanted)
    old, state = model.state_dict(), made.state_dict()
    fitting = {k: v for k, v in old.items() if k in state and state[k].shape == v.shape}
    made.load_state_dict(fitting, strict=False)
    if classes != config.num_classes:
        _keep_rows(model, made)
    return made.train(model.training)


@torch.no_grad()
def _keep_rows(old: CellDETR, new: CellDETR) -> None:
    layers = dict(old.named_modules())
    known = old.config.num_classes
    for name, layer in new.named_modules():
        before = layers.get(name)
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not isinstance(
            before, nn.Linear | nn.Conv2d
        ):
            continue
        if layer.weight.shape == before.weight.shape:
            continue
        assert layer.bias is not None
        assert before.bias is not None
        layer.weight[:known], layer.bias[:known] = before.weight, before.bias
        layer.weight[known:] = before.weight.mean(0)
        layer.bias[known:] = before.bias.mean() + NEW_CLASS_LOGIT
