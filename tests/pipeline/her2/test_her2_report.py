"""Reports: what they hold, that nothing in them can act, that a change is noticed, and replay."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from her2_slides import FakePixels, box, make, stain_network, zone_of

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.errors import ConfigError, ModelError, SlideError
from napari_celldetr.core.her2 import Cutoffs, Pattern
from napari_celldetr.core.progress import drain
from napari_celldetr.core.transform import ErrorMap, SlideFrame, SlideTransform
from napari_celldetr.pipeline.her2.content import finite, report_content
from napari_celldetr.pipeline.her2.networks import Networks
from napari_celldetr.pipeline.her2.page import render_page
from napari_celldetr.pipeline.her2.palette import SCORE_COLORS
from napari_celldetr.pipeline.her2.replay import replay
from napari_celldetr.pipeline.her2.report import write_report
from napari_celldetr.pipeline.her2.result import Control, Rules, conclude
from napari_celldetr.pipeline.her2.score import TumourRequest, score_her2
from napari_celldetr.pipeline.her2.seal import (
    ReportError,
    embedded,
    read_report,
    sealed,
    sealed_page,
)
from napari_celldetr.pipeline.her2.slide_stain import control_od, estimate_slide_stain
from napari_celldetr.slides.readers import open_slide

NONE = Networks()
WORDS_NEVER_SAID = ("patient", "diagnosis", "eligible")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "a.ome.tif"
    truth = make(path, seed=8, size=(1500, 1500))
    with open_slide(path) as slide:
        yield slide, truth


@pytest.fixture(scope="module")
def scored(made):
    slide, truth = made
    asked = TumourRequest((zone_of(truth.tumour, "<b>T&1</b>"), zone_of(box(0, 0, 300, 300))))
    networks = Networks(stain=stain_network(), pixels=FakePixels(lambda t: np.full(t.shape[:2], 2)))
    return drain(score_her2(slide, tumour=asked, cells=truth.cells, networks=networks))


@pytest.fixture(scope="module")
def written(scored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for name in ("r.html", "r.json"):
        write_report(scored, folder / name)
    return folder


def numbers(value):
    if isinstance(value, dict):
        for part in value.values():
            yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, float):
        yield value


def test_the_report_holds_what_was_promised(made, scored, written):
    slide, _ = made
    found = json.loads((written / "r.json").read_text(encoding="utf-8"))
    assert found["score"] == "3+"
    assert found["tumour_confirmed"] is True
    assert found["n_cells"] == scored.assessment.n_cells
    assert 0 < found["h_score"] < 300
    for name in ("percent_cells", "percent_area"):
        assert list(found[name]) == ["0", "1+", "2+", "3+"]
        assert sum(found[name].values()) == pytest.approx(100)
    for score, (low, high) in found["intervals"]["wilson"].items():
        assert low <= found["percent_cells"][score] <= high
    # The slide is too small for squares to be drawn again.
    assert list(found["intervals"]["bootstrap"].values()) == [None] * 4
    low, high = found["intervals"]["h_score"]
    assert low <= found["h_score"] <= high
    assert set(found["tree"][0]) >= {
        "key", "question", "cells", "total", "percent", "interval", "answer", "asked",
    }  # fmt: skip
    assert [b["asked"] for b in found["tree"]] == [True, *[False] * 5]
    assert found["slide"]["identity"] == slide.identity()
    assert found["slide"]["mpp"] == [0.25, 0.25]
    assert found["slide"]["mpp_source"] == "ome-xml"
    assert found["cutoffs"]["weak"] == 0.12
    assert found["minimum"]["cells"] == 100
    assert found["scope"] == "breast only"
    assert found["research_use"] == RESEARCH_USE
    assert "ASCO/CAP" in found["guideline"]
    assert {m["role"] for m in found["models"]} == {
        "nuclei", "stain of patches", "score of pixels",
    }  # fmt: skip
    assert found["networks"]["pixels"]["percent_area"]["1+"] == 100
    assert found["networks"]["patches"]["maximum_rule"] == "2+"
    assert found["margins"]["lower"]["score"] == "2+"
    assert len(found["tumour"]["zones"]) == len(found["regions"]) == 2
    assert [e["reason"] for e in found["exclusions"]["by_reason"]][:2] == ["edge", "fold"]
    assert np.shape(found["stain"]["vectors"]) == (3, 3)
    assert len(found["sha256"]) == 64
    assert all(math.isfinite(v) for v in numbers(found))


def test_page_and_json_hold_the_same(written):
    page, plain = read_report(written / "r.html"), read_report(written / "r.json")
    same = set(page) - {"created", "sha256"}
    assert {k: page[k] for k in same} == {k: plain[k] for k in same}


class Elements(HTMLParser):
    """What a browser would act on."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.words = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "data", "srcset")]
        assert not any(k.startswith("on") for k, _ in attrs)

    def handle_data(self, data):
        self.words += data


