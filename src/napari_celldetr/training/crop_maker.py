"""From pools of fields and a generator to one crop, with all that augmentation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.training.augment import Augmentation, recolour
from napari_celldetr.training.crops import Crop, random_piece, reach_px
from napari_celldetr.training.mosaic import draw_seams, join_parts, part_shapes, trim_part
from napari_celldetr.training.paste import NucleusLibrary, paste_nuclei
from napari_celldetr.training.pools import Pool
from napari_celldetr.training.restain import nucleus_radius_px, random_marker, restain_to_hdab
from napari_celldetr.training.stain_mix import StainBank


class CropMaker:
    """Makes crops of `size` px out of pools, as `augmentation` says.

    A crop depends on the generator's state and nothing else. Stains are measured, and nuclei
    listed, once, and only where the augmentation needs them; both travel with the object to
    other processes.

    Attributes
    ----------
    bank : StainBank or None
    library : NucleusLibrary or None
        Nuclei of all pools stored in H&E; they are pasted into these pools alone.
    """

    def __init__(self, pools: Sequence[Pool], size: int, augmentation: Augmentation) -> None:
        self.pools, self.size, self.augmentation = list(pools), size, augmentation
        weights = np.array([p.spec.weight for p in pools], np.float64)
        self.shares: NDArray[np.float64] = weights / weights.sum()
        # Large fields hold more to see than small ones.
        areas = [np.array([f.image.shape[0] * f.image.shape[1] for f in p.fields]) for p in pools]
        self._field_shares = [a / a.sum() for a in areas]
        plan = augmentation
        self.bank = StainBank(pools) if plan.mix_p or plan.paste_p else None
        self.library: NucleusLibrary | None = None
        if self.bank is not None and plan.paste_p:
            kinds = zip(self.pools, self.bank.kinds, strict=True)
            # What is shown as H-DAB after re-staining is stored as H&E.
            self._pastes = [p.spec.restain or kind == "H&E" for p, kind in kinds]
            mixed = zip(self.pools, self._pastes, strict=True)
            self.library = NucleusLibrary([f for p, fits in mixed if fits for f in p.fields])

    def __call__(self, rng: np.random.Generator) -> Crop:
        """The next crop."""
        plan = self.augmentation
        if plan.mosaic_p and rng.random() < plan.mosaic_p:
            seams = draw_seams(self.size, rng)
            shapes = part_shapes(self.size, seams)
            parts = [self._part(rng, shape, corner) for corner, shape in enumerate(shapes)]
            crop = join_parts(parts, self.size, seams)
        else:
            crop = self._part(rng, (self.size, self.size), None)
        return replace(crop, image=recolour(crop.image, rng, plan))

    def _part(self, rng: np.random.Generator, shape: tuple[int, int], corner: int | None) -> Crop:
        """A crop, or part `corner` of a mosaic, in its stain but as no scanner changed it."""
        pool_id = int(rng.choice(len(self.pools), p=self.shares))
        pool, shares = self.pools[pool_id], self._field_shares[pool_id]
        field_id = int(rng.choice(len(shares), p=shares))
        field = pool.fields[field_id]
        piece = random_piece(field, shape, rng, self.augmentation)
        crop = piece.crop() if corner is None else trim_part(piece, corner)
        plan = self.augmentation
        if self.library is not None and self._pastes[pool_id] and rng.random() < plan.paste_p:
            low, high = plan.paste_count
            share = shape[0] * shape[1] / self.size**2
            crop = paste_nuclei(
                crop,
                self.library,
                rng,
                count=round(int(rng.integers(low, high + 1)) * share),
                reach=reach_px(field, crop.scale),
                class_names=field.class_names,
            )
        image = crop.image
        if pool.spec.restain:
            # Nuclei are as large as the crop shows them.
            radius = nucleus_radius_px(field.mpp) * crop.scale
            marker = random_marker(rng) if pool.spec.restain == "any" else "nucleus"
            image, _ = restain_to_hdab(
                image, rng, points=crop.points, radius_px=radius, marker=marker
            )
        change = None
        if self.bank is not None:
            change = self.bank.draw(pool_id, field_id, rng, plan)
        return replace(crop, image=image if change is None else change.apply(image))
