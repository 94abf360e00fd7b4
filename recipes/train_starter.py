"""Train the starter weights that ship with the package, from the CTs that their model card names.

    .venv/bin/python recipes/train_starter.py DATA OUT

DATA holds the folders cb001, crlm1006, c3l00189, totalseg and totalseg_dicom. Both stages, `starter-coarse` and
`starter-fine`, are trained twice: first without the CT of --hold-out, which gives a figure for a CT that was not seen,
then, from these weights, with all CTs and 20 phantoms, at half the learning rate and with stronger deformation.
OUT/starter.safetensors is the packed result. An interrupted run goes on where it was. On two CPU cores it takes about
four hours.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.config import load_preset
from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.data.phantom import write_cohort
from pancreas_seg.network.stages import pack_weights
from pancreas_seg.network.weights import load_weights
from pancreas_seg.training.trainer import train

EIGHT_ORGANS = {
    1: "spleen",
    2: "pancreas",
    3: "kidney_left",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "duodenum",
}
TOTALSEGMENTATOR = {
    1: "spleen",
    2: "kidney_right",
    3: "kidney_left",
    4: "gallbladder",
    5: "liver",
    6: "stomach",
    7: "pancreas",
    15: "esophagus",
    19: "duodenum",
}
IGNORED = 9
HEAD_MM = ((5, 75), (-50, 50), (-1000, -100))
"""Where, in c3l00189, the head of the pancreas with its mass lies, in RAS millimetres; its labels leave it out."""

WITH_ALL = {
    "augment": {
        "scale_range": 0.25,
        "elastic_probability": 0.8,
        "elastic_mm": 26.0,
        "elastic_grid_mm": 50.0,
        "organ_probability": 0.7,
        "organ_hu": 20.0,
    },
    "train": {"validate_every": 100, "learning_rate": 1e-3, "seed": 3},
}
"""How the second training differs from the first."""

STEPS_WITH_ALL = {"coarse": 2900, "fine": 2700}
PHANTOMS = 20
SHARES = {"crlm1006": 8, "cb001": 8, "c3l00189": 6, "totalseg": 4, "totalseg_dicom": 2}
"""How often a pass of the second training takes each CT; it takes each phantom once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--hold-out", default="crlm1006", metavar="CASE", help="default crlm1006")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    manifest, folds = prepare(options.data, options.out / "data")
    everything = with_phantoms(manifest, options.out / "data")
    best = {}
    for stage in ("coarse", "fine"):
        config = load_preset(f"starter-{stage}")
        out = options.out / stage
        held_out = train(manifest, out / "held_out", config, fold=folds.index(options.hold_out), resume=True)
        start = load_weights(held_out.last)
        settings = config.changed(WITH_ALL).with_settings([f"train.steps={STEPS_WITH_ALL[stage]}"])
        best[stage] = train(everything, out / "all", settings, resume=True, init=start).last
    packed = pack_weights(options.out / "starter.safetensors", [best["fine"]], best["coarse"], half=True)
    logging.info("%s", packed)


def with_phantoms(manifest: Path, out: Path) -> Path:
    """A manifest with each CT as often as SHARES says, and the phantoms; its path."""
    document = json.loads(manifest.read_text())
    training = []
    for case in document["training"]:
        name = case["case_id"]
        names = [name if n == 0 else f"{name}_{n + 1}" for n in range(SHARES[name])]
        training += [{**case, "patient_id": name, "case_id": each} for each in names]
    phantoms = load_manifest(write_cohort(out / "phantoms", cases=PHANTOMS, seed=11))
    for phantom in phantoms.cases:
        labels = {str(value): name for value, name in phantom.labels.items()}
        files = {"image": str(phantom.image.resolve()), "label": str(Path(str(phantom.label)).resolve())}
        training.append({"case_id": phantom.case_id, "labels": labels, **files})
    path = out / "manifest_all.json"
    path.write_text(json.dumps({**document, "training": training}, indent=2))
    return path


def prepare(data: Path, out: Path) -> tuple[Path, list[str]]:
    """Write what is not NIfTI as NIfTI, and a manifest with each CT as a fold of its own; its path and the cases."""
    out.mkdir(parents=True, exist_ok=True)
    cases = {
        "crlm1006": (data / "crlm1006/ct.nii.gz", data / "crlm1006/organs_machine.nii.gz", EIGHT_ORGANS),
        "cb001": (*from_dicom(data / "cb001", out / "cb001"), EIGHT_ORGANS),
        "c3l00189": (data / "c3l00189/ct.nii.gz", without_head(data / "c3l00189", out / "c3l00189"), PARTIAL),
        "totalseg": (data / "totalseg/ct.nii.gz", data / "totalseg/organs_machine.nii.gz", TOTALSEGMENTATOR),
        "totalseg_dicom": (*from_dicom(data / "totalseg_dicom", out / "totalseg_dicom"), TOTALSEGMENTATOR),
    }
    training = [
        {
            "case_id": name,
            "image": str(image.resolve()),
            "label": str(label.resolve()),
            "labels": {str(value): organ for value, organ in labels.items()},
            "fold": fold,
        }
        for fold, (name, (image, label, labels)) in enumerate(cases.items())
    ]
    path = out / "manifest.json"
    path.write_text(json.dumps({"name": "starter", "labels": {"1": "pancreas"}, "training": training}, indent=2))
    return path, list(cases)


PARTIAL = {**{value: name for value, name in EIGHT_ORGANS.items() if name != "gallbladder"}, IGNORED: "ignore"}
"""Of c3l00189, whose gallbladder is labelled poorly."""


def from_dicom(folder: Path, out: Path) -> tuple[Path, Path]:
    """NIfTI files of a DICOM series and of its label map, both in RAS: their grids may differ in their axes."""
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder / "dicom"))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom"), series[0]))
    image, label = Path(f"{out}.nii.gz"), Path(f"{out}_label.nii.gz")
    sitk.WriteImage(sitk.Cast(reader.Execute(), sitk.sitkInt16), str(image))
    ct = nib.as_closest_canonical(nib.load(image))
    organs = nib.as_closest_canonical(nib.load(folder / "organs_machine.nii.gz"))
    if ct.shape != organs.shape or np.abs(ct.affine - organs.affine).max() > 0.01:
        raise SystemExit(f"{folder}: the label map does not lie on the series' grid")
    nib.save(nib.Nifti1Image(np.asarray(ct.dataobj).astype(np.int16), ct.affine), image)
    nib.save(nib.Nifti1Image(np.asarray(organs.dataobj).astype(np.uint8), ct.affine), label)
    return image, label


def without_head(folder: Path, out: Path) -> Path:
    """c3l00189's labels with soft tissue around the unlabelled head, and the gallbladder, to be ignored."""
    organs = nib.load(folder / "organs_machine.nii.gz")
    labels = np.asarray(organs.dataobj).astype(np.uint8)
    hu: NDArray[np.float32] = np.asarray(nib.load(folder / "ct.nii.gz").dataobj).astype(np.float32)
    index = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"), axis=-1)
    world = index @ organs.affine[:3, :3].T + organs.affine[:3, 3]
    around = np.all([(world[..., a] > low) & (world[..., a] < high) for a, (low, high) in enumerate(HEAD_MM)], axis=0)
    soft = ndimage.uniform_filter(hu, (5, 5, 1)) > -20
    labels[around & soft & (labels == 0)] = IGNORED
    labels[labels == 4] = IGNORED
    path = Path(f"{out}_label.nii.gz")
    nib.save(nib.Nifti1Image(labels, organs.affine), path)
    return path


if __name__ == "__main__":
    main()
