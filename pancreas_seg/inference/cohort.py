"""Many CTs, one after the other; a bad one never ends the run."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.errors import ConfigError, PancreasSegError
from pancreas_seg.inference.segmentation import NOT_A_DEVICE, RESULT_SCHEMA, Segmentation
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.inference.stage import StageProgress
from pancreas_seg.io import (
    IMAGE_SUFFIXES,
    Scan,
    at_most,
    case_name,
    check_writable,
    find_studies,
    read_ct,
    remove_unfinished,
    replacing,
    sha256_of,
)

EXTRA_OUTPUTS = ("probability.nii.gz", "attention.nii.gz", "preview.png", "mask.dcm", "rtstruct.dcm")
"""Files that a case has only if they are asked for."""

NOT_WRITTEN = "output.not_written"
"""What summary.csv says of a case whose files could not be written, such as on a full disk."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseInput:
    """A CT to segment and the name of its folder in the output."""

    case: str
    path: Path


@dataclass(frozen=True)
class CaseOutcome:
    """A line of summary.csv.

    ``status`` is "ok" or "review" (the verdict), "refused" (the input is no sound CT) or "failed" (anything else);
    ``reasons`` are codes.
    """

    case: str
    status: str
    reasons: str
    volume_ml: str
    took_s: str


def find_cases(inputs: Sequence[Path]) -> list[CaseInput]:
    """All CTs that inputs stand for: files, folders, manifests (.json).

    A folder's cases are its images and zips (not those of folders in it), and the DICOM studies in it and below:
    itself, if DICOM files lie right in it or all below are of one study, or else folders in it.
    Cases of the same name get a number behind it, in order.

    Raises
    ------
    ConfigError
        If nothing is given.
    ManifestError
        If a manifest cannot be read.
    """
    found: list[CaseInput] = []
    for path in inputs:
        if path.suffix.lower() == ".json":
            found += [CaseInput(case.case_id, case.image) for case in load_manifest(path).cases]
        elif (images := _images_in(path)) is not None:
            # A folder without images is a case that reading refuses, so that it does not end the run.
            found += [CaseInput(case_name(image), image) for image in images or [path.resolve()]]
        else:
            found.append(CaseInput(case_name(path), path))
    if not found:
        raise ConfigError(
            "config.no_input", where="INPUT", found="nothing", expected="at least one CT", advice="Name a file."
        )
    return _with_unique_names(found)


def _images_in(path: Path) -> list[Path] | None:
    """Images and DICOM studies of a folder that can be listed; None for other paths."""
    try:
        if not path.is_dir():
            return None
        images = sorted(
            p
            for p in path.iterdir()
            if p.is_file() and not p.name.startswith(".") and p.name.lower().endswith((*IMAGE_SUFFIXES, ".zip"))
        )
        return images + find_studies(path)
    except OSError:
        return None


@dataclass(frozen=True)
class CaseOptions:
    """How each case is done.

    Parameters
    ----------
    probability, attention : bool
        Whether to write probability.nii.gz and attention.nii.gz as well.
    check : callable, optional
        Called with each CT before it is segmented; an InputError of it refuses the case.
    resume : bool
        Whether to leave out cases whose result.json is there and was made from the same file, weights and settings.
    expected : tuple of str
        Names of EXTRA_OUTPUTS that a finished case must have, too.
    series_uid : str, optional
        SeriesInstanceUID of the DICOM series to take.
    allow_tilt : bool
        Whether to shear DICOM slices of a tilted gantry back.
    on_saved : callable, optional
        Called after a case's files are written.
    """

    probability: bool = False
    attention: bool = False
    check: Callable[[Scan], None] | None = None
    resume: bool = False
    expected: tuple[str, ...] = ()
    series_uid: str | None = None
    allow_tilt: bool = False
    on_saved: Callable[[CaseInput, Segmentation, list[Path]], None] | None = None


def segment_cases(
    segmenter: Segmenter,
    cases: Iterable[CaseInput],
    out: Path,
    options: CaseOptions = CaseOptions(),
    on_progress: Callable[[str], StageProgress | None] | None = None,
) -> list[CaseOutcome]:
    """Segment each case into ``out/<case>`` and keep ``out/summary.csv`` up to date.

    Parameters
    ----------
    segmenter : Segmenter
    cases : iterable of CaseInput
    out : Path
    options : CaseOptions
    on_progress : callable, optional
        Gives, for a case's name, what `Segmenter.segment` calls.

    Returns
    -------
    list of CaseOutcome
        In the order of the cases.

    Raises
    ------
    ConfigError
        If attention is asked for and the networks have no gates, or not the same.
    OSError
        If ``out`` cannot be written to, or summary.csv in the end. What a single case cannot write ends that case only.
    """
    if options.attention:
        segmenter.attention_levels()
    prepare(out)
    outcomes: list[CaseOutcome] = []
    for case in cases:
        progress = on_progress(case.case) if on_progress else None
        outcomes.append(segment_case(segmenter, case, out, options, progress))
        with suppress(OSError):
            write_summary(out, outcomes)
    write_summary(out, outcomes)
    return outcomes


def prepare(out: Path) -> None:
    """Make the folder for results; raise OSError if it cannot be written to."""
    check_writable(out)
    remove_unfinished(out)


