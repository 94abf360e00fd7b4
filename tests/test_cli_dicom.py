"""DICOM output of `segment`, from the reading of a series to the files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch

from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.geometry import Geometry
from pancreas_seg.inference import cohort
from pancreas_seg.io import Scan, read_mask
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import save_weights

SHAPE, AFFINE = (20, 18, 6), np.diag([-2.0, -1.5, 3.0, 1.0])


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
    """Headers of a series that lies where the scan does."""
    headers = []
    for k in range(SHAPE[2]):
        header = pydicom.Dataset()
        header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.CTImageStorage, f"1.2.3.{k + 1}"
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = "1.2.4", "1.2.3", "1.2.5"
        header.Modality, header.Columns, header.Rows = "CT", SHAPE[0], SHAPE[1]
        header.PixelSpacing, header.ImageOrientationPatient = [1.5, 2.0], [1, 0, 0, 0, 1, 0]
        header.ImagePositionPatient = [0, 0, 3 * k]
        headers.append(header)
    return headers


@pytest.fixture
def series(tmp_path, images, monkeypatch) -> Path:
    """A file that is read as the CT of these images."""
    path = tmp_path / "ct.nii"
    path.write_bytes(b"read by read_ct below")
    image = np.random.default_rng(0).integers(-900, 300, SHAPE).astype(np.float32)

    def read_ct(path: Path) -> Scan:
        return Scan(image, Geometry(SHAPE, AFFINE), path, "0" * 64, series=SimpleNamespace(headers=lambda: images))

    monkeypatch.setattr(cohort, "read_ct", read_ct)
    return path


def _segment(*arguments: object) -> int:
    return main(["segment", *map(str, arguments)])


def test_segment_writes_dicom_beside_the_mask(weights, series, tmp_path, capsys) -> None:
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
    monkeypatch.setattr("pancreas_seg.inference.segmenter.Segmenter.segment", lambda *_, **__: pytest.fail("segmented"))
    path = write_nifti(np.random.default_rng(0).integers(-900, 300, (20, 18, 12)).astype(np.int16))
    assert _segment(path, "--weights", weights, "--out", tmp_path / "out", option) == 3
    assert "[input.no_series]" in caplog.text
    assert json.loads((tmp_path / "out" / "ct" / "result.json").read_text())["verdict"] == "refused"


def test_a_series_without_uids_is_refused_before_it_is_segmented(weights, series, images, tmp_path, caplog) -> None:
    del images[2].SOPInstanceUID
    arguments = (series, "--weights", weights, "--out", tmp_path / "out")
    assert _segment(*arguments, "--rtstruct") == 3
    assert "SOPInstanceUID (1 of 6)" in caplog.text
    assert _segment(*arguments) == 0


def test_a_scan_that_was_resampled_is_refused(weights, series, images, tmp_path, caplog) -> None:
    for image in images:
        image.ImagePositionPatient = [5, 0, image.ImagePositionPatient[2]]
    assert _segment(series, "--weights", weights, "--out", tmp_path / "out", "--dicom-seg") == 3
    assert "[input.mask_off_series]" in caplog.text
