"""H&E onto IHC: every pose is tried, the best refined, then bent; each stage must earn its place.

The sections are consecutive and stained differently, so no cell need have a partner: what is
compared is the tissue's structure (`register_similarity`). A stage that makes the slides no more
alike is taken back. In the end fresh windows say how far off the result still is, and whether
the two slides show the same tissue at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.config import Field, check
from napari_celldetr.core.errors import ConfigError, JobError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.transform import (
    SlideFrame,
    SlideTransform,
    Stage,
    TransformError,
    identity_affine,
)
from napari_celldetr.pipeline.error_map import Residuals, coherence, error_map, residuals
from napari_celldetr.pipeline.register_nonrigid import Matches, fit_affine, fit_warp, match
from napari_celldetr.pipeline.register_search import Pose, distinct, feature_pose, search
from napari_celldetr.pipeline.register_similarity import likeness, structure
from napari_celldetr.slides.registration_images import DensityImage, density_image, extent_um
from napari_celldetr.slides.slide import Slide

T = TypeVar("T")

FINEST_UM = 0.5
LARGEST_PX = 4096
"""Longest side of the pictures that are held; a slide of 20 mm is then seen at 5 µm/px."""
SEARCH_PARTS, COARSE_PARTS, MIDDLE_PARTS = 170, 400, 800
"""Pixels along the longer slide's longer side."""
COARSEST_MPP = 16.0
CANDIDATES = 8
REFINED = 4
LEAST_TISSUE_PX = 60
LEAST_AGREEMENT = 0.3
"""Share of windows that must be found about where the transform has them."""
LEAST_GAIN = 0.0
IDENTITY_GAIN = 0.01
LANDMARK_PULL = 20.0
"""What a miss of landmarks costs, as likeness per share of the diagonal."""
FEWEST_TO_START = 3
WAIT_S = 0.2


class RegistrationError(JobError):
    """Two slides could not be laid onto each other; the reason is in `found`."""


@dataclass(frozen=True)
class RegisterConfig:
    """Settings of *Register*. A None mpp means "as the slide says"."""

    limit_um: Annotated[
        float,
        Field(
            "Error limit",
            "Where the expected error is larger, nothing is transferred",
            ge=1.0,
            le=2000.0,
            unit="µm",
        ),
    ] = 50.0
    nonrigid: Annotated[
        bool, Field("Bend", "Follow the tissue where it is stretched; off keeps an affine map")
    ] = True
    flips: Annotated[bool, Field("Flips", "A section may lie on its face")] = True


@dataclass(frozen=True, slots=True)
class _Bend:
    """One non-rigid stage: pixels along the slide, window, reach and nodes' distance."""

    parts: int
    half_px: int
    radius_px: int
    nodes: float
    stiffness: float


BENDS = (
    _Bend(800, 28, 16, 5, 3e-3),
    _Bend(1600, 36, 14, 10, 1e-3),
    _Bend(3200, 48, 10, 16, 1e-3),
)


