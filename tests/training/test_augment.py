import math

import numpy as np
import pytest
from scipy import ndimage

from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.slides.stain import H_E, dab_od, optical_density
from napari_celldetr.training.augment import (
    Augmentation,
    add_noise,
    blur,
    change_light,
    hed_jitter,
    random_crop,
    recolour,
    recompress,
    restain_to_hdab,
    sample_crop,
)
from napari_celldetr.training.datasets import Field, instance_boxes
from napari_celldetr.training.restain import MARKERS, random_marker

GEOMETRY = {"hed_p": 0, "light_p": 0, "blur_p": 0, "jpeg_p": 0, "noise_p": 0}
TURNS = Augmentation(warp_p=0, **GEOMETRY)
WARPS = Augmentation(warp_p=1, **GEOMETRY)
EVERYTHING = Augmentation(warp_p=1, hed_p=1, light_p=1, blur_p=1, jpeg_p=1, noise_p=1)


def ellipses(rng, shape=(400, 500), count=40, masks=True):
    """A field of dark tilted ellipses on white, with exact masks."""
    height, width = shape
    y, x = np.mgrid[:height, :width] + 0.5
    ids = np.zeros(shape, np.int32)
    for _ in range(count):
        cx, cy = rng.uniform(25, width - 25), rng.uniform(25, height - 25)
        long, short, angle = rng.uniform(9, 16), rng.uniform(4, 8), rng.uniform(0, math.pi)
        u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        v = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        spot = (u / long) ** 2 + (v / short) ** 2 <= 1
        near = (u / (long + 4)) ** 2 + (v / (short + 4)) ** 2 <= 1
        if not ids[near].any():
            ids[spot] = ids.max() + 1
    boxes = instance_boxes(ids)
    image = np.where(ids[..., None] > 0, 60, 255).astype(np.uint8).repeat(3, axis=2)
    n = len(boxes)
    return Field(
        "f", "g", image, 0.5, (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2],
        np.arange(n) % 3, ("a", "b", "c"), instances=ids if masks else None,
    )  # fmt: skip


