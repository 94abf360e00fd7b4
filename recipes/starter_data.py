"""What the starter weights are trained from: the CTs as NIfTI files, and synthetic CTs beside them.

`prepare` makes a manifest of the five labelled CTs, `self_labelled` adds one whose labels the networks draw. `mixed`
makes a manifest for a training: each CT as often as wanted, phantoms, and the CTs deformed to the shapes of other
people's pancreases (the masks of DATA/masks, whose CTs are not there).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.data.model_grid import labels_on_grid, model_grid
from pancreas_seg.data.phantom import write_cohort
from pancreas_seg.data.shape_transfer import shape_transfer
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import Mask, Scan, read_ct, read_mask, write_image
from pancreas_seg.resampling import resample

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

SHAPED = ("crlm1006", "cb001", "totalseg", "acrinflt001")
"""CTs that show and label a whole pancreas, so that it can take other shapes."""

SHAPES_SPACING_MM = (2.0, 2.0, 2.0)
SHAPES_MARGIN_VOXELS = (45, 40, 40)
"""Of a CT with another shape only this much around the pancreas is kept."""

SELF_LABELLED = "acrinflt001"
SELF_ORGANS = ("pancreas", "spleen", "liver", "kidney_left", "kidney_right", "duodenum")
"""Organs that the networks drew well in SELF_LABELLED, by eye; of the others its labels say nothing."""

UNSURE_MM = 6.0
"""How far around the pancreas of SELF_LABELLED voxels that the networks are unsure of count for nothing."""

PHANTOM_SEED = 11


@dataclass(frozen=True)
class Mix:
    """What a pass over the cases takes: each CT so often, each phantom and each CT with another's shape once."""

    shares: Mapping[str, int] = field(default_factory=dict)
    phantoms: int = 0
    shapes: bool = False


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


def mixed(manifest: Path, out: Path, name: str, mix: Mix, masks: Path, without: Iterable[str] = ()) -> Path:
    """Write a manifest OUT/manifest_NAME.json of a mix, without some CTs and all that is made of them; its path."""
    document = json.loads(manifest.read_text())
    left_out = set(without)
    cts = [case for case in document["training"] if case["case_id"] not in left_out]
    training: list[dict[str, Any]] = []
    for case in cts:
        patient = case["case_id"]
        names = [patient if n == 0 else f"{patient}_{n + 1}" for n in range(mix.shares.get(patient, 0))]
        training += [{**case, "patient_id": patient, "case_id": name} for name in names]
    if mix.shapes:
        for case in cts:
            if case["case_id"] in SHAPED:
                training += with_other_shapes(case, masks, out / "shapes")
    if mix.phantoms:
        training += phantoms(out / f"phantoms_{mix.phantoms}", mix.phantoms)
    path = out / f"manifest_{name}.json"
    path.write_text(json.dumps({**document, "training": training}, indent=2))
    return path


def self_labelled(manifest: Path, data: Path, weights: Path, out: Path) -> Path:
    """Write a manifest with SELF_LABELLED among the CTs, its labels drawn by packed weights of two stages; its path.

    Pancreas is what the cascade draws both by its own threshold and at 0.5. Near it, what reaches a probability of 0.1
    is ignored; farther away it is background.
    """
    image, label = data / SELF_LABELLED / "ct.nii.gz", out / f"{SELF_LABELLED}_label.nii.gz"
    scan = read_ct(image)

    def drawn(*settings: str) -> NDArray[np.uint8]:
        return Segmenter.from_weights(weights, settings=settings).segment(scan).mask

    names = ", ".join(f'"{name}"' for name in SELF_ORGANS)
    pieces = ("clean.keep_fraction=0.05", "clean.minimum_volume_ml=0.3", "infer.overlap=0.5")
    labels = drawn("infer.mode=full", f"infer.output=[{names}]", "infer.threshold=0.5", *pieces)
    high, low = (drawn(f"infer.threshold={value}", *pieces) > 0 for value in (0.5, 0.1))
    pancreas = (drawn() > 0) & high
    away = ndimage.distance_transform_edt(~pancreas, sampling=scan.geometry.spacing_mm)
    maybe = (low & (labels == 0)) | (high & ~pancreas) | (labels == 1)
    labels[labels == 1] = 0
    labels[maybe & (away <= UNSURE_MM)] = IGNORED
    labels[pancreas] = 1
    write_image(label, labels, scan)
    named = {str(value): name for value, name in enumerate(SELF_ORGANS, 1)} | {str(IGNORED): "ignore"}
    document = json.loads(manifest.read_text())
    document["training"].append(
        {
            "case_id": SELF_LABELLED,
            "image": str(image.resolve()),
            "label": str(label.resolve()),
            "labels": named,
            "fold": len(document["training"]),
        }
    )
    path = out / "manifest_self.json"
    path.write_text(json.dumps(document, indent=2))
    return path


