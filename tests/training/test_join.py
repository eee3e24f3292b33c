"""Two networks joined: cells stay where they were, and classes are the mean of two opinions."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sets import CLASSES, config, points_folder

from napari_celldetr.cli import main
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError, ConfigError, ModelError
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import ModelCard, read_card
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.celldetr_config import CellDETRConfig, OverviewConfig
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.nets.registry import load_model, load_network, save_model
from napari_celldetr.training.config import CrossvalidateConfig
from napari_celldetr.training.crossval import crossvalidate
from napari_celldetr.training.join import join
from napari_celldetr.training.train import train

NARROW = {"backbone": "mobilenetv2_050", "size": 16, "heads": 2, "points": 2}
SIDE = 128


def awake(config: CellDETRConfig, seed: int) -> CellDETR:
    """A network in which every parameter has an effect on the result."""
    torch.manual_seed(seed)
    model = CellDETR(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model


def saved(folder: Path, model: CellDETR, mpp: float, **changes: object) -> Path:
    """The model in a folder, with a card that fits it."""
    values: dict[str, object] = {
        "name": folder.name,
        "title": folder.name,
        "description": "A network of a test.",
        "architecture": "celldetr",
        "arguments": asdict(model.config),
        "class_names": CLASSES,
        "class_colors": ((0, 0, 0),) * 3,
        "mpp": mpp,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "stain": "H&E",
        "threshold": 0.4,
        "score_floor": 0.01,
        "weights_sha256": "0" * 64,
        "licence": "BSD-3-Clause",
        "data": [{"name": folder.name, "groups": ["01"]}],
        "metrics": {"old": 1},
        "intended_use": "Tests.",
        "limits": "None known.",
    }
    save_model(folder, model, ModelCard(**(values | changes)))  # type: ignore[arg-type]
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A fine model at 0.25 and a plain dense one at 0.5 µm/px."""
    narrow = {"feed_forward": 16, "pyramid_size": 8, **NARROW}
    fine = awake(CellDETRConfig.small(3, mpp=0.25, **narrow), seed=1)
    coarse = awake(CellDETRConfig.dense(3, **narrow), seed=2)
    return saved(tmp_path / "fine", fine, 0.25), saved(tmp_path / "coarse", coarse, 0.5)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (1, SIDE, SIDE, 3), dtype=np.uint8)


def shares(table: Detections) -> np.ndarray:
    return np.stack([table.columns[f"probability_{name}"] for name in CLASSES], 1)


def found(folder: Path, tile: np.ndarray, *, flips: bool = False) -> Detections:
    network, card = load_network(folder)
    assert isinstance(network, CellDETR)
    return (
        CellDETRPredictor(network, card, flips=flips, class_columns=True)
        .predict(tile)[0]
        .detections
    )


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_cells_stay_and_classes_are_shared_out(
    pair: tuple[Path, Path], tmp_path: Path, weight: float, flips: bool
) -> None:
    fine, coarse = pair
    join(fine, coarse, tmp_path / "both", weight=weight)
    tile = picture()
    alone, both = found(fine, tile, flips=flips), found(tmp_path / "both", tile, flips=flips)
    assert len(alone) > 20
    np.testing.assert_allclose(both.boxes, alone.boxes, atol=1e-4)
    np.testing.assert_allclose(both.scores, alone.scores, atol=1e-6)
    second = overview_by_hand(coarse, tile, both, flips=flips)
    np.testing.assert_allclose(
        shares(both), (1 - weight) * shares(alone) + weight * second, atol=2e-4
    )


