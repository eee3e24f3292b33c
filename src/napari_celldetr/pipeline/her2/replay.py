"""A report recomputed from its slide, with the settings it holds, and all that it says compared.

What a person drew, and what was carried across by registration, is taken from the report: the
H&E slide is not needed. Everything after that is done again; what is not is named.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from napari_celldetr.core.config import from_mapping
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.her2 import Cutoffs, Minimum
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.content import (
    NUCLEI_ROLE,
    TUMOUR_ROLE,
    Content,
    report_content,
    unpack_nuclei,
)
from napari_celldetr.pipeline.her2.differences import Difference, differences
from napari_celldetr.pipeline.her2.networks import Networks
from napari_celldetr.pipeline.her2.replay_models import check_models, models_of, same_networks
from napari_celldetr.pipeline.her2.result import Control, Her2Result, Rules
from napari_celldetr.pipeline.her2.score import score_tumour
from napari_celldetr.pipeline.her2.seal import SEAL, ReportError
from napari_celldetr.pipeline.her2.settings import Her2Config
from napari_celldetr.pipeline.her2.stain_kind import StainKind, require_stain
from napari_celldetr.pipeline.her2.tumour_areas import HE, IHC, Alignment, Refusal, Tumour
from napari_celldetr.pipeline.her2.zone_shapes import Zone
from napari_celldetr.slides.slide import Slide

__all__ = ["Difference", "Replay", "check_slide", "compare", "replay"]

NOT_COMPARED = ("created", "software", SEAL)
"""What another run says otherwise, and may. All else that a report says must come out again."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it.

    Attributes
    ----------
    differences : tuple of Difference
    content : dict
        As it is now.
    taken_over : tuple of str
        What was taken from the report and not computed again.
    remarks : tuple of str
        What is otherwise now and may be.
    """

    differences: tuple[Difference, ...]
    content: Content
    taken_over: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether all that was computed came out again."""
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
        As `score_her2` takes them; a `workspace` of its own keeps stored tiles out. Networks that
        are given must have the weights of those in the report.

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
        cells, control, kinds = _cells(content), _control(content), _kinds(content)
        check_models(content, networks, predictor)
        asked = networks or same_networks(models_of(content), config.device)
        taken = tuple(_taken_over(content))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _senseless(error) from error
    job = score_tumour(
        slide, tumour, config, rules=rules, cells=cells, control=control, networks=asked,
        predictor=predictor, workspace=workspace, fresh=fresh,
    )  # fmt: skip
    return _replayed(content, slide, kinds, job, taken)


def _replayed(
    content: Content,
    slide: Slide,
    kinds: tuple[tuple[str, StainKind], ...],
    job: Job[Her2Result],
    taken: tuple[str, ...],
) -> Generator[Progress, None, Replay]:
    yield Progress(0, 0, "recognising the stain")
    own = (IHC, require_stain(slide, "H-DAB"))
    found = yield from job
    again = report_content(
        replace(found, kinds=(own, *kinds)),
        corrections=content.get("corrections"),
        created=content["created"],
    )
    again["models"] += [m for m in content["models"] if m["role"] == TUMOUR_ROLE]
    remarks = tuple(_remarks(content, again))
    again["slide"]["name"] = content["slide"]["name"]
    return Replay(tuple(compare(content, again)), again, taken, remarks)


def compare(reported: Content, again: Content) -> Iterator[Difference]:
    """Everything but `NOT_COMPARED` that differs."""
    old, new = ({k: v for k, v in c.items() if k not in NOT_COMPARED} for c in (reported, again))
    # In any order: models are known by their role.
    for content in (old, new):
        content["models"] = {model["role"]: model for model in content["models"]}
    yield from differences("", old, new)


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


def _remarks(content: Content, again: Content) -> Iterator[str]:
    was, now = content["software"], again["software"]
    if was != now:
        yield f"written by version {was['version']}, computed again by {now['version']}"
    name = again["slide"]["name"]
    if name != content["slide"]["name"]:
        yield f"the slide is called {name!r} now, and was {content['slide']['name']!r}"


# -- what is taken from the report ---------------------------------------------------------


def _taken_over(content: Content) -> Iterator[str]:
    """What cannot be computed from the IHC slide, in words."""
    tumour, paired = content["tumour"], content["registration"] is not None
    if tumour["zones"] or tumour["cut_out"] or content["tumour_confirmed"]:
        yield "where the tumour is, and who says so"
    if not content["tumour_confirmed"]:
        yield "why no tumour is confirmed, and what to do"
    if paired:
        yield "the registration: its method, error, limit, and how much of the tumour it excludes"
    if TUMOUR_ROLE in models_of(content):
        yield "which network looked for tumour in the H&E slide"
    if any(kind["slide"] == HE for kind in content["stain"]["kinds"]):
        yield "what the H&E slide looks stained with"
    if content["nuclei"]["source"] == "given":
        yield "the nuclei, which were given, and the model that found them"
    if content["corrections"] is not None:
        yield "how many nuclei people corrected"


def _tumour(content: Content) -> Tumour:
    said = content["tumour"]
    zones, cut_out, untrusted = (
        tuple(Zone.from_dict(z) for z in said[name])
        for name in ("zones", "cut_out", "badly_aligned")
    )
    # What was refused for the tumour's sake cannot be tried again without the H&E slide.
    refusal = None
    if not content["tumour_confirmed"]:
        refusal = Refusal(str(content["reason"]), str(content["remedy"]))
    return Tumour(str(said["source"]), zones, cut_out, untrusted, refusal, _alignment(content))


def _alignment(content: Content) -> Alignment | None:
    said = content["registration"]
    if said is None:
        return None
    known = {f.name: said[f.name] for f in fields(Alignment)}
    return Alignment(**{**known, "notes": tuple(said["notes"])})


def _cells(content: Content) -> Detections | None:
    if content["nuclei"]["source"] != "given":
        return None
    model = models_of(content)[NUCLEI_ROLE]
    source = Source(model=str(model["name"]), weights_sha256=str(model["weights_sha256"]))
    return unpack_nuclei(content["nuclei"], source)


def _control(content: Content) -> Control | None:
    said = content["stain"]["control"]
    if said is None:
        return None
    return Control(Region(**said["region"]), float(said["expected_od"]))


def _kinds(content: Content) -> tuple[tuple[str, StainKind], ...]:
    """What the H&E slide looks stained with: it is not here to be looked at."""
    said = [dict(kind) for kind in content["stain"]["kinds"]]
    return tuple((HE, StainKind(**kind)) for kind in said if kind.pop("slide") == HE)


def _senseless(error: Exception) -> ReportError:
    return ReportError(
        "The report's settings make no sense.",
        expected="what `celldetr her2` writes",
        found=f"{type(error).__name__}: {str(error)[:120]}",
        remedy="score the slide again",
    )
