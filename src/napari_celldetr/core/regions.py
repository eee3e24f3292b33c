"""Rectangles on a slide, and the grid of tiles that says who owns which cell.

Everything is in level-0 pixels, half-open, y down. Tile cores partition the plane on a grid
anchored at (0, 0), so the tiles of a viewport are the very tiles of a whole-slide run and
their results can be reused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from napari_celldetr.core.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A half-open rectangle ``[x, x + width) × [y, y + height)`` in level-0 px."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ConfigError(
                "A region has no area.",
                expected="width and height of at least 1 px",
                found=f"{self.width} × {self.height}",
                remedy="give X Y WIDTH HEIGHT in level-0 pixels",
            )

    @property
    def x1(self) -> int:
        """Right edge (exclusive)."""
        return self.x + self.width

    @property
    def y1(self) -> int:
        """Bottom edge (exclusive)."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Area in level-0 px²."""
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        """Centre as (x, y)."""
        return self.x + self.width / 2, self.y + self.height / 2

    @classmethod
    def from_edges(cls, x0: int, y0: int, x1: int, y1: int) -> Region:
        """The region between two corners; raises `ConfigError` when it has no area."""
        return cls(x0, y0, x1 - x0, y1 - y0)

    def intersect(self, other: Region) -> Region | None:
        """The common part, or None."""
        x0, y0 = max(self.x, other.x), max(self.y, other.y)
        x1, y1 = min(self.x1, other.x1), min(self.y1, other.y1)
        return Region(x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None

    def grow(self, margin: int) -> Region:
        """The region with `margin` px added on every side."""
        return Region(
            self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin
        )

    def contains(self, x: float, y: float) -> bool:
        """Whether a point lies inside (half-open)."""
        return self.x <= x < self.x1 and self.y <= y < self.y1


@dataclass(frozen=True, slots=True)
class Tile:
    """One planned rectangle: `core` is what it owns, `read` is core plus halo."""

    index: tuple[int, int]
    core: Region
    read: Region
    mpp: float | None

    @property
    def key(self) -> str:
        """Stable name of the tile, ``row_column``."""
        return f"{self.index[0]}_{self.index[1]}"


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The partition of the plane into cores of `core` px, each read with `halo` px around it.

    Parameters
    ----------
    core, halo : int
        Sides in level-0 px.
    mpp : float or None
        µm/px at which tiles are to be read; None means level-0 pixels as they are.
    """

    core: int
    halo: int
    mpp: float | None = None

    def __post_init__(self) -> None:
        if self.core < 1 or self.halo < 0:
            raise ConfigError(
                "The tile grid is impossible.",
                expected="core of at least 1 px and a halo of at least 0 px",
                found=f"core {self.core}, halo {self.halo}",
                remedy="choose a larger tile or a smaller halo",
            )

    def tile(self, row: int, column: int) -> Tile:
        """The tile at a grid position."""
        core = Region(column * self.core, row * self.core, self.core, self.core)
        return Tile((row, column), core, core.grow(self.halo), self.mpp)

    def plan(
        self,
        region: Region,
        keep: Callable[[Region], bool] | None = None,
        first: tuple[float, float] | None = None,
    ) -> list[Tile]:
        """Tiles whose cores meet `region` and which `keep(core)` wants.

        `first` is a point (x, y) to start from: tiles are ordered by distance to it, so that
        what the user looks at is computed first. Without it the order is by row and column.
        """
        tiles = [t for t in self._meeting(region) if keep is None or keep(t.core)]
        if first is None:
            return tiles
        fx, fy = first

        def distance(tile: Tile) -> tuple[float, tuple[int, int]]:
            cx, cy = tile.core.centre
            return (cx - fx) ** 2 + (cy - fy) ** 2, tile.index

        return sorted(tiles, key=distance)

    def _meeting(self, region: Region) -> Iterator[Tile]:
        for row in range(region.y // self.core, -(-region.y1 // self.core)):
            for column in range(region.x // self.core, -(-region.x1 // self.core)):
                yield self.tile(row, column)


def bounding_region(regions: Iterable[Region]) -> Region | None:
    """The smallest region that holds all of `regions`; None when there are none."""
    items = list(regions)
    if not items:
        return None
    return Region.from_edges(
        min(r.x for r in items),
        min(r.y for r in items),
        max(r.x1 for r in items),
        max(r.y1 for r in items),
    )


_SNAP = 0.03
"""Share by which a slide's µm/px may miss a whole multiple of the model's and be read as it."""


def reading_scale(ratio: float) -> float:
    """Level-0 px per model px: a whole number where the ratio is within 3 % of one.

    Nuclei differ far more than that in size, and whole steps keep every tiling on the same
    pixels: a resampled edge falls differently in every tile, and faint cells come and go.
    """
    whole = round(ratio)
    return float(whole) if whole >= 1 and abs(ratio / whole - 1) <= _SNAP else ratio
