"""Leave one CT out: train the fine network without it, segment it, and print how well the mask agrees with its labels.

    .venv/bin/python recipes/leave_one_out.py DATA OUT [--hold-out CASE[,CASE] ...]

DATA is as for train_starter.py; its labels are machine-made. All rows share one training on phantoms. From there each
is trained without its CTs and without what is made of them: first as usual, then with batch norm's statistics taken
anew from the CTs and kept. There is no coarse stage: the whole CT is searched (infer.mode=full), and the threshold is
that of the preset. The trainings are far shorter than those of the starter weights, so that a row takes half an hour on
one core; an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from pathlib import Path
from typing import cast

from starter_data import Mix, mixed, prepare
from train_starter import DEFORMED, SHAPED, SHARES, renewed

from pancreas_seg.config import Config, load_preset
from pancreas_seg.data.manifest import Case, load_manifest
from pancreas_seg.data.transforms import IGNORE_NAME
from pancreas_seg.evaluation.metrics import dice
from pancreas_seg.evaluation.study import evaluate_predictions
from pancreas_seg.geometry import Box
from pancreas_seg.inference.cohort import CaseInput, CaseOptions, segment_cases
from pancreas_seg.inference.segmentation import Segmentation
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import read_mask
from pancreas_seg.network.weights import load_weights
from pancreas_seg.report.preview import write_preview
from pancreas_seg.training.memory import keep_freed_memory
from pancreas_seg.training.trainer import train

ROWS = ["cb001", "crlm1006", "c3l00189", "totalseg,totalseg_dicom"]
MIXES = {"shapes": SHAPED, "plain": Mix(SHARES, phantoms=40)}
BOX_MM = 40.0
"""About what a coarse stage that finds the pancreas would leave around it."""

HOLLOW = "augment.hollow_hu=60"
SHARPENED = "augment.sharpen_probability=0.3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--hold-out", nargs="+", default=ROWS, metavar="CASE", help=f"default {' '.join(ROWS)}")
    parser.add_argument("--mix", choices=MIXES, default="shapes", help="plain: no other shapes, no sharpening")
    parser.add_argument("--phantom-steps", type=int, default=600, metavar="N")
    parser.add_argument("--steps", type=int, nargs=2, default=(800, 700), metavar="N", help="as usual, and kept")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()
    manifest, _ = prepare(options.data, options.out / "data")
    config = load_preset("starter-fine").changed(DEFORMED).with_settings([HOLLOW])
    base = _on_phantoms(manifest, options.out, config, options.phantom_steps)
    for held_out in options.hold_out:
        _row(manifest, options, config, base, held_out.split(","))


def _on_phantoms(manifest: Path, out: Path, config: Config, steps: int) -> Path:
    """The weights that all rows start from. Phantoms have no oesophagus: one of them says that it has labels for it."""
    path = mixed(manifest, out / "data", "phantoms", Mix(phantoms=40), out)
    document = json.loads(path.read_text())
    document["training"][0]["labels"]["99"] = "esophagus"
    path.write_text(json.dumps(document))
    settings = ("train.learning_rate=2e-3", "train.schedule=constant", f"train.steps={steps}", "train.seed=21")
    return train(path, out / "phantoms", config.with_settings(settings), resume=True).last


def _row(manifest: Path, options: argparse.Namespace, config: Config, base: Path, held_out: list[str]) -> None:
    name = "_".join([*held_out, options.mix])
    out, data = options.out / name, options.out / "data"
    if options.mix == "shapes":
        config = config.with_settings([SHARPENED])
    cts = mixed(manifest, data, f"{name}_cts", Mix(dict.fromkeys(SHARES, 1)), options.data / "masks", held_out)
    everything = mixed(manifest, data, name, MIXES[options.mix], options.data / "masks", held_out)
    usual, kept = options.steps
    first = ("train.learning_rate=1e-3", "train.schedule=constant", f"train.steps={usual}", "train.seed=31")
    last = train(everything, out / "usual", config.with_settings(first), resume=True, init=load_weights(base)).last
    start = load_weights(renewed(last, cts, out / "renewed.safetensors"))
    second = ("train.learning_rate=7e-4", f"train.steps={kept}", "train.seed=32", "train.norm_statistics=stored")
    last = train(everything, out / "kept", config.with_settings(second), resume=True, init=start).last
    _evaluate(manifest, last, out, held_out)


def _evaluate(manifest: Path, weights: Path, out: Path, held_out: list[str]) -> None:
    cases = [CaseInput(case.case_id, case.image) for case in load_manifest(manifest).cases if case.case_id in held_out]

    def picture(case: CaseInput, result: Segmentation, _: list[Path]) -> None:
        write_preview(out / "masks" / case.case / "preview.png", result.scan.image, result.mask, result.scan.geometry)

    segmenter = Segmenter.from_weights([weights], settings=("infer.mode=full",))
    outcomes = segment_cases(segmenter, cases, out / "masks", CaseOptions(on_saved=picture))
    rows = {row.case: row.agreement for row in evaluate_predictions(manifest, out / "masks", out / "evaluation").rows}
    labelled = {case.case_id: case for case in load_manifest(manifest).cases}
    for outcome in outcomes:
        found = rows[outcome.case]
        figures = "failed" if found is None else f"{found.dice:.3f} | {found.nsd[2.0]:.3f} | {found.hd95_mm:.1f} mm"
        volumes = "" if found is None else f"{found.reference_ml:.1f} ml | {found.prediction_ml:.1f} ml"
        near = in_the_box(labelled[outcome.case], out / "masks" / outcome.case / "mask.nii.gz") if found else ""
        sys.stdout.write(f"| {outcome.case} (left out) | {figures} | {volumes} | {outcome.status} | {near} |\n")


def in_the_box(case: Case, mask: Path) -> str:
    """Dice within BOX_MM of the pancreas's labels, and the same without voxels that are labelled to be ignored."""
    labels, drawn = read_mask(str(case.label)), read_mask(mask)
    value = {name: value for value, name in case.labels.items()}
    pancreas = labels.labels == value["pancreas"]
    margin = [math.ceil(BOX_MM / mm) for mm in labels.geometry.spacing_mm]
    box = cast(Box, Box.around(pancreas)).grown(margin, labels.geometry.shape).slices
    counts = labels.labels[box] != value.get(IGNORE_NAME, -1)
    reference, prediction = pancreas[box], drawn.labels[box] > 0
    return f"{dice(reference, prediction):.3f}; {dice(reference & counts, prediction & counts):.3f} where labels count"


if __name__ == "__main__":
    main()
