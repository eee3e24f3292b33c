"""`celldetr register`: where the tissue of an H&E slide lies on an IHC slide."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen
from napari_celldetr.core.errors import ConfigError

if TYPE_CHECKING:
    from napari_celldetr.core.transform import SlideTransform
    from napari_celldetr.slides.slide import Slide

UNITS = ("px", "um", "mm")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `register`."""
    from napari_celldetr.pipeline.register import RegisterConfig

    parser.add_argument("he", type=Path, metavar="HE", help="the H&E slide")
    parser.add_argument("ihc", type=Path, metavar="IHC", help="the IHC slide of the same block")
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="OUT", help="the transform, a .json file"
    )
    parser.add_argument("--mpp", type=float, metavar="V", help="µm per level-0 px of the H&E slide")
    parser.add_argument(
        "--ihc-mpp", type=float, metavar="V", help="µm per level-0 px of the IHC slide"
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        metavar="CSV",
        help="pairs of points set by hand: he_x, he_y, ihc_x, ihc_y in level-0 px",
    )
    parser.add_argument(
        "--patches",
        type=float,
        metavar="UM",
        help="also write OUT with .patches.csv: patches of this side, paired one to one",
    )
    add_config_flags(parser, RegisterConfig)
    group = parser.add_argument_group("a transform of another program")
    group.add_argument(
        "--import",
        dest="imported",
        type=Path,
        metavar="FILE",
        help="measure this transform in place of searching one: elastix, ITK, matrix, point pairs",
    )
    group.add_argument(
        "--unit", choices=UNITS, default="px", help="of its physical points (default: px)"
    )
    group.add_argument(
        "--px-mpp", type=float, metavar="V", help="µm per px of the pictures it was made with"
    )
    group.add_argument(
        "--fixed", choices=("he", "ihc"), default="he", help="which slide it maps from"
    )


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Register or import, write, say how good it is."""
    from napari_celldetr.pipeline.transform_file import write_transform
    from napari_celldetr.slides.readers import open_slide

    _refuse_unfit(args)
    prepare_folder(args.out.parent)
    with (
        open_slide(args.he, mpp=args.mpp) as he,
        open_slide(args.ihc, mpp=args.ihc_mpp) as ihc,
    ):
        _refuse_without_mpp(he, ihc)
        notes = _checked(he, ihc, screen)
        transform = _noted(_found(args, screen, he, ihc), notes)
    write_transform(transform, args.out)
    _summarize(transform, args.out, screen)
    if args.patches is not None:
        _write_patches(transform, args, screen)
    screen.research_use()
    return Exit.OK


def _refuse_unfit(args: argparse.Namespace) -> None:
    if args.out.suffix.lower() != ".json":
        raise ConfigError(
            "The transform is written as JSON.",
            expected="a file that ends in .json",
            found=args.out.name,
            remedy="choose another name with -o",
        )


def _refuse_without_mpp(he: Slide, ihc: Slide) -> None:
    from napari_celldetr.core.errors import SlideError

    for slide, flag in ((he, "--mpp"), (ihc, "--ihc-mpp")):
        if slide.mpp is None:
            raise SlideError(
                f"The slide {slide.name!r} has no known pixel size.",
                expected="µm per pixel in the file, or given",
                found=slide.mpp_source,
                remedy=f"pass {flag} with the true µm per pixel of this slide",
            )


def _checked(he: Slide, ihc: Slide, screen: Screen) -> tuple[str, ...]:
    """Refuse what is no pair; what looks doubtful is said now, not after the work."""
    from napari_celldetr.pipeline.slide_pair import check_stains, refuse_same

    refuse_same(he, ihc)
    notes = check_stains(he, ihc)
    for note in notes:
        screen.note(note)
    return notes


def _noted(transform: SlideTransform, notes: tuple[str, ...]) -> SlideTransform:
    from dataclasses import replace

    return replace(transform, notes=(*notes, *transform.notes))


def _found(args: argparse.Namespace, screen: Screen, he: Slide, ihc: Slide) -> SlideTransform:
    from dataclasses import replace

    from napari_celldetr.pipeline.import_transform import (
        Physical,
        import_transform,
        read_point_pairs,
    )
    from napari_celldetr.pipeline.register import RegisterConfig, frame_of, measure, register

    config = config_from(args, RegisterConfig)
    if args.imported is not None:
        how = Physical(args.unit, args.fixed, args.px_mpp)
        given = import_transform(args.imported, frame_of(he), frame_of(ihc), how)
        job = measure(he, ihc, replace(given, limit_um=config.limit_um))
    else:
        marks = read_point_pairs(args.landmarks) if args.landmarks else ((), ())
        pairs = [
            ((float(a[0]), float(a[1])), (float(b[0]), float(b[1])))
            for a, b in zip(*marks, strict=True)
        ]
        job = register(he, ihc, config, landmarks=pairs)
    transform, _ = screen.follow(job, he.name, unit="stages")
    return transform


def _summarize(transform: SlideTransform, out: Path, screen: Screen) -> None:
    from napari_celldetr.pipeline import transform_words as words

    rows = [("from", transform.he.name), ("onto", transform.ihc.name)]
    turned = (words.turn_words(transform), words.size_words(transform))
    rows.append(("H&E", ", ".join(w for w in turned if w)))
    rows.append(("error", words.accuracy_words(transform)))
    rows.append(("left out", words.share_words(transform)))
    rows += [("stage", _stage_words(stage)) for stage in transform.stages]
    rows.append(("written", str(out)))
    screen.rows(rows)
    for note in transform.notes:
        screen.say(note)


def _stage_words(stage: object) -> str:
    from napari_celldetr.core.transform import Stage

    if not isinstance(stage, Stage):
        return ""
    kept = "kept" if stage.kept else "taken back"
    figures = f"{stage.before:.3f} to {stage.after:.3f}"
    return f"{stage.name} at {stage.mpp:.3g} µm/px: {stage.measure} {figures}, {kept}"


def _write_patches(transform: SlideTransform, args: argparse.Namespace, screen: Screen) -> None:
    from napari_celldetr.pipeline.patch_map import patch_map, write_patch_map

    pairs = patch_map(transform, side_um=args.patches)
    path = args.out.with_suffix(".patches.csv")
    write_patch_map(pairs, transform, path)
    screen.say(
        f"{len(pairs.he)} patches of {args.patches:g} µm paired, {len(pairs.excluded)} excluded, "
        f"{len(pairs.crowded)} without a free partner: {path}"
    )
