"""What a replay compares, what it takes over and says so, and which model it believes."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from her2_slides import box, make, zone_of

from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.her2 import Cutoffs, Minimum
from napari_celldetr.core.progress import drain
from napari_celldetr.core.transform import ErrorMap, SlideFrame, SlideTransform
from napari_celldetr.pipeline.her2.content import report_content
from napari_celldetr.pipeline.her2.networks import Networks
from napari_celldetr.pipeline.her2.replay import NOT_COMPARED, compare, replay
from napari_celldetr.pipeline.her2.replay_models import check_models
from napari_celldetr.pipeline.her2.result import Rules
from napari_celldetr.pipeline.her2.score import TumourRequest, score_her2
from napari_celldetr.pipeline.her2.seal import sealed
from napari_celldetr.slides.readers import open_slide

SIDE = 900


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "a.ome.tif"
    truth = make(path, size=(SIDE, SIDE), seed=6)
    with open_slide(path) as opened:
        yield opened, truth


@pytest.fixture(scope="module")
def content(slide):
    """Tumour carried across, two fifths of it badly aligned and part beside the slide."""
    ihc, truth = slide
    errors = np.full((5, 5), 10.0)
    errors[:, :2] = 90.0
    frames = (SlideFrame("he", "1" * 64, ihc.size, ihc.mpp),
              SlideFrame(ihc.name, ihc.identity(), ihc.size, ihc.mpp))  # fmt: skip
    known = ErrorMap((47.0, 47.0), errors, np.ones((5, 5)))
    transform = SlideTransform(*frames, np.eye(2, 3), error_map=known, limit_um=50.0)
    zones = (zone_of(box(0, 0, SIDE, SIDE)), zone_of(box(800, 800, 1000, 1000)))
    asked = TumourRequest(zones, on_he=True, transform=transform)
    job = score_her2(ihc, tumour=asked, cells=truth.cells, networks=Networks())
    return sealed(report_content(drain(job), corrections={"added": 3}))


@pytest.fixture(scope="module")
def replayed(slide, content):
    return drain(replay(content, slide[0], networks=Networks()))


def changed(content, place, value):
    found = copy.deepcopy(content)
    *path, last = place
    part = found
    for key in path:
        part = part[key]
    # Some places are new: what a report says besides is compared too.
    part[last] = value(part[last]) if callable(value) else value
    return found


def test_all_is_equal_and_what_was_taken_over_is_named(content, replayed):
    assert replayed.is_equal, [d.sentence() for d in replayed.differences]
    assert content["registration"]["excluded_cells"] > 5
    assert any("reach beyond" in note for note in content["notes"])
    said = " / ".join(replayed.taken_over)
    for words in ("where the tumour is", "registration", "nuclei, which were given", "corrected"):
        assert words in said
    assert "why no tumour" not in said
    assert replayed.remarks == ()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("score_notes",), lambda notes: [*notes, "All is well."]),
        (("needs_ish",), lambda said: not said),
        (("is_covered",), lambda said: not said),
        (("is_borderline",), lambda said: not said),
        (("area_basis",), "something else"),
        (("tumour", "words"), "drawn by three people"),
        (("tumour", "area_um2"), lambda area: 2 * area),
        (("registration", "excluded_cells"), 0),
        (("detection",), {"tiles": 4, "skipped": 0, "failed": 0, "saturated": 0}),
        (("notes",), []),
        (("scope",), "breast and stomach"),
        (("guideline",), "another"),
        (("limits", "scored_up_to_mpp"), 2.0),
        (("research_use",), ""),
        (("minimum", "any"), 3),
        (("cutoffs", "weakest"), 0.1),
        (("slide", "mpp_source"), "user"),
        (("slide", "objective"), 20.0),
        (("stain", "kinds", 0, "why"), "it looks so"),
        (("nuclei", "count"), 7),
        (("regions", 0, "needs_ish"), lambda said: not said),
        (("exclusions", "outside_tumour"), 12345),
        (("verdict",), "fine"),
    ],
)
def test_whatever_else_a_report_says_is_compared(content, replayed, place, value):
    report = changed(content, place, value)
    (found,) = compare(report, replayed.content)
    assert found.where.replace("[", ".").replace("]", "").split(".")[0] == place[0]
    assert "now" in found.sentence()


def test_what_is_missing_is_a_difference(content, replayed):
    report = {k: v for k, v in content.items() if k != "scope"}
    (found,) = compare(report, replayed.content)
    assert found.where == "scope"
    assert "nothing in the report" in found.sentence()


def test_time_and_version_are_said_and_do_not_count(slide, content, replayed):
    report = content | {"created": "1999", "software": {"name": "x", "version": "0.0"}}
    assert list(compare(report, replayed.content)) == []
    assert set(NOT_COMPARED) == {"created", "software", "sha256"}
    report = changed(report, ("slide", "name"), "renamed.tif")
    again = drain(replay(sealed(report), slide[0], networks=Networks()))
    assert again.is_equal
    assert "version 0.0" in again.remarks[0]
    assert "renamed.tif" in again.remarks[1]


def test_caveats_come_out_again(slide):
    ihc, truth = slide
    rules = Rules(Cutoffs(intense=0.7), Minimum(cells=30))
    asked = TumourRequest((zone_of(box(0, 0, SIDE, SIDE)),))
    job = score_her2(ihc, tumour=asked, rules=rules, cells=truth.cells, networks=Networks())
    report = sealed(report_content(drain(job)))
    own = [note for note in report["score_notes"] if "of one's own" in note]
    assert len(own) == 2
    again = drain(replay(report, ihc, networks=Networks()))
    assert again.is_equal
    # Whoever strikes the notes and keeps the settings is found out.
    struck = report | {"score_notes": []}
    assert [d.where for d in compare(struck, again.content)] == ["score_notes"]


# -- models --------------------------------------------------------------------------------


def detected(name="own", model="runs/own", sha="c" * 64):
    return {
        "models": [{"role": "nuclei", "name": name, "weights_sha256": sha}],
        "nuclei": {"source": "detected"},
        "config": {"model": model},
    }


def given_model(sha):
    return SimpleNamespace(card=SimpleNamespace(name="called otherwise", weights_sha256=sha))


def test_a_given_model_is_known_by_its_weights_and_not_by_its_name():
    check_models(detected(), None, given_model("c" * 64))
    with pytest.raises(ModelError, match="not the one of the report") as caught:
        check_models(detected(), None, given_model("d" * 64))
    assert "--model" in caught.value.remedy
    with pytest.raises(ModelError, match="runs/own"):
        check_models(detected(), None, None)


def test_nuclei_that_were_given_need_no_model():
    report = detected()
    report["nuclei"]["source"] = "given"
    check_models(report, None, None)


def test_given_networks_are_known_by_their_weights():
    report = detected()
    report["models"] = [{"role": "stain of patches", "name": "s", "weights_sha256": "c" * 64}]
    check_models(report, Networks(stain=given_model("c" * 64)), None)
    check_models(report, Networks(), None)
    with pytest.raises(ModelError, match="not the one of the report"):
        check_models(report, Networks(stain=given_model("d" * 64)), None)