def test_the_page_asks_for_nothing_and_nothing_in_it_acts(written):
    text = (written / "r.html").read_text(encoding="utf-8")
    seen = Elements()
    seen.feed(text)
    assert seen.links
    assert all(link.startswith("data:image/jpeg;base64,") for link in seen.links)
    assert seen.tags.count("script") == 1
    assert not {"iframe", "link", "object"} & set(seen.tags)
    assert "<b>T&1</b>" not in text
    assert "&lt;b&gt;T&amp;1&lt;/b&gt;" in text
    assert not re.search(r"url\(|@import|http", text.split("</style>")[0])
    assert RESEARCH_USE in text
    assert not any(word in text.lower() for word in WORDS_NEVER_SAID)


def test_words_that_would_end_the_script_cannot(scored, tmp_path):
    evil = "</script><script>alert(1)</script><!--"
    zone = zone_of(box(0, 0, 1500, 1500), evil)
    tumour = replace(scored.tumour, zones=(zone, zone_of(box(0, 0, 500, 500), evil)))
    result = replace(
        scored,
        tumour=tumour,
        regions=tuple((z, scored.assessment) for z in tumour.zones),
        notes=(evil,),
    )
    write_report(result, tmp_path / "e.html", corrections={evil: evil})
    text = (tmp_path / "e.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text
    seen = Elements()
    seen.feed(text)
    assert seen.tags.count("script") == 1
    found = read_report(tmp_path / "e.html")
    assert found["notes"][-1] == evil
    assert found["corrections"] == {evil: evil}


def test_the_deciding_question_is_marked_and_the_figures_are_shown(scored, written):
    text = (written / "r.html").read_text(encoding="utf-8")
    decides = re.findall(r'<li class="decides">(.*?)</li>', text, re.DOTALL)
    assert len(decides) == 1
    assert "Complete, intense" in decides[0]
    assert f"{scored.assessment.percent_cells['3+']:.1f}" in text
    assert "IHC 3+" in text
    assert text.count("<figure>") == 2 + 2 * 4


def test_without_a_score_the_page_says_why_and_what_to_do(made, tmp_path):
    slide, truth = made
    result = drain(score_her2(slide, cells=truth.cells, networks=NONE))
    content = write_report(result, tmp_path / "n.html")
    text = (tmp_path / "n.html").read_text(encoding="utf-8")
    assert content["score"] is None
    assert content["reason"]
    assert content["tumour_confirmed"] is False
    assert "No score" in text
    assert "What to do" in text
    assert "--assume-tumour" in text
    assert 'class="decides"' not in text


def test_coverage_by_pixels_says_that_it_is(made, tmp_path):
    slide, _ = made
    with open_slide(slide.path, mpp=1.2) as coarse:
        result = drain(score_her2(coarse, networks=NONE))
        content = write_report(result, tmp_path / "c.html")
    assert content["percent_cells"] == dict.fromkeys(("0", "1+", "2+", "3+"))
    assert content["n_cells"] is None
    assert sum(content["percent_area"].values()) == pytest.approx(100)
    assert "pixels" in content["area_basis"]
    assert "cells were not measured" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_a_registration_is_told_with_what_it_excludes(made, tmp_path):
    slide, truth = made
    errors = np.full((4, 4), 10.0)
    errors[:2] = 90.0
    frames = (SlideFrame("he", "1" * 64, slide.size, slide.mpp),
              SlideFrame(slide.name, slide.identity(), slide.size, slide.mpp))  # fmt: skip
    known = ErrorMap((94.0, 94.0), errors, np.ones((4, 4)))
    transform = SlideTransform(*frames, np.eye(2, 3), error_map=known, limit_um=50.0)
    asked = TumourRequest((zone_of(truth.tumour),), on_he=True, transform=transform)
    result = drain(score_her2(slide, tumour=asked, cells=truth.cells, networks=NONE))
    content = write_report(result, tmp_path / "t.html")
    told = content["registration"]
    assert told["excluded_share"] == pytest.approx(0.5)
    assert told["excluded_cells"] > 50
    assert told["excluded_cells"] + content["n_cells"] == pytest.approx(len(truth.cells), rel=0.03)
    text = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "50.0 % of the H&amp;E slide" in text
    again = drain(replay(read_report(tmp_path / "t.html"), slide))
    assert again.is_equal


def test_numbers_that_are_none_become_null():
    assert finite({"a": (math.nan, np.float32(1.5)), "b": np.array([[np.inf]])}) == {
        "a": [None, 1.5],
        "b": [[None]],
    }


def test_another_suffix_is_refused(scored, tmp_path):
    with pytest.raises(ConfigError, match=r"\.html"):
        write_report(scored, tmp_path / "r.pdf")


# -- the seal ------------------------------------------------------------------------------


def test_a_changed_report_is_noticed(written, tmp_path):
    for name, old, new in (
        ("r.json", '"score": "3+"', '"score": "2+"'),
        ("r.html", '"score": "3+"', '"score": "2+"'),
        ("r.html", "IHC 3+", "IHC 0"),
        ("r.html", "sha256 of the page above", "sha256 of a page above"),
    ):
        text = (written / name).read_text(encoding="utf-8")
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ReportError, match="changed"):
            read_report(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("IHC 3+", "IHC 0"),
        ("</h1>", "</h1><p>Negative.</p>"),
        ("Cells that count", "Cells that were counted twice"),
        ('alt="Tissue with cells 3+."', 'alt="Tissue with cells 0."'),
        ('<div class="near">', '<div class="near" hidden>'),
        ("--s3:", "--s0:"),
    ],
)
def test_a_page_that_shows_something_else_is_refused_though_sealed_again(
    written, tmp_path, old, new
):
    text = (written / "r.html").read_text(encoding="utf-8")
    assert old in text
    body = text.rpartition("<!-- sha256")[0].replace(old, new, 1)
    (tmp_path / "r.html").write_text(sealed_page(body), encoding="utf-8")
    with pytest.raises(ReportError, match="changed") as caught:
        read_report(tmp_path / "r.html")
    assert "does not show" in caught.value.found


