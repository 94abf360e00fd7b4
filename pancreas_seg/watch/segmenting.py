"""What is done with a case: the same as `pancreas-seg segment` does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pancreas_seg.inference.cohort import CaseInput, CaseOptions, CaseOutcome, segment_cases
from pancreas_seg.inference.segmentation import Segmentation
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.network.windows import Progress

SegmentOne = Callable[[CaseInput, Path, Progress], CaseOutcome]
"""Segments a case into ``folder/<case>``, or finds there that it is done."""


def segment_with(segmenter: Segmenter, *, probability: bool = False, preview: bool = False) -> SegmentOne:
    """What `pancreas-seg segment` does with a case."""

    def saved(folder: Path, case: CaseInput, result: Segmentation, written: list[Path]) -> None:
        if preview:
            from pancreas_seg.report.preview import write_preview

            path = folder / case.case / "preview.png"
            written.append(write_preview(path, result.scan.image, result.mask, result.scan.geometry))

    def run(case: CaseInput, folder: Path, progress: Progress) -> CaseOutcome:
        (outcome,) = segment_cases(
            segmenter,
            [case],
            folder,
            CaseOptions(
                probability=probability,
                resume=True,
                expected=(*["probability.nii.gz"] * probability, *["preview.png"] * preview),
                on_saved=partial(saved, folder),
            ),
            on_progress=lambda _: lambda _stage, done, total: progress(done, total),
        )
        return outcome

    return run
