"""Model folders: what we write we read, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import json
import pickle
import struct
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_nets import card, pictures, small, small_config

from napari_celldetr.core.errors import ModelError
from napari_celldetr.nets import registry
from napari_celldetr.nets.card import ModelCard, read_card
from napari_celldetr.nets.registry import (
    build_network,
    choose_device,
    file_sha256,
    find_model,
    list_models,
    load_model,
    load_network,
    save_model,
)


@pytest.fixture
def folder(tmp_path):
    """A model folder as training writes it."""
    save_model(tmp_path / "tiny", small(), card(small_config()))
    return tmp_path / "tiny"


def rewrite_card(folder, **changes):
    raw = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps({k: v for k, v in raw.items() if v is not ...}))


def accept_weights(folder):
    """Put the hash of the weights as they are now into the card."""
    rewrite_card(folder, weights_sha256=file_sha256(folder / "weights.safetensors"))


def peak_bytes():
    """Most memory this process ever held; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refused(folder, match=None):
    """The error of loading `folder`, which must come fast and cost little memory."""
    before, start = peak_bytes(), time.process_time()
    with pytest.raises(ModelError, match=match) as caught:
        load_model(folder, device="cpu")
    seconds = time.process_time() - start
    assert caught.value.expected
    assert caught.value.found
    assert caught.value.remedy
    assert len(str(caught.value)) < 4000
    assert peak_bytes() - before < 512 * 2**20
    return seconds


def test_a_saved_model_comes_back(folder):
    network, found = load_network(folder)
    for a, b in zip(network.state_dict().items(), small().state_dict().items(), strict=True):
        assert a[0] == b[0]
        assert a[1].dtype == torch.float32
        assert torch.equal(a[1], b[1].half().float())
    assert found.weights_sha256 == file_sha256(folder / "weights.safetensors")
    assert all(p.requires_grad and not p.is_meta for p in network.parameters())
    assert read_card(folder) == found


def test_a_card_round_trip_keeps_everything():
    full = card(
        small_config(),
        class_rule={"measure": "dab_od_mean", "threshold": 0.2},
        metrics={"set": {"f1": 0.5, "interval": [0.4, 0.6]}},
        data=[{"name": "set", "groups": ["01"]}],
        parent="a" * 64,
        title="Zellkerne – ß",
    )
    raw = json.loads(full.to_json())
    again = ModelCard(**raw)
    assert again.to_json() == full.to_json()
    assert again.class_colors == full.class_colors
    assert build_network(again).config == small_config()


def test_models_are_found_by_name_and_by_folder(folder, monkeypatch):
    monkeypatch.setenv("CELLDETR_MODELS", str(folder.parent))
    assert find_model("tiny") == folder
    assert find_model(folder) == folder
    assert "tiny" in [c.name for c in list_models()]
    for name in ("huge", "../tiny", "tiny/card.json", ""):
        with pytest.raises(ModelError, match="No model") as caught:
            find_model(name)
        assert "tiny" in caught.value.found


