from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from pancreas_seg.cli import main
from pancreas_seg.errors import ConfigError, InputError
from pancreas_seg.evaluation.metrics import dice
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import write_mask
from pancreas_seg.io.dicom import read_series
from pancreas_seg.io.dicom_output import write_dicom_seg, write_rtstruct
from pancreas_seg.io.dicom_output.contours import outlines

NAMES = {1: "pancreas", 2: "tumour"}
WRITERS = [pytest.param(write_dicom_seg, id="seg"), pytest.param(write_rtstruct, id="rtstruct")]


def _mask(array: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Two labels without any symmetry, one of them with a hole."""
    mask = (array > 100).astype(np.uint8)
    mask[3:5, 2:4, 2] = 0
    mask[6:9, 4:6, 4] = 2
    mask[0, 7, 5] = 1
    return mask


def _as_they_are(folder: Path) -> list[Dataset]:
    """Headers of a series that `read_series` would refuse, in the order of their files' names."""
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]


def _to_index(points_mm: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """DICOM's LPS millimetres as voxel indices."""
    ras = np.atleast_2d(points_mm) * (-1, -1, 1)
    return (ras - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T


def _seg_on_grid(seg: Dataset, shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A SEG's voxels on a grid, each by the place that its frame's own attributes give it."""
    out = np.zeros(shape, np.uint8)
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    row_mm, column_mm = shared.PixelMeasuresSequence[0].PixelSpacing
    frames = seg.pixel_array.reshape(seg.NumberOfFrames, seg.Rows, seg.Columns)
    for frame, facts in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        r, c = np.nonzero(frame)
        corner = np.array(facts.PlanePositionSequence[0].ImagePositionPatient, float)
        index = _to_index(corner + c[:, None] * column_mm * row + r[:, None] * row_mm * column, affine)
        assert np.abs(index - np.rint(index)).max(initial=0) < 1e-4
        where = tuple(np.rint(index).astype(int).T)
        assert not out[where].any()
        out[where] = facts.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return out


def _crossings(polygon: NDArray[np.float64], points: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """How often a ray from each point to the right crosses a polygon: in all, and upwards less downwards."""
    count, winding = np.zeros(len(points), int), np.zeros(len(points), int)
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        spans = (a[1] <= points[:, 1]) != (b[1] <= points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            x = a[0] + (points[:, 1] - a[1]) * (b[0] - a[0]) / (b[1] - a[1])
        hit = spans & (x > points[:, 0])
        count += hit
        winding += hit * (1 if b[1] > a[1] else -1)
    return count, winding


def _inside(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points of a grid lie in a polygon, by the even-odd rule."""
    points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 2)
    return (_crossings(polygon, points)[0] % 2 == 1).reshape(shape)


def _rtstruct_on_grid(rtstruct: Dataset, shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Contours rasterised at voxels' centres, those of a plane combined by XOR."""
    out = np.zeros(shape, np.uint8)
    for roi in rtstruct.ROIContourSequence:
        filled = np.zeros(shape, bool)
        for contour in roi.get("ContourSequence", []):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert 3 * contour.NumberOfContourPoints == len(contour.ContourData)
            index = _to_index(np.reshape(contour.ContourData, (-1, 3)).astype(float), affine)
            axis = int(np.argmin(np.ptp(index, axis=0)))
            plane = round(float(index[0, axis]))
            assert np.abs(index[:, axis] - plane).max() < 1e-3
            others = [a for a in range(3) if a != axis]
            where: list[int | slice] = [slice(None)] * 3
            where[axis] = plane
            filled[tuple(where)] ^= _inside(index[:, others], (shape[others[0]], shape[others[1]]))
        out[filled] = roi.ReferencedROINumber
    return out


def test_series_in_all_orientations(tmp_path, oblique_volume, reorient, write_series) -> None:
    """The mask stays as it is; the series' columns, rows and slices run in each of the 48 ways, names shuffled."""
    array, affine = oblique_volume
    mask, geometry = _mask(array), Geometry(array.shape, affine)
    headers = read_series(write_series(tmp_path / "ct", *reorient(array, affine))).headers()
    write_dicom_seg(tmp_path / "seg.dcm", mask, geometry, headers, NAMES)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(_seg_on_grid(seg, array.shape, affine), mask)
    write_rtstruct(tmp_path / "rtstruct.dcm", mask, geometry, headers, NAMES)
    back = _rtstruct_on_grid(pydicom.dcmread(tmp_path / "rtstruct.dcm"), array.shape, affine)
    for value in NAMES:
        assert dice(back == value, mask == value) >= 0.98
    np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize("write", WRITERS)
def test_masks_in_all_orientations_give_the_same_bytes(tmp_path, oblique_volume, reorient, write_series, write) -> None:
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    mask = _mask(array)
    write(tmp_path / "a.dcm", mask, Geometry(array.shape, affine), headers, NAMES)
    turned, turned_affine = reorient(mask, affine)
    write(tmp_path / "b.dcm", turned.astype(np.uint16), Geometry(turned.shape, turned_affine), headers[::-1], NAMES)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_highdicom_reads_the_volume_and_the_frames_refer_to_their_images(tmp_path, oblique_volume, write_series):
    hd = pytest.importorskip("highdicom")
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    mask = _mask(array)
    path = write_dicom_seg(tmp_path / "seg.dcm", mask, Geometry(array.shape, affine), headers, NAMES)
    seg = hd.seg.segread(path)
    volume = seg.get_volume(combine_segments=True)
    found = np.zeros(mask.shape, np.uint8)
    at = np.argwhere(volume.array)
    lps = at @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    found[tuple(np.rint(_to_index(lps, affine)).astype(int).T)] = volume.array[tuple(at.T)]
    np.testing.assert_array_equal(found, mask)
    by_position = {tuple(h.ImagePositionPatient): h.SOPInstanceUID for h in headers}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert (
            source.ReferencedSOPInstanceUID == by_position[tuple(frame.PlanePositionSequence[0].ImagePositionPatient)]
        )


def test_what_a_seg_says(tmp_path, oblique_volume, write_series) -> None:
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    names = {1: "pancreas", 2: "tumour", 3: "kidney_left", 4: "Gang\\ ä"}
    grid = Geometry(array.shape, affine)
    weights = "0123456789abcdef" * 4
    path = write_dicom_seg(tmp_path / "seg.dcm", _mask(array), grid, headers, names, weights_sha256=weights)
    seg = pydicom.dcmread(path)
    assert (seg.SegmentationType, seg.Modality, seg.BitsAllocated) == ("BINARY", "SEG", 1)
    assert (str(seg.PatientName), seg.PatientID, seg.AccessionNumber) == ("Müller^Zoë", "P1", "A1")
    assert (seg.ContentDate, seg.ContentTime) == ("20200102", "030506.5")
    codes = []
    for segment in seg.SegmentSequence:
        category, kind = segment.SegmentedPropertyCategoryCodeSequence[0], segment.SegmentedPropertyTypeCodeSequence[0]
        codes.append((segment.SegmentNumber, segment.SegmentLabel, category.CodeValue, kind.CodeValue))
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "pancreas-seg")
        assert weights in algorithm.AlgorithmParameters
    assert codes == [
        (1, "pancreas", "91723000", "15776009"),
        (2, "tumour", "49755003", "108369006"),
        (3, "kidney_left", "91723000", "64033007"),
        (4, "Gang/ ?", "85756007", "85756007"),
    ]
    side = seg.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeMeaning == "Left"
    assert seg.SegmentSequence[1].AnatomicRegionSequence[0].CodeValue == "15776009"
    # Slices are reconstructed thicker than they are apart; a mask's voxel ends where the next begins.
    assert float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness) == pytest.approx(2.6)


def test_what_an_rtstruct_says(tmp_path, oblique_volume, write_series) -> None:
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    grid = Geometry(array.shape, affine)
    path = write_rtstruct(tmp_path / "rt.dcm", _mask(array), grid, headers, NAMES, made="semiautomatic")
    rt = pydicom.dcmread(path)
    assert [r.ROIName for r in rt.StructureSetROISequence] == ["pancreas", "tumour"]
    assert {r.ROIGenerationAlgorithm for r in rt.StructureSetROISequence} == {"SEMIAUTOMATIC"}
    assert [o.RTROIInterpretedType for o in rt.RTROIObservationsSequence] == ["ORGAN", ""]
    assert str(rt.PatientName) == "Müller^Zoë"
    series = rt.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert len(series.ContourImageSequence) == array.shape[2]
    places = {h.SOPInstanceUID: np.array(h.ImagePositionPatient, float) for h in headers}
    normal = np.cross(*np.reshape(headers[0].ImageOrientationPatient, (2, 3)).astype(float))
    for roi in rt.ROIContourSequence:
        assert len(roi.ROIDisplayColor) == 3
        for contour in roi.ContourSequence:
            corner = places[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert np.abs((np.reshape(contour.ContourData, (-1, 3)).astype(float) - corner) @ normal).max() < 1e-3


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Zoë"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (None, "Doe^Jane"),
    ],
)
@pytest.mark.parametrize("write", WRITERS)
def test_names_in_any_character_set(tmp_path, oblique_volume, write_series, write, character_set, name) -> None:
    def named(k: int, image: Dataset) -> None:
        image.SpecificCharacterSet, image.PatientName = character_set, name
        if character_set is None:
            del image.SpecificCharacterSet

    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine, change=named)).headers()
    out = pydicom.dcmread(write(tmp_path / "a.dcm", _mask(array), Geometry(array.shape, affine), headers, NAMES))
    assert str(out.PatientName) == name
    assert out.get("SpecificCharacterSet") == character_set


