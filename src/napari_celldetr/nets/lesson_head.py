"""A lesson inside a model: the head's numbers among the weights, under ``lesson.``.

They are applied where the head was fitted: on the embeddings as they are stored, and on the
class probabilities as they are given, calibrated. So a model with a lesson says the same of a
cell as the lesson on a run of the model without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_celldetr.core.head import FLOOR, Head


class LessonHead(nn.Module):
    """Numbers of a `napari_celldetr.core.head.Head`; not trained.

    Parameters
    ----------
    classes, model_classes : int
        K in all, of which the first are the network's own.
    size : int
        Length D of the embeddings.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    temperature: Tensor

    def __init__(self, classes: int, model_classes: int, size: int) -> None:
        super().__init__()
        self.model_classes = model_classes
        shapes = {"mean": (size,), "std": (size,), "weight": (classes, size), "bias": (classes,)}
        for name, shape in (shapes | {"temperature": (1,)}).items():
            self.register_buffer(name, torch.ones(shape))

    @classmethod
    def of(cls, head: Head) -> LessonHead:
        """The numbers of `head`."""
        own = cls(len(head.class_names), len(head.model_classes), head.size)
        own.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in head.arrays().items()})
        return own

    def forward(self, vectors: Tensor, shares: Tensor) -> Tensor:
        """Embeddings (N, D), the model's class probabilities (N, M) -> probabilities (N, K)."""
        new = len(self.bias) - self.model_classes
        word = nn.functional.pad(shares.float(), (0, new), value=FLOOR).clamp(FLOOR, 1).log()
        # The numbers come from a 16-bit file: what they are multiplied with need not lose more.
        with torch.autocast(vectors.device.type, enabled=False):
            z = (vectors.float() - self.mean) / self.std
            logits = word + z @ self.weight.T + self.bias
        return (logits / self.temperature).softmax(-1)

    def shares(self, vectors: Tensor, shares: NDArray[Any]) -> NDArray[np.float32]:
        """`forward` of embeddings, as they will be stored, and numpy's probabilities (N, M)."""
        own = torch.from_numpy(np.ascontiguousarray(shares, np.float32)).to(vectors.device)
        told: NDArray[np.float32] = self(vectors.half(), own).cpu().numpy()
        return told