def phantoms(out: Path, count: int) -> list[dict[str, Any]]:
    """Cases of a manifest: phantoms, drawn if they aren't there yet."""
    manifest = out / "manifest.json"
    if not manifest.exists():
        write_cohort(out, cases=count, seed=PHANTOM_SEED)
    return [
        {
            "case_id": case.case_id,
            "labels": {str(value): name for value, name in case.labels.items()},
            "image": str(case.image.resolve()),
            "label": str(Path(str(case.label)).resolve()),
        }
        for case in load_manifest(manifest).cases
    ]


def with_other_shapes(case: dict[str, Any], masks: Path, out: Path) -> list[dict[str, Any]]:
    """Cases of a manifest: one CT, its pancreas in the shape of each of the masks; made if they aren't there yet."""
    out.mkdir(parents=True, exist_ok=True)
    pancreas = next(int(value) for value, name in case["labels"].items() if name == "pancreas")
    cases = []
    source = None
    for mask in sorted(masks.glob("*/reference.nii.gz")):
        name = f"{case['case_id']}_{mask.parent.name}"
        image, label = out / f"{name}.nii.gz", out / f"{name}_label.nii.gz"
        entry = {"case_id": name, "patient_id": case["case_id"], "labels": case["labels"]}
        cases.append({**entry, "image": str(image.resolve()), "label": str(label.resolve())})
        if label.exists():
            continue
        if source is None:
            source = _around(pancreas, read_ct(case["image"]), read_mask(case["label"]))
        hu, labels, grid = source
        other = read_mask(mask)
        there = other.geometry.as_ras()
        shape, there = cropped(resample(other.labels, other.geometry, there, "nearest") > 0, there, (0, 0, 0))
        found = shape_transfer(labels == pancreas, grid, shape, there)
        write_image(image, np.round(found.apply(hu, grid, labels=False)).astype(np.int16), grid)
        write_image(label, found.apply(labels, grid, labels=True), grid)
    return cases


def cropped(
    mask: NDArray[np.bool_], grid: Geometry, margin: tuple[int, int, int]
) -> tuple[NDArray[np.bool_], Geometry]:
    """A mask and its grid, limited to the box around it and a margin."""
    box = Box.around(mask)
    if box is None:
        raise SystemExit("a mask without a voxel")
    box = box.grown(margin, grid.shape)
    return mask[box.slices], grid.crop(box)


def _around(value: int, scan: Scan, mask: Mask) -> tuple[NDArray[np.float32], NDArray[np.uint8], Geometry]:
    """HU and labels around the organ of a value, on a grid of SHAPES_SPACING_MM."""
    if not scan.geometry.same_grid(mask.geometry):
        raise SystemExit("the label map does not lie on the CT's grid")
    grid = model_grid(scan.geometry.as_ras(), SHAPES_SPACING_MM)
    organs = labels_on_grid(mask.labels, mask.geometry, grid).astype(np.uint8)
    _, around = cropped(organs == value, grid, SHAPES_MARGIN_VOXELS)
    image = resample(scan.image.astype(np.float32), scan.geometry, around, "antialiased", fill=None)
    return image, labels_on_grid(mask.labels, mask.geometry, around).astype(np.uint8), around
