"""The public way to segment: a Segmenter makes a Segmentation of a Scan."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pancreas_seg._version import __version__
from pancreas_seg.config import Config
from pancreas_seg.data.transforms import model_input
from pancreas_seg.geometry import Box
from pancreas_seg.inference.clean import clean_mask
from pancreas_seg.inference.quality import Reason, Verdict, assess
from pancreas_seg.inference.restore import restore_mask, restore_probability
from pancreas_seg.io import Scan, replacing, write_image, write_mask
from pancreas_seg.network.precision import choose_device, choose_precision
from pancreas_seg.network.weights import load_weights
from pancreas_seg.network.windows import Progress, predict_probabilities

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

    def save(self, folder: Path) -> list[Path]:
        """Write mask.nii.gz, probability.nii.gz if there is one, and last result.json; the paths written."""
        start = time.perf_counter()
        written = [write_mask(folder / "mask.nii.gz", self.mask, self.scan, self._description())]
        if self.probability is not None:
            path = folder / "probability.nii.gz"
            written.append(write_image(path, self.probability, self.scan, self._description()))
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
            **self.provenance,
            "timings_s": {name: round(v, 3) for name, v in self.timings_s.items()},
            "peak_memory_gb": round(_peak_memory_gb(), 3),
        }

    def _description(self) -> str:
        weights = self.provenance["weights"]["sha256"]
        return f"pancreas-seg {__version__} weights {str(weights)[:12]}; research use only"


@dataclass(eq=False)
class Segmenter:
    """A network that is ready to segment.

    Parameters
    ----------
    network : Module
        Gives logits (N, 1 + classes, *S).
    config : Config
    weights_sha256 : str
    device : str
        "auto", "cpu" or "cuda".
    """

    network: nn.Module
    config: Config
    weights_sha256: str = ""
    device: str = "auto"
    _device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self._device = choose_device(self.device)
        self.precision = choose_precision(self.config.infer.precision, self._device)
        layout = torch.channels_last if self.config.network.spatial_dims == 2 else torch.channels_last_3d
        self.network = self.network.eval().to(self._device).to(memory_format=layout)  # type: ignore[call-overload]

    @classmethod
    def from_weights(cls, path: str | Path, device: str = "auto", settings: tuple[str, ...] = ()) -> Self:
        """Load a weights file; ``settings`` are "section.key=value" strings for the infer and clean sections.

        Raises
        ------
        WeightsError, ConfigError
        """
        weights = load_weights(path)
        return cls(weights.network(), weights.config.with_settings(settings), weights.sha256, device)

    def segment(self, scan: Scan, probability: bool = False, progress: Progress | None = None) -> Segmentation:
        """Segment a CT.

        Parameters
        ----------
        scan : Scan
        probability : bool
            Whether to keep the first label's probability on the scan's grid.
        progress : callable, optional
            Called with windows done and windows in all.
        """
        config, timings = self.config, dict[str, float]()
        classes = [1 + config.data.classes.index(name) for name in config.infer.output]
        with _timed(timings, "preprocess"):
            image, model = model_input(scan, config)
        with _timed(timings, "network"):
            probabilities = predict_probabilities(
                self.network, image, config, classes, self.precision, progress
            ).numpy()
        with _timed(timings, "restore"):
            mask, box = restore_mask(probabilities, model, scan.geometry)
            on_scan = restore_probability(probabilities[0], model, scan.geometry) if probability else None
        with _timed(timings, "clean"):
            if box is not None:
                mask[box.slices] = clean_mask(mask[box.slices], scan.geometry.voxel_ml, config.clean)
        with _timed(timings, "assess"):
            verdict, reasons = assess(scan.image, mask, config.infer.output[0])
            volumes, means = _measured(scan, mask, config.infer.output)
        return Segmentation(
            scan=scan,
            mask=mask,
            labels=dict(enumerate(config.infer.output, start=1)),
            volume_ml=volumes,
            mean_hu=means,
            box=Box.around(mask == 1),
            verdict=verdict,
            reasons=reasons,
            timings_s=timings,
            provenance=self._provenance(),
            probability=on_scan,
        )

    def _provenance(self) -> dict[str, Any]:
        return {
            "weights": {"sha256": self.weights_sha256},
            "config_fingerprint": self.config.fingerprint(),
            "mode": self.config.infer.mode,
            "device": self._device.type,
            "precision": self.precision,
            "versions": {
                "pancreas_seg": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }


def _measured(scan: Scan, mask: NDArray[np.uint8], names: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
    volumes = dict.fromkeys(names, 0.0)
    means = {}
    box = Box.around(mask > 0)
    if box is not None:
        part, image = mask[box.slices], scan.image[box.slices]
        for value, name in enumerate(names, start=1):
            values = image[part == value]
            volumes[name] = values.size * scan.geometry.voxel_ml
            if values.size:
                means[name] = float(values.mean(dtype=np.float64))
    return volumes, means


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Any:
    start = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - start


def _peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in GB (10^9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
