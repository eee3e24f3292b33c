"""What a slide's light and stains are: read from its glass and tissue, or the defaults, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.stain import H_DAB, Floats, dab_od

White = tuple[float, float, float]
FULL_LIGHT: White = (255.0, 255.0, 255.0)


@dataclass(frozen=True, slots=True, eq=False)
class SlideStain:
    """How colours of one H-DAB slide become amounts of stain.

    Attributes
    ----------
    white : level (3,)
        Light through glass, 0 to 255.
    vectors : (3, 3)
        Rows haematoxylin, DAB, residual: unit vectors of optical density.
    gain : float
        Factor on DAB optical density; 1 unless calibrated.
    notes : tuple of str
        Where each of these came from, or why the default was kept.
    """

    white: White = FULL_LIGHT
    vectors: NDArray[np.float64] = field(default_factory=lambda: H_DAB)
    gain: float = 1.0
    notes: tuple[str, ...] = ()

    def dab(self, rgb: NDArray[np.uint8]) -> Floats:
        """DAB optical density (…) of colours (…, 3), gain applied."""
        return np.asarray(dab_od(rgb, self.white, self.vectors) * np.float32(self.gain), np.float32)