def test_empty_masks(tmp_path, oblique_volume, write_series) -> None:
    """A SEG with one frame without a voxel, an ROI without contours: the finding that nothing was found."""
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    empty, grid = np.zeros(array.shape, np.uint8), Geometry(array.shape, affine)
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", empty, grid, headers, NAMES))
    assert (seg.NumberOfFrames, len(seg.SegmentSequence)) == (2, 2)
    assert not seg.pixel_array.any()
    rt = pydicom.dcmread(write_rtstruct(tmp_path / "rt.dcm", empty, grid, headers, NAMES))
    assert [roi.get("ContourSequence") for roi in rt.ROIContourSequence] == [None, None]
    assert len(rt.StructureSetROISequence) == len(rt.RTROIObservationsSequence) == 2


def test_values_that_are_not_numbered_from_1(tmp_path, oblique_volume, write_series) -> None:
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    mask, grid = _mask(array), Geometry(array.shape, affine)
    plain = write_dicom_seg(tmp_path / "a.dcm", mask, grid, headers, NAMES)
    spread = np.array([0, 300, 7])[mask]
    other = pydicom.dcmread(write_dicom_seg(tmp_path / "b.dcm", spread, grid, headers, {7: "tumour", 300: "pancreas"}))
    assert [segment.SegmentLabel for segment in other.SegmentSequence] == ["tumour", "pancreas"]
    swapped = np.array([0, 2, 1])[_seg_on_grid(other, array.shape, affine)]
    np.testing.assert_array_equal(swapped, _seg_on_grid(pydicom.dcmread(plain), array.shape, affine))


