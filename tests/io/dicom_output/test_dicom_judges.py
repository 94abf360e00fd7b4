"""Our DICOM output as other people's programs see it. `tests/judges.sh` installs these."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import read_mask
from pancreas_seg.io.dicom import read_series
from pancreas_seg.io.dicom_output import write_dicom_seg, write_rtstruct

NAMES = {1: "pancreas", 2: "tumour"}

pytestmark = pytest.mark.slow


def _program(name: str) -> str:
    beside_python = Path(sys.executable).with_name(name)
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: run tests/judges.sh")
    return found


def _run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, timeout=300)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def _errors_by_dciodvfy(path: Path) -> list[str]:
    done = subprocess.run(
        [_program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    said = (done.stdout + done.stderr).splitlines()
    assert {"Segmentation", "RTStructureSet"} & set(said), said  # it knows what it looks at
    return [line for line in said if line.startswith(("Error", "Abort"))]


def _mask(array: NDArray[np.int16]) -> NDArray[np.uint8]:
    mask = (array > 100).astype(np.uint8)
    mask[3:5, 2:4, 2] = 0
    mask[6:9, 4:6, 4] = 2
    return mask


def _on_grid(image: sitk.Image, shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where an image's voxels that are not 0 lie on a grid, each exactly on one of its voxels."""
    out = np.zeros(shape, bool)
    at = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1]
    turn = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    ras = (at @ turn.T + image.GetOrigin()) * (-1, -1, 1)
    index = (ras - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert np.abs(index - np.rint(index)).max(initial=0) < 0.01
    out[tuple(np.rint(index).astype(int).T)] = True
    return out


def _segments_by_dcmqi(path: Path, folder: Path) -> dict[str, sitk.Image]:
    folder.mkdir()
    program = _program("segimage2itkimage")
    _run(program, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd")
    facts = json.loads((folder / "meta.json").read_text())
    by_label = {segment["SegmentLabel"]: segment["labelID"] for (segment,) in facts["segmentAttributes"]}
    return {label: sitk.ReadImage(str(folder / f"{number}.nrrd")) for label, number in by_label.items()}


def test_all_orientations(tmp_path, oblique_volume, reorient, write_series) -> None:
    """dciodvfy finds no error; dcmqi reads the SEG back voxel by voxel."""
    array, affine = oblique_volume
    mask, geometry = _mask(array), Geometry(array.shape, affine)
    headers = read_series(write_series(tmp_path / "ct", *reorient(array, affine))).headers()
    seg = write_dicom_seg(tmp_path / "seg.dcm", mask, geometry, headers, NAMES)
    rtstruct = write_rtstruct(tmp_path / "rtstruct.dcm", mask, geometry, headers, NAMES)
    assert _errors_by_dciodvfy(seg) == []
    assert _errors_by_dciodvfy(rtstruct) == []
    segments = _segments_by_dcmqi(seg, tmp_path / "dcmqi")
    assert set(segments) == {"pancreas", "tumour"}
    for value, name in NAMES.items():
        np.testing.assert_array_equal(_on_grid(segments[name], array.shape, affine), mask == value)


@pytest.mark.parametrize("made", ["automatic", "semiautomatic", "manual"])
@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
def test_empty_masks_and_other_names_are_valid(tmp_path, oblique_volume, write_series, write: Callable, made) -> None:
    array, affine = oblique_volume
    grid = Geometry(array.shape, affine)
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    names = {1: "pancreas", 2: "tumour", 3: "kidney_left", 4: "something else"}
    more = {"made": made, "weights_sha256": "0123456789abcdef" * 4}
    assert _errors_by_dciodvfy(write(tmp_path / "a.dcm", 0 * _mask(array), grid, headers, names, **more)) == []
    assert _errors_by_dciodvfy(write(tmp_path / "b.dcm", _mask(array), grid, headers, names, **more)) == []


def test_dcmqi_reads_an_empty_seg(tmp_path, oblique_volume, write_series) -> None:
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    grid = Geometry(array.shape, affine)
    path = write_dicom_seg(tmp_path / "a.dcm", np.zeros(array.shape, np.uint8), grid, headers, {1: "pancreas"})
    assert not _on_grid(_segments_by_dcmqi(path, tmp_path / "dcmqi")["pancreas"], array.shape, affine).any()


def _rasterised_by_plastimatch(rtstruct: Path, series: Path, folder: Path) -> sitk.Image:
    program = _program("plastimatch")
    _run(program, "convert", "--input", rtstruct, "--referenced-ct", series, "--output-prefix", folder,
         "--prefix-format", "nrrd")  # fmt: skip
    return sitk.ReadImage(str(folder / "pancreas.nrrd"))


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_plastimatch_rasterises_the_contours(tmp_path, write_series, flip) -> None:
    """Axial slices (it reads no others), pixels that are not square, holes, and an island in a hole."""
    at = np.moveaxis(np.indices((60, 50, 9)), 0, -1)
    distance = np.linalg.norm((at - (30, 22, 4)) * (1, 1.3, 3), axis=-1)
    mask = ((distance < 18) & ~((distance > 6) & (distance < 11))).astype(np.uint8)
    mask[48:, 40:, 2:5] = 1
    # CTs on disk run to the patient's left and back.
    affine = np.diag([-0.9, -0.7, 2.5, 1]) @ np.diag([*flip, 1])
    series = write_series(tmp_path / "ct", np.where(mask, 100, -50).astype(np.int16), affine)
    headers = read_series(series).headers()
    path = write_rtstruct(tmp_path / "rt.dcm", mask, Geometry(mask.shape, affine), headers, {1: "pancreas"})
    found = _on_grid(_rasterised_by_plastimatch(path, series, tmp_path / "found"), mask.shape, affine)
    assert _dice(found, mask > 0) >= 0.98


@pytest.fixture
def orthanc(tmp_path) -> Iterator[tuple[int, int]]:
    """A running Orthanc with an empty store: its ports for DICOM and HTTP."""
    program = _program("Orthanc")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    settings = {
        "StorageDirectory": str(tmp_path / "store"),
        "IndexDirectory": str(tmp_path / "store"),
        "DicomPort": ports[0],
        "HttpPort": ports[1],
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowGet": True,
        "Plugins": [],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("w") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
        try:
            for _ in range(100):
                try:
                    _get(ports[1], "system")
                    break
                except OSError:
                    assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                    time.sleep(0.2)
            yield ports[0], ports[1]
        finally:
            process.terminate()
            process.wait(30)


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
        return bytes(answer.read())


def _stored_and_back(folder: Path, ports: tuple[int, int], tmp_path: Path) -> dict[str, int]:
    """Send a folder's files, take them back over REST and by C-GET, compare; how many of each modality came back."""
    dicom, http = ports
    sent = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, sorted(folder.iterdir()))}
    _run(_program("storescu"), "-R", "-aec", "ORTHANC", "127.0.0.1", dicom, "+sd", folder)
    counts: dict[str, int] = {}
    for name in json.loads(_get(http, "instances")):
        back = pydicom.dcmread(BytesIO(_get(http, f"instances/{name}/file")))
        assert back == sent[back.SOPInstanceUID]
        counts[back.Modality] = counts.get(back.Modality, 0) + 1
    assert sum(counts.values()) == len(sent)
    got = tmp_path / "got"
    got.mkdir()
    study = next(iter(sent.values())).StudyInstanceUID
    _run(_program("getscu"), "-S", "-aec", "ORTHANC", "-k", "0008,0052=STUDY", "-k", f"0020,000d={study}", "-od", got,
         "127.0.0.1", dicom)  # fmt: skip
    again = [pydicom.dcmread(path) for path in got.iterdir()]
    assert len(again) == len(sent)
    assert all(ds == sent[ds.SOPInstanceUID] for ds in again)
    return counts


def test_orthanc_keeps_seg_rtstruct_and_ct(tmp_path, oblique_volume, write_series, orthanc) -> None:
    array, affine = oblique_volume
    folder = write_series(tmp_path / "ct", array, affine)
    headers, grid = read_series(folder).headers(), Geometry(array.shape, affine)
    write_dicom_seg(folder / "seg.dcm", _mask(array), grid, headers, NAMES)
    write_rtstruct(folder / "rtstruct.dcm", _mask(array), grid, headers, NAMES)
    write_dicom_seg(folder / "empty.dcm", 0 * _mask(array), grid, headers, NAMES)
    assert _stored_and_back(folder, orthanc, tmp_path) == {"CT": 6, "SEG": 2, "RTSTRUCT": 1}


@pytest.mark.real_data
def test_a_real_series_before_all_judges(tmp_path, real_data, orthanc) -> None:
    """79 slices of a planning CT with a machine's mask of the pancreas."""
    series = real_data / "cb001" / "dicom"
    mask = read_mask(real_data / "cb001" / "pancreas_machine.nii.gz")
    truth, affine = mask.labels > 0, mask.geometry.affine
    headers = read_series(series).headers()
    folder = tmp_path / "all"
    shutil.copytree(series, folder)
    seg = write_dicom_seg(folder / "seg.dcm", mask.labels, mask.geometry, headers, {1: "pancreas"})
    rtstruct = write_rtstruct(folder / "rtstruct.dcm", mask.labels, mask.geometry, headers, {1: "pancreas"})
    assert _errors_by_dciodvfy(seg) == _errors_by_dciodvfy(rtstruct) == []
    by_dcmqi = _on_grid(_segments_by_dcmqi(seg, tmp_path / "dcmqi")["pancreas"], truth.shape, affine)
    np.testing.assert_array_equal(by_dcmqi, truth)
    by_plastimatch = _on_grid(_rasterised_by_plastimatch(rtstruct, series, tmp_path / "found"), truth.shape, affine)
    assert _dice(by_plastimatch, truth) >= 0.98
    assert _stored_and_back(folder, orthanc, tmp_path) == {"CT": 79, "SEG": 1, "RTSTRUCT": 1}


@pytest.mark.real_data
@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
def test_a_series_without_uids_says_what_is_missing(tmp_path, real_data, write: Callable) -> None:
    mask = read_mask(real_data / "totalseg_dicom" / "organs_machine.nii.gz")
    headers = read_series(real_data / "totalseg_dicom" / "dicom").headers()
    with pytest.raises(InputError) as caught:
        write(tmp_path / "a.dcm", mask.labels, mask.geometry, headers, {7: "pancreas"})
    assert caught.value.code == "input.dicom_incomplete"
    for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert f"{name} (20 of 20)" in caught.value.found
