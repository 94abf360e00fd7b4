"""The process that decodes compressed frames, run as a script; see `decoding`.

Reads DICOM files of one frame each from standard input, and answers with the frame's stored numbers: lengths are 8
bytes, little endian; an answer is the array's type (8 bytes), then the array; length 0 means that it can't be decoded.
"""

import os
import sys
from pathlib import Path

import SimpleITK as sitk


def main() -> None:
    """Serve until standard input ends."""
    folder = Path(sys.argv[1])
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What libraries print must not get into the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    while size := int.from_bytes(source.read(8), "little"):
        path = folder / "frame.dcm"
        path.write_bytes(source.read(size))
        answer = _decoded(path)
        path.unlink()
        target.write(len(answer).to_bytes(8, "little") + answer)
        target.flush()


def _decoded(path: Path) -> bytes:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        return b""
    array = sitk.GetArrayViewFromImage(image)
    return array.dtype.str.encode().ljust(8) + array.tobytes()


if __name__ == "__main__":
    main()