def register(
    he: Slide,
    ihc: Slide,
    config: RegisterConfig | None = None,
    *,
    landmarks: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> Job[SlideTransform]:
    """Find where the tissue of one slide lies on another.

    Parameters
    ----------
    he, ihc : Slide
        Open slides with known pixel size.
    config : RegisterConfig, optional
    landmarks : pairs of points
        ``((x, y) on the H&E, (x, y) on the IHC)`` in level-0 px. Three or more give the start;
        any number pulls on the result, without forcing it.

    Returns
    -------
    job
        Yields a `Progress` at least every 250 ms or so; returns the `SlideTransform`.

    Raises
    ------
    SlideError
        A slide cannot be read or has no pixel size.
    RegistrationError
        There is no tissue, the slides do not show the same tissue, or nothing better than
        leaving them as they are was found.
    ConfigError
        A setting or landmark is out of range.
    """
    chosen = check(config or RegisterConfig())
    extents = extent_um(he), extent_um(ihc)
    marks = _checked_landmarks(landmarks, he, ihc)
    return _Registration(he, ihc, chosen, marks, extents).run()


def measure(he: Slide, ihc: Slide, transform: SlideTransform) -> Job[SlideTransform]:
    """`transform`, found elsewhere, with an error map measured on the slides themselves.

    Raises `SlideError`, and `RegistrationError` when the slides do not fit each other under it.
    """
    extents = extent_um(he), extent_um(ihc)
    config = RegisterConfig(limit_um=transform.limit_um)
    nothing = _checked_landmarks((), he, ihc)
    return _Registration(he, ihc, config, nothing, extents).measured(transform)


def frame_of(slide: Slide) -> SlideFrame:
    """Which slide a side of a transform is. `SlideError` without a pixel size."""
    width, height = extent_um(slide)
    mpp = width / slide.size[0], height / slide.size[1]
    return SlideFrame(slide.name, slide.identity(), slide.size, slide.mpp or mpp)


@dataclass(frozen=True, eq=False)
class _Marks:
    """Landmarks in µm of either slide, (N, 2) each."""

    he: NDArray[np.float64]
    ihc: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.he)