@pytest.mark.parametrize("write", WRITERS)
def test_headers_stay_as_they_are(tmp_path, oblique_volume, write_series, write) -> None:
    array, affine = oblique_volume
    folder = write_series(tmp_path / "ct", array, affine, change=_without("PatientSex", "ContentDate"))
    headers, before = read_series(folder).headers(), read_series(folder).headers()
    with disable_value_validation():
        for header in (*headers, *before):
            header.PatientSex = "unknown"
    write(tmp_path / "a.dcm", _mask(array), Geometry(array.shape, affine), headers, NAMES)
    assert headers == before
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientSex == ""


def _multi_frame(headers: list[Dataset], order: list[int]) -> Dataset:
    """The images of a series as frames of one, in another order, as an enhanced CT has them."""
    image = deepcopy(headers[0])
    image.SOPClassUID, image.SOPInstanceUID = EnhancedCTImageStorage, "1.2.9"
    image.NumberOfFrames = len(headers)
    shared, image.PerFrameFunctionalGroupsSequence = Dataset(), []
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = image.ImageOrientationPatient, image.PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    for k in order:
        groups, position = Dataset(), Dataset()
        position.ImagePositionPatient = headers[k].ImagePositionPatient
        groups.PlanePositionSequence = [position]
        image.PerFrameFunctionalGroupsSequence.append(groups)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(image, name)
    return image


