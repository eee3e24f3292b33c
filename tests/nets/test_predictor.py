"""The predictor: batches, odd sizes, shifts, mirrors, and an honest word on trouble."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from tiny_nets import awake, card, pictures, small, small_config, tiny, tiny_config

from napari_celldetr.core.boxes import iou_matrix, to_xyxy
from napari_celldetr.core.calibration import Calibration
from napari_celldetr.core.predictor import NUMERICAL, SATURATED, Predictor
from napari_celldetr.nets.predictor import DUPLICATE_IOU, CellDETRPredictor, _best_of_close

LOW = {"threshold": 0.4, "score_floor": 0.001}


def predictor(model=None, *, flips=False, **changes):
    """A predictor of a narrow network that finds many cells in noise."""
    model = small() if model is None else model
    return CellDETRPredictor(model, card(model.config, **(LOW | changes)), flips=flips)


def by_place(table):
    return table.select(np.lexsort(table.centres.T.round(2)))


def same(a, b, atol=1e-4):
    """Both tables hold the same cells."""
    a, b = by_place(a), by_place(b)
    assert len(a) == len(b) > 0
    np.testing.assert_allclose(a.boxes, b.boxes, atol=atol * 50)
    np.testing.assert_allclose(a.scores, b.scores, atol=atol)
    np.testing.assert_array_equal(a.class_ids, b.class_ids)
    np.testing.assert_allclose(a.embeddings.astype(float), b.embeddings.astype(float), atol=0.01)


def test_it_is_a_predictor():
    assert isinstance(predictor(), Predictor)


@pytest.mark.parametrize("flips", [False, True])
def test_batched_equals_single(flips):
    tiles = pictures(3)
    one = predictor(flips=flips)
    for alone, among in zip(
        (one.predict(t[None])[0] for t in tiles), one.predict(tiles), strict=True
    ):
        same(alone.detections, among.detections, atol=1e-5)
        assert alone.flags == among.flags
    assert one.predict(tiles[:0]) == []


@pytest.mark.parametrize("size", [(64, 64), (65, 63), (40, 100), (1, 1), (7, 130)])
def test_tiles_of_any_size(size):
    found = predictor().predict(pictures(2, *size))
    for one in found:
        assert not one.flags & {NUMERICAL}
        centres = one.detections.centres
        assert (centres >= 0).all()
        assert (centres < [size[1], size[0]]).all()
        assert one.detections.embeddings.dtype == np.float16
        assert one.detections.embeddings.shape == (len(one.detections), 16)


def test_an_odd_tile_is_seen_as_if_its_border_went_on():
    tile = pictures(1, 100, 120)
    padded = np.pad(tile, ((0, 0), (0, 28), (0, 8), (0, 0)), mode="edge")
    found, wide = (predictor().predict(t)[0].detections for t in (tile, padded))
    inside = (wide.centres < [120, 100]).all(1)
    # Duplicates across the border may differ.
    near = (wide.centres > [115, 95]).any(1)
    near_found = (found.centres > [115, 95]).any(1)
    same(found.select(~near_found), wide.select(inside & ~near))


def test_a_cell_64_px_further_is_the_same_cell():
    # As far from every border as the backbone sees (245 px), for given anchors.
    model, rng = small().eval(), np.random.default_rng(0)
    big = torch.from_numpy(pictures(1, 640, 640, seed=3)).permute(0, 3, 1, 2) / 128 - 1
    where = torch.from_numpy(rng.uniform(314, 326, (1, 10, 2))).float()
    prior, valid = torch.zeros(1, 10), torch.ones(1, 10, dtype=torch.bool)
    heats, seen = [], []
    for left, top in ((0, 0), (64, 0), (0, 64)):
        tile = big[:, :, top : top + 576, left : left + 576]
        shift = torch.tensor([left, top])
        with torch.no_grad():
            encoded = model.encode(tile)
            queries = model.proposer.at(encoded, (where - shift) / 576, prior, valid)
            found = model.detection(encoded, queries)
            out = model.represent(encoded, found.boxes[-1])
        centres = found.boxes[-1][..., :2] * 576 + shift
        seen.append((centres, found.logits[-1], out.embeddings))
        row, column = (314 - top) // 2, (314 - left) // 2
        heats.append(encoded.heat[0, 0, row : row + 6, column : column + 6])
    for heat, other in zip(heats[1:], seen[1:], strict=True):
        torch.testing.assert_close(heat, heats[0], atol=2e-3, rtol=0)
        # The memory's group norm looks at the whole tile, which shows a little.
        for a, b, limit in zip(other, seen[0], (0.1, 0.1, 0.3), strict=True):
            torch.testing.assert_close(a, b, atol=limit, rtol=0)


def test_mirrored_pictures_give_mirrored_cells_when_views_are_averaged():
    tile = pictures(1, 64, 128)
    one = predictor(flips=True)
    found = one.predict(tile)[0].detections
    for axes, scale, offset in (((2,), (-1, 1), (128, 0)), ((1, 2), (-1, -1), (128, 64))):
        mirrored = one.predict(np.flip(tile, axes).copy())[0].detections
        boxes = mirrored.boxes.reshape(-1, 2, 2) * scale + offset
        back = np.concatenate((boxes.min(1), boxes.max(1)), 1).astype(np.float32)
        same(
            found,
            type(mirrored)(
                back, mirrored.scores, mirrored.class_ids, mirrored.class_names, mirrored.embeddings
            ),
        )


def test_without_averaging_a_mirror_matters():
    tile = pictures(1, 64, 128)
    one = predictor()
    first, second = (one.predict(t)[0].detections for t in (tile, tile[:, :, ::-1].copy()))
    assert len(first) != len(second) or not np.allclose(
        np.sort(first.scores), np.sort(second.scores), atol=1e-5
    )


# --- trouble ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "encoder.backbone",
        "encoder.heat_head",
        "encoder.class_head",
        "encoder.project",
        "proposer.fine",
        "detection.layers.0.cross.offsets",
        "detection.box.1",
        "detection.logit.1",
        "representation.position",
        "representation.classify.1",
    ],
)
@pytest.mark.parametrize("flips", [False, True])
def test_weights_that_are_no_numbers_are_flagged_never_zero_cells(where, flips):
    model = small()
    parameter = next(p for n, p in model.named_parameters() if n.startswith(where))
    with torch.no_grad():
        parameter.fill_(float("nan"))
    for found in predictor(model, flips=flips).predict(pictures(2)):
        assert NUMERICAL in found.flags
        assert len(found.detections) == 0


@pytest.mark.parametrize("source", ["learned", "two_stage"])
def test_other_query_sources_are_flagged_as_well(source):
    model = tiny(query_source=source)
    assert not predictor(model).predict(pictures(1))[0].flags & {NUMERICAL}
    with torch.no_grad():
        model.encoder.level_embedding.fill_(float("nan"))
    found = predictor(model).predict(pictures(1))[0]
    assert found.flags >= {NUMERICAL}
    assert len(found.detections) == 0


def test_full_slots_are_flagged():
    many = small(queries=20_000)
    few = small(queries=3, window=64)
    assert SATURATED not in predictor(many).predict(pictures(1))[0].flags
    assert SATURATED in predictor(few).predict(pictures(1))[0].flags
    learned = tiny()
    with torch.no_grad():
        for logit in learned.detection.logit:
            logit.bias.fill_(5.0)
    assert SATURATED in predictor(learned).predict(pictures(1))[0].flags
    with torch.no_grad():
        for logit in learned.detection.logit:
            logit.bias.fill_(-5.0)
    assert SATURATED not in predictor(learned, score_floor=0.3).predict(pictures(1))[0].flags


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried 1 byte"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_lack_of_memory_is_a_memory_error(monkeypatch, error):
    one = predictor()

    def full(image):
        raise error

    monkeypatch.setattr(one.model, "encode", full)
    with pytest.raises(MemoryError):
        one.predict(pictures(1))


def test_what_this_machine_says_when_memory_is_out(monkeypatch):
    one = predictor()
    monkeypatch.setattr(one.model, "encode", lambda image: torch.empty(2**58))
    with pytest.raises(MemoryError):
        one.predict(pictures(1))


def test_other_errors_stay_what_they_are(monkeypatch):
    one = predictor()

    def broken(image):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(one.model, "encode", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        one.predict(pictures(1))


def test_tiles_that_may_not_be_written_cause_no_warning():
    tiles = pictures(1)
    tiles.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(
            predictor().predict(tiles)[0].detections, predictor().predict(pictures(1))[0].detections
        )


# --- what is returned ------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["matched", "all"])
def test_the_score_floor_holds(target):
    model = small(class_target=target)
    every = predictor(model).predict(pictures(1))[0].detections
    floor = float(np.median(every.scores))
    fewer = predictor(model, score_floor=floor).predict(pictures(1))[0].detections
    assert 0 < len(fewer) < len(every)
    assert (fewer.scores >= np.float32(floor)).all()
    same(fewer, every.above(floor))


def test_no_two_cells_are_near_or_overlap_much():
    from scipy.spatial.distance import pdist

    found = predictor().predict(pictures(1))[0].detections
    assert pdist(found.centres).min() > small_config().offset_px - 1e-3
    overlap = iou_matrix(found.boxes, found.boxes)
    np.fill_diagonal(overlap, 0)
    assert overlap.max() <= DUPLICATE_IOU + 1e-3


def slow_best(boxes, scores, radius, iou):
    apart = np.hypot(*(boxes[:, None, :2] - boxes[None, :, :2]).transpose(2, 0, 1))
    overlap = iou_matrix(to_xyxy(boxes), to_xyxy(boxes))
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if all(apart[i, j] > radius and overlap[i, j] <= iou for j in kept):
            kept.append(i)
    return sorted(kept)


@pytest.mark.parametrize("seed", range(10))
def test_duplicates_go_as_in_the_greedy_rule(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 80))
    boxes = np.concatenate([rng.uniform(0, 60, (count, 2)), rng.uniform(2, 30, (count, 2))], 1)
    scores = rng.choice(np.linspace(0, 1, 9), count)
    found = _best_of_close(torch.tensor(boxes), torch.tensor(scores), radius=3.0, iou=0.3)
    assert found.tolist() == slow_best(boxes, scores, 3.0, 0.3)


def test_score_and_class_of_both_decoders_together():
    both = small(class_target="all")
    found = predictor(both).predict(pictures(1))[0].detections
    alone = small(class_target="all")
    alone.config.__dict__["class_target"] = "matched"
    plain = predictor(alone).predict(pictures(1))[0].detections
    assert len(found)
    assert not np.allclose(np.sort(found.scores)[-3:], np.sort(plain.scores)[-3:])
    p = found.columns["class_probability"]
    assert ((p > 0) & (p < 1)).all()


def test_a_coupled_network_predicts_from_its_features():
    model = awake(small_config(decoupled=False))
    found = predictor(model).predict(pictures(2))
    assert all(len(f.detections) for f in found)
    alone = predictor(model).predict(pictures(2)[1:])[0].detections
    same(alone, found[1].detections, atol=1e-5)


# --- calibration -----------------------------------------------------------------------------


def calibrated(model, calibration, *, flips=False, **changes):
    """The predictor of a card that was calibrated."""
    done = card(model.config, **(LOW | changes)).calibrated(calibration)
    return CellDETRPredictor(model, done, flips=flips)


@pytest.mark.parametrize(
    ("target", "flips", "calibration"),
    [
        ("matched", False, Calibration(0.4, -1.5, 2.0)),
        ("matched", True, Calibration(3.0, 1.0, 0.5)),
        ("all", False, Calibration(1.0, -4.0)),
    ],
)
def test_calibration_changes_numbers_and_no_cell(target, flips, calibration):
    model, tile = small(class_target=target), pictures(1)
    every = predictor(model, flips=flips).predict(tile)[0].detections
    floor = float(np.median(every.scores)) + 1e-4
    limits = {"score_floor": floor, "threshold": float(np.quantile(every.scores, 0.8))}
    plain = predictor(model, flips=flips, **limits)
    before = plain.predict(tile)[0].detections
    one = calibrated(model, calibration, flips=flips, **limits)
    after = one.predict(tile)[0].detections
    assert 0 < len(before) == len(after)
    np.testing.assert_array_equal(before.boxes, after.boxes)
    np.testing.assert_array_equal(before.class_ids, after.class_ids)
    np.testing.assert_allclose(after.scores, calibration.score(before.scores), atol=2e-6)
    assert (after.scores >= np.float32(one.card.score_floor)).all()
    # The threshold moved along: the cells shown by default are the same.
    shown, still = before.above(plain.card.threshold), after.above(one.card.threshold)
    assert 0 < len(shown) == len(still)
    np.testing.assert_array_equal(shown.boxes, still.boxes)


def test_a_floor_on_the_calibrated_scale_reaches_back_to_the_heatmap():
    # Scores pulled down: the same floor asks for surer peaks; pushed up, for much fainter ones.
    # Were peaks compared with the card's floor as it stands, the latter would be lost.
    model, tile = small(), pictures(1)
    every = predictor(model, score_floor=1e-6).predict(tile)[0].detections
    counts = []
    for share, floor in ((0.8, 0.3), (0.2, 0.3), (0.2, 0.39)):
        edge = float(np.quantile(every.scores, share)) + 1e-5
        shift = float(np.log(floor / (1 - floor)) - np.log(edge / (1 - edge)))
        one = predictor(model, score_floor=floor, calibration={"shift": shift})
        found = one.predict(tile)[0].detections
        assert found.scores.min() >= np.float32(floor)
        same(found, predictor(model, score_floor=edge).predict(tile)[0].detections, atol=1)
        counts.append(len(found))
    assert counts[0] < counts[1] == counts[2]


def test_full_slots_are_judged_by_the_network_s_own_scores():
    learned = tiny()
    with torch.no_grad():
        for logit in learned.detection.logit:
            logit.bias.fill_(-5.0)
    low = {"score_floor": 0.3}
    assert SATURATED not in predictor(learned, **low).predict(pictures(1))[0].flags
    raised = predictor(learned, **low, calibration={"shift": 8.0})
    assert SATURATED in raised.predict(pictures(1))[0].flags


@pytest.mark.parametrize("target", ["matched", "all"])
def test_every_class_s_probability_on_request(target):
    model, tile = small(class_target=target), pictures(1)
    plain = predictor(model).predict(tile)[0].detections
    assert set(plain.columns) == {"class_probability"}
    one = predictor(model).with_class_columns()
    found = one.to("cpu").predict(tile)[0].detections
    names = [f"probability_{n}" for n in found.class_names]
    assert set(found.columns) == {"class_probability", *names}
    p = np.stack([found.columns[n] for n in names], axis=1)
    np.testing.assert_array_equal(p.argmax(1), found.class_ids)
    np.testing.assert_array_equal(p.max(1), found.columns["class_probability"])
    cool = predictor(model, calibration={"class_temperature": 2.0}).with_class_columns()
    cooled = cool.predict(tile)[0].detections
    q = np.stack([cooled.columns[n] for n in names], axis=1)
    np.testing.assert_allclose(q, Calibration(class_temperature=2.0).shares(p), atol=1e-6)
    np.testing.assert_array_equal(cooled.class_ids, found.class_ids)
    np.testing.assert_allclose(cooled.scores, found.scores, atol=1e-6)


def test_a_card_without_calibration_gives_what_it_always_gave():
    model, tile = small(), pictures(1)
    plain = predictor(model).predict(tile)[0].detections
    neutral = predictor(model, calibration=Calibration().to_dict()).predict(tile)[0].detections
    same(plain, neutral, atol=1e-6)
    one = predictor(model)
    assert one._least == one.card.score_floor


def test_another_device_is_another_predictor():
    one = predictor(flips=True)
    other = one.to("cpu")
    assert (other.device, other.dtype) == ("cpu", "float32")
    same(one.predict(pictures(1))[0].detections, other.predict(pictures(1))[0].detections)


def test_half_precision_layers_move_no_cell():
    # Sampling and decisions stay in float32 whatever the layers are in.
    model, tile = small(), pictures(1, 128, 128)
    exact = predictor(model).predict(tile)[0].detections
    rough = CellDETRPredictor(model, card(model.config, **LOW), dtype=torch.bfloat16)
    found = rough.predict(tile)[0].detections
    strong = exact.above(float(np.quantile(exact.scores, 0.8)))
    gaps = np.hypot(*np.moveaxis(strong.centres[:, None] - found.centres[None], 2, 0)).min(1)
    assert np.median(gaps) < 0.3


def test_the_paper_s_form_predicts():
    config = tiny_config(class_target="all", mode="sequential")
    found = predictor(awake(config)).predict(pictures(1))[0].detections
    assert len(found)
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