def disc_field(shape=(200, 240), radius=6.0):
    """Far apart discs: their centres of mass can be measured after any warp."""
    height, width = shape
    y, x = np.mgrid[:height, :width] + 0.5
    image = np.full(shape, 255, np.uint8)
    points = [(cx, cy) for cx in range(30, width - 20, 40) for cy in range(25, height - 20, 40)]
    for cx, cy in points:
        image[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = 0
    n = len(points)
    return Field(
        "d", "g", image[..., None].repeat(3, axis=2), 0.5, np.array(points, float),
        np.full((n, 2), 2 * radius), np.zeros(n), ("a",),
    )  # fmt: skip


def centre_of_dark(image, point, reach):
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    window = (np.abs(x - point[0]) < reach) & (np.abs(y - point[1]) < reach)
    mass = (255.0 - image[..., 0]) * window
    return np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum()


# --- geometry


@pytest.mark.parametrize("plan", [TURNS, WARPS])
def test_points_stay_on_their_nuclei(plan):
    field, rng = disc_field(), np.random.default_rng(0)
    seen = 0
    for _ in range(30):
        crop = random_crop(field, 128, rng, plan)
        for point, size in zip(crop.points, crop.sizes, strict=True):
            reach = 1.3 * size[0] / 2
            if (point > reach + 1).all() and (point < 127 - reach).all():
                measured = centre_of_dark(crop.image, point, reach)
                np.testing.assert_allclose(measured, point, atol=0.15)
                seen += 1
    assert seen > 60


def test_quarter_turns_copy_pixels_exactly():
    rng = np.random.default_rng(1)
    field = ellipses(rng)
    field.image[...] = rng.integers(0, 256, field.image.shape)
    where: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for index, colour in enumerate(field.image.reshape(-1, 3).tolist()):
        where.setdefault(tuple(colour), []).append(divmod(index, field.image.shape[1]))
    symmetries = set()
    for _ in range(60):
        crop = random_crop(field, 64, rng, TURNS)
        assert crop.valid.all()
        found = []
        for k in range(8):
            turned = np.rot90(crop.image, k % 4)[:, :: 1 if k < 4 else -1]
            first = tuple(turned[0, 0].tolist())
            for y, x in where.get(first, []):
                if np.array_equal(field.image[y : y + 64, x : x + 64], turned):
                    found.append(k)
        assert len(found) == 1
        symmetries.update(found)
    assert symmetries == set(range(8))


def test_quarter_turns_keep_sizes_exact():
    field, rng = ellipses(np.random.default_rng(2)), np.random.default_rng(0)
    for _ in range(20):
        crop = random_crop(field, 200, rng, TURNS)
        same = (crop.sizes == field.sizes[crop.rows]).all(axis=1)
        swapped = (crop.sizes == field.sizes[crop.rows][:, ::-1]).all(axis=1)
        assert same.all() or swapped.all()
        np.testing.assert_array_equal(crop.class_ids, field.class_ids[crop.rows])


def test_boxes_after_a_free_rotation_are_those_of_the_turned_masks():
    field, rng = ellipses(np.random.default_rng(3)), np.random.default_rng(0)
    checked = 0
    for _ in range(15):
        crop = random_crop(field, 256, rng, WARPS)
        dark = crop.image[..., 0] < 158
        for (x, y), (w, h) in zip(crop.points, crop.sizes, strict=True):
            x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            if min(x0, y0) < 3 or max(x1, y1) > 253:
                continue
            rows, columns = np.nonzero(dark[int(y0) - 1 : int(y1) + 2, int(x0) - 1 : int(x1) + 2])
            measured = [np.ptp(columns) + 1, np.ptp(rows) + 1]
            np.testing.assert_allclose([w, h], measured, atol=2.2)
            checked += 1
    assert checked > 50


def test_without_masks_a_turned_box_is_an_ellipses():
    field, rng = ellipses(np.random.default_rng(4), masks=False), np.random.default_rng(0)
    plan = Augmentation(warp_p=1, scale=(1.0, 1.0), flip=False, **GEOMETRY)
    crop = random_crop(field, 256, rng, plan)
    before, after = field.sizes[crop.rows].astype(float), crop.sizes
    # An ellipse's squared box sides add up to the same whatever the angle.
    np.testing.assert_allclose((after**2).sum(1), (before**2).sum(1), rtol=1e-4)
    assert np.abs(after - before).max() > 0.5


def test_unknown_sizes_stay_unknown():
    field = ellipses(np.random.default_rng(5))
    field.sizes[::2] = np.nan
    crop = random_crop(field, 256, np.random.default_rng(0), WARPS)
    np.testing.assert_array_equal(np.isnan(crop.sizes[:, 0]), crop.rows % 2 == 0)


def test_scale_multiplies_sizes():
    field = disc_field()
    plan = Augmentation(warp_p=1, scale=(1.4, 1.4), **GEOMETRY)
    crop = random_crop(field, 128, np.random.default_rng(0), plan)
    np.testing.assert_allclose(crop.sizes, 12 * 1.4, rtol=1e-5)


def test_points_outside_the_crop_are_dropped():
    field, rng = ellipses(np.random.default_rng(6)), np.random.default_rng(0)
    for plan in (TURNS, WARPS):
        for _ in range(20):
            crop = random_crop(field, 100, rng, plan)
            assert ((crop.points >= 0) & (crop.points < 100)).all()
            assert len(crop.points) == len(crop.sizes) == len(crop.class_ids) == len(crop.rows)


@pytest.mark.parametrize("plan", [Augmentation.none(), TURNS, WARPS])
@pytest.mark.parametrize("shape", [(50, 70), (300, 90), (7, 5), (1, 1)])
def test_small_fields_are_mirrored_and_the_padding_is_not_valid(plan, shape):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (*shape, 3), np.uint8)
    middle = np.array([[shape[1] / 2, shape[0] / 2]])
    field = Field("s", "g", image, 0.5, middle, np.full((1, 2), 3.0), np.zeros(1), ("a",))
    colours = {tuple(v) for v in image.reshape(-1, 3).tolist()}
    for _ in range(10):
        crop = random_crop(field, 128, rng, plan)
        assert crop.image.shape == (128, 128, 3)
        assert crop.valid.shape == (128, 128)
        assert not crop.valid.all()
        if shape == (1, 1) and plan is WARPS:
            continue  # one pixel may fall between the centres of the crop's
        assert crop.valid.any()
        if plan.warp_p == 0:
            assert crop.valid.sum() == min(128, shape[0]) * min(128, shape[1])
            assert {tuple(v) for v in crop.image.reshape(-1, 3).tolist()} <= colours
        for x, y in crop.points:
            assert crop.valid[int(y), int(x)]