def overview_by_hand(
    coarse: Path, tile: np.ndarray, cells: Detections, *, flips: bool
) -> np.ndarray:
    """Classes of the coarse network's own map at cells of a tile twice as fine."""
    network, card = load_network(coarse)
    assert isinstance(network, CellDETR)
    predictor = CellDETRPredictor(network, card)
    small = tile.reshape(1, SIDE // 2, 2, SIDE // 2, 2, 3).mean((2, 4))
    image = torch.from_numpy(((small / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)).float()
    at = torch.from_numpy(np.concatenate([cells.centres / SIDE, cells.centres * 0 + 0.1], 1))
    at = at[None].float()
    total = []
    for flip in [(), (-1,), (-2,), (-2, -1)] if flips else [()]:
        turned, where = image.flip(flip) if flip else image, at.clone()
        for axis in flip:
            where[..., -1 - axis] = 1 - where[..., -1 - axis]
        with torch.inference_mode():
            model = predictor.model.eval()
            total.append(model.class_at(model.encode(turned), where)[0].softmax(-1))
    return torch.stack(total).mean(0).numpy()


def test_the_card_says_what_was_joined(pair: tuple[Path, Path], tmp_path: Path) -> None:
    fine, coarse = pair
    calibration = {"scale": 1.2, "shift": 0.1, "class_temperature": 3.0, "fitted_on": "fields"}
    card = replace(read_card(fine), calibration=calibration)
    (fine / "card.json").write_text(card.to_json())
    done = join(fine, coarse, tmp_path / "both")
    assert done.to_json() == read_card(tmp_path / "both").to_json()
    assert done.name == done.title == "both"
    assert done.parent == card.weights_sha256
    assert done.training["overview"]["weights_sha256"] == read_card(coarse).weights_sha256
    assert [d["name"] for d in done.data] == ["fine", "coarse"]
    # Figures of the fine model are not the joined one's; its scores are.
    assert done.metrics == {}
    assert done.calibration == calibration | {"class_temperature": 1.0}
    assert done.arguments["overview"] == {
        "backbone": "mobilenetv2_050",
        "fold_norm": True,
        "pyramid_size": 8,
        "class_stride": 4,
        "scale": 2,
        "weight": 0.5,
    }


def test_asking_and_predicting_agree(pair: tuple[Path, Path], tmp_path: Path) -> None:
    join(*pair, tmp_path / "both")
    predictor = load_model(tmp_path / "both", device="cpu")
    assert isinstance(predictor, CellDETRPredictor)
    tile = picture(3)[0]
    table = predictor.predict(tile[None])[0].detections
    best = table.centres[np.argsort(-table.scores)[:5]]
    answers = predictor.ask(predictor.encode_tile(tile), best)
    by_place = {
        tuple(np.round(c, 1)): k for c, k in zip(table.centres, table.class_ids, strict=True)
    }
    asked = answers.detections
    assert len(asked) == 5
    for centre, kind in zip(asked.centres, asked.class_ids, strict=True):
        assert by_place[tuple(np.round(centre, 1))] == kind


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mpp": 0.3}, "2, 4 or 8 times"),
        ({"mpp": 0.75}, "2, 4 or 8 times"),
        ({"mpp": 0.25}, "2, 4 or 8 times"),
        ({"class_names": ("a", "b", "c")}, "classes"),
        ({"mean": (0.4, 0.5, 0.5)}, "statistics"),
    ],
)
def test_models_that_do_not_suit_each_other_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, change: dict[str, object], words: str
) -> None:
    fine, coarse = pair
    card = replace(read_card(coarse), **change)
    (coarse / "card.json").write_text(card.to_json())
    with pytest.raises(ModelError, match=words):
        join(fine, coarse, tmp_path / "both")
    assert not (tmp_path / "both" / "card.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_stride": 2}, "coarser than the heatmap"),
        ({"strides": (4, 8)}, "all strides"),
        ({"query_source": "learned", "geometry": "sigmoid", "projection_norm": "group"}, "map"),
    ],
)
def test_coarse_networks_without_such_a_class_map_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, change: dict[str, object], words: str
) -> None:
    learned = "query_source" in change
    more = {"representation_layers": 1, "dense_class_weight": 0.0} if learned else {}
    layers = {"detection_layers": 1} if learned else {}
    values = {"feed_forward": 16, "pyramid_size": 8, **NARROW, **change, **more, **layers}
    coarse = saved(tmp_path / "other", awake(CellDETRConfig.dense(3, **values), seed=3), 0.5)
    with pytest.raises(ModelError, match=words):
        join(pair[0], coarse, tmp_path / "both")


@pytest.mark.parametrize("scale", [4, 8])
def test_coarser_overviews_get_tiles_that_they_can_read(
    pair: tuple[Path, Path], tmp_path: Path, scale: int
) -> None:
    fine, coarse = pair
    card = replace(read_card(coarse), mpp=0.25 * scale)
    (coarse / "card.json").write_text(card.to_json())
    join(fine, coarse, tmp_path / "both")
    tile = picture(2)[:, :70, :90]
    both, alone = found(tmp_path / "both", tile), found(fine, tile)
    assert len(alone) > 5
    # More padding adds no cells and moves none inside.
    kept = (alone.centres < 60).all(1)
    for centre in alone.centres[kept]:
        assert np.hypot(*(both.centres - centre).T).min() < 0.5


