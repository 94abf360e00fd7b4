"""Which prediction belongs to which reference, on disk."""

from __future__ import annotations

from pathlib import Path

from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.errors import InputError
from pancreas_seg.evaluation.compare import Pair
from pancreas_seg.io import IMAGE_SUFFIXES, case_name


def find_pairs(reference: str | Path, prediction: str | Path) -> list[Pair]:
    """Pair references with predictions of the same case.

    Parameters
    ----------
    reference : path
        A label map; a folder of label maps named by their cases; or a manifest (.json), of which all cases with a
        label map take part.
    prediction : path
        A mask, if ``reference`` is one; otherwise a folder with ``<case>/mask.nii.gz``, as `segment` writes them, or
        with ``<case>`` and any suffix that is read.

    Returns
    -------
    list of (case, reference, prediction or None)
        None where no prediction is found. Predictions without a reference take no part.

    Raises
    ------
    InputError
        If ``reference`` gives no label map, or ``prediction`` is no folder where one is needed.
    ManifestError
        If a manifest cannot be read.
    """
    reference, prediction = Path(reference), Path(prediction)
    if reference.suffix.lower() == ".json":
        references = [(case.case_id, case.label) for case in load_manifest(reference).cases if case.label is not None]
    elif reference.is_dir():
        files = sorted(p for p in reference.iterdir() if p.is_file() and p.name.lower().endswith(IMAGE_SUFFIXES))
        references = [(case_name(path), path) for path in files]
    else:
        if not prediction.is_dir():
            return [(case_name(reference), reference, prediction)]
        references = [(case_name(reference), reference)]
    if not references:
        raise InputError(
            "evaluation.no_references",
            where=reference,
            found="no label map",
            expected=f"files that end with {', '.join(IMAGE_SUFFIXES)}, or a manifest whose cases have labels",
            advice="Name the folder that holds the references.",
        )
    if not prediction.is_dir():
        raise InputError(
            "evaluation.no_folder",
            where=prediction,
            found="no folder",
            expected="the folder with the predictions of all references",
            advice="Name the folder that `segment --out` wrote.",
        )
    return [(case, path, _prediction_of(case, prediction)) for case, path in references]


def _prediction_of(case: str, folder: Path) -> Path | None:
    candidates = [folder / case / "mask.nii.gz", *(folder / f"{case}{suffix}" for suffix in IMAGE_SUFFIXES)]
    return next((path for path in candidates if path.is_file()), None)