def test_frames_of_a_multi_frame_image_are_referred_to_by_number(tmp_path, oblique_volume, write_series) -> None:
    array, affine = oblique_volume
    order = [3, 0, 5, 1, 4, 2]
    images = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    headers = [_multi_frame(images, order)]
    mask, grid = _mask(array), Geometry(array.shape, affine)
    number = {tuple(images[k].ImagePositionPatient): n for n, k in enumerate(order, start=1)}
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "seg.dcm", mask, grid, headers, NAMES))
    np.testing.assert_array_equal(_seg_on_grid(seg, array.shape, affine), mask)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (EnhancedCTImageStorage, "1.2.9")
        assert source.ReferencedFrameNumber == number[tuple(frame.PlanePositionSequence[0].ImagePositionPatient)]
    (instance,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == "1.2.9"
    rt = pydicom.dcmread(write_rtstruct(tmp_path / "rt.dcm", mask, grid, headers, NAMES))
    np.testing.assert_array_equal(_rtstruct_on_grid(rt, array.shape, affine), mask)
    for contour in rt.ROIContourSequence[0].ContourSequence:
        image = contour.ContourImageSequence[0]
        at = images[order[image.ReferencedFrameNumber - 1]]
        normal = np.cross(*np.reshape(at.ImageOrientationPatient, (2, 3)).astype(float))
        first = np.array(contour.ContourData[:3], float)
        assert abs((first - np.array(at.ImagePositionPatient, float)) @ normal) < 1e-3


@pytest.mark.parametrize("write", WRITERS)
def test_other_masks_and_weights_get_other_uids(tmp_path, oblique_volume, write_series, write) -> None:
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    mask, grid = _mask(array), Geometry(array.shape, affine)
    edited = mask.copy()
    edited[5, 3, 2] = 0
    calls = [(mask, {}), (edited, {}), (mask, {"weights_sha256": "ab"}), (mask, {"made": "manual"})]
    written = [pydicom.dcmread(write(tmp_path / "a.dcm", m, grid, headers, NAMES, **more)) for m, more in calls]
    uids = [uid for ds in written for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID)]
    assert len(set(uids)) == 8
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


@pytest.mark.parametrize("write", WRITERS)
def test_missing_type_2_attributes_are_empty_and_no_name_is_logged(
    tmp_path, oblique_volume, write_series, write, caplog, capsys
) -> None:
    def bare(k: int, image: Dataset) -> None:
        for name in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "ContentDate"):
            delattr(image, name)
        del image.PatientBirthDate, image.PositionReferenceIndicator, image.SliceThickness
        image.PatientName, image.PatientSex = "Doe Jane 1950", ""

    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine, change=bare)).headers()
    out = pydicom.dcmread(write(tmp_path / "a.dcm", _mask(array), Geometry(array.shape, affine), headers, NAMES))
    for name in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName", "PatientBirthDate"):
        assert out[name].value in ("", None)
    assert out.get("ContentDate", out.get("StructureSetDate")) == "19700101"
    assert str(out.PatientName) == "Doe Jane 1950"
    said = caplog.text + "".join(capsys.readouterr())
    assert "Doe" not in said


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_values_of_a_wrong_form_are_not_quoted(tmp_path, oblique_volume, write_series, caplog, capsys, kind) -> None:
    """pydicom warns of them with the value."""

    def odd(k: int, image: Dataset) -> None:
        image.PatientBirthDate, image.PatientAge, image.StudyDate = "Doe 1950", "Doe 70", "Doe 2020"
        image.PatientSex, image.IssuerOfPatientID, image.ContentDate = "doe", "Doe " * 40, "Doe"

    array, affine = oblique_volume
    with disable_value_validation():
        series = write_series(tmp_path / "ct", array, affine, change=odd)
    mask = write_mask(tmp_path / "a.nii.gz", _mask(array) > 0, Geometry(array.shape, affine))
    assert main(["export", str(mask), "--format", kind, "--series", str(series), "--out", str(tmp_path / "a.dcm")]) == 0
    assert "doe" not in (caplog.text + "".join(capsys.readouterr())).lower()