def test_a_name_found_first_hides_later_ones(folder, monkeypatch, tmp_path):
    other = tmp_path / "more" / "tiny"
    save_model(other, small(1), card(small_config(), title="Other"))
    monkeypatch.setenv("CELLDETR_MODELS", f"{other.parent}:{folder.parent}")
    assert [c.title for c in list_models() if c.name == "tiny"] == ["Other"]


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"mpp": 0.01},
        {"mpp": float("nan")},
        {"mpp": "0.5"},
        {"mean": "abc"},
        {"mean": [0.5, 0.5]},
        {"std": [0.5, 0.5, 0]},
        {"std": [0.5, 0.5, float("nan")]},
        {"threshold": 0.001},
        {"threshold": 1.5},
        {"score_floor": 0},
        {"class_names": []},
        {"class_names": "abc"},
        {"class_names": ["a", 1, "c"]},
        {"class_names": 7},
        {"class_colors": [[1, 2, 3]]},
        {"class_colors": "abc"},
        {"class_colors": [None, None, None]},
        {"weights_sha256": "short"},
        {"weights_sha256": "z" * 64},
        {"name": 5},
        {"arguments": []},
        {"class_rule": "positive"},
        {"metrics": None},
        {"surprise": 1},
        {"licence": ...},
    ],
    ids=str,
)
def test_cards_that_are_not_valid_are_refused(folder, changes):
    rewrite_card(folder, **changes)
    refused(folder, match="card")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", "{", "[" * 100_000, '{"a":' * 100_000, "\x00", '{"name": 1e999}'],
    ids=["empty", "list", "number", "open", "deep list", "deep dict", "nul", "infinite"],
)
def test_files_that_are_no_card_are_refused(folder, text):
    (folder / "card.json").write_text(text)
    refused(folder)


def test_a_card_of_many_megabytes_is_refused(folder):
    (folder / "card.json").write_bytes(b" " * (5 * 2**20))
    refused(folder, match="too large")
    (folder / "card.json").write_bytes(b"\xff\xfe\x80")
    refused(folder)


# --- weights ---------------------------------------------------------------------------------


def test_changed_weights_are_refused(folder):
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(folder, match="weights")


@pytest.mark.parametrize("kind", ["missing", "extra", "shape", "dtype", "absent", "truncated"])
def test_weights_that_do_not_fit_are_refused(folder, kind):
    path = folder / "weights.safetensors"
    state = load_file(path)
    key = next(k for k in state if k.endswith("logit.0.weight"))
    if kind == "missing":
        del state[key]
    if kind == "extra":
        state["trojan"] = torch.zeros(1)
    if kind == "shape":
        state[key] = state[key][:, :1].contiguous()
    if kind == "dtype":
        state[key] = state[key].double()
    save_file(state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    accept_weights(folder)
    if kind == "absent":
        path.unlink()
    refused(folder, match="weights")


def header(entries, length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def tensor(dtype="F16", shape=(1,), offsets=(0, 2)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty": b"",
    "seven bytes": b"\x01" * 7,
    "header of 2^63 bytes": header(b"{}", 2**63),
    "header longer than the file": header(b"{}", 1000),
    "header of 9 MiB": header(b"{" + b" " * (9 * 2**20) + b"}"),
    "a million tensors": header({str(i): tensor(shape=()) for i in range(1_000_000)}),
    "30,000 tensors": header({str(i): tensor(shape=()) for i in range(30_000)}),
    "deep list": header(b"[" * 4_000_000),
    "deep dict": header(b'{"a":' * 1_000_000),
    "not JSON": header(b"\xff\xfe{}"),
    "list": header([1, 2]),
    "entry without dtype": header({"a": {"shape": [1]}}),
    "entry of text": header({"a": "F16"}),
    "negative shape": header({"a": tensor(shape=(-1,))}),
    "shape of text": header({"a": tensor(shape=("1",))}),
    "mixed dtypes": header({"a": tensor(dtype=None), "b": tensor(dtype=[1]), "c": tensor()}),
    "unknown dtype": header({"a": tensor(dtype="OBJ")}),
    "huge tensor": header({"a": tensor(shape=(2**40, 2**20), offsets=(0, 2**61))}),
    "overlapping": header({"a": tensor(), "b": tensor()}) + b"\0\0",
    "pickle": pickle.dumps({"a": 1}) * 10,
    "nothing in it": header({}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_weights_are_refused_fast(folder, kind):
    save_model(folder.parent / "sound", small(), card(small_config()))
    (folder / "weights.safetensors").write_bytes(HOSTILE[kind])
    accept_weights(folder)
    # Imports are paid for before the clock starts.
    load_model(folder.parent / "sound", device="cpu")
    assert refused(folder) < 2


def test_nothing_is_unpickled(folder, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    monkeypatch.setattr(torch, "load", never)
    load_model(folder, device="cpu")


# --- architectures ---------------------------------------------------------------------------


def test_a_card_that_asks_for_a_giant_costs_nothing(folder):
    arguments = dataclasses.asdict(small_config()) | {"size": 2048, "feed_forward": 8192}
    arguments |= {"encoder_layers": 24, "detection_layers": 24, "representation_layers": 24}
    rewrite_card(folder, arguments=arguments)
    refused(folder, match="weights")


@pytest.mark.parametrize(
    "changes",
    [
        {"size": "16"},
        {"size": 10**12},
        {"strides": 4},
        {"query_source": "unknown"},
        {"num_classes": 5},
        {"backbone": "nothing"},
        {"surprise": 1},
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(folder, changes):
    rewrite_card(folder, arguments=dataclasses.asdict(small_config()) | changes)
    refused(folder)


def test_an_unknown_architecture_is_refused(folder):
    rewrite_card(folder, architecture="perceptron")
    refused(folder, match="not installed")


def test_an_architecture_may_come_by_entry_point(folder, monkeypatch):
    class Plugged(torch.nn.Module):
        def __init__(self, card):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(3))

        def make_predictor(self, card, *, device, flips):
            return card.name, device, flips, self.weight.tolist()

    class Entry:
        name = "plugged"

        def load(self):
            return Plugged

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])
    save_file({"weight": torch.tensor([1.0, 2.0, 3.0])}, folder / "weights.safetensors")
    accept_weights(folder)
    rewrite_card(folder, architecture="plugged", arguments={"anything": 1})
    assert load_model(folder, device="cpu", flips=True) == ("tiny", "cpu", True, [1.0, 2.0, 3.0])


def test_devices(monkeypatch):
    assert choose_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    for device in ("cuda", "cuda:1", "mps", "tpu"):
        with pytest.raises(ModelError, match="not available"):
            choose_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


def test_a_loaded_model_predicts(folder):
    predictor = load_model(folder, device="cpu")
    assert predictor.device == "cpu"
    assert predictor.dtype == "float32"
    assert len(predictor.predict(pictures(1))) == 1


def test_the_registry_imports_without_torch(tmp_path):
    import subprocess

    code = (
        "import sys; import napari_celldetr.nets.registry as r; r.list_models();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
