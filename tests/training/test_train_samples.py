"""Training of patch and pixel classifiers: they learn, resume to the bit, and say what they are."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_samples import NAMES, SIDE, Listed, blots, brown_patch, rings

from napari_celldetr.core.errors import ConfigError, DataError, JobError
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import CLASSIFY, SEGMENT, read_card
from napari_celldetr.nets.maskformer import MaskFormerConfig
from napari_celldetr.nets.patch_vit import PatchViTConfig
from napari_celldetr.nets.registry import load_patch_predictor, load_pixel_predictor
from napari_celldetr.training.checkpoint import NAME, saved_step
from napari_celldetr.training.earlier import FINISHED
from napari_celldetr.training.monitor import PAGE, validation_table
from napari_celldetr.training.sample_config import PatchTrainConfig, PixelTrainConfig
from napari_celldetr.training.sample_scores import confusion, patch_figures, pixel_figures
from napari_celldetr.training.samples import SampleStream, turned
from napari_celldetr.training.train_samples import train_patches, train_pixels

PATCH_NET = PatchViTConfig(backbone="", stride=8, size=32, depth=2, heads=2, feed_forward=64)
PIXEL_NET = MaskFormerConfig(
    backbone="mobilenetv2_050",
    pyramid_size=16,
    mask_stride=2,
    size=32,
    heads=2,
    feed_forward=32,
    layers=2,
    queries=8,
    window=128,
)
DATA = ({"name": "drawn", "licence": "CC0-1.0"},)


def patch_plan(root, **changes):
    values = {"name": "brown", "classes": "0,1+,2+,3+", "stain": "H-DAB", "crop": SIDE}
    values |= {"augmentation": "flips"}
    return PatchTrainConfig(**(common(root) | values | changes))


def pixel_plan(root, **changes):
    values = {"name": "rings", "classes": NAMES, "crop": SIDE, "augmentation": "flips"}
    return PixelTrainConfig(**(common(root) | values | changes))


def common(root):
    return {
        "output": str(root / "run"),
        "steps": 4,
        "batch": 2,
        "warmup": 0,
        "workers": 0,
        "device": "cpu",
        "precision": "float32",
        "checkpoint_steps": 2,
        "validate_steps": 2,
        "ema": 0.9,
    }


def patches(root, validated=6, **changes):
    held = Listed(brown_patch, validated) if validated else None
    plan = patch_plan(root, **changes)
    return train_patches(plan, brown_patch, validation=held, network=PATCH_NET, data=DATA)


def pixels(root, validated=2, **changes):
    held = Listed(rings, validated) if validated else None
    plan = pixel_plan(root, **changes)
    return train_pixels(plan, rings, validation=held, network=PIXEL_NET, data=DATA)


def test_a_patch_classifier_learns(tmp_path):
    rates = {"lr_backbone": 2e-3, "lr_heads": 2e-3, "lr_decoders": 2e-3}
    job = patches(tmp_path, 40, steps=150, batch=16, validate_steps=150, **rates)
    folder = drain(job)
    card = read_card(folder)
    assert card.task == CLASSIFY
    assert card.class_names == ("0", "1+", "2+", "3+")
    found = card.metrics["validation"]
    assert found["figures"]["accuracy"] > 0.9
    assert np.sum(found["confusion"]) == 40
    predictor = load_patch_predictor(folder, device="cpu")
    held = [brown_patch(i) for i in range(200_000, 200_030)]
    said = predictor.predict(np.stack([image for image, _ in held])).argmax(1)
    assert np.mean(said == [kind for _, kind in held]) > 0.85


def test_a_pixel_classifier_learns(tmp_path):
    # From noise and in seconds: large blots. Thin bands take the weights of a trained backbone.
    rates = {"lr_backbone": 4e-3, "lr_heads": 4e-3, "lr_decoders": 2e-3}
    plan = pixel_plan(tmp_path, classes="background,weak,strong", steps=100, batch=4, **rates)
    plan = replace(plan, validate_steps=100)
    net = replace(PIXEL_NET, memory_strides=(8,))
    steps = []
    folder = drain(
        train_pixels(plan, blots, validation=Listed(blots, 12), network=net, data=DATA),
        steps.append,
    )
    assert "mean IoU" in steps[-1].message
    card = read_card(folder)
    assert card.task == SEGMENT
    assert card.data == [dict(DATA[0])]
    assert card.arguments["num_classes"] == 3
    figures = card.metrics["validation"]["figures"]
    assert figures["background"] > 0.8
    assert figures["mean IoU"] > 0.55
    predictor = load_pixel_predictor(folder, device="cpu")
    image, truth = blots(300_000)
    assert (predictor.classes(image[None])[0] == truth).mean() > 0.8


@pytest.mark.parametrize("train", [patches, pixels])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path, train, workers):
    whole = drain(train(tmp_path / "whole"))
    job = train(tmp_path / "broken", workers=workers)
    while next(job).done < 3:
        pass
    job.close()
    run = tmp_path / "broken" / "run"
    assert saved_step(run) == 3
    steps = []
    again = drain(train(tmp_path / "broken", workers=workers), steps.append)
    assert steps[0].done == 3
    a, b = (load_file(f / "weights.safetensors") for f in (whole, again))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    one, two = (load_file(tmp_path / n / "run" / NAME) for n in ("whole", "broken"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    steps = []
    drain(train(tmp_path / "broken"), steps.append)
    assert steps[-1].note == FINISHED


def test_the_page_and_the_log_show_what_was_validated(tmp_path):
    notes = []
    drain(pixels(tmp_path), notes.append)
    said = [step.note for step in notes if step.note.startswith("Validation at step")]
    assert len(said) == 2
    assert "mean IoU" in said[0]
    assert "3+" in said[0]
    page = (tmp_path / "run" / PAGE).read_text(encoding="utf-8")
    assert "Overlap (IoU) of true and found pixels of 2 images" in page
    assert "Does the mask fit?" in page
    assert "mean IoU" in validation_table(tmp_path / "run")


def test_the_best_weights_are_kept(tmp_path):
    folder = drain(pixels(tmp_path, keep="best"))
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    found = [json.loads(r) for r in rows if '"validation"' in r]
    best = max(found, key=lambda r: r["validation"]["overall"])
    assert read_card(folder).metrics["validation"]["step"] == best["step"]


def test_training_goes_on_from_a_model_with_other_classes(tmp_path):
    first = drain(pixels(tmp_path, 0))
    plan = pixel_plan(tmp_path, output=str(tmp_path / "two"), classes="out,weak,strong")
    plan = replace(plan, init=str(first))

    def fewer(index):
        image, truth = rings(index)
        return image, np.array([0, 1, 1, 2, 2], np.uint8)[np.minimum(truth, 4)]

    second = drain(train_pixels(plan, fewer))
    card = read_card(second)
    assert card.parent == read_card(first).weights_sha256
    assert card.arguments["num_classes"] == 3
    assert card.arguments["size"] == PIXEL_NET.size
    with pytest.raises(ConfigError, match="cannot be the start"):
        drain(train_patches(patch_plan(tmp_path / "x", init=str(first)), brown_patch))


def test_shares_of_classes_are_learned_from_too(tmp_path):
    def mixed(index):
        image, kind = brown_patch(index)
        return image, np.eye(4, dtype=np.float32)[kind] * 0.6 + 0.1

    drain(train_patches(patch_plan(tmp_path), mixed, network=PATCH_NET))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda i: (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)), "an image"),
        (lambda i: (rings(i)[0].astype(np.float32), rings(i)[1]), "of float32"),
        (lambda i: (rings(i)[0], rings(i)[1] + np.uint8(9)), "a truth"),
        (lambda i: (rings(i)[0], rings(i)[1][:-1]), "a truth"),
        (lambda i: (rings(i)[0], rings(i)[1] / 2), "a truth"),
        (lambda i: (rings(i)[0], 7), "a class"),
        (lambda i: (rings(i)[0], [0.5, 0.5]), "shares"),
    ],
)
def test_what_is_no_sample_is_refused(tmp_path, make, words):
    with pytest.raises(DataError, match="sample cannot be used") as caught:
        drain(train_pixels(pixel_plan(tmp_path), make, network=PIXEL_NET))
    assert words in caught.value.found


def test_settings_that_cannot_be_followed_are_refused(tmp_path):
    plan = pixel_plan(tmp_path)
    for changed, words in (
        (replace(plan, classes="one"), "no classes"),
        (replace(plan, crop=72), "cannot be segmented"),
        (replace(plan, steps=0), "Steps"),
    ):
        with pytest.raises(ConfigError, match=words):
            drain(train_pixels(changed, rings))
    with pytest.raises(ConfigError, match="other processes"):
        drain(train_pixels(replace(plan, workers=1), lambda i: rings(i)))
    for held in (None, []):
        with pytest.raises(DataError, match="nothing to validate"):
            drain(train_pixels(replace(plan, keep="best"), rings, validation=held))
    assert not Path(plan.output).exists()


def test_another_run_is_not_continued(tmp_path):
    drain(patches(tmp_path))
    with pytest.raises(JobError, match="other settings"):
        drain(patches(tmp_path, seed=1))
    other = [{"name": "elsewhere"}]
    held = Listed(brown_patch, 6)
    plan = patch_plan(tmp_path)
    with pytest.raises(JobError, match="other settings"):
        drain(train_patches(plan, brown_patch, validation=held, network=PATCH_NET, data=other))


@pytest.mark.parametrize("augmentation", ["none", "flips", "scanner", "stain"])
def test_a_sample_is_the_same_whenever_it_is_made(augmentation):
    options = {"length": 9, "side": SIDE, "classes": 5, "seed": 3, "augmentation": augmentation}
    one, two = SampleStream(rings, **options), SampleStream(rings, **options)
    two[1]
    for a, b in zip(one[5], two[5], strict=True):
        np.testing.assert_array_equal(a, b)
    image, truth = one[5]
    assert image.flags.c_contiguous
    assert (np.bincount(truth.ravel(), minlength=256) == np.bincount(rings(5)[1].ravel())).all()
    assert len(one) == 9


def test_truth_turns_with_its_image():
    image, truth = rings(1)
    every = {turned(truth, t).tobytes() for t in range(8)}
    assert len(every) == 8
    for t in range(8):
        brown = turned(image, t)[turned(truth, t) == 4]
        assert sorted(brown.tolist()) == sorted(image[truth == 4].tolist())


def test_figures_by_hand():
    truth, found = np.array([0, 0, 1, 1, 255, 1]), np.array([0, 1, 1, 1, 0, 255])
    table = confusion(truth, found, 3)
    np.testing.assert_array_equal(table, [[1, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]])
    iou = pixel_figures(table, "abc")
    assert iou == {"mean IoU": 0.5, "a": 0.5, "b": 0.5, "c": None}
    rates = patch_figures(table, "abc")
    assert rates["accuracy"] == 0.6
    assert rates["balanced accuracy"] == pytest.approx((0.5 + 2 / 3) / 2, abs=1e-4)
    assert rates["c"] is None


def test_training_needs_no_slide_library_and_no_viewer():
    code = (
        "import sys\n"
        "for name in ('openslide', 'dask', 'zarr', 'napari', 'qtpy'):\n"
        "    sys.modules[name] = None\n"
        "import napari_celldetr.training.train_samples\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