def _without(*names: str):
    return lambda k, image: [setattr(image, name, "") for name in names]


def _shifted(mm: float, at: int = 3):
    def change(k: int, image: Dataset) -> None:
        if k == at:
            image.ImagePositionPatient = [*image.ImagePositionPatient[:2], float(image.ImagePositionPatient[2]) + mm]

    return change


def _sheared(k: int, image: Dataset) -> None:
    x, y, z = image.ImagePositionPatient
    image.ImagePositionPatient = [x, float(y) + k, z]


def _at_3(name: str, value: object):
    return lambda k, image: setattr(image, name, value) if k == 3 else None


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (_without("SOPInstanceUID", "StudyInstanceUID"), "dicom_incomplete", "SOPInstanceUID (6 of 6), StudyInstance"),
        (_without("FrameOfReferenceUID"), "dicom_incomplete", "FrameOfReferenceUID (6 of 6)"),
        (_at_3("ImagePositionPatient", None), "dicom_incomplete", "ImagePositionPatient (1 of 6)"),
        (_at_3("PixelSpacing", None), "dicom_incomplete", "PixelSpacing (1 of 6)"),
        (_at_3("PixelSpacing", [0.7]), "dicom_incomplete", "PixelSpacing (1 of 6)"),
        (_at_3("SOPInstanceUID", "1.2.3.4.5.1"), "dicom_duplicate", "6 images with 5 different"),
        (_at_3("StudyInstanceUID", "1.9"), "dicom_mixed", "StudyInstanceUID differs"),
        (_at_3("Rows", 7), "dicom_mixed", "Rows differs"),
        (_at_3("PixelSpacing", [1, 1]), "dicom_mixed", "PixelSpacing differs"),
        (_at_3("ImageOrientationPatient", [0, 1, 0, 1, 0, 0]), "dicom_mixed", "ImageOrientationPatient differs"),
        (_shifted(1.0), "dicom_spacing", "mm apart"),
        (_shifted(-2.6), "dicom_spacing", "mm apart"),
        (_sheared, "affine_sheared", "right angle"),
    ],
)
@pytest.mark.parametrize("write", WRITERS)
def test_unfit_series_are_refused(tmp_path, write_series, write, change, code, said) -> None:
    affine = np.diag([-0.8, -0.7, 2.6, 1])
    mask = np.ones((5, 4, 6), np.uint8)
    headers = _as_they_are(write_series(tmp_path / "ct", mask.astype(np.int16), affine, change=change))
    with pytest.raises(InputError) as caught:
        write(tmp_path / "a.dcm", mask, Geometry(mask.shape, affine), headers, NAMES)
    assert caught.value.code == f"input.{code}"
    assert said in str(caught.value)
    assert not (tmp_path / "a.dcm").exists()


def test_no_images_and_single_images(tmp_path, write_series) -> None:
    affine = np.diag([-0.8, -0.7, 2.6, 1])
    mask = np.ones((5, 4, 1), np.uint8)
    grid = Geometry(mask.shape, affine)
    with pytest.raises(InputError, match="no images"):
        write_rtstruct(tmp_path / "a.dcm", mask, grid, [], NAMES)
    headers = _as_they_are(write_series(tmp_path / "ct", mask.astype(np.int16), affine))
    seg = pydicom.dcmread(write_dicom_seg(tmp_path / "a.dcm", mask, grid, headers, {1: "pancreas"}))
    assert seg.NumberOfFrames == 1
    del headers[0].SliceThickness
    with pytest.raises(InputError, match="without SliceThickness"):
        write_rtstruct(tmp_path / "b.dcm", mask, grid, headers, NAMES)


