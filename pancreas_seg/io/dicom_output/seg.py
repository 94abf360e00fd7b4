"""A mask as a DICOM Segmentation (BINARY) on the frames of the CT series it belongs to, written by highdicom.

Standard: PS3.3, A.51 (Segmentation IOD).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage

from pancreas_seg._version import __version__
from pancreas_seg.errors import ConfigError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io.atomic import replacing
from pancreas_seg.io.dicom.header import quiet
from pancreas_seg.io.dicom_output.source_frames import TYPE_2, SourceFrames, reference_to, uid
from pancreas_seg.io.dicom_output.structures import Maker, check_named, code_item, structure_of

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

SERIES_NUMBER = 9001
_NOTE = "Research software; not for diagnosis or treatment"


def require_highdicom() -> None:
    """Raise a ConfigError where highdicom, of the extra "dicom", is not installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise ConfigError(
            "config.no_highdicom",
            where="DICOM SEG",
            found="no highdicom",
            expected="the packages of the extra dicom",
            advice="Run: pip install 'pancreas-seg[dicom]'",
        )


@quiet()
def write_dicom_seg(
    path: str | Path,
    mask: NDArray[Any],
    geometry: Geometry,
    headers: Sequence[Dataset],
    names: Mapping[int, str],
    *,
    made: Maker = "automatic",
    weights_sha256: str = "",
) -> Path:
    """Write a mask as a DICOM SEG with one binary segment a label.

    The same input gives the same bytes: UIDs follow from the series' SOP Instance UIDs, the mask, the arguments and
    this program's version, date and time are the CT's (`SourceFrames.moment`). Frames without a voxel of a segment are
    left out. If the whole mask is empty, the file has one frame, the middle one of the series, without a voxel.

    Parameters
    ----------
    path : path
    mask : (I, J, K) integer array
    geometry : Geometry
        The mask's grid: the series' voxels, with axes in any order and direction.
    headers : sequence of Dataset
        The series' images; patient and study are taken from them.
    names : mapping of int to str
        What each value of the mask shows, such as {1: "pancreas"}.
    made : {"automatic", "semiautomatic", "manual"}
        "semiautomatic" for a mask that a person has edited.
    weights_sha256 : str
        Of the weights that made it, if known.

    Raises
    ------
    ConfigError
        If highdicom is not installed.
    InputError
        If the series lacks what a SEG must refer to, the mask does not lie on it, or holds a value without a name.
    """
    require_highdicom()
    frames = SourceFrames.of(headers)
    laid = frames.lay(mask, geometry)
    named = check_named(laid, names)
    segments = _numbered(laid, list(named))
    fingerprint = frames.fingerprint(laid, "SEG", named, made, weights_sha256)
    sources = [_stand_in(header, number) for number, header in enumerate(frames.headers)]
    if not segments.any():
        middle = len(sources) // 2
        sources, segments = sources[middle : middle + 1], segments[middle : middle + 1]
    seg = _segmentation(sources, segments, frames, list(named.values()), fingerprint, made, weights_sha256)
    with replacing(Path(path)) as temporary:
        seg.save_as(temporary)
    return Path(path)


def _segmentation(
    sources: list[Dataset],
    segments: NDArray[Any],
    frames: SourceFrames,
    names: list[str],
    fingerprint: str,
    made: Maker,
    weights_sha256: str,
) -> Dataset:
    import highdicom as hd

    date, time = frames.moment
    described = [_description(n, name, made, weights_sha256) for n, name in enumerate(names, start=1)]
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=segments,
        omit_empty_frames=bool(segments.any()),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=uid(fingerprint, "series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid(fingerprint, "instance"),
        instance_number=1,
        manufacturer="pancreas-seg",
        manufacturer_model_name="pancreas-seg",
        software_versions=__version__,
        device_serial_number=weights_sha256[:16] or "0",
        content_label="PANCREAS_SEG",
        content_description=_NOTE,
        series_description=f"pancreas-seg {__version__}, research only",
        content_date=date,
        content_time=time,
    )
    # What highdicom draws from the clock and at random.
    del seg.InstanceCreationDate, seg.InstanceCreationTime
    organization = uid(fingerprint, "dimensions")
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    for item in seg.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    seg.update(frames.study)
    _refer(seg, frames)
    return seg


def _stand_in(header: Dataset, number: int) -> Dataset:
    """What highdicom sees of an image: no patient, whose name it would quote in warnings, and each frame by itself."""
    image = deepcopy(header)
    for name in TYPE_2:
        setattr(image, name, "")
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"1.{number}"
    return image


def _refer(seg: Dataset, frames: SourceFrames) -> None:
    """Let a SEG of stand-ins refer to the images that they stood in for."""
    instances = {}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        header = frames.headers[int(source.ReferencedSOPInstanceUID.split(".")[1])]
        source.update(reference_to(header))
    for stand_in in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence:
        header = frames.headers[int(stand_in.ReferencedSOPInstanceUID.split(".")[1])]
        instances[header.SOPInstanceUID] = reference_to(header)
    for item in instances.values():
        if "ReferencedFrameNumber" in item:
            del item.ReferencedFrameNumber
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(instances.values())


def _description(number: int, name: str, made: Maker, weights_sha256: str) -> SegmentDescription:
    import highdicom as hd

    structure = structure_of(name)
    algorithm = None
    if made != "manual":
        parameters = {"weights": weights_sha256} if weights_sha256 else None
        algorithm = hd.AlgorithmIdentificationSequence(
            "pancreas-seg", codes.DCM.ArtificialIntelligence, __version__, parameters=parameters
        )
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=structure.category,
        segmented_property_type=structure.kind,
        algorithm_type=made.upper(),
        algorithm_identification=algorithm,
        anatomic_regions=[structure.region] if structure.region is not None else None,
        display_color=hd.color.CIELabColor.from_rgb(*structure.rgb),
    )
    if structure.side is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(structure.side)]
    return description


def _numbered(laid: NDArray[Any], values: list[int]) -> NDArray[Any]:
    """The mask with the given values numbered from 1, as segments are."""
    if values == list(range(1, len(values) + 1)):
        return laid
    numbers = np.zeros(max([int(laid.max()), *values]) + 1, dtype=np.min_scalar_type(len(values)))
    numbers[values] = np.arange(1, len(values) + 1)
    return np.stack([numbers[plane] for plane in laid])
