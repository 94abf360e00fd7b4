"""Segment every CT that the starter weights were trained from, and print how well each mask agrees with its labels.

    .venv/bin/python recipes/evaluate_starter.py DATA OUT [--weights FILE [FILE ...]] [--unseen CASE ...]

DATA is as for train_starter.py. The labels are machine-made. CTs are marked "seen" unless named with --unseen: that
they were seen in training makes their figures a check, not a measure of quality. OUT gets masks, pictures and
evaluation/ with cases.csv and summary.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from starter_data import prepare

from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.evaluation.study import evaluate_predictions
from pancreas_seg.inference.cohort import CaseInput, CaseOptions, segment_cases
from pancreas_seg.inference.segmentation import Segmentation
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.network.stages import STARTER
from pancreas_seg.report.preview import write_preview


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--weights", nargs="+", default=[STARTER], metavar="FILE", help="default: those of the package")
    parser.add_argument("--unseen", nargs="*", default=[], metavar="CASE", help="CTs that these weights never saw")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    path, _ = prepare(options.data, options.out / "data")
    manifest = load_manifest(path)
    cases = [CaseInput(case.case_id, case.image) for case in manifest.cases]
    without_labels = options.data / "acrinflt001" / "ct.nii.gz"
    if without_labels.exists():
        cases.append(CaseInput("acrinflt001", without_labels))

    def picture(case: CaseInput, result: Segmentation, _: list[Path]) -> None:
        folder = options.out / "masks" / case.case
        write_preview(folder / "preview.png", result.scan.image, result.mask, result.scan.geometry)

    segmenter = Segmenter.from_weights(options.weights, settings=tuple(options.settings))
    outcomes = segment_cases(segmenter, cases, options.out / "masks", CaseOptions(on_saved=picture))
    study = evaluate_predictions(path, options.out / "masks", options.out / "evaluation")
    rows = {row.case: row.agreement for row in study.rows}
    out = sys.stdout.write
    out("| CT | | Dice | NSD 2 mm | HD95 | reference | prediction | verdict | seconds |\n")
    out("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
    for outcome in outcomes:
        seen = "unseen" if outcome.case in options.unseen else "seen"
        found = rows.get(outcome.case)
        figures = "no labels | | | "
        if found is not None:
            figures = f"{found.dice:.3f} | {found.nsd[2.0]:.3f} | {found.hd95_mm:.1f} mm | {found.reference_ml:.1f} ml"
        verdict = f"{outcome.status} {outcome.reasons}".strip()
        out(f"| {outcome.case} | {seen} | {figures} | {outcome.volume_ml} ml | {verdict} | {outcome.took_s} |\n")
    modes = {json.loads(p.read_text()).get("mode") for p in (options.out / "masks").glob("*/result.json")}
    out(f"mode: {', '.join(sorted(map(str, modes)))}; weights {segmenter.weights_sha256[:12]}\n")


if __name__ == "__main__":
    main()
