"""The loop of fine-tuning: what learns, what does not, and how it ends."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import draw_cells, spaced_centres
from nets.tiny_nets import card, small, small_config

from napari_celldetr.core.errors import JobError
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.running import Normalizer
from napari_celldetr.nets.widen import widened
from napari_celldetr.training import finetune as loop
from napari_celldetr.training.fields import Field
from napari_celldetr.training.finetune import Lessons, tune
from napari_celldetr.training.finetune_cache import see_crops
from napari_celldetr.training.finetune_config import FinetuneConfig

CARD = card(small_config())


def drawn(seed, side=96):
    points = spaced_centres((side, side), seed=seed)
    return Field(
        f"{seed}",
        "drawn",
        draw_cells((side, side), points, seed=seed),
        0.5,
        points,
        np.full((len(points), 2), 12),
        (np.arange(len(points)) % 3 == 0).astype(np.int16),
        CARD.class_names,
    )


def seen(model, count=6, side=64):
    normalize = Normalizer(CARD.mean, CARD.std)
    fields = [drawn(seed) for seed in range(2)]
    return drain(see_crops(model, normalize, fields, side=side, count=count, seed=0))


def config(**changes):
    return replace(FinetuneConfig(steps=4, batch=2, guard_steps=2, rate=1.0), **changes)


@pytest.fixture
def model():
    return widened(small(), 3, adapters=4).eval()


def test_crops_repeat_with_their_seed(model):
    one, other = seen(model, 3), seen(model, 3)
    assert all(torch.equal(a.features[0], b.features[0]) for a, b in zip(one, other, strict=True))
    assert all(len(s.targets) for s in one)


def test_the_frozen_parts_stay_and_the_rest_learns(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    done = drain(tune(model, CARD, Lessons(seen(model)), config(steps=30), device="cpu"))
    moved = {k for k, v in done.model.state_dict().items() if not torch.equal(v, before[k])}
    assert not [k for k in moved if k.startswith(("encoder.backbone", "encoder.pyramid"))]
    for part in ("encoder.heat_head", "encoder.adapters", "representation", "detection"):
        assert [k for k in moved if k.startswith(part)]
    assert np.mean(done.losses[-5:]) < np.mean(done.losses[:5])
    assert done.before is None
    assert done.step == done.steps == 30


def test_steps_are_told_with_loss_and_guard(model):
    lessons = Lessons(seen(model), guard=[drawn(7)])
    steps = list(tune(model, CARD, lessons, config(), device="cpu"))
    assert steps[-1].total == 4
    assert any("loss" in s.message and "guard F1" in s.message for s in steps)


def test_rehearsal_and_own_answers_are_learned_from_as_well(model):
    crops = seen(model)
    plain = list(tune(small().eval(), CARD, Lessons(crops), config(), device="cpu"))
    both = Lessons(crops, rehearsal=crops, own=crops)
    more = list(tune(small().eval(), CARD, both, config(own_answers=1.0), device="cpu"))
    assert len(more) == len(plain) + 2 * 4


@pytest.fixture
def judged(monkeypatch):
    """Let the guard's figures be those of a list, check after check, the model's own first."""

    def let(*figures):
        rows, given, original = iter(figures), {}, loop.guard_scores

        def scores(*arguments):
            made = original(*arguments)
            given[id(made)] = (made, next(rows))
            return made

        monkeypatch.setattr(loop, "GUARD_CELLS", 1)
        monkeypatch.setattr(loop, "guard_scores", scores)
        monkeypatch.setattr(loop, "overall", lambda made: given[id(made)][1])

    return let


def test_the_best_step_on_the_guard_is_kept(model, judged):
    judged(0.1, 0.5, 0.9, 0.3, 0.2, 0.2)
    lessons = Lessons(seen(model), guard=[drawn(7)])
    done = drain(tune(model, CARD, lessons, config(steps=20, guard_steps=1), device="cpu"))
    assert done.step == 2
    assert done.steps == 5


def test_what_does_not_help_is_refused(model, judged):
    judged(0.9, *[0.1] * 5)
    lessons = Lessons(seen(model), guard=[drawn(7)])
    with pytest.raises(JobError, match="did not help"):
        drain(tune(model, CARD, lessons, config(guard_steps=1), device="cpu"))


def test_too_little_memory_makes_batches_smaller(model, monkeypatch):
    original, sizes = loop.Batch.of.__func__, []

    def fails(cls, items, device):
        sizes.append(len(items))
        if len(items) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return original(cls, items, device)

    monkeypatch.setattr(loop.Batch, "of", classmethod(fails))
    done = drain(tune(model, CARD, Lessons(seen(model)), config(batch=4), device="cpu"))
    assert sizes[:3] == [4, 2, 1]
    assert done.batch == 1


def test_memory_for_nothing_is_an_error(model, monkeypatch):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(loop.Batch, "of", fails)
    with pytest.raises(JobError, match="not enough memory"):
        drain(tune(model, CARD, Lessons(seen(model)), config(), device="cpu"))


def test_it_can_be_closed_at_every_step(model):
    crops = seen(model)
    for stop in range(4):
        with contextlib.closing(tune(model, CARD, Lessons(crops), config(), device="cpu")) as job:
            for _ in range(stop):
                next(job)
