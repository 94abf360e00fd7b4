"""Train the starter weights that ship with the package, from the CTs that their model card names.

    .venv/bin/python recipes/train_starter.py DATA OUT

DATA holds the folders cb001, crlm1006, c3l00189, totalseg and totalseg_dicom. Both stages, `starter-coarse` and
`starter-fine`, are trained several times, each training from the weights of the one before: first without the CT of
--hold-out, which gives a figure for a CT that was not seen; then with all CTs and phantoms, with stronger deformation;
last with batch norm's statistics taken from the CTs alone and kept (PHASES). OUT/starter.safetensors is the packed
result. An interrupted run goes on where it was. On two CPU cores it takes about six hours.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
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
from pancreas_seg.network.weights import load_weights, save_weights
from pancreas_seg.training.statistics import renew_statistics
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

DEFORMED = {
    "augment": {
        "scale_range": 0.25,
        "elastic_probability": 0.8,
        "elastic_mm": 26.0,
        "elastic_grid_mm": 50.0,
        "organ_probability": 0.7,
        "organ_hu": 20.0,
        "hollow_hu": 20.0,
    },
    "train": {"validate_every": 100},
}
"""How the later trainings differ from the first."""


@dataclass(frozen=True)
class Phase:
    """A training with all CTs: how often a pass takes each CT (it takes each phantom once), and its settings.

    With ``renewed``, batch norm's statistics are first taken anew from the CTs.
    """

    name: str
    phantoms: int
    shares: dict[str, int]
    settings: tuple[str, ...]
    renewed: bool = False


_20 = {"crlm1006": 8, "cb001": 8, "c3l00189": 6, "totalseg": 4, "totalseg_dicom": 2}
_40 = {"crlm1006": 12, "cb001": 11, "c3l00189": 8, "totalseg": 6, "totalseg_dicom": 3}

_67 = {"crlm1006": 20, "cb001": 18, "c3l00189": 14, "totalseg": 10, "totalseg_dicom": 5}

_KEPT = ("train.norm_statistics=stored", "augment.hollow_hu=60", "train.learning_rate=7e-4", "train.seed=11")
"""For the last training of each."""

_FLAT = ("train.schedule=constant",)
"""For trainings of the shipped weights that were planned longer and ended early: their mean learning rate."""

PHASES = {
    "coarse": (
        Phase("all_20", 20, _20, ("train.learning_rate=1e-3", "train.steps=2900", "train.seed=3")),
        Phase("all_40", 40, _40, (*_FLAT, "train.learning_rate=5.2e-4", "train.steps=400", "train.seed=4")),
        Phase("all_40_end", 40, _40, ("train.learning_rate=4.5e-4", "train.steps=400", "train.seed=6")),
        Phase("kept", 40, _67, (*_KEPT, "train.steps=800"), renewed=True),
    ),
    "fine": (
        Phase("all_20", 20, _20, ("train.learning_rate=1e-3", "train.steps=2700", "train.seed=3")),
        Phase("all_40", 40, _40, (*_FLAT, "train.learning_rate=8.6e-4", "train.steps=1400", "train.seed=4")),
        Phase("all_40_on", 40, _40, (*_FLAT, "train.learning_rate=5.3e-4", "train.steps=400", "train.seed=5")),
        Phase("all_40_end", 40, _40, ("train.learning_rate=4.7e-4", "train.steps=600", "train.seed=6")),
        Phase("kept", 40, _67, (*_KEPT, "train.steps=2400"), renewed=True),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--hold-out", default="crlm1006", metavar="CASE", help="default crlm1006")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    manifest, folds = prepare(options.data, options.out / "data")
    best = {}
    for stage, phases in PHASES.items():
        config = load_preset(f"starter-{stage}")
        out = options.out / stage
        held_out = folds.index(options.hold_out)
        best[stage] = train(manifest, out / "held_out", config, fold=held_out, resume=True).last
        for phase in phases:
            settings = config.changed(DEFORMED).with_settings(phase.settings)
            everything = with_phantoms(manifest, options.out / "data", phase)
            if phase.renewed:
                best[stage] = renewed(best[stage], manifest, out / f"before_{phase.name}.safetensors")
            start = load_weights(best[stage])
            best[stage] = train(everything, out / phase.name, settings, resume=True, init=start).last
    best["coarse"] = renewed(best["coarse"], manifest, options.out / "coarse" / "renewed.safetensors")
    packed = pack_weights(options.out / "starter.safetensors", [best["fine"]], best["coarse"], half=True)
    logging.info("%s", packed)


def renewed(path: Path, manifest: Path, target: Path) -> Path:
    """Write weights with batch norm's statistics taken anew from the CTs; ``target``."""
    weights = load_weights(path)
    network = weights.network()
    renew_statistics(network, load_manifest(manifest).cases, weights.config)
    save_weights(target, network, weights.config, weights.card)
    return target


def with_phantoms(manifest: Path, out: Path, phase: Phase) -> Path:
    """A manifest with each CT as often as a phase takes it, and the phantoms; its path."""
    document = json.loads(manifest.read_text())
    training = []
    for case in document["training"]:
        name = case["case_id"]
        names = [name if n == 0 else f"{name}_{n + 1}" for n in range(phase.shares[name])]
        training += [{**case, "patient_id": name, "case_id": each} for each in names]
    phantoms = load_manifest(write_cohort(out / f"phantoms_{phase.phantoms}", cases=phase.phantoms, seed=11))
    for phantom in phantoms.cases:
        labels = {str(value): name for value, name in phantom.labels.items()}
        files = {"image": str(phantom.image.resolve()), "label": str(Path(str(phantom.label)).resolve())}
        training.append({"case_id": phantom.case_id, "labels": labels, **files})
    path = out / f"manifest_{phase.name}.json"
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
