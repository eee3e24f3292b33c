"""Box noise: bounds, signs and statistics of the supplement's formula, and its clipping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.noise import BoxNoise, noise_boxes

SMALL = torch.tensor([0.5, 0.4, 0.02, 0.06])


def many(noise, count=20_000, **options):
    """Relative changes of w, h and of the centre in half sizes, of one box far from the border."""
    out = noise_boxes(
        SMALL.expand(count, 4), noise, torch.Generator().manual_seed(0), **options
    ).double()
    box = SMALL.double()
    return out[:, 2:] / box[2:] - 1, (out[:, :2] - box[:2]) / (box[2:] / 2)


def test_size_and_centre_change_by_the_stated_ratios_in_both_directions():
    size, shift = many(BoxNoise(0.1, 0.4))
    for change in (size, shift):
        ratio = change.abs()
        assert ratio.min() >= 0.1 - 1e-4
        assert ratio.max() <= 0.4 + 1e-4
        # Uniform on 0.1 .. 0.4: mean .25, standard deviation .3 / sqrt(12).
        assert ratio.mean(0).tolist() == pytest.approx([0.25, 0.25], abs=0.003)
        assert ratio.std(0).tolist() == pytest.approx([0.0866, 0.0866], abs=0.002)
        assert (change > 0).double().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.015)
    # Every number is drawn on its own.
    every = torch.cat((size, shift), 1)
    apart = torch.corrcoef(every.T) - torch.eye(4)
    assert apart.abs().max() < 0.03


def test_grow_is_the_share_of_sides_that_grow():
    size, shift = many(BoxNoise(0.1, 0.4, grow=0.8))
    assert (size > 0).double().mean(0).tolist() == pytest.approx([0.8, 0.8], abs=0.015)
    assert (shift > 0).double().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.015)


def test_negatives_are_farther_off_than_any_positive():
    size, shift = many(BoxNoise(0.1, 0.4), negative=True)
    assert size.abs().min() >= 0.4 - 1e-4
    assert size.abs().max() <= 0.8 + 1e-4
    assert shift.abs().min() >= 0.4 - 1e-4
    assert shift.abs().max() <= 0.8 + 1e-4
    size, _ = many(BoxNoise(0.1, 0.5, outer=1.5), negative=True)
    assert size.min() == pytest.approx(-0.9, abs=1e-4)
    assert size.max() > 1.4


def test_worked_by_hand():
    # Noise of one fixed ratio: only the signs are left to chance.
    out = noise_boxes(SMALL.expand(400, 4), BoxNoise(0.2, 0.2), torch.Generator().manual_seed(1))
    seen = {tuple(round(v, 4) for v in row) for row in out.tolist()}
    assert seen == {
        (cx, cy, w, h)
        for cx in (0.498, 0.502)
        for cy in (0.394, 0.406)
        for w in (0.016, 0.024)
        for h in (0.048, 0.072)
    }


def test_no_noise_changes_nothing_and_a_generator_repeats_itself():
    boxes = torch.rand(2, 7, 4) * 0.2 + 0.3
    torch.testing.assert_close(noise_boxes(boxes, BoxNoise(0.0, 0.0)), boxes)
    first, again = (
        noise_boxes(boxes, BoxNoise(), torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert first.shape == boxes.shape
    assert first.dtype == boxes.dtype
    assert noise_boxes(boxes[:, :0], BoxNoise()).shape == (2, 0, 4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
    st.lists(st.floats(0.01, 1), min_size=2, max_size=2),
    st.booleans(),
    st.integers(0, 1000),
)
def test_boxes_stay_inside_the_image_and_never_vanish(centre, size, negative, seed):
    boxes = torch.tensor([[*centre, *size]]).expand(50, 4)
    out = noise_boxes(
        boxes, BoxNoise(0.3, 0.7), torch.Generator().manual_seed(seed), negative=negative
    )
    assert (out[:, :2] - out[:, 2:] / 2 >= -1e-6).all()
    assert (out[:, :2] + out[:, 2:] / 2 <= 1 + 1e-6).all()
    # Half of a box whose centre is inside lies inside: here of one shrunk to a tenth.
    assert (out[:, 2:] >= 0.05 * 0.99 * boxes[:, 2:].clamp(max=1)).all()


def test_unknown_sizes_stay_unknown():
    assert noise_boxes(torch.tensor([0.5, 0.5, float("nan"), float("nan")]), BoxNoise()).isnan()[2]


@pytest.mark.parametrize(
    "values",
    [(0.5, 0.4), (-0.1, 0.4), (0.1, 1.2), (0.1, 0.4, 0.3), (0.1, 0.4, 3.0), (0.1, 0.4, None, 1.5)],
)
def test_impossible_noise_is_refused(values):
    with pytest.raises(ConfigError, match="noise"):
        BoxNoise(*values)
