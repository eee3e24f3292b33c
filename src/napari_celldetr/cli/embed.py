"""`celldetr embed`: slides in, one table of cells with their embeddings per slide out."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.cli.detect import Detecting, add_run_flags, add_slide_arguments, detect_all
from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.outputs import Output, plan_outputs
from napari_celldetr.cli.screen import Screen
from napari_celldetr.core.errors import EmbeddingError

if TYPE_CHECKING:
    from napari_celldetr.core.detections import Detections
    from napari_celldetr.slides.slide import Slide

FORMATS = ("parquet", "h5ad")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `embed`."""
    add_slide_arguments(parser, FORMATS, default=FORMATS[0])
    parser.add_argument(
        "--vectors",
        type=Path,
        metavar="FILE",
        help="embeddings that another program made of this slide's cells (.parquet, .csv, .npz, "
        ".h5ad with ids, boxes or centres), instead of the model's",
    )
    add_run_flags(parser)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Embed each slide; of several, say how far they lie apart."""
    outputs = plan_outputs(
        args.slides, args.out, format=args.format, formats=FORMATS, default=FORMATS[0]
    )
    job = _Embedding.of(args, screen)
    if args.vectors is not None and len(outputs) > 1:
        raise EmbeddingError(
            "Embeddings of one file cannot be of several slides.",
            expected="one slide with --vectors",
            found=f"{len(outputs)} slides",
            remedy="give the slides in runs of their own",
        )
    job.vectors = args.vectors
    outcome = detect_all(job, outputs, screen)
    if outcome is not Exit.INTERRUPTED:
        job.compare()
    return outcome


@dataclass
class _Embedding(Detecting):
    """A detect run whose files are tables of embeddings."""

    files: list[Path] = field(default_factory=list)
    vectors: Path | None = None

    def write(self, slide: Slide, cells: Detections, output: Output) -> list[Path]:
        """Write the table of one slide."""
        from napari_celldetr.pipeline.embed import write_embeddings
        from napari_celldetr.pipeline.embedding_files import match_embeddings

        if self.vectors is not None:
            matched = match_embeddings(cells, self.vectors)
            self.screen.note(matched.sentence())
            cells = matched.onto(cells)
        self.files.append(write_embeddings(cells, output.table))
        size = 0 if cells.embeddings is None else cells.embeddings.shape[1]
        self.screen.note(f"{slide.name}: {size} numbers a cell")
        return [output.table]

    def compare(self) -> None:
        """How far the slides lie apart, class by class."""
        if len(self.files) < 2:
            return
        from napari_celldetr.pipeline.embedding_files import compare_slides

        found = compare_slides(self.files)
        if not found:
            return
        self.screen.note("How far the slides lie apart (0 % mixed, 100 % each by itself):")
        for mixing in found:
            self.screen.note(
                f"  {mixing.class_name}: {100 * mixing.apart:.0f} %, a cell's neighbours are of "
                f"{mixing.effective:.1f} of {len(mixing.slides)} slides"
            )
