"""Cell-level contrastive pretraining: a nucleus in a disturbed box is still that nucleus.

Every nucleus of a field is an instance; disturbed copies of its box are anchors. The embedding of
an anchor is to be nearer to its own instance's than to those of the field's other nuclei
(CellDETR, section 3.3). Boxes are all that is needed: no types, and no person.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.celldetr import CellDETR, Encoded
from napari_celldetr.nets.noise import BoxNoise, noise_boxes
from napari_celldetr.nets.slots import clamp_boxes, pad_boxes


class ContrastiveHead(nn.Module):
    """Two-layer projection of embeddings; thrown away after pretraining.

    Parameters
    ----------
    size : int
        Width of the embeddings.
    hidden, out : int
        Widths of the two layers; 512 and 128 in the paper.
    """

    def __init__(self, size: int, hidden: int = 512, out: int = 128) -> None:
        super().__init__()
        self.wide = nn.Linear(size, hidden)
        self.narrow = nn.Linear(hidden, out)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(…, size) -> (…, out)."""
        out: Tensor = self.narrow(torch.relu(self.wide(embeddings)))
        return out


def contrastive_loss(
    model: CellDETR,
    head: ContrastiveHead,
    encoded: Encoded,
    boxes: list[Tensor],
    *,
    noise: BoxNoise | None = None,
    temperature: float = 0.1,
    copies: int = 2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """InfoNCE between disturbed and true boxes of each field (CellDETR, section 3.3).

    Gradients reach the representation decoder, the head and what made `encoded`; never the
    detection decoder.

    Parameters
    ----------
    model : CellDETR
        Decoupled, since nothing but boxes describes a cell here.
    head : ContrastiveHead
    encoded : Encoded
        From ``model.encode(image)``.
    boxes : list of (N_i, 4)
        cx, cy, w, h in 0..1 of every nucleus of each field. A field with fewer than two has
        nothing to tell apart and does not count.
    noise : BoxNoise, optional
        Disturbance of the anchors; the paper's where None.
    temperature : float
    copies : int
        Anchors per nucleus of the field with most nuclei. Other fields get as many in all: where
        slots would be padding, further copies of their nuclei stand.
    generator : torch.Generator, optional
        For the noise, on the boxes' device.

    Returns
    -------
    () float32; 0 where no field counts.

    Raises
    ------
    ConfigError
        When the model is not decoupled, or the numbers make no sense.
    """
    _check(model, encoded, boxes, temperature, copies)
    if max(len(b) for b in boxes) < 2:
        return encoded.memory.float().sum() * 0.0
    noise = BoxNoise() if noise is None else noise
    # Sampling and similarities in float32, whatever autocast does to convolutions.
    with torch.autocast(encoded.memory.device.type, enabled=False):
        slots, padding, owner = anchor_slots(boxes, noise, copies, generator)
        instances = slots.shape[1] - owner.shape[1]
        out = model.represent(
            encoded,
            clamp_boxes(slots, encoded.image, model.config.nucleus_px),
            padding=padding,
            mask=anchor_mask(instances, owner.shape[1], slots.device),
            placed=False,
        )
        vectors = F.normalize(head(out.embeddings).float(), dim=-1)
        true, anchors = vectors[:, :instances], vectors[:, instances:]
        return info_nce(anchors, true, owner, ~padding[:, :instances], temperature)


def info_nce(
    anchors: Tensor, instances: Tensor, owner: Tensor, used: Tensor, temperature: float
) -> Tensor:
    """Mean cross-entropy of finding each anchor's instance by similarity (van den Oord et al.).

    Parameters
    ----------
    anchors : (B, A, E), instances : (B, M, E)
        Vectors of length 1, so that their products are cosines.
    owner : (B, A) int64
        Each anchor's instance; -1 leaves the anchor out.
    used : (B, M) bool
        Instances that exist.
    temperature : float
    """
    similar = anchors @ instances.transpose(1, 2) / temperature
    # A finite number, for the rows of fields without any instance.
    similar = similar.masked_fill(~used[:, None], torch.finfo(similar.dtype).min)
    return F.cross_entropy(similar.flatten(0, 1), owner.flatten(), ignore_index=-1)


def anchor_slots(
    boxes: list[Tensor], noise: BoxNoise, copies: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Instances, then anchors, of every field.

    Returns
    -------
    slots : (B, M + copies · M, 4)
        M is the largest number of instances.
    padding : (B, M + copies · M) bool
        True in unused slots.
    owner : (B, copies · M) int64
        Instance of each anchor; -1 in fields of fewer than two instances.
    """
    most = max(len(b) for b in boxes)
    true, unused = pad_boxes(boxes)
    counts = torch.tensor([len(b) for b in boxes], device=true.device)[:, None]
    turn = torch.arange(copies * most, device=true.device)[None]
    owner = turn % counts.clamp(min=1)
    anchors = noise_boxes(true.gather(1, owner[..., None].expand(-1, -1, 4)), noise, generator)
    empty = (counts == 0).expand_as(owner)
    return (
        torch.cat((true, anchors), 1),
        torch.cat((unused, empty), 1),
        owner.masked_fill(counts < 2, -1),
    )


def anchor_mask(instances: int, anchors: int, device: torch.device | str = "cpu") -> Tensor:
    """(R, R) bool, True where attention is forbidden; rows look at columns.

    Instances see instances, an anchor sees itself and the instances, and nobody else sees it.
    """
    total = instances + anchors
    mask = torch.zeros(total, total, dtype=torch.bool, device=device)
    mask[:, instances:] = True
    return mask.fill_diagonal_(False)


def _check(
    model: CellDETR, encoded: Encoded, boxes: list[Tensor], temperature: float, copies: int
) -> None:
    wrong = []
    if not model.config.decoupled:
        wrong.append("a network without location-feature decoupling")
    if not temperature > 0 or copies < 1:
        wrong.append(f"temperature {temperature}, {copies} copies")
    if len(boxes) != len(encoded.memory):
        wrong.append(f"{len(boxes)} lists of boxes for {len(encoded.memory)} images")
    if wrong:
        raise ConfigError(
            "Contrastive pretraining is not possible.",
            expected="a decoupled network, temperature > 0, copies >= 1, boxes of every image",
            found="; ".join(wrong),
            remedy="change the named settings",
        )