def test_a_joined_model_is_joined_once_and_no_model_is_written_over(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, coarse = pair
    words = ["join", str(fine), str(coarse), "-o", str(tmp_path / "both")]
    assert main(words) == 0
    assert "celldetr evaluate" in capsys.readouterr().out
    before = (tmp_path / "both" / "card.json").read_bytes()
    assert main(words) == 1
    assert "already" in capsys.readouterr().err
    assert (tmp_path / "both" / "card.json").read_bytes() == before
    with pytest.raises(ModelError, match="without an overview"):
        join(tmp_path / "both", coarse, tmp_path / "more")
    with pytest.raises(ConfigError, match="weight"):
        join(fine, coarse, tmp_path / "more", weight=1.5)


@pytest.mark.parametrize(
    "overview",
    [
        {"scale": 1},
        {"scale": 2.0},
        {"scale": 3},
        {"class_stride": 3},
        {"weight": "much"},
        {"backbone": 5},
        {"unknown": 1},
        7,
    ],
)
def test_an_overview_of_a_card_from_elsewhere_is_checked(overview: object) -> None:
    with pytest.raises(ConfigError, match="overview"):
        CellDETRConfig.small(3, overview=overview)


def test_an_overview_needs_classes_that_can_be_averaged() -> None:
    with pytest.raises(ConfigError, match="matched"):
        CellDETRConfig.small(3, overview=OverviewConfig(), class_target="all")


def test_tiles_that_cannot_be_reduced_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    join(*pair, tmp_path / "both")
    network, _ = load_network(tmp_path / "both")
    assert isinstance(network, CellDETR)
    assert network.overview is not None
    with pytest.raises(ConfigError, match="multiples of 2"):
        network.overview(torch.zeros(1, 3, 65, 64))
    encoded = network.train().encode(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="overview"):
        network.overview_at(encoded, torch.rand(1, 2, 4))


SHORT = {
    "steps": 2,
    "batch": 1,
    "crop": 64,
    "warmup": 1,
    "workers": 0,
    "device": "cpu",
    "precision": "float32",
}


def test_training_goes_on_around_the_overview(tmp_path: Path) -> None:
    points_folder(tmp_path / "points")
    fine = drain(train(config(tmp_path, mpp=0.25, output=str(tmp_path / "a"))))
    dense = config(tmp_path, architecture="dense", output=str(tmp_path / "b"))
    coarse = drain(train(dense))
    join(fine, coarse, tmp_path / "both")
    more = config(tmp_path, mpp=0.25, init=str(tmp_path / "both"), lr_heads=0.1)
    after, _ = load_network(drain(train(more)))
    before, _ = load_network(tmp_path / "both")
    changed = {
        name.split(".")[0]
        for (name, a), b in zip(
            before.state_dict().items(), after.state_dict().values(), strict=True
        )
        if not torch.equal(a, b)
    }
    assert "encoder" in changed
    assert "overview" not in changed
    probed = replace(more, freeze="all_but_classifier", output=str(tmp_path / "probe"))
    assert read_card(drain(train(probed))).arguments["overview"] is None
    # With other classes it is left behind: it knows the old ones alone.
    other = replace(more, classes="lymphocyte,tumour,stromal,other", output=str(tmp_path / "c"))
    card = read_card(drain(train(other)))
    assert card.arguments["overview"] is None


def test_cross_validation_of_joined_networks(tmp_path: Path) -> None:
    points_folder(tmp_path / "points", ("01", "02", "03", "04"))
    fine = crossing(tmp_path, "fine", mpp=0.25, overview_from=str(tmp_path / "coarse"))
    with pytest.raises(ConfigError, match="no overview"):
        drain(crossvalidate(fine))
    drain(crossvalidate(crossing(tmp_path, "coarse", architecture="dense")))
    joined = drain(crossvalidate(fine))
    alone = drain(crossvalidate(replace(fine, overview_from="")))
    for a, b in zip(joined.sets["points"].held_out, alone.sets["points"].held_out, strict=True):
        np.testing.assert_allclose(a.cells.found_xy, b.cells.found_xy, atol=1e-3)
    names = {p.name for p in (tmp_path / "fine").glob("report*")}
    assert names == {"report-group.json", "report-group-joined.json"}
    # Overviews of other groups would have seen who is held out.
    elsewhere = crossing(tmp_path, "elsewhere", architecture="dense", hold_out="02")
    drain(crossvalidate(elsewhere))
    with pytest.raises(CellDETRError, match="other groups"):
        drain(crossvalidate(replace(fine, overview_from=str(tmp_path / "elsewhere"))))


def crossing(root: Path, name: str, **changes: object) -> CrossvalidateConfig:
    values = {"data": f"points:{root / 'points'}", "output": str(root / name), **SHORT}
    return CrossvalidateConfig(**(values | {"folds": 2} | changes))