@pytest.mark.parametrize(
    "affine",
    [
        np.array([[-0.8, 0, 0, 0.3], [0, -0.7, 0, 0], [0, 0, 2.6, 0], [0, 0, 0, 1]]),
        np.diag([-0.8, -0.7, 2.7, 1]),
        np.diag([-0.7, -0.8, 2.6, 1]),
        np.diag([-0.8, 0.7, 2.6, 1]),
    ],
    ids=["shifted", "spaced", "swapped", "flipped"],
)
@pytest.mark.parametrize("write", WRITERS)
def test_masks_off_the_series_are_refused(tmp_path, write_series, write, affine) -> None:
    mask = np.ones((5, 4, 6), np.uint8)
    headers = read_series(write_series(tmp_path / "ct", mask.astype(np.int16), np.diag([-0.8, -0.7, 2.6, 1]))).headers()
    with pytest.raises(InputError, match="mask_off_series"):
        write(tmp_path / "a.dcm", mask, Geometry(mask.shape, affine), headers, NAMES)
    cropped = mask[:, :, :5]
    with pytest.raises(InputError, match="5 x 4 x 5 voxels"):
        write(tmp_path / "a.dcm", cropped, Geometry(cropped.shape, np.diag([-0.8, -0.7, 2.6, 1])), headers, NAMES)


@pytest.mark.parametrize("write", WRITERS)
def test_values_without_a_name_are_refused(tmp_path, oblique_volume, write_series, write) -> None:
    array, affine = oblique_volume
    headers = read_series(write_series(tmp_path / "ct", array, affine)).headers()
    with pytest.raises(InputError, match="without a name: 2; expected 0 and those named: 1 pancreas"):
        write(tmp_path / "a.dcm", _mask(array), Geometry(array.shape, affine), headers, {0: "body", 1: "pancreas"})


def test_outlines_enclose_the_centres_under_every_fill_rule() -> None:
    """Random masks, full of holes, islands in holes and pixels that touch at corners."""
    for seed in range(120):
        rng = np.random.default_rng(seed)
        mask = rng.random((9 + seed % 5, 13)) < rng.uniform(0.2, 0.9)
        points = np.argwhere(np.ones(mask.shape, bool))[:, ::-1]
        odd, union, wound = (np.zeros(mask.size, int) for _ in range(3))
        for polygon in outlines(mask):
            count, winding = _crossings(polygon, points)
            odd ^= count % 2
            union |= count % 2
            wound += winding
        np.testing.assert_array_equal(odd.reshape(mask.shape), mask)
        np.testing.assert_array_equal(union.reshape(mask.shape), mask)
        np.testing.assert_array_equal(wound.reshape(mask.shape) != 0, mask)


def test_outlines_of_known_shapes() -> None:
    assert outlines(np.zeros((4, 4), bool)) == []
    one = np.zeros((4, 5), bool)
    one[2, 3] = True
    (diamond,) = outlines(one)
    assert {tuple(p) for p in diamond} == {(2.5, 2), (3.5, 2), (3, 1.5), (3, 2.5)}
    (box,) = outlines(np.ones((3, 4), bool))
    assert len(box) == 8  # four straight sides, four cut corners
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    (keyhole,) = outlines(ring)
    assert len(keyhole) == 8 + 4 + 3  # and the hole's four corners, its first again, both ends of the channel


def test_a_contour_may_be_longer_than_a_short_value_field(tmp_path, write_series) -> None:
    """A comb of 5,000 corners: 100 kB of numbers, more than Explicit VR could hold in ContourData."""
    mask = np.zeros((1250, 12, 1), np.uint8)
    mask[:, 0] = 1
    mask[::2] = 1
    affine = np.diag([-0.5, -0.5, 2, 1.0])
    headers = _as_they_are(write_series(tmp_path / "ct", mask.astype(np.int16), affine))
    grid = Geometry(mask.shape, affine)
    rt = pydicom.dcmread(write_rtstruct(tmp_path / "rt.dcm", mask, grid, headers, NAMES))
    (contour,) = rt.ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints > 3000
    np.testing.assert_array_equal(_rtstruct_on_grid(rt, mask.shape, affine), mask)


