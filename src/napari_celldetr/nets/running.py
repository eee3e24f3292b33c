"""How predictors run their network: no gradients, one number format, honest about memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_celldetr.nets.card import ModelCard

Network = TypeVar("Network", bound=nn.Module)

# How torch's allocators on Windows, Linux, GPUs and the GPU's libraries say it.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


@contextmanager
def running(device: str, dtype: torch.dtype) -> Iterator[None]:
    """A network may run in here; lack of memory becomes a ``MemoryError``.

    Convolutions and linear layers run in `dtype`.
    """
    kind = torch.device(device).type
    mixed = torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32)
    try:
        with torch.inference_mode(), mixed:
            yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a device has not enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)


class Normalizer:
    """uint8 tiles -> what a network sees.

    `mean` and `std` are the card's, on 0..1 RGB.
    """

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], *, device: str = "cpu"
    ) -> None:
        self._device = device
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255

    def __call__(self, tiles: NDArray[np.uint8]) -> Tensor:
        """(B, H, W, 3) uint8 -> normalised (B, 3, H, W) float32, channels last in memory."""
        # A copy: torch refuses arrays that may not be written, as cached tiles are.
        image = torch.from_numpy(np.array(tiles)).to(self._device).permute(0, 3, 1, 2).float()
        image = (image - self._mean) / self._std
        return image.contiguous(memory_format=torch.channels_last)


class LoadedNetwork(Generic[Network]):
    """A network on a device with its card: what every predictor of ours is.

    `dtype` is that of convolutions and linear layers.
    """

    def __init__(self, model: Network, card: ModelCard, *, device: str, dtype: torch.dtype) -> None:
        self._model = model.eval().to(device).to(memory_format=torch.channels_last)
        self._card, self._device, self._dtype = card, device, dtype
        self._normalized = Normalizer(card.mean, card.std, device=device)

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    @property
    def model(self) -> Network:
        """The network itself."""
        return self._model

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._device

    @property
    def dtype(self) -> str:
        """Number format of the heavy layers, for provenance."""
        return str(self._dtype).removeprefix("torch.")

    def _dtype_on(self, device: str) -> torch.dtype:
        # A CPU that is fallen back to may know no other format.
        return torch.float32 if device == "cpu" else self._dtype

    def _running(self) -> AbstractContextManager[None]:
        return running(self._device, self._dtype)
