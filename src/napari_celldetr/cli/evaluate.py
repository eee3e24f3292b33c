"""`celldetr evaluate`: how well a model does on labelled fields."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen
from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.training.config import EvaluateConfig

if TYPE_CHECKING:
    from napari_celldetr.training.evaluate import EvaluationReport


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    add_config_flags(parser, EvaluateConfig)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument(
        "--write-card",
        action="store_true",
        help="write the calibration into the card of your own model folder (with --calibrate)",
    )


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Evaluate and print the tables."""
    from napari_celldetr.training.calibrate import write_calibration
    from napari_celldetr.training.evaluate import evaluate

    if args.json is not None:
        prepare_folder(args.json.parent)
    config = config_from(args, EvaluateConfig)
    if args.write_card:
        _check_card(config)
    report, _ = screen.follow(evaluate(config), config.model, unit="fields")
    screen.say(report.as_text())
    if args.json is not None:
        text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False)
        args.json.write_text(text + "\n", encoding="utf-8")
        screen.say(f"written: {args.json}")
    if args.write_card and report.calibration is not None:
        _refuse_seen(report)
        screen.say(f"written: {write_calibration(config.model, report.calibration)}")
    return Exit.OK


def _refuse_seen(report: EvaluationReport) -> None:
    """Refuse to write what was fitted where the model is surer than elsewhere."""
    seen, total = sum(report.trained_on.values()), sum(s.n_fields for s in report.scores.values())
    if seen:
        raise DataError(
            "The calibration is not written into the card.",
            expected="fields of groups (patients) that the model was not trained on",
            found=f"{seen} of {total} fields are of groups the model was trained on",
            remedy="choose others with --split or --groups",
        )


def _check_card(config: EvaluateConfig) -> None:
    """Refuse before the work what could not be written after it."""
    from napari_celldetr.training.calibrate import own_folder

    if not config.calibrate:
        raise ConfigError(
            "There is nothing to write into the card.",
            expected="--calibrate with --write-card",
            found="--write-card alone",
            remedy="add --calibrate, or leave --write-card out",
        )
    prepare_folder(own_folder(config.model))
