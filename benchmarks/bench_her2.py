"""HER2 scores of generated slides at mixes around every boundary, against what was painted.

    python benchmarks/bench_her2.py [--side 3000] [--seed 100] [--only 3 7]

Nuclei are found by the shipped model and the stain is estimated, as `celldetr her2` does it; in
brackets the same with the true nuclei. A cell is matched to the nearest painted one within 3 µm.
Every slide has drawn tumour. `worst` is the largest error of a class's share, in points.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from napari_celldetr import drain, open_slide
from napari_celldetr.core.annotations import Area
from napari_celldetr.core.her2 import (
    SCORES,
    Pattern,
    cell_scores,
    count_patterns,
    score_counts,
    score_shares,
)
from napari_celldetr.pipeline.her2.networks import Networks
from napari_celldetr.pipeline.her2.score import TumourRequest, score_her2
from napari_celldetr.pipeline.her2.zones import Zone
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

F, C = Pattern.FAINT_INCOMPLETE, Pattern.COMPLETE_WEAK_MODERATE
STRONG, OPEN = Pattern.COMPLETE_INTENSE, Pattern.STRONG_INCOMPLETE
MIXES = (
    {}, {F: 0.06}, {F: 0.16}, {F: 0.5}, {C: 0.05}, {C: 0.15}, {C: 0.5, F: 0.3}, {STRONG: 0.05},
    {STRONG: 0.06, C: 0.3}, {STRONG: 0.15}, {STRONG: 0.6, C: 0.2}, {OPEN: 0.2},
)  # fmt: skip
MATCH_UM = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=3000, help="px of 0.25 µm")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mixes")
    args = parser.parse_args()
    print(f"{'mix':<46}{'cells':>12} {'found':>7} {'accuracy':>15} {'score':>14} "
          f"{'worst':>13} {'s':>6}")  # fmt: skip
    rows = [run(i, args) for i in args.only or range(len(MIXES))]
    right = sum(r[0] for r in rows)
    print(f"slide score right: {right} of {len(rows)}; with true nuclei {sum(r[3] for r in rows)}")
    print(f"accuracy: mean {np.mean([r[1] for r in rows]):.3f}, "
          f"least {min(r[1] for r in rows):.3f}; worst share "
          f"{max(r[2] for r in rows):.1f} points")  # fmt: skip


def run(index: int, args: argparse.Namespace) -> tuple[bool, float, float, bool]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.ome.tif"
        size = (args.side, args.side)
        truth = make_her2_slide(path, MIXES[index], size=size, seed=args.seed + index)
        zone = Zone(Area(tuple(map(tuple, truth.tumour.tolist())), "region", "tumour"))
        asked = TumourRequest((zone,))
        with open_slide(path) as slide:
            start = time.perf_counter()
            found = drain(score_her2(slide, tumour=asked, networks=Networks(), workspace=folder))
            seconds = time.perf_counter() - start
            known = drain(score_her2(slide, tumour=asked, cells=truth.cells, networks=Networks()))
    counts = count_patterns(truth.staining.patterns)
    true = score_counts(counts)
    accuracy, share = matched(truth, found)
    best, _ = matched(truth, known)
    worst, least = (errors(counts, r.assessment.percent_cells) for r in (found, known))
    mix = ", ".join(f"{p.name.lower()} {s:.0%}" for p, s in MIXES[index].items()) or "none"
    print(f"{mix:<46}{found.assessment.n_cells:>5} ({len(truth.cells):>4}) {share:>7.3f} "
          f"{accuracy:>7.3f} ({best:.3f}) {found.score!s:>4} ({true.score}, {known.score}) "
          f"{worst:>5.1f} ({least:>4.1f}) {seconds:>6.0f}", flush=True)  # fmt: skip
    shares = found.assessment.percent_cells
    painted = score_shares(counts)
    print(
        "    " + ", ".join(f"{s}: {shares[s]:.1f} ({painted[s]:.1f})" for s in SCORES), flush=True
    )
    return found.score == true.score, accuracy, worst, known.score == true.score


def matched(truth, found) -> tuple[float, float]:
    """Accuracy of the classes of matched cells, and the share of painted cells that are."""
    counted = found.counted
    places = found.judged.centres[counted] * found.judged.mpp
    scores = found.judged.scores[counted]
    true = cell_scores(truth.staining.patterns)
    centres = truth.cells.centres * found.judged.mpp
    distance, nearest = cKDTree(centres).query(places, distance_upper_bound=MATCH_UM)
    # Each painted cell once: the nearest found one.
    order = np.argsort(distance)
    order = order[np.isfinite(distance[order])]
    _, first = np.unique(nearest[order], return_index=True)
    rows = order[first]
    return float((scores[rows] == true[nearest[rows]]).mean()), len(rows) / len(centres)


def errors(counts, percent) -> float:
    true = score_shares(counts)
    return max(abs(true[s] - percent[s]) for s in SCORES)


if __name__ == "__main__":
    main()