def test_a_page_of_another_version_that_looks_otherwise_is_not_believed(written, tmp_path):
    content = read_report(written / "r.html")
    content["software"] = {"name": "napari-celldetr", "version": "0.0"}
    page = render_page(sealed(content))
    (tmp_path / "same.html").write_text(page, encoding="utf-8")
    assert read_report(tmp_path / "same.html")["score"] == "3+"
    body = page.rpartition("<!-- sha256")[0].replace("<footer>", "<footer class='x'>")
    (tmp_path / "other.html").write_text(sealed_page(body), encoding="utf-8")
    with pytest.raises(ReportError, match="cannot be told") as caught:
        read_report(tmp_path / "other.html")
    assert "0.0" in caught.value.found
    assert "JSON" in caught.value.remedy


def test_a_page_whose_content_makes_none_is_refused(written, tmp_path):
    page = (written / "r.html").read_text(encoding="utf-8")
    content = read_report(written / "r.html")
    bare = sealed({k: v for k, v in content.items() if k != "tumour"})
    body = page.rpartition("<!-- sha256")[0]
    body = re.sub(r"<script type=.*?</script>", lambda _: embedded(bare), body, flags=re.DOTALL)
    (tmp_path / "bare.html").write_text(sealed_page(body), encoding="utf-8")
    with pytest.raises(ReportError, match="no HER2 report"):
        read_report(tmp_path / "bare.html")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "other"}', '{"a": NaN}', "\udcff"])
def test_other_files_are_no_reports(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ReportError):
        read_report(path)
    with pytest.raises(ReportError):
        read_report(tmp_path / "none.html")


def test_a_report_that_was_cut_off_is_called_damaged_and_a_missing_one_missing(written, tmp_path):
    for name in ("r.html", "r.json"):
        text = (written / name).read_text(encoding="utf-8")
        # Within what the page has of its content, which comes last.
        (tmp_path / name).write_text(text[: len(text) - 200], encoding="utf-8")
        with pytest.raises(ReportError, match=r"damaged or cut off|changed after"):
            read_report(tmp_path / name)
    (tmp_path / "half.json").write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ReportError, match="damaged or cut off"):
        read_report(tmp_path / "half.json")
    with pytest.raises(ReportError, match="no file"):
        read_report(tmp_path / "none.json")


def test_the_maximum_rule_stands_apart_from_the_score(written):
    text = (written / "r.html").read_text(encoding="utf-8")
    facts = re.search(r'<dl class="facts">(.*?)</dl>', text, re.DOTALL)
    assert "Highest patch" not in facts[1]
    assert "maximum rule" not in facts[1]
    assert "maximum rule of the literature" in text.split("How near another score is")[1]


# -- replay --------------------------------------------------------------------------------


def without_networks(made):
    slide, truth = made
    asked = TumourRequest((zone_of(truth.tumour + np.float32(0.123456)),))
    return drain(score_her2(slide, tumour=asked, cells=truth.cells, networks=NONE))


def test_a_replay_is_equal(made, tmp_path):
    write_report(without_networks(made), tmp_path / "r.json")
    found = drain(replay(read_report(tmp_path / "r.json"), made[0]))
    assert found.is_equal
    assert found.content["sha256" if "sha256" in found.content else "score"]