class _Registration:
    """One run: the pictures, the transform as it stands, and what each stage did."""

    def __init__(
        self,
        he: Slide,
        ihc: Slide,
        config: RegisterConfig,
        marks: _Marks,
        extents: tuple[tuple[float, float], tuple[float, float]],
    ) -> None:
        self.slides = he, ihc
        self.config, self.marks = config, marks
        self.longest = max(*extents[0], *extents[1])
        self.diagonal = float(np.hypot(*extents[0]))
        native = max(
            e / n
            for s, x in zip(self.slides, extents, strict=True)
            for e, n in zip(x, s.size, strict=True)
        )
        # Nothing is gained by looking closer than the slides were scanned.
        self.mpp = max(FINEST_UM, self.longest / LARGEST_PX, native)
        self.stages: list[Stage] = []
        self.images: list[DensityImage] = []
        self.pyramid: dict[float, tuple[DensityImage, DensityImage]] = {}
        self.own: tuple[DensityImage, NDArray[np.float32]] | None = None
        self.bends = self._bends() if config.nonrigid else []
        self.total = 9 + len(self.bends)
        self.done = 0

    def run(self) -> Job[SlideTransform]:
        """The whole course."""
        with ThreadPoolExecutor(1, thread_name_prefix="celldetr-register") as pool:
            yield from self._reading(pool)
            identity = self._frames()
            transform = yield from self._start(pool, identity)
            for parts in (COARSE_PARTS, MIDDLE_PARTS):
                transform = yield from self._doing(
                    pool, "affine", self._affine_stage, transform, parts, "affine"
                )
            # Asked before bending: a bent map fits the very windows it was bent to.
            yield from self._doing(pool, "comparing tissue", self._refuse_other_tissue, transform)
            for bend in self.bends:
                transform = yield from self._doing(
                    pool, "bending", self._bend_stage, transform, bend
                )
            checked = yield from self._doing(pool, "measuring the error", self._left, transform)
            result: SlideTransform = yield from self._doing(
                pool, "measuring the error", self._concluded, transform, identity, checked
            )
        yield Progress(self.total, self.total, "stages")
        return result

    def measured(self, transform: SlideTransform) -> Job[SlideTransform]:
        """An error map alone."""
        self.total = 4
        with ThreadPoolExecutor(1, thread_name_prefix="celldetr-register") as pool:
            yield from self._reading(pool)
            left = yield from self._doing(pool, "measuring the error", self._left, transform)
            self._refuse_strangers(left.coherence)
            errors = error_map(transform, left, *self._at(COARSE_PARTS))
        yield Progress(self.total, self.total, "stages")
        return replace(transform, error_map=errors)

    def _bends(self) -> list[_Bend]:
        """The non-rigid stages, but for those that would see no more than the one before."""
        seen = [self._mpp(bend.parts) for bend in BENDS]
        fresh = [i == 0 or seen[i] < seen[i - 1] for i in range(len(BENDS))]
        return [bend for bend, new in zip(BENDS, fresh, strict=True) if new]

    def _reading(self, pool: Executor) -> Generator[Progress, None, None]:
        for slide in self.slides:
            words = f"reading {slide.name}"
            image = yield from self._doing(pool, words, density_image, slide, self.mpp)
            self.images.append(image)
        self._refuse_empty()

    def _doing(
        self, pool: Executor, words: str, work: Callable[..., T], *args: Any
    ) -> Generator[Progress, None, T]:
        """Run `work` beside, with a step every WAIT_S."""
        future = pool.submit(work, *args)
        message = f"{words} (stages)"
        yield Progress(min(self.done, self.total - 1), self.total, message)
        while not wait([future], timeout=WAIT_S).done:
            yield Progress(min(self.done, self.total - 1), self.total, message)
        self.done += 1
        return future.result()

    # -- pictures ------------------------------------------------------------------------

    def _at(self, parts: int) -> tuple[DensityImage, DensityImage]:
        """Both pictures with about `parts` pixels along the longer side."""
        mpp = self._mpp(parts)
        if mpp not in self.pyramid:
            self.pyramid[mpp] = (self.images[0].coarser(mpp), self.images[1].coarser(mpp))
        return self.pyramid[mpp]

    def _mpp(self, parts: int) -> float:
        mpp = self.longest / parts
        # Mutual information wants 16 µm/px or finer; only the first search does without.
        mpp = min(mpp, COARSEST_MPP) if parts > SEARCH_PARTS else mpp
        return max(self.mpp, mpp)

    def _own(self, parts: int) -> NDArray[np.float32]:
        """Structure of the H&E; that of the last resolution is kept."""
        he = self._at(parts)[0]
        if self.own is None or self.own[0] is not he:
            self.own = he, structure(he)
        return self.own[1]

    def _refuse_empty(self) -> None:
        for slide, image in zip(self.slides, self._at(SEARCH_PARTS), strict=True):
            if image.tissue.sum() < LEAST_TISSUE_PX or image.density[image.tissue].std() < 0.005:
                raise RegistrationError(
                    f"There is no tissue on {slide.name!r} to register.",
                    expected="a section with some structure",
                    found=f"{image.tissue.mean():.1%} of the slide looks like tissue",
                    remedy="check that the right slide was chosen",
                )

    def _frames(self) -> SlideTransform:
        frames = [frame_of(slide) for slide in self.slides]
        return SlideTransform(
            frames[0], frames[1], identity_affine(), limit_um=self.config.limit_um
        )

    # -- stages --------------------------------------------------------------------------

    def _start(
        self, pool: Executor, identity: SlideTransform
    ) -> Generator[Progress, None, SlideTransform]:
        begun = time.perf_counter()
        poses = yield from self._poses(pool)
        best, note = yield from self._doing(pool, "comparing starts", self._best, poses, identity)
        before, after = self._score(identity, COARSE_PARTS), self._score(best, COARSE_PARTS)
        self._note("start", COARSE_PARTS, before, after, begun, note)
        return best if after > before else identity

    def _poses(self, pool: Executor) -> Generator[Progress, None, list[Pose]]:
        """Starts to be compared: by landmarks alone when there are enough of them."""
        if len(self.marks) >= FEWEST_TO_START:
            weight = np.ones(len(self.marks))
            return [Pose(_similar(self.marks, weight), 1.0)]
        he, ihc = self._at(SEARCH_PARTS)
        found: list[Pose] = []
        steps = search(he, ihc, flips=self.config.flips)
        while (some := (yield from self._next(pool, steps))) is not None:
            found += some
        poses = distinct(found, CANDIDATES, he.extent_um)
        vote = yield from self._doing(pool, "features", feature_pose, *self._at(COARSE_PARTS))
        return poses if vote is None else [*poses, vote]

    def _next(self, pool: Executor, steps: Any) -> Generator[Progress, None, list[Pose] | None]:
        future = pool.submit(next, steps, None)
        while not wait([future], timeout=WAIT_S).done:
            yield Progress(self.done, self.total, "trying rotations (stages)")
        yield Progress(self.done, self.total, "trying rotations (stages)")
        return future.result()

    def _best(self, poses: list[Pose], identity: SlideTransform) -> tuple[SlideTransform, str]:
        """The start that, a little refined, makes the slides most alike; identity competes."""
        starts = [identity, *(replace(identity, affine=p.affine) for p in poses)]
        likely = sorted(starts, key=lambda t: -self._score(t, SEARCH_PARTS))[:REFINED]
        refined = [
            self._affine(self._affine(t, COARSE_PARTS, rigid=True), COARSE_PARTS) for t in likely
        ]
        best = max(refined, key=lambda t: self._score(t, COARSE_PARTS))
        return best, f"{len(starts)} starts compared"

    def _affine_stage(self, before: SlideTransform, parts: int, name: str) -> SlideTransform:
        begun = time.perf_counter()
        return self._better(before, self._affine(before, parts), name, parts, begun)

    def _affine(
        self, transform: SlideTransform, parts: int, *, rigid: bool = False
    ) -> SlideTransform:
        he, ihc = self._at(parts)
        own = self._own(parts)
        found = match(he, ihc, transform, half_px=24, radius_px=16, step_px=24, own=own)
        points, places, weight = self._pulled(found)
        scale = 4 * he.mpp
        affine = fit_affine(points, places, weight, scale_um=scale, rigid=rigid)
        if affine is None or not 0.7 < abs(np.linalg.det(affine[:, :2])) < 1.4:
            return transform
        return replace(transform, affine=affine)

    def _bend_stage(self, before: SlideTransform, bend: _Bend) -> SlideTransform:
        begun = time.perf_counter()
        he, ihc = self._at(bend.parts)
        half, radius = bend.half_px, bend.radius_px
        own = self._own(bend.parts)
        found = match(he, ihc, before, half_px=half, radius_px=radius, step_px=half, own=own)
        points, places, weight = self._pulled(found)
        after = before
        if (weight > 0).sum() >= 12:
            try:
                after = fit_warp(
                    before,
                    points,
                    places,
                    weight,
                    spacing_um=self.longest / bend.nodes,
                    stiffness=bend.stiffness,
                    scale_um=radius * he.mpp / 3,
                )
            except TransformError:
                after = before
        return self._better(before, after, "bending", bend.parts, begun)

    def _pulled(
        self, found: Matches
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Matches and landmarks as one: points, places, weights."""
        weight = found.weight
        if not len(self.marks):
            return found.points, found.found, weight
        # Together the landmarks weigh as much as all matches, so that neither drowns the other.
        each = max(float(weight.sum()), 1.0) / len(self.marks)
        return (
            np.concatenate([found.points, self.marks.he]),
            np.concatenate([found.found, self.marks.ihc]),
            np.concatenate([weight, np.full(len(self.marks), each)]),
        )

    def _better(
        self, before: SlideTransform, after: SlideTransform, name: str, parts: int, begun: float
    ) -> SlideTransform:
        scores = self._score(before, parts), self._score(after, parts)
        kept = self._note(name, parts, scores[0], scores[1], begun)
        return after if kept else before

    def _note(
        self, name: str, parts: int, before: float, after: float, begun: float, note: str = ""
    ) -> bool:
        kept = after > before + LEAST_GAIN
        mpp = self._at(parts)[0].mpp
        took = round(time.perf_counter() - begun, 2)
        measure = "mutual information + structure"
        self.stages.append(
            Stage(name, measure, round(before, 5), round(after, 5), kept, round(mpp, 3), took, note)
        )
        return kept

    def _score(self, transform: SlideTransform, parts: int) -> float:
        alike = likeness(*self._at(parts), transform, self._own(parts)).sum
        if not len(self.marks):
            return alike
        miss = np.hypot(*(transform.forward_um(self.marks.he) - self.marks.ihc).T)
        return alike - LANDMARK_PULL * float(np.median(miss)) / self.diagonal

    # -- the end -------------------------------------------------------------------------

    def _left(self, transform: SlideTransform) -> Residuals:
        return residuals(*self._at(MIDDLE_PARTS), *self._at(BENDS[1].parts), transform)

    def _concluded(
        self, transform: SlideTransform, identity: SlideTransform, left: Residuals
    ) -> SlideTransform:
        """The transform with its error map, or the reason why there is none."""
        notes = []
        self._refuse_strangers(max(left.agreement, left.coherence * self.shown))
        errors = error_map(transform, left, *self._at(COARSE_PARTS))
        if self._is_identity(transform, left):
            notes.append("The slides lie on each other as they are, as far as can be measured.")
        else:
            self._refuse_no_gain(transform, identity)
        return replace(transform, error_map=errors, stages=tuple(self.stages), notes=tuple(notes))

    @property
    def shown(self) -> bool:
        """Who set landmarks has seen that it is the same tissue, even where they pull elsewhere."""
        return len(self.marks) >= FEWEST_TO_START

    def _refuse_other_tissue(self, transform: SlideTransform) -> None:
        he, ihc = self._at(MIDDLE_PARTS)
        if not self.shown:
            self._refuse_strangers(coherence(he, ihc, transform))

    def _refuse_strangers(self, agreement: float) -> None:
        if agreement < LEAST_AGREEMENT:
            raise RegistrationError(
                "The two slides do not seem to show the same tissue.",
                expected=f"at least {LEAST_AGREEMENT:.0%} of windows found where they should be",
                found=f"{agreement:.0%} of the windows",
                remedy="check that both slides are of one block, or set three landmarks by hand",
            )

    def _is_identity(self, transform: SlideTransform, left: Residuals) -> bool:
        points = left.points
        moved = np.hypot(*(transform.forward_um(points) - points).T)
        return bool(np.median(moved) <= max(2 * left.typical_um, self._at(MIDDLE_PARTS)[0].mpp))

    def _refuse_no_gain(self, transform: SlideTransform, identity: SlideTransform) -> None:
        before, after = self._score(identity, MIDDLE_PARTS), self._score(transform, MIDDLE_PARTS)
        if after < before + IDENTITY_GAIN:
            raise RegistrationError(
                "Nothing better was found than to leave the slides as they are.",
                expected="a transform that makes the slides more alike",
                found=f"likeness {after:.3f}, and {before:.3f} without any",
                remedy="set three landmarks by hand",
            )


def _similar(marks: _Marks, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    from napari_celldetr.pipeline.register_nonrigid import similarity

    return similarity(marks.he, marks.ihc, weight)


def _checked_landmarks(
    landmarks: Sequence[tuple[tuple[float, float], tuple[float, float]]], he: Slide, ihc: Slide
) -> _Marks:
    pairs = np.array(landmarks, np.float64).reshape(-1, 2, 2)
    for side, slide in enumerate((he, ihc)):
        inside = (pairs[:, side] >= 0) & (pairs[:, side] <= slide.size)
        if not inside.all():
            raise ConfigError(
                "A landmark lies outside its slide.",
                expected=f"x, y within {slide.size[0]} × {slide.size[1]} px of {slide.name!r}",
                found=f"{pairs[~inside.all(axis=1), side][0].tolist()}",
                remedy="give pairs of level-0 px: H&E first, then IHC",
            )
    sizes = (he.mpp or (1.0, 1.0)), (ihc.mpp or (1.0, 1.0))
    return _Marks(pairs[:, 0] * sizes[0], pairs[:, 1] * sizes[1])
