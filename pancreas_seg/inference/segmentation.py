"""What comes out for one CT, and the files that it becomes."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg._version import __version__
from pancreas_seg.geometry import Box
from pancreas_seg.inference.quality import Reason, Verdict
from pancreas_seg.io import Scan, replacing, write_image, write_mask

RESULT_SCHEMA = "pancreas-seg-result-1"
NOT_A_DEVICE = "Research software, not a medical device; not for diagnosis or treatment."


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What came out for one scan.

    Parameters
    ----------
    scan : Scan
        The CT, on whose grid everything lies.
    mask : (I, J, K) uint8 array
        Values as in ``labels``.
    labels : mapping of int to str
        Mask values and their names.
    volume_ml, mean_hu : mapping of str to float
        Per label that was found (``volume_ml`` has all).
    box : Box or None
        Voxels around the first label.
    verdict : {"ok", "review"}
    reasons : list of Reason
        Why the verdict is "review".
    timings_s : dict of str to float
    provenance : mapping
        Versions, weights, configuration, device.
    probability : (I, J, K) float32 array or None
        Of the first label, if it was asked for.
    attention : (I, J, K, L) uint8 array or None
        If it was asked for: attention coefficients in 255ths, one volume for each of the L ``attention_levels``.
    attention_levels : tuple of int
        Levels of the network that have a gate, finest (0: the model grid's resolution) first.
    """

    scan: Scan
    mask: NDArray[np.uint8]
    labels: Mapping[int, str]
    volume_ml: Mapping[str, float]
    mean_hu: Mapping[str, float]
    box: Box | None
    verdict: Verdict
    reasons: list[Reason]
    timings_s: dict[str, float]
    provenance: Mapping[str, Any]
    probability: NDArray[np.float32] | None = None
    attention: NDArray[np.uint8] | None = None
    attention_levels: tuple[int, ...] = ()

    def save(self, folder: Path) -> list[Path]:
        """Write mask.nii.gz, probability.nii.gz and attention.nii.gz if there are such, and last result.json.

        Returns
        -------
        list of Path
            What was written.
        """
        start = time.perf_counter()
        written = [write_mask(folder / "mask.nii.gz", self.mask, self.scan, self._description())]
        if self.probability is not None:
            path = folder / "probability.nii.gz"
            written.append(write_image(path, self.probability, self.scan, self._description()))
        if self.attention is not None:
            path = folder / "attention.nii.gz"
            written.append(write_image(path, self.attention, self.scan, self._description(), scale=1 / 255))
        self.timings_s["write"] = time.perf_counter() - start
        with replacing(folder / "result.json") as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
        return [*written, folder / "result.json"]

    def as_dict(self) -> dict[str, Any]:
        """The facts of result.json: plain values, nothing that names the patient or the file."""
        geometry = self.scan.geometry
        box_mm = None if self.box is None else [[round(v, 3) for v in end] for end in geometry.box_mm(self.box)]
        return {
            "schema": RESULT_SCHEMA,
            "note": NOT_A_DEVICE,
            "verdict": self.verdict,
            "reasons": [{"code": r.code, "text": r.text} for r in self.reasons],
            "labels": {str(value): name for value, name in self.labels.items()},
            "volume_ml": {name: round(v, 3) for name, v in self.volume_ml.items()},
            "mean_hu": {name: round(v, 2) for name, v in self.mean_hu.items()},
            "bounding_box_ras_mm": box_mm,
            "input": {
                "sha256": self.scan.sha256,
                "shape": list(geometry.shape),
                "spacing_mm": [round(v, 6) for v in geometry.spacing_mm],
                "orientation": geometry.orientation,
            },
            **({"attention_levels": list(self.attention_levels)} if self.attention is not None else {}),
            **self.provenance,
            "timings_s": {name: round(v, 3) for name, v in self.timings_s.items()},
            "peak_memory_gb": round(_peak_memory_gb(), 3),
        }

    def _description(self) -> str:
        weights = self.provenance["weights"]["sha256"]
        return f"pancreas-seg {__version__} weights {str(weights)[:12]}; research use only"


def _peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in GB (10^9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
