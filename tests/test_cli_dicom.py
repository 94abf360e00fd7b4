"""DICOM output of `segment`, from the reading of a series to the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import read_mask
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import save_weights

SHAPE = (20, 18, 6)


@pytest.fixture
def weights(tmp_path) -> Path:
    """A network that finds foreground wherever it looks."""
    config = Config().changed(
        {"data": {"spacing_mm": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16]}, "network": {"channels": [4, 8]}}
    )
    network = AttentionUNet.from_config(config)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([0.0, 1.0])
    path = tmp_path / "w.safetensors"
    save_weights(path, network, config, {"note": "untrained"})
    return path


@pytest.fixture
def images() -> list[pydicom.Dataset]:
    """The slices of a CT."""
    hu = np.random.default_rng(0).integers(-900, 300, SHAPE)
    images = []
    for k in range(SHAPE[2]):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = pydicom.uid.CTImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"1.2.3.{k + 1}"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.4", "1.2.3", "1.2.5"
        image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.PixelSpacing, image.ImageOrientationPatient = [1.5, 2.0], [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [0, 0, 3 * k]
        image.Columns, image.Rows = SHAPE[:2]
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "HU"
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelData = hu[:, :, k].T.astype("<i2").tobytes()
        images.append(image)
    return images


def _saved(images: list[pydicom.Dataset], folder: Path) -> Path:
    """The images as files of a folder, last slice first."""
    folder.mkdir()
    for n, image in enumerate(reversed(images)):
        image.save_as(folder / f"IM{n}.dcm", enforce_file_format=True)
    return folder


def _segment(*arguments: object) -> int:
    return main(["segment", *map(str, arguments)])


def test_segment_writes_dicom_beside_the_mask(weights, images, tmp_path, capsys) -> None:
    series = _saved(images, tmp_path / "ct")
    arguments = (series, "--weights", weights, "--out", tmp_path / "out", "--dicom-seg", "--rtstruct")
    assert _segment(*arguments) == 0
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == ["mask.nii.gz", "result.json", "mask.dcm", "rtstruct.dcm", "summary.csv"]
    folder = tmp_path / "out" / "ct"
    mask = read_mask(folder / "mask.nii.gz").labels
    seg = pydicom.dcmread(folder / "mask.dcm")
    assert mask.all()
    assert seg.pixel_array.shape == (6, 18, 20)
    assert seg.pixel_array.all()
    sha256 = json.loads((folder / "result.json").read_text())["weights"]["sha256"]
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmParameters == f"weights={sha256}"
    assert pydicom.dcmread(folder / "rtstruct.dcm").StructureSetROISequence[0].ROIName == "pancreas"

    before = (folder / "mask.dcm").read_bytes()
    (folder / "mask.dcm").unlink()
    assert _segment(*arguments, "--resume") == 0
    assert (folder / "mask.dcm").read_bytes() == before
    assert _segment(*arguments[:-2]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["mask.nii.gz", "result.json"]


@pytest.mark.parametrize("option", ["--dicom-seg", "--rtstruct"])
def test_what_is_no_dicom_is_refused_before_it_is_segmented(
    weights, write_nifti, tmp_path, caplog, monkeypatch, option: str
) -> None:
    monkeypatch.setattr(Segmenter, "segment", lambda *_, **__: pytest.fail("segmented"))
    path = write_nifti(np.random.default_rng(0).integers(-900, 300, (20, 18, 12)).astype(np.int16))
    assert _segment(path, "--weights", weights, "--out", tmp_path / "out", option) == 3
    assert "[input.no_series]" in caplog.text
    assert json.loads((tmp_path / "out" / "ct" / "result.json").read_text())["verdict"] == "refused"


def test_a_series_without_uids_is_refused_before_it_is_segmented(
    weights, images, tmp_path, caplog, monkeypatch
) -> None:
    del images[2].SOPInstanceUID
    arguments = (_saved(images, tmp_path / "ct"), "--weights", weights, "--out", tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "segment", lambda *_, **__: pytest.fail("segmented"))
        assert _segment(*arguments, "--rtstruct") == 3
    assert "SOPInstanceUID (1 of 6)" in caplog.text
    assert _segment(*arguments) == 0


def test_a_scan_that_was_sheared_back_is_refused_before_it_is_segmented(
    weights, images, tmp_path, caplog, monkeypatch
) -> None:
    """Its voxels are no longer those of the series."""
    for k, image in enumerate(images):
        image.ImagePositionPatient = [0, k, 3 * k]
    arguments = (_saved(images, tmp_path / "ct"), "--weights", weights, "--out", tmp_path / "out", "--allow-tilt")
    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "segment", lambda *_, **__: pytest.fail("segmented"))
        assert _segment(*arguments, "--dicom-seg") == 3
    assert "[input.affine_sheared]" in caplog.text
    assert _segment(*arguments) == 0
