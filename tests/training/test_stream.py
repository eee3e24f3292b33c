"""Training crops by number: the same wherever and whenever they are made."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sets import config, instances_folder, points_folder
from torch.utils.data import DataLoader

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.augment import Augmentation
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.pools import Pool, load_fields, load_pools
from napari_celldetr.training.specs import DataSpec
from napari_celldetr.training.stream import CropStream, collate, to_device


@pytest.fixture
def root(tmp_path):
    points_folder(tmp_path / "points", split={"01": "train", "02": "train", "03": "val"})
    instances_folder(tmp_path / "instances")
    return tmp_path


def stream(pools, seed=0, **changes):
    options = {"size": 64, "length": 40, "seed": seed, "augmentation": Augmentation()}
    return CropStream(pools, **(options | changes))


def equal(a, b):
    return all(np.array_equal(a[k], b[k], equal_nan=k == "sizes") for k in a)


def test_crop_i_is_the_same_in_any_order_and_process(root):
    pools = load_pools(config(root))
    first = stream(pools)
    forward = [first[i] for i in range(8)]
    again = stream(pools)
    backward = [again[i] for i in reversed(range(8))][::-1]
    assert all(equal(a, b) for a, b in zip(forward, backward, strict=True))
    other = stream(pools, seed=1)
    assert not any(equal(other[i], forward[i]) for i in range(8))
    assert not equal(forward[0], forward[1])


def test_the_model_s_scale_is_used(root):
    (pool,) = load_pools(config(root, data=f"points:{root / 'points'}@0.25", mpp=0.5))
    assert {f.image.shape[:2] for f in pool.fields} == {(48, 48)}
    assert {f.mpp for f in pool.fields} == {0.5}


def test_shares_are_weights(root):
    data = f"points:{root / 'points'}*3 instances:{root / 'instances'}@0.5*1"
    pools = load_pools(config(root, data=data))
    drawn = stream(pools, length=400)
    assert drawn.shares.tolist() == [0.75, 0.25]
    rng = [np.random.default_rng([0, i]).choice(2, p=drawn.shares) for i in range(400)]
    assert 0.65 < np.mean(np.array(rng) == 0) < 0.85


def test_only_training_fields_outside_held_out_groups(root):
    data = f"points:{root / 'points'} instances:{root / 'instances'}"
    pools = load_pools(config(root, data=data, hold_out="02,08"))
    assert [[f.group for f in p.fields] for p in pools] == [["01"], ["07"]]
    # A group of another split is not there to train on, and may be named.
    assert len(load_pools(config(root, data=data, hold_out="03"))) == 2


def test_held_out_pixels_are_never_sampled(root):
    data = f"points:{root / 'points'} instances:{root / 'instances'}"
    for image in (root / "points/images/02_field.png", root / "instances/images/08_1.png"):
        from PIL import Image

        Image.new("RGB", (96, 96), (0, 255, 0)).save(image)
    pools = load_pools(config(root, data=data, hold_out="02,08"))
    crops = stream(pools, augmentation=Augmentation.none(), length=60)
    assert not any((crops[i]["image"] == (0, 255, 0)).all(-1).any() for i in range(60))
    everything = load_pools(config(root, data=data))
    crops = stream(everything, augmentation=Augmentation.none(), length=60)
    assert any((crops[i]["image"] == (0, 255, 0)).all(-1).any() for i in range(60))


def test_groups_that_do_not_exist_are_refused(root):
    with pytest.raises(DataError, match="hold out") as caught:
        load_pools(config(root, hold_out="1,02"))
    assert caught.value.found == "1"
    with pytest.raises(DataError, match="Nothing is left"):
        load_pools(config(root, hold_out="01,02"))


def test_nucleus_ignores_the_data_s_classes(root):
    (pool,) = load_pools(config(root, classes="nucleus"))
    assert {i for f in pool.fields for i in f.class_ids.tolist()} == {-1}
    (pool,) = load_pools(config(root))
    assert {i for f in pool.fields for i in f.class_ids.tolist()} == {0, 1, 2}
    with pytest.raises(DataError, match="unknown class"):
        load_pools(config(root, classes="lymphocyte,tumour"))


def test_instance_maps_have_no_splits(root):
    from napari_celldetr.training.specs import parse_data

    (spec,) = parse_data(f"instances:{root / 'instances'}@0.5")
    assert len(load_fields(spec, class_names=("a",))) == 2
    with pytest.raises(DataError, match="no splits"):
        load_fields(spec, class_names=("a",), split="val")


def test_batches(root):
    pools = load_pools(config(root, data=f"instances:{root / 'instances'}@0.5"))
    image, targets = next(iter(DataLoader(stream(pools), batch_size=3, collate_fn=collate)))
    assert image.shape == (3, 3, 64, 64)
    assert image.dtype == torch.uint8
    for target in to_device(targets, "cpu"):
        assert target.centres.shape == target.sizes.shape == (len(target), 2)
        assert target.class_ids.dtype == torch.int64
        assert target.valid.shape == (64, 64)
        assert ((target.centres >= 0) & (target.centres < 64)).all()


def test_restained_fields_turn_brown(root):
    plain = load_pools(config(root))
    brown = load_pools(config(root, data=f"points:{root / 'points'}+dab"))
    options = {"augmentation": Augmentation.none(), "length": 10}
    differ = [
        not np.array_equal(a["image"], b["image"]) and np.array_equal(a["points"], b["points"])
        for a, b in zip(
            (stream(plain, **options)[i] for i in range(5)),
            (stream(brown, **options)[i] for i in range(5)),
            strict=True,
        )
    ]
    assert all(differ)


def test_everything_repeats_and_travels(root):
    everything = Augmentation(**{k: 1.0 for k in asdict(Augmentation()) if k.endswith("_p")})
    data = f"points:{root / 'points'} instances:{root / 'instances'}"
    first = stream(load_pools(config(root, data=data)), augmentation=everything)
    again = pickle.loads(pickle.dumps(first))
    for i in (7, 2, 0):  # in another order
        for name, value in first[i].items():
            np.testing.assert_array_equal(again[i][name], value)
    assert (first[2]["image"] != first[3]["image"]).any()


def test_class_shares_reach_the_targets():
    image, none = np.zeros((64, 64, 3), np.uint8), np.zeros((0, 2))
    shares = np.array([0.25, 0.75], np.float32)
    known = Field("k", "g", image, 0.5, none, none, [], ("a", "b"), False, composition=shares)
    plain = Field("p", "g", image, 0.5, none, none, [], ("a", "b"), False)
    for field, expected in ((known, shares), (plain, None)):
        pool = Pool(DataSpec("points", Path("made"), 0.5, 1.0), (field,))
        items = [stream([pool], augmentation=Augmentation.none())[i] for i in range(2)]
        _, targets = collate(items)
        for target in to_device(targets, "cpu"):
            if expected is None:
                assert target.composition is None
            else:
                np.testing.assert_array_equal(target.composition.numpy(), expected)


def test_outlined_fields_are_exhaustive_and_points_are_not(root):
    words = f"points:{root / 'points'} instances:{root / 'instances'}@0.5"
    points, masks = load_pools(config(root, data=words))
    plan = Augmentation(mosaic_p=1.0)
    for pools, expected in (([points], False), ([masks], True)):
        for augmentation in (Augmentation(), plan):
            items = [stream(pools, augmentation=augmentation)[i] for i in range(3)]
            assert [t.exhaustive for t in collate(items)[1]] == [expected] * 3
    # A mosaic of both is as good as its worst part.
    made = [stream([points, masks], augmentation=plan)[i] for i in range(6)]
    assert not all(t.exhaustive for t in collate(made)[1])