def test_a_turned_corner_outside_the_field_is_not_valid():
    field, rng = disc_field(), np.random.default_rng(0)
    shares = [random_crop(field, 190, rng, WARPS).valid.mean() for _ in range(20)]
    assert min(shares) < 0.95
    assert min(shares) > 0.2


def test_padding_mirrors_the_edge():
    image = np.arange(10, dtype=np.uint8)[None, :, None] * np.ones((10, 1, 3), np.uint8)
    none = np.zeros((0, 2))
    field = Field("s", "g", image, 0.5, none, none, np.zeros(0), ())
    crop = random_crop(field, 14, np.random.default_rng(0), Augmentation.none())
    row = crop.image[7, :, 0].tolist()
    start = row.index(0) + (row[row.index(0) + 1] == 0)
    assert row[start : start + 10] == list(range(10))
    assert row[:start] == list(range(start - 1, -1, -1))
    assert row[start + 10 :] == [9, 8, 7, 6][: 4 - start]
    assert crop.valid[7].sum() == 10


def test_crops_reach_every_part_of_the_field():
    field = disc_field()
    rng = np.random.default_rng(0)
    seen = np.concatenate([random_crop(field, 64, rng, TURNS).rows for _ in range(200)])
    assert set(seen.tolist()) == set(range(len(field)))


@pytest.mark.parametrize("plan", [TURNS, WARPS])
def test_an_incomplete_field_is_valid_near_its_points_alone(plan):
    whole = disc_field()
    partly = Field(
        "p", "g", whole.image, 0.5, whole.points, whole.sizes, whole.class_ids, ("a",), False
    )
    crop = random_crop(partly, 128, np.random.default_rng(0), plan)
    assert not crop.complete
    assert 0 < crop.valid.mean() < 0.4
    for x, y in crop.points:
        assert crop.valid[int(y), int(x)]
    nobody = Field("n", "g", whole.image, None, np.zeros((0, 2)), np.zeros((0, 2)), [], (), False)
    assert not random_crop(nobody, 128, np.random.default_rng(0), plan).valid.any()


def test_shrinking_far_does_not_alias():
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    none = np.zeros((0, 2))
    field = Field("s", "g", stripes, 0.5, none, none, np.zeros(0), ())
    plan = Augmentation(warp_p=1, scale=(0.25, 0.25), **GEOMETRY)
    crop = random_crop(field, 128, np.random.default_rng(0), plan)
    assert crop.image[crop.valid].std() < 6


@pytest.mark.parametrize("size", [0, -3])
def test_impossible_crops_are_refused(size):
    with pytest.raises(DataError, match="No crop"):
        sample_crop(disc_field(), size, np.random.default_rng(0))


# --- determinism and independence


@pytest.mark.parametrize("plan", [Augmentation(), EVERYTHING, Augmentation.none()])
def test_a_seed_repeats_a_crop_and_leaves_the_field_alone(plan):
    field = ellipses(np.random.default_rng(7))
    before = field.image.copy()
    crops = [sample_crop(field, 96, np.random.default_rng(9), plan) for _ in range(2)]
    for name in ("image", "points", "sizes", "class_ids", "valid", "rows"):
        np.testing.assert_array_equal(*(getattr(c, name) for c in crops))
    crops[0].image[...] = 0
    np.testing.assert_array_equal(field.image, before)
    other = sample_crop(field, 96, np.random.default_rng(10), plan)
    assert (other.image != crops[1].image).any()


def test_crops_have_the_promised_types():
    crop = sample_crop(ellipses(np.random.default_rng(8)), 96, np.random.default_rng(0), EVERYTHING)
    assert crop.image.dtype == np.uint8
    assert crop.image.flags.c_contiguous
    assert crop.points.dtype == crop.sizes.dtype == np.float32
    assert crop.class_ids.dtype == np.int16
    assert crop.valid.dtype == bool


