"""A folder of phantoms as NIfTI files, with a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from pancreas_seg.data.phantom.draw import Phantom, draw_phantom
from pancreas_seg.data.phantom.labels import LABELS
from pancreas_seg.io import replacing, write_image


def write_cohort(
    out: Path,
    cases: int,
    seed: int,
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.0),
    folds: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw several patients and write them as NIfTI files with a manifest, whose path is returned.

    The manifest has the form of a Medical Segmentation Decathlon ``dataset.json``, as MONAI's datalist readers take
    it, with a fold and checksums for each case. The same arguments give the same bytes in each file.

    Parameters
    ----------
    out : Path
        Folder to write ``images/``, ``labels/`` and ``manifest.json`` into; made if it does not exist.
    cases : int
        Number of patients.
    seed : int
        Patient i is drawn from the seed (seed, i).
    spacing_mm : (3,) floats
        Voxel spacing.
    folds : int
        Case i belongs to fold i modulo this number.
    progress : callable, optional
        Called with the number of written cases and the number of all cases after each one.
    """
    if cases < 1 or folds < 1:
        raise ValueError(f"{cases} cases in {folds} folds: both must be at least 1")
    training = []
    for i in range(cases):
        training.append(_write_case(out, f"phantom_{i:04d}", draw_phantom((seed, i), spacing_mm)) | {"fold": i % folds})
        if progress is not None:
            progress(i + 1, cases)
    manifest = Path(out) / "manifest.json"
    with replacing(manifest) as temporary:
        temporary.write_text(json.dumps(_manifest(training), indent=2) + "\n", encoding="utf-8")
    return manifest


def _write_case(out: Path, name: str, phantom: Phantom) -> dict[str, str | int]:
    entry: dict[str, str | int] = {"case_id": name, "patient_id": name}
    for kind, array in (("image", phantom.hu), ("label", phantom.labels)):
        file = f"{kind}s/{name}.nii.gz"
        path = write_image(Path(out) / file, array, phantom.geometry)
        entry[kind] = f"./{file}"
        entry[f"{kind}_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return entry


def _manifest(training: list[dict[str, str | int]]) -> dict[str, object]:
    return {
        "name": "phantom",
        "description": "Synthetic abdomens in portal-venous CT with a label map; no patient's data",
        "licence": "CC0-1.0",
        "source": "drawn by pancreas_seg.data.phantom",
        "reference": "none: synthetic images made by this software",
        "modality": {"0": "CT"},
        "labels": {"0": "background"} | {str(label): name for label, name in LABELS.items()},
        "numTraining": len(training),
        "training": training,
        "numTest": 0,
        "test": [],
    }
