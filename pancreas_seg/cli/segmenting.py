"""The verb `segment`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pancreas_seg.cli.terminal import exit_code, progress_bar
from pancreas_seg.cli.verbs import only_sections
from pancreas_seg.errors import InputError

if TYPE_CHECKING:
    from pancreas_seg.inference.cohort import CaseInput
    from pancreas_seg.inference.segmentation import Segmentation
    from pancreas_seg.inference.stage import StageProgress
    from pancreas_seg.io import Scan

log = logging.getLogger("pancreas_seg")


def segment(options: argparse.Namespace) -> int:
    writers = _dicom_writers(options)

    from pancreas_seg.inference.cohort import CaseOptions, find_cases, segment_cases
    from pancreas_seg.inference.segmenter import Segmenter

    start = time.perf_counter()
    cases = find_cases(options.input)
    only_sections(options.settings, ("infer", "clean", "verdict"))
    short = [f"infer.{name}={getattr(options, name)}" for name in ("mode", "engine") if getattr(options, name)]
    load = partial(Segmenter.from_weights, options.weights, options.device, (*options.settings, *short))
    segmenter = load()
    how = CaseOptions(
        probability=options.probability,
        attention=options.attention,
        check=_check_for_dicom if writers else None,
        resume=options.resume,
        expected=(
            *["probability.nii.gz"] * options.probability,
            *["attention.nii.gz"] * options.attention,
            *["preview.png"] * options.preview,
            *writers,
        ),
        series_uid=options.series,
        allow_tilt=options.allow_tilt,
        on_saved=partial(_save_more, options.out, options.preview, writers),
    )
    if options.jobs > 1 and len(cases) > 1:
        from pancreas_seg.inference.workers import segment_in_processes
        from pancreas_seg.network.cpus import available_cpus

        if options.attention:
            segmenter.attention_levels()
        del segmenter
        threads = max(1, available_cpus() // options.jobs)
        outcomes = segment_in_processes(
            partial(load, threads=threads),
            cases,
            options.out,
            options.jobs,
            how,
            threads,
            progress_bar("cases", "case"),
        )
    else:
        outcomes = segment_cases(segmenter, cases, options.out, how, _stage_bars)
    print(options.out / "summary.csv")
    for outcome in outcomes:
        volume = f", {outcome.volume_ml} ml" if outcome.volume_ml else ""
        reasons = f" ({outcome.reasons})" if outcome.reasons else ""
        print(f"{outcome.case}: {outcome.status}{reasons}{volume}, {outcome.took_s} s", file=sys.stderr)
    if len(cases) > 1:
        took_s = time.perf_counter() - start
        log.info("%d cases in %.1f s: %.0f an hour", len(cases), took_s, 3600 * len(cases) / took_s)
    return exit_code(outcomes)


def _stage_bars(case: str) -> StageProgress:
    """Progress bars of a case, one for each pass over it: windows done, seconds left."""
    bars: dict[str, Callable[[int, int], None]] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = progress_bar(f"{case}: {stage}", "window")
        bars[stage](done, total)

    return show


def _save_more(
    out: Path,
    preview: bool,
    writers: dict[str, Callable[..., Path]],
    case: CaseInput,
    result: Segmentation,
    written: list[Path],
) -> None:
    """Write what is asked for besides mask and result.json, and print all paths."""
    scan = result.scan
    if preview:
        from pancreas_seg.report.preview import write_preview

        written.append(write_preview(out / case.case / "preview.png", scan.image, result.mask, scan.geometry))
    for name, write in writers.items():
        headers, sha256 = scan.series.headers() if scan.series else [], result.provenance["weights"]["sha256"]
        path = out / case.case / name
        written.append(write(path, result.mask, scan.geometry, headers, result.labels, weights_sha256=sha256))
    print("\n".join(map(str, written)), flush=True)


def _dicom_writers(options: argparse.Namespace) -> dict[str, Callable[..., Path]]:
    """File names and what writes them, of the DICOM outputs that are asked for."""
    writers: dict[str, Callable[..., Path]] = {}
    if options.dicom_seg:
        from pancreas_seg.io.dicom_output import require_highdicom, write_dicom_seg

        require_highdicom()
        writers["mask.dcm"] = write_dicom_seg
    if options.rtstruct:
        from pancreas_seg.io.dicom_output import write_rtstruct

        writers["rtstruct.dcm"] = write_rtstruct
    return writers


def _check_for_dicom(scan: Scan) -> None:
    """Refuse a CT, before it is segmented, that DICOM output cannot refer to."""
    from pancreas_seg.io.dicom_output import SourceFrames

    if scan.series is None:
        raise InputError(
            "input.no_series",
            where=scan.path,
            found="a file that is no DICOM",
            expected="a DICOM series, for --dicom-seg and --rtstruct",
            advice="Give the CT's DICOM folder, or write the mask onto it by `pancreas-seg export --series`.",
        )
    SourceFrames.of(scan.series.headers(), scan.path).check_grid(scan.geometry)
