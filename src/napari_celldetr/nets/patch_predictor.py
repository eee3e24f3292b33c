"""A PatchViT as a `PatchPredictor`: uint8 patches in, class probabilities out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.patch_vit import PatchViT
from napari_celldetr.nets.running import LoadedNetwork

BATCH = 16
"""Patches of a heatmap that are looked at together, so that its memory does not grow with it."""


class ViTPatchPredictor(LoadedNetwork[PatchViT]):
    """A loaded PatchViT.

    Parameters
    ----------
    model : PatchViT
    card : ModelCard
    device : str
        ``cpu``, ``cuda:0``, ``mps`` …
    dtype : torch.dtype
        Of convolutions and linear layers; probabilities are float32.
    """

    def __init__(
        self,
        model: PatchViT,
        card: ModelCard,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(model, card, device=device, dtype=dtype)

    @property
    def patch_px(self) -> int:
        """Side of a patch, px at the card's µm/px."""
        return self._model.config.patch

    def to(self, device: str) -> ViTPatchPredictor:
        """The same model on another device, in float32 on a CPU."""
        dtype = self._dtype_on(device)
        return ViTPatchPredictor(self._model, self._card, device=device, dtype=dtype)

    def predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `napari_celldetr.core.predictor.PatchPredictor.predict`.

        Raises `ConfigError` for patches of another size.
        """
        side = self.patch_px
        if patches.ndim != 4 or patches.shape[1:] != (side, side, 3):
            raise ConfigError(
                "These are not the patches that the model looks at.",
                expected=f"patches (B, {side}, {side}, 3)",
                found=str(patches.shape),
                remedy="cut patches of that size, or ask for a heatmap of the whole tile",
            )
        if not len(patches):
            return np.zeros((0, len(self._card.class_names)), np.float32)
        with self._running():
            share = self._model(self._normalized(patches)).softmax(-1)
            share[~torch.isfinite(share).all(1)] = torch.nan
            found: NDArray[np.float32] = share.cpu().numpy()
        return found

    def heatmap(self, tile: NDArray[np.uint8], stride: int = 0) -> NDArray[np.float32]:
        """See `napari_celldetr.core.predictor.PatchPredictor.heatmap`; stride 0 is a patch.

        Only patches that lie in the tile as a whole are looked at, each by itself: a patch's
        entry does not depend on its tile. Raises `ConfigError` where not one fits.
        """
        side, step = self.patch_px, stride or self.patch_px
        height, width = tile.shape[:2]
        if step < 0 or min(height, width) < side:
            raise ConfigError(
                "There can be no heatmap of this tile.",
                expected=f"a tile of at least {side} × {side} px and a stride above 0",
                found=f"{height} × {width} px, stride {stride}",
                remedy="read a larger region",
            )
        # (rows, columns, 3, P, P), without a copy.
        views = np.lib.stride_tricks.sliding_window_view(tile, (side, side), axis=(0, 1))
        views = views[::step, ::step]
        rows, columns = views.shape[:2]
        flat = [views[i, j].transpose(1, 2, 0) for i in range(rows) for j in range(columns)]
        found = [self.predict(np.stack(flat[i : i + BATCH])) for i in range(0, len(flat), BATCH)]
        return np.concatenate(found).reshape(rows, columns, -1)
