import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from stained_fields import he_field, pool

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.training.augment import PRESETS, Augmentation, sample_crop
from napari_celldetr.training.crop_maker import CropMaker

EVERYTHING = replace(
    Augmentation.strong(),
    **{name: 1.0 for name in asdict(Augmentation()) if name.endswith("_p")},
)


def pools():
    masked = [he_field(i, masks=True) for i in range(3)]
    pointed = [he_field(10 + i, masks=False) for i in range(3)]
    return [pool(masked, weight=1.0), pool(pointed, weight=2.0)]


@pytest.mark.parametrize("plan", [*map(Augmentation.named, PRESETS), EVERYTHING])
@pytest.mark.parametrize("size", [64, 97])
def test_crops_keep_their_shape_and_types(plan, size):
    maker = CropMaker(pools(), size, plan)
    for i in range(8):
        crop = maker(np.random.default_rng([1, i]))
        assert crop.image.shape == (size, size, 3)
        assert crop.image.dtype == np.uint8
        assert crop.image.flags.c_contiguous
        assert crop.valid.shape == (size, size)
        assert crop.valid.dtype == bool
        n = len(crop.points)
        assert crop.points.dtype == crop.sizes.dtype == np.float32
        assert crop.points.shape == crop.sizes.shape == (n, 2)
        assert crop.class_ids.dtype == np.int16
        assert crop.class_ids.shape == crop.rows.shape == (n,)
        assert ((crop.points >= 0) & (crop.points < size)).all()
        x, y = crop.points.astype(int).T
        assert crop.valid[y, x].all()


def test_names():
    assert Augmentation.named("default") == Augmentation()
    assert Augmentation.named("none") == Augmentation.none()
    assert Augmentation.named("light") == Augmentation.light()
    assert Augmentation.named("strong") == Augmentation.strong()
    with pytest.raises(ConfigError, match="wild") as caught:
        Augmentation.named("wild")
    assert caught.value.expected == "none, light, default, strong"


def test_light_is_geometry_stain_brightness_and_blur():
    plan = asdict(Augmentation.light())
    on = {name for name, value in plan.items() if name.endswith("_p") and value > 0}
    assert on == {"warp_p", "hed_p", "light_p", "blur_p", "mix_random_p"}
    assert plan["scale"] == (0.7, 1.4)


def test_settings_survive_json():
    for name in PRESETS:
        plan = Augmentation.named(name)
        assert Augmentation(**json.loads(json.dumps(asdict(plan)))) == plan


@pytest.mark.parametrize(
    "bad",
    [
        {"mix_kind": "vahadane"},
        {"mix_p": 1.5},
        {"mix_beyond": 3.0},
        {"paste_count": (8, 1)},
        {"elastic_px": 20.0},
        {"resample": (0.0, 1.0)},
        {"balance": 2.0},
        {"jpeg_444_p": -1.0},
        {"flip": 2},
        {"gamma": float("nan")},
    ],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Augmentation(**bad)


def test_what_is_switched_off_draws_nothing():
    field = he_field(0, masks=True)
    other = replace(
        Augmentation(), mix_kind="macenko", gamma=1.0, shade=0.5, paste_count=(3, 4), sharpen=(1, 2)
    )
    for seed in range(6):
        crops = [
            sample_crop(field, 64, np.random.default_rng(seed), plan)
            for plan in (Augmentation(), other)
        ]
        np.testing.assert_array_equal(crops[0].image, crops[1].image)
    maker = CropMaker([pool([field])], 64, Augmentation())
    assert maker.bank is None
    assert maker.library is None


def test_a_maker_without_extras_makes_the_crops_of_its_parts():
    field = he_field(0, masks=True)
    rng = np.random.default_rng(4)
    crop = CropMaker([pool([field])], 64, Augmentation())(np.random.default_rng(4))
    rng.choice(1, p=[1.0])
    rng.choice(1, p=[1.0])
    again = sample_crop(field, 64, rng)
    np.testing.assert_array_equal(crop.image, again.image)
    np.testing.assert_array_equal(crop.points, again.points)


PROGRAM = """
import hashlib
import numpy as np
from napari_celldetr.training.crop_maker import CropMaker
from test_augment_presets import EVERYTHING, pools
maker = CropMaker(pools(), 64, EVERYTHING)
digest = hashlib.sha256()
for i in range(5):
    crop = maker(np.random.default_rng([3, i]))
    for name in ("image", "points", "sizes", "class_ids", "valid"):
        digest.update(np.ascontiguousarray(getattr(crop, name)).tobytes())
"""


def test_crops_are_the_same_in_every_process():
    space: dict[str, object] = {}
    exec(PROGRAM, space)
    here = space["digest"].hexdigest()
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM + "print(digest.hexdigest())"],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.split()[-1] == here


@pytest.mark.parametrize(("name", "most_ms"), [("default", 40), ("strong", 80)])
def test_crops_come_fast_enough(name, most_ms):
    # Four to eight ms each on one thread of a server; a slower machine has room.
    maker = CropMaker(pools(), 256, Augmentation.named(name))
    maker(np.random.default_rng(0))
    start = time.process_time()
    for i in range(20):
        maker(np.random.default_rng([1, i]))
    assert (time.process_time() - start) / 20 * 1e3 < most_ms