def segment_case(
    segmenter: Segmenter,
    case: CaseInput,
    out: Path,
    options: CaseOptions,
    progress: StageProgress | None = None,
) -> CaseOutcome:
    """Segment a case into ``out/<case>``; whatever is wrong with it is its outcome."""
    run = partial(segmenter.segment, probability=options.probability, progress=progress, attention=options.attention)
    run = run if options.check is None else partial(_checked, options.check, run)
    read = partial(read_ct, case.path, options.series_uid, options.allow_tilt)
    with at_most(segmenter.memory_limit(options.probability, options.attention)):
        return _one_case(
            segmenter, read, run, case, out, options.expected if options.resume else None, options.on_saved
        )


def _checked(check: Callable[[Scan], None], segment: Callable[[Scan], Segmentation], scan: Scan) -> Segmentation:
    check(scan)
    return segment(scan)


def _one_case(
    segmenter: Segmenter,
    read: Callable[[], Scan],
    segment: Callable[[Scan], Segmentation],
    case: CaseInput,
    out: Path,
    resume_with: Sequence[str] | None,
    on_saved: Callable[[CaseInput, Segmentation, list[Path]], None] | None,
) -> CaseOutcome:
    start = time.perf_counter()
    folder = out / case.case
    try:
        scan = read()
        remove_unfinished(folder)
        read_s = time.perf_counter() - start
        if resume_with is not None and all((folder / name).is_file() for name in resume_with):
            earlier = _earlier_outcome(folder, case.case, scan.sha256, segmenter)
            if earlier is not None:
                return earlier
        result = segment(scan)
        result.timings_s["read"] = read_s
        _remove_outputs(folder)
        written = result.save(folder)
        if on_saved is not None:
            on_saved(case, result, written)
    except PancreasSegError as error:
        log.error("%s: refused: %s [%s]", case.case, error.reason, error.code)
        leave_no_result(folder, _refusal(error, case.path, segmenter))
        return CaseOutcome(case.case, "refused", error.code, "", f"{time.perf_counter() - start:.2f}")
    except OSError as error:
        log.error("%s: failed: files could not be written (%s) [%s]", case.case, error.strerror, NOT_WRITTEN)
        leave_no_result(folder)
        return CaseOutcome(case.case, "failed", NOT_WRITTEN, "", f"{time.perf_counter() - start:.2f}")
    except Exception:
        log.exception("%s: failed", case.case)
        leave_no_result(folder)
        return CaseOutcome(case.case, "failed", "bug", "", f"{time.perf_counter() - start:.2f}")
    codes = " ".join(r.code for r in result.reasons)
    volume = f"{next(iter(result.volume_ml.values())):.2f}"
    return CaseOutcome(case.case, result.verdict, codes, volume, f"{time.perf_counter() - start:.2f}")


def _earlier_outcome(folder: Path, case: str, sha256: str, segmenter: Segmenter) -> CaseOutcome | None:
    """The outcome that result.json tells, if it is of the same input, weights and settings."""
    try:
        facts = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        same = (
            facts["input"]["sha256"] == sha256
            and facts["weights"]["sha256"] == segmenter.weights_sha256
            and facts["config_fingerprint"] == segmenter.config.fingerprint()
            and (folder / "mask.nii.gz").is_file()
        )
        if not same:
            return None
        codes = " ".join(reason["code"] for reason in facts["reasons"])
        volume = f"{next(iter(facts['volume_ml'].values())):.2f}"
        return CaseOutcome(case, facts["verdict"], codes, volume, f"{sum(facts['timings_s'].values()):.2f}")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove_outputs(folder: Path) -> None:
    """Delete what an earlier run wrote for a case, so that nothing stale lies beside what is new."""
    for name in ("result.json", "mask.nii.gz", *EXTRA_OUTPUTS):
        (folder / name).unlink(missing_ok=True)


def leave_no_result(folder: Path, refusal: Mapping[str, Any] | None = None) -> None:
    """Delete an earlier result of a case and say why there is none, as far as the folder can be written to."""
    try:
        remove_unfinished(folder)
        _remove_outputs(folder)
        if refusal is not None:
            with replacing(folder / "result.json") as temporary:
                temporary.write_text(json.dumps(refusal, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        log.error("%s: result.json could not be written (%s)", folder.name, error.strerror)


def _refusal(error: PancreasSegError, path: Path, segmenter: Segmenter) -> dict[str, Any]:
    """result.json of a refused case: the reason, without the path, which may name a patient."""
    sha256 = sha256_of(path)
    return {
        "schema": RESULT_SCHEMA,
        "note": NOT_A_DEVICE,
        "verdict": "refused",
        "reasons": [{"code": error.code, "text": error.reason}],
        **({"input": {"sha256": sha256}} if sha256 is not None else {}),
        "weights": {"sha256": segmenter.weights_sha256},
        "config_fingerprint": segmenter.config.fingerprint(),
        "versions": segmenter.versions(),
    }


def write_summary(out: Path, outcomes: Sequence[CaseOutcome]) -> None:
    """Write summary.csv, a row an outcome."""
    with replacing(out / "summary.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(CaseOutcome)])
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in outcomes)


def _with_unique_names(cases: list[CaseInput]) -> list[CaseInput]:
    taken = {"summary.csv"}
    out = []
    for case in cases:
        name, n = case.case, 1
        while name in taken:
            n += 1
            name = f"{case.case}-{n}"
        taken.add(name)
        out.append(CaseInput(name, case.path))
    return out
