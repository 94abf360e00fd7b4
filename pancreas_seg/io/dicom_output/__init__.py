"""Writing masks in DICOM onto the images of a CT series: a Segmentation (SEG) or an RT Structure Set.

`source_images` checks the series' headers, `source_frames` puts them in order and lays the mask on them, `structures`
codes what is segmented, `seg` and `rtstruct` write.
"""

from pancreas_seg.io.dicom_output.rtstruct import write_rtstruct
from pancreas_seg.io.dicom_output.seg import require_highdicom, write_dicom_seg
from pancreas_seg.io.dicom_output.source_frames import SourceFrames

__all__ = ["SourceFrames", "require_highdicom", "write_dicom_seg", "write_rtstruct"]