def test_no_augmentation_gives_the_fields_own_pixels():
    field = ellipses(np.random.default_rng(9))
    crop = sample_crop(field, 400, np.random.default_rng(0), Augmentation.none())
    shift = np.rint(field.points[crop.rows[0]] - crop.points[0]).astype(int)
    np.testing.assert_array_equal(crop.image, field.image[:400, shift[0] : shift[0] + 400])


@pytest.mark.parametrize(
    "bad",
    [
        {"warp_p": 1.2},
        {"hed_p": -0.1},
        {"scale": (1.4, 0.7)},
        {"scale": (0.0, 1.0)},
        {"jpeg_quality": (0, 50)},
        {"noise_std": (1.0, 2.0, 3.0)},
        {"hed_strength": math.nan},
    ],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Augmentation(**bad)


# --- colour


def he_colours(rng, n=40):
    amounts = rng.uniform(0, 0.8, (n, n, 2))
    return np.rint(255 * 10 ** -(amounts @ H_E[:2])).astype(np.uint8)


def test_no_stain_jitter_changes_nothing():
    image = np.random.default_rng(0).integers(1, 256, (64, 64, 3), np.uint8)
    same = hed_jitter(image, np.random.default_rng(0), 0.0)
    assert np.abs(same.astype(int) - image).max() <= 1


def test_stain_jitter_scales_each_stain():
    class Fixed:
        """Draws the amounts 1.5, 0.5, 1 and no shift."""

        draws = iter([np.array([0.5, -0.5, 0.0]), np.zeros(3)])

        def uniform(self, low, high, size):
            return next(self.draws)

    image = he_colours(np.random.default_rng(0))
    made = hed_jitter(image, Fixed(), 0.5)
    amounts = optical_density(image) @ np.linalg.inv(H_E)
    expected = 255 * 10 ** -((amounts * [1.5, 0.5, 1.0]) @ H_E)
    assert np.abs(made - expected).max() <= 1.0


def test_stain_jitter_stays_near_the_image():
    image, rng = he_colours(np.random.default_rng(1)), np.random.default_rng(0)
    shifts = [
        np.abs(optical_density(hed_jitter(image, rng, 0.2)) - optical_density(image)).mean()
        for _ in range(30)
    ]
    assert min(shifts) > 0.005
    assert max(shifts) < 0.2


def test_light_is_a_line_about_mid_grey():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    made = change_light(image, 1.2, -10)
    expected = np.clip(128 + 1.2 * (image.astype(float) - 128) - 10, 0, 255)
    assert np.abs(made - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(change_light(image, 1.0, 0.0), image)


def test_blur_keeps_flat_colours_and_the_mean():
    flat = np.full((20, 20, 3), 137, np.uint8)
    np.testing.assert_array_equal(blur(flat, 1.0), flat)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    soft = blur(image, 1.0)
    assert abs(soft.mean() - image.mean()) < 1
    assert soft.std() < 0.5 * image.std()


def test_noise_has_the_spread_asked_for():
    grey = np.full((200, 200, 3), 128, np.uint8)
    made = add_noise(grey, np.random.default_rng(0), 4.0).astype(float) - 128
    assert abs(made.mean()) < 0.1
    assert made.std() == pytest.approx(4.0, rel=0.03)
    assert abs(np.corrcoef(made[..., 0].ravel(), made[..., 1].ravel())[0, 1]) < 0.02


def test_recompression_is_jpegs():
    y, x = np.mgrid[:64, :64]
    image = np.stack([2 * x + 60, 2 * y + 60, 255 - x], axis=-1).astype(np.uint8)
    fine, coarse = (np.abs(recompress(image, q).astype(int) - image).mean() for q in (95, 20))
    assert 0 < fine < coarse < 10


def test_every_colour_change_can_be_switched_off():
    image = he_colours(np.random.default_rng(2))
    np.testing.assert_array_equal(
        recolour(image, np.random.default_rng(0), Augmentation.none()), image
    )


# --- from H&E to H-DAB


def he_field(rng):
    """Tilted ellipses of haematoxylin on eosin."""
    field = ellipses(rng, count=60)
    inside = field.instances > 0
    amounts = np.stack([np.where(inside, 0.7, 0.03), np.where(inside, 0.15, 0.25)], axis=-1)
    image = np.rint(255 * 10 ** -(amounts @ H_E[:2])).astype(np.uint8)
    return Field(
        "he", "g", image, 0.5, field.points, field.sizes, field.class_ids, field.class_names,
        instances=field.instances,
    )  # fmt: skip


@pytest.mark.parametrize("by", ["instances", "points"])
def test_positive_nuclei_carry_dab_and_the_others_do_not(by):
    field, rng = he_field(np.random.default_rng(0)), np.random.default_rng(1)
    for _ in range(5):
        image, positive = restain_to_hdab(
            field.image, rng, **{by: getattr(field, by)}, positive=(0.4, 0.6)
        )
        assert image.dtype == np.uint8
        assert image.shape == field.image.shape
        assert positive.shape == (len(field),)
        assert 0 < positive.sum() < len(field)
        dab = dab_od(image)
        column, row = field.points.astype(int).T
        at = dab[row, column]
        assert at[positive].min() > at[~positive].max() + 0.05
        assert dab[field.instances == 0].mean() < 0.15


@pytest.mark.parametrize("by", ["instances", "points"])
@pytest.mark.parametrize("marker", ["membrane", "cytoplasm"])
def test_other_markers_leave_nuclei_blue_and_stain_around_them(by, marker):
    field, rng = he_field(np.random.default_rng(0)), np.random.default_rng(1)
    for _ in range(3):
        image, positive = restain_to_hdab(
            field.image, rng, **{by: getattr(field, by)}, positive=(1.0, 1.0), marker=marker
        )
        assert positive.all()
        dab = dab_od(image)
        nuclei = ndimage.binary_erosion(field.instances > 0, iterations=2)
        around = ndimage.binary_dilation(field.instances > 0, iterations=8) & ~(field.instances > 0)
        # Of nuclei larger than usual, points leave the rim to the cytoplasm.
        assert (
            np.percentile(dab[around], 90) > (3 if by == "instances" else 1.5) * dab[nuclei].mean()
        )
        assert np.percentile(dab[around], 90) > 0.2
    none, _ = restain_to_hdab(
        field.image, rng, **{by: getattr(field, by)}, positive=(0.0, 0.0), marker=marker
    )
    assert np.percentile(dab_od(none), 99) < 0.15


def test_most_random_markers_are_nuclear():
    rng = np.random.default_rng(0)
    drawn = [random_marker(rng) for _ in range(400)]
    assert 230 < drawn.count("nucleus") < 290
    assert drawn.count("membrane") > drawn.count("cytoplasm") > 10


def test_restained_nuclei_that_are_negative_are_blue():
    field = he_field(np.random.default_rng(0))
    image, positive = restain_to_hdab(
        field.image, np.random.default_rng(0), instances=field.instances, positive=(0.0, 0.0)
    )
    assert not positive.any()
    nuclei = image[field.instances > 0].mean(axis=0)
    ground = image[field.instances == 0].mean(axis=0)
    assert nuclei[2] > nuclei[0] + 20
    assert ground.min() > nuclei.max()


def test_restaining_works_without_nuclei_but_not_without_an_answer():
    image = np.full((30, 40, 3), 240, np.uint8)
    for marker in MARKERS:
        made, positive = restain_to_hdab(
            image, np.random.default_rng(0), points=np.zeros((0, 2)), marker=marker
        )
        assert made.shape == image.shape
        assert len(positive) == 0
    made, positive = restain_to_hdab(
        image, np.random.default_rng(0), instances=np.zeros((30, 40), np.int32)
    )
    assert len(positive) == 0
    with pytest.raises(DataError, match="no nuclei"):
        restain_to_hdab(image, np.random.default_rng(0))


def test_restaining_repeats_with_the_seed():
    field = he_field(np.random.default_rng(0))
    first, again = (
        restain_to_hdab(field.image, np.random.default_rng(3), points=field.points)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