@pytest.fixture
def edited(tmp_path, oblique_volume, write_series) -> tuple[Path, Path]:
    """A mask as NIfTI, as an editor would save it, and the folder of its series."""
    array, affine = oblique_volume
    series = write_series(tmp_path / "ct", array, affine)
    return write_mask(tmp_path / "edited.nii.gz", _mask(array), Geometry(array.shape, affine)), series


@pytest.mark.parametrize(("kind", "modality"), [("dicom-seg", "SEG"), ("rtstruct", "RTSTRUCT")])
def test_export_on_the_command_line(tmp_path, edited, oblique_volume, capsys, kind: str, modality: str) -> None:
    mask, series = edited
    arguments = ["export", str(mask), "--format", kind, "--series", str(series), "--out", str(tmp_path / "o" / "a.dcm")]
    assert main(arguments) == 3
    assert "values without a name: 2" in capsys.readouterr().err
    assert main([*arguments, "--label", "1=pancreas", "--label", "2=tumour"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'o' / 'a.dcm'}\n"
    out = pydicom.dcmread(tmp_path / "o" / "a.dcm")
    assert out.Modality == modality
    array, affine = oblique_volume
    on_grid = _seg_on_grid if modality == "SEG" else _rtstruct_on_grid
    np.testing.assert_array_equal(on_grid(out, array.shape, affine), _mask(array))
    made = out.SegmentSequence[0].SegmentAlgorithmType if modality == "SEG" else None
    assert made in ("SEMIAUTOMATIC", None)


def test_export_takes_one_series_among_other_files(tmp_path, edited, oblique_volume, write_series, capsys) -> None:
    mask, series = edited
    array, affine = oblique_volume
    out = tmp_path / "a.dcm"
    arguments = ["export", str(mask), "--format", "rtstruct", "--label", "1=a", "--label", "2=b", "--out", str(out)]

    def localizer(k: int, image: Dataset) -> None:
        image.ImageType, image.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "1.5"

    def second(k: int, image: Dataset) -> None:
        image.SeriesInstanceUID, image.SOPInstanceUID = "1.6", f"1.6.{k + 1}"

    write_rtstruct(
        series / "mask.dcm", _mask(array), Geometry(array.shape, affine), read_series(series).headers(), NAMES
    )
    (series / "notes.txt").write_text("no DICOM")
    write_series(series / "scout", array[:, :, :5], affine, change=localizer)
    assert main([*arguments, "--series", str(series)]) == 0
    first = out.read_bytes()
    write_series(series / "second", array, affine, change=second)
    assert main([*arguments, "--series", str(series)]) == 3
    said = capsys.readouterr().err
    assert "[input.several_series]" in said
    assert "--series-uid UID" in said
    assert main([*arguments, "--series", str(series), "--series-uid", "1.2.3.4.5"]) == 0
    assert out.read_bytes() == first
    assert main([*arguments, "--series", str(series), "--series-uid", "1.6"]) == 0
    reference = pydicom.dcmread(out).ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    assert reference.RTReferencedSeriesSequence[0].SeriesInstanceUID == "1.6"
    (tmp_path / "empty").mkdir()
    for where in ("empty", "nowhere"):
        assert main([*arguments, "--series", str(tmp_path / where)]) == 3


def test_without_highdicom_the_extra_is_named(tmp_path, edited, capsys, monkeypatch) -> None:
    mask, series = edited
    monkeypatch.setitem(sys.modules, "highdicom", None)
    arguments = ["export", str(mask), "--series", str(series), "--out", str(tmp_path / "a.dcm"), "--label", "1=a"]
    assert main([*arguments, "--format", "dicom-seg"]) == 2
    assert "pip install 'pancreas-seg[dicom]'" in capsys.readouterr().err
    assert main(["segment", str(mask), "--out", str(tmp_path / "o"), "--dicom-seg"]) == 2
    assert main([*arguments, "--label", "2=b", "--format", "rtstruct"]) == 0
    with pytest.raises(ConfigError, match="config.no_highdicom"):
        write_dicom_seg(tmp_path / "a.dcm", np.zeros((1, 1, 1), np.uint8), Geometry((1, 1, 1), np.eye(4)), [], {})