def test_a_replay_with_networks_is_equal(made, scored, written):
    networks = Networks(stain=stain_network(), pixels=FakePixels(lambda t: np.full(t.shape[:2], 2)))
    found = drain(replay(read_report(written / "r.html"), made[0], networks=networks))
    assert found.is_equal
    other = replace(networks, stain=stain_network(patch_px=96))
    found = drain(replay(read_report(written / "r.html"), made[0], networks=other))
    assert not found.is_equal
    assert {d.where.split(".")[0] for d in found.differences} == {"networks"}


def test_figures_that_were_changed_and_sealed_again_are_found(made):
    content = report_content(without_networks(made))
    content["percent_cells"]["3+"] += 1.0
    content["tree"][0]["cells"] += 1
    content["score"] = "2+"
    found = drain(replay(sealed(content), made[0]))
    names = {d.where for d in found.differences}
    assert names == {"percent_cells.3+", "score", "tree[complete_intense_over_10].cells"}
    assert all("now" in d.sentence() for d in found.differences)


def test_settings_that_were_changed_show_in_the_figures(made):
    content = report_content(without_networks(made))
    content["cutoffs"]["intense"] = 1.4
    found = drain(replay(sealed(content), made[0]))
    assert {"score", "h_score"} <= {d.where for d in found.differences}


def test_another_slide_is_refused(made, tmp_path):
    content = report_content(without_networks(made))
    make(tmp_path / "b.ome.tif", {Pattern.NONE: 0.0}, seed=1, size=(600, 600))
    with open_slide(tmp_path / "b.ome.tif") as other, pytest.raises(SlideError, match="not the"):
        drain(replay(content, other))


def test_another_model_is_refused(made):
    content = report_content(without_networks(made))
    content["nuclei"] = {"source": "detected"}
    content["models"][0] |= {"name": "celldetr-ihc", "weights_sha256": "0" * 64}
    with pytest.raises(ModelError, match="not the one of the report"):
        drain(replay(sealed(content), made[0]))


@pytest.mark.parametrize("part", ["tumour", "cutoffs", "nuclei", "models", "config"])
def test_settings_without_sense_are_refused(made, part):
    content = report_content(without_networks(made))
    content[part] = 3
    with pytest.raises((ReportError, ConfigError)):
        drain(replay(sealed(content), made[0]))


def head_of(page):
    """What stands above the first section, and the rest."""
    head, _, rest = page.partition("<h2>")
    return head, rest


def test_what_a_person_changed_stands_beside_the_score(scored, tmp_path):
    target = tmp_path / "r.html"
    write_report(scored, target)
    head, rest = head_of(target.read_text(encoding="utf-8"))
    assert "changed" not in head
    assert "own: the guideline gives words" in rest
    other = conclude(scored, scored.reading, Rules(Cutoffs(intense=0.4, complete=0.75)))
    write_report(other, target)
    head, rest = head_of(target.read_text(encoding="utf-8"))
    said = "Intense from 0.4 (usually 0.6), Complete from 0.75 (usually 0.8)"
    assert said in head
    assert "changed by a person: see beside the score" in rest
    assert "own: the guideline gives words" not in rest
    assert any(said in note for note in read_report(target)["score_notes"])


def test_the_page_says_what_scores_of_cells_are_made_of(scored, written):
    page = (written / "r.html").read_text(encoding="utf-8")
    counts = scored.assessment.counts
    for pattern, score in zip(Pattern, ("0", "1+", "2+", "3+", "2+"), strict=True):
        row = f'<td>{pattern.words}</td><td>{score}</td><td class="n">{counts[pattern]:,}</td>'
        assert row in page
    lower = scored.assessment.lower
    said = f"{lower.score} if the {lower.cells} most strongly stained cells were unstained"
    assert said in page


def test_a_control_evens_out_the_lot_and_is_replayed(made):
    slide, truth = made
    stain = estimate_slide_stain(slide)
    whole = slide.region
    expected = 1.2 * control_od(stain, slide, whole)
    asked = TumourRequest((zone_of(truth.tumour),))
    control = Control(whole, expected)
    job = score_her2(slide, tumour=asked, cells=truth.cells, control=control, networks=NONE)
    content = report_content(drain(job))
    assert content["stain"]["gain"] > 1.1
    assert content["stain"]["control"]["region"]["width"] == whole.width
    said = f"Stain evened out to a control on the slide: DAB × {content['stain']['gain']:.2f}."
    assert said in content["score_notes"]
    assert drain(replay(sealed(content), slide)).is_equal


def test_scores_are_told_apart_by_lightness_alone():
    weights = np.array([0.2126, 0.7152, 0.0722])
    light = [float(weights @ (np.array(c) / 255) ** 2.2) for c in SCORE_COLORS.values()]
    # Ratios of luminance, as contrast is reckoned.
    assert all((a + 0.05) / (b + 0.05) > 1.5 for a, b in pairwise(light))
