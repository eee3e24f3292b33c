"""What is no pair is refused before any work, and what is doubtful is said."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from napari_celldetr.core.errors import SlideError
from napari_celldetr.pipeline import slide_pair
from napari_celldetr.pipeline.her2.stain_kind import StainKind


@dataclass
class Named:
    name: str
    kind: str = "unknown"

    def identity(self):
        return self.name


@pytest.fixture(autouse=True)
def told(monkeypatch):
    monkeypatch.setattr(slide_pair, "guess_stain", lambda s: StainKind(s.kind, f"why {s.name}"))


def test_one_slide_twice_is_refused():
    with pytest.raises(SlideError, match="same slide"):
        slide_pair.refuse_same(Named("a"), Named("a"))
    slide_pair.refuse_same(Named("a"), Named("b"))


def test_exchanged_slides_are_refused_and_one_wrong_stain_is_said():
    with pytest.raises(SlideError, match=r"exchanged.*'a' as H&E \(why a\)"):
        slide_pair.check_stains(Named("a", "H-DAB"), Named("b", "H&E"))
    for first, second, said in (
        ("H-DAB", "H-DAB", "given as H&E, 'a', looks like IHC: why a."),
        ("H-DAB", "unknown", "given as H&E, 'a', looks like IHC: why a."),
        ("unknown", "H&E", "given as IHC, 'b', looks like H&E: why b."),
    ):
        (note,) = slide_pair.check_stains(Named("a", first), Named("b", second))
        assert said in note
        assert "exchanged" in note


@pytest.mark.parametrize("kinds", [("H&E", "H-DAB"), ("unknown", "unknown"), ("H&E", "unknown")])
def test_a_pair_and_what_cannot_be_told_pass(kinds):
    assert slide_pair.check_stains(Named("a", kinds[0]), Named("b", kinds[1])) == ()
