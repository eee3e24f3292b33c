import numpy as np
import pytest
from scipy import ndimage
from stained_fields import he_field, pool

from napari_celldetr.training.augment import Augmentation
from napari_celldetr.training.crop_maker import CropMaker
from napari_celldetr.training.crops import random_piece
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.mosaic import SEAM_PX, draw_seams, join_parts, part_shapes, trim_part

OFF = {"hed_p": 0, "light_p": 0, "blur_p": 0, "jpeg_p": 0, "noise_p": 0}
PLANS = [Augmentation(warp_p=0, **OFF), Augmentation(warp_p=1, elastic_p=0.5, **OFF)]


def dark_field(seed, masks, complete=True):
    """Black discs on white, far apart."""
    field = he_field(seed, masks=True, shape=(200, 200))
    image = np.where(field.instances > 0, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    sizes = field.sizes if masks else np.full_like(field.sizes, np.nan)
    return Field(
        "d", "g", image, 0.5, field.points, sizes, field.class_ids, ("a", "b"),
        complete, field.instances if masks else None,
    )  # fmt: skip


def mosaic(seed, plan, size=128, masks=True, complete=True):
    rng = np.random.default_rng(seed)
    seams = draw_seams(size, rng)
    shapes = part_shapes(size, seams)
    pieces = [
        random_piece(dark_field(10 * seed + i, masks, complete), shape, rng, plan)
        for i, shape in enumerate(shapes)
    ]
    parts = [trim_part(piece, i) for i, piece in enumerate(pieces)]
    return join_parts(parts, size, seams), seams, pieces, parts


def test_parts_fill_the_square():
    for seed in range(20):
        x, y = draw_seams(100, np.random.default_rng(seed))
        assert 30 <= x <= 70
        assert 30 <= y <= 70
        shapes = part_shapes(100, (x, y))
        assert sum(w * h for w, h in shapes) == 100 * 100
        assert shapes[0] == (x, y)
        assert shapes[3] == (100 - x, 100 - y)


@pytest.mark.parametrize("plan", PLANS)
def test_pixels_and_points_of_the_parts(plan):
    crop, (x, y), pieces, parts = mosaic(1, plan)
    np.testing.assert_array_equal(crop.image[:y, :x], pieces[0].image)
    np.testing.assert_array_equal(crop.image[:y, x:], pieces[1].image)
    np.testing.assert_array_equal(crop.image[y:, :x], pieces[2].image)
    np.testing.assert_array_equal(crop.image[y:, x:], pieces[3].image)
    assert len(crop.points) == sum(len(p.points) for p in parts)
    first = len(crop.points) - len(parts[3].points)
    np.testing.assert_array_equal(crop.points[first:], parts[3].points + np.float32([x, y]))
    assert (crop.rows == -1).all()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("plan", PLANS)
def test_no_cut_nucleus_is_kept_and_none_is_called_background(plan, masks):
    """Every dark disc is a target seen whole, or unknown, or cut by the crop's own border."""
    kept = lost = 0
    for seed in range(10):
        crop, (sx, sy), _, _ = mosaic(seed, plan, masks=masks)
        assert not crop.valid[:, sx - SEAM_PX : sx + SEAM_PX].any()
        assert not crop.valid[sy - SEAM_PX : sy + SEAM_PX].any()
        quarters = np.zeros(crop.valid.shape, int)
        quarters[:, sx:] += 1
        quarters[sy:] += 2
        column, row = crop.points.astype(int).T
        assert crop.valid[row, column].all()
        for quarter in range(4):
            discs, _ = ndimage.label((crop.image[..., 0] < 100) & (quarters == quarter))
            for n, part in enumerate(ndimage.find_objects(discs), 1):
                disc = discs == n
                y0, y1, x0, x1 = part[0].start, part[0].stop, part[1].start, part[1].stop
                at_border = min(y0, x0) == 0 or max(y1, x1) == 128
                at_seam = sx in (x0, x1) or sy in (y0, y1)
                inside = disc[row, column] & (quarters[row, column] == quarter)
                if at_seam:
                    assert not inside.any()
                    # Also its middle, should it be on this side.
                    assert crop.valid[disc].mean() < 0.05
                    lost += 1
                elif not at_border:
                    unknown = crop.valid[disc].mean() < 0.35
                    assert inside.sum() == 1 or unknown
                    kept += inside.sum()
    assert kept > 20
    assert lost > 25


def test_a_neighbour_of_a_cut_nucleus_stays_known():
    image = np.full((100, 100, 3), 255, np.uint8)
    points = np.array([[4.0, 50.0], [13.0, 50.0]])
    field = Field("n", "g", image, 0.5, points, np.full((2, 2), 12.0), [0, 0], ("a",))
    piece = random_piece(field, (100, 100), np.random.default_rng(0), Augmentation.none())
    part = trim_part(piece, 1)  # its left side is a seam
    np.testing.assert_array_equal(part.points, points[1:])
    assert not part.valid[50, 2:8].any()  # nearer to the cut one
    assert part.valid[50, 9:].all()  # nearer to the neighbour, though in the other's box
    other = trim_part(piece, 0)  # its left side is the crop's border: both may be seen
    assert len(other.points) == 2
    assert other.valid[50, :95].all()


def test_unfinished_parts_make_an_unfinished_crop():
    crop, *_ = mosaic(0, PLANS[0], masks=False, complete=False)
    assert not crop.complete
    assert 0 < crop.valid.mean() < 0.6
    assert mosaic(0, PLANS[0])[0].complete


def test_class_shares_are_weighed_by_area():
    none, image = np.zeros((0, 2)), np.zeros((70, 70, 3), np.uint8)
    shares = np.eye(4, dtype=np.float32)
    seams, parts = (60, 60), []
    for i, shape in enumerate(part_shapes(100, seams)):
        field = Field(
            "c", "g", image[: shape[1], : shape[0]], 0.5, none, none, [], ("a", "b", "c", "d"),
            False, composition=shares[i],
        )  # fmt: skip
        piece = random_piece(field, shape, np.random.default_rng(i), Augmentation.none())
        parts.append(trim_part(piece, i))
    crop = join_parts(parts, 100, seams)
    np.testing.assert_allclose(crop.composition, [0.36, 0.24, 0.24, 0.16], rtol=1e-6)


def test_a_maker_joins_fields_of_all_pools():
    light = he_field(0, strength=0.6)
    plan = Augmentation(warp_p=0, mosaic_p=1, **OFF)
    maker = CropMaker([pool([light]), pool([dark_field(1, True)])], 96, plan)
    seen = [maker(np.random.default_rng(i)).image for i in range(12)]
    both = [(i == 0).all(-1).any() and ((i > 150) & (i < 235)).any() for i in seen]
    assert sum(both) > 6
