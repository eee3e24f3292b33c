"""A lazy model knows its card at once and loads its weights once, when first needed."""

import pytest
from tiny_nets import pictures

from napari_celldetr.core.errors import ModelError
from napari_celldetr.nets import registry
from napari_celldetr.nets.lazy import LazyModel


class Loaded:
    device = "cpu"

    def predict(self, tiles):
        return [f"cells of {len(tiles)}"]

    def to(self, device):
        return f"on {device}"


def test_it_loads_once_and_late(monkeypatch):
    calls = []
    monkeypatch.setattr(registry, "load_model", lambda *a, **k: calls.append(k) or Loaded())
    model = LazyModel("celldetr-he", device="auto", flips=True)
    assert model.card.name == "celldetr-he"
    assert (model.device, calls) == ("auto", [])
    assert model.predict(pictures(2)) == ["cells of 2"]
    assert model.to("cpu") == "on cpu"
    assert calls == [{"device": "auto", "flips": True}]
    assert model.device == "cpu"


def test_a_missing_model_is_refused_at_once():
    with pytest.raises(ModelError, match="installed models"):
        LazyModel("no-such-model")
