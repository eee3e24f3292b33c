"""A MaskFormer as a `PixelPredictor`: uint8 tiles in, class probabilities of every pixel out."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_celldetr.core.predictor import UNKNOWN
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.maskformer import COARSEST, MaskFormer
from napari_celldetr.nets.running import LoadedNetwork


class MaskFormerPredictor(LoadedNetwork[MaskFormer]):
    """A loaded MaskFormer.

    Parameters
    ----------
    model : MaskFormer
    card : ModelCard
    device : str
        ``cpu``, ``cuda:0``, ``mps`` …
    dtype : torch.dtype
        Of the backbone's and pyramid's convolutions; the decoder and its masks are float32.
    """

    def __init__(
        self,
        model: MaskFormer,
        card: ModelCard,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(model, card, device=device, dtype=dtype)

    @property
    def lattice_px(self) -> int:
        """Side of the cells that a tile is decoded in.

        Two tiles whose corners are a multiple of it apart decode the same cells.
        """
        return self._model.config.lattice

    @property
    def halo_px(self) -> int:
        """What a tile should have around the part that is used, px.

        One cell. It holds the half by which windows reach beyond the cells that own the pixels,
        half a fading strip and what convolutions see of the tile's edge; and tiles whose cores
        begin at multiples of the lattice then begin at multiples of it with their halos.
        """
        return self.lattice_px

    def to(self, device: str) -> MaskFormerPredictor:
        """The same model on another device, in float32 on a CPU."""
        dtype = self._dtype_on(device)
        return MaskFormerPredictor(self._model, self._card, device=device, dtype=dtype)

    def predict(self, tiles: NDArray[np.uint8]) -> NDArray[np.float16]:
        """See `napari_celldetr.core.predictor.PixelPredictor.predict`."""
        return self._shares(tiles).to(torch.float16).cpu().numpy()

    def classes(self, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `napari_celldetr.core.predictor.PixelPredictor.classes`."""
        shares = self._shares(tiles)
        best = shares.argmax(1).to(torch.uint8)
        best[torch.isnan(shares[:, 0])] = UNKNOWN
        found: NDArray[np.uint8] = best.cpu().numpy()
        return found

    def _shares(self, tiles: NDArray[np.uint8]) -> torch.Tensor:
        count, height, width = tiles.shape[:3]
        if not count:
            return torch.zeros(0, len(self._card.class_names), height, width)
        with self._running():
            image = self._normalized(tiles)
            down, right = -height % COARSEST, -width % COARSEST
            if down or right:
                image = F.pad(image, (0, right, 0, down), mode="replicate")
            shares = self._model.semantic(image)[..., :height, :width]
            # Nothing is said of a tile where one value is no number.
            bad = ~torch.isfinite(shares).flatten(1).all(1)
            shares[bad] = torch.nan
        return shares
