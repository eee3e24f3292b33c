"""A report recomputed from its slide, with the settings it holds, and every figure compared.

What a person drew, and what was carried across by registration, is taken from the report: the
H&E slide is not needed. Everything after that is done again.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_celldetr.core.config import from_mapping
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import ModelError, SlideError
from napari_celldetr.core.her2 import Cutoffs, Minimum
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.content import (
    PIXEL_ROLE,
    STAIN_ROLE,
    TUMOUR_ROLE,
    Content,
    report_content,
    unpack_nuclei,
)
from napari_celldetr.pipeline.her2.networks import Networks
from napari_celldetr.pipeline.her2.result import Control, Rules
from napari_celldetr.pipeline.her2.score import score_tumour
from napari_celldetr.pipeline.her2.seal import ReportError
from napari_celldetr.pipeline.her2.settings import Her2Config
from napari_celldetr.pipeline.her2.tumour import Refusal, Tumour
from napari_celldetr.pipeline.her2.zones import Zone
from napari_celldetr.slides.slide import Slide

COMPARED = (
    "score", "reason", "remedy", "branch", "tumour_confirmed", "n_cells", "cell_area_um2",
    "h_score", "percent_cells", "percent_area", "patterns", "intervals", "redrawn", "tree",
    "margins", "maximum_rule", "regions", "exclusions", "networks", "stain", "nuclei",
)  # fmt: skip
"""What must come out again."""
TOLERANCE = 1e-6
"""Relative: what another processor may add up differently."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure that did not come out again."""

    where: str
    reported: Any
    replayed: Any

    def sentence(self) -> str:
        """The difference in a line."""
        return f"{self.where}: {_shown(self.reported)} in the report, {_shown(self.replayed)} now"


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it: the differences, and the content as it is now."""

    differences: tuple[Difference, ...]
    content: Content

    @property
    def is_equal(self) -> bool:
        """Whether every figure came out again."""
        return not self.differences


def replay(
    content: Content,
    slide: Slide,
    *,
    networks: Networks | None = None,
    predictor: Predictor | None = None,
    workspace: str | Path | None = None,
    fresh: bool = False,
) -> Job[Replay]:
    """Compute a report again.

    Parameters
    ----------
    content : dict
        As `read_report` gives it.
    slide : Slide
        The IHC slide, opened with the µm per pixel of the report if that was given by a person.
    networks, predictor, workspace, fresh
        As `score_her2` takes them; a `workspace` of its own keeps stored tiles out.

    Raises
    ------
    SlideError
        It is another slide.
    ModelError
        A model is not installed, or has other weights.
    ReportError
        The report's settings make no sense.
    """
    check_slide(content, slide)
    try:
        tumour = _tumour(content)
        config = from_mapping(Her2Config, content["config"])
        rules = Rules(
            from_mapping(Cutoffs, content["cutoffs"]), from_mapping(Minimum, content["minimum"])
        )
        cells, control = _cells(content), _control(content)
        models = {m["role"]: m for m in content["models"]}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _senseless(error) from error
    _check_models(models, networks)
    asked = networks or _same_networks(models, config.device)
    return _replayed(
        content,
        score_tumour(
            slide, tumour, config, rules=rules, cells=cells, control=control, networks=asked,
            predictor=predictor, workspace=workspace, fresh=fresh,
        ),
    )  # fmt: skip


def _replayed(content: Content, job: Any) -> Generator[Progress, None, Replay]:
    result = yield from job
    again = report_content(result, created=content["created"])
    return Replay(tuple(compare(content, again)), again)


def compare(reported: Content, again: Content) -> Iterator[Difference]:
    """Every figure of `COMPARED` that differs."""
    for name in COMPARED:
        yield from _differences(name, reported.get(name), again.get(name))
    yield from _differences("models", _asked_again(reported), _asked_again(again))


def _asked_again(content: Content) -> dict[str, Any]:
    return {m["role"]: m for m in content["models"] if m["role"] != TUMOUR_ROLE}


def _differences(where: str, old: Any, new: Any) -> Iterator[Difference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and set(old) == set(new):
        for key in old:
            yield from _differences(f"{where}.{key}", old[key], new[key])
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            name = a.get("key", number) if isinstance(a, Mapping) else number
            yield from _differences(f"{where}[{name}]", a, b)
    elif not _same(old, new):
        yield Difference(where, old, new)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _same(old: Any, new: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
    if numbers and (isinstance(old, float) or isinstance(new, float)):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(old == new)


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def check_slide(content: Content, slide: Slide) -> None:
    """`SlideError` when `slide` is not the one of the report."""
    said = content.get("slide") or {}
    if slide.identity() != said.get("identity"):
        raise SlideError(
            "This is not the slide of the report.",
            expected=f"{said.get('name')!r} ({str(said.get('identity'))[:12]})",
            found=f"{slide.name!r} ({slide.identity()[:12]})",
            remedy="give the slide that was scored with --slide",
        )


def _tumour(content: Content) -> Tumour:
    said = content["tumour"]
    zones = {
        name: tuple(Zone.from_dict(z) for z in said[name])
        for name in ("zones", "cut_out", "badly_aligned")
    }
    # What was refused for the tumour's sake cannot be tried again without the H&E slide.
    refusal = None
    if not content["tumour_confirmed"]:
        refusal = Refusal(str(content["reason"]), str(content["remedy"]))
    return Tumour(
        str(said["source"]), zones["zones"], zones["cut_out"], zones["badly_aligned"], refusal
    )


def _cells(content: Content) -> Detections | None:
    if content["nuclei"]["source"] != "given":
        return None
    model = next(m for m in content["models"] if m["role"] == "nuclei")
    source = Source(model=str(model["name"]), weights_sha256=str(model["weights_sha256"]))
    return unpack_nuclei(content["nuclei"], source)


def _control(content: Content) -> Control | None:
    said = content["stain"]["control"]
    if said is None:
        return None
    return Control(Region(**said["region"]), float(said["expected_od"]))


def _check_models(models: Mapping[str, Mapping[str, Any]], networks: Networks | None) -> None:
    """The models that are asked again must be installed with the same weights."""
    from napari_celldetr.nets.card import read_card
    from napari_celldetr.nets.registry import find_model

    for role, model in models.items():
        if role == TUMOUR_ROLE or not model["name"] or networks is not None:
            continue
        card = read_card(find_model(str(model["name"])))
        if card.weights_sha256 != model["weights_sha256"]:
            raise ModelError(
                f"The model {card.name!r} is not the one of the report.",
                expected=f"weights {str(model['weights_sha256'])[:12]}",
                found=f"weights {card.weights_sha256[:12]}",
                remedy="install the version of the package that wrote the report",
            )


def _same_networks(models: Mapping[str, Mapping[str, Any]], device: str) -> Networks:
    """Those networks that the report has an answer of."""
    from napari_celldetr.nets.registry import load_patch_predictor, load_pixel_predictor

    stain, pixels = models.get(STAIN_ROLE), models.get(PIXEL_ROLE)
    return Networks(
        None,
        None if stain is None else load_patch_predictor(str(stain["name"]), device=device),
        None if pixels is None else load_pixel_predictor(str(pixels["name"]), device=device),
    )


def _senseless(error: Exception) -> ReportError:
    return ReportError(
        "The report's settings make no sense.",
        expected="what `celldetr her2` writes",
        found=f"{type(error).__name__}: {str(error)[:120]}",
        remedy="score the slide again",
    )
