"""The public way to segment: a Segmenter makes a Segmentation of a Scan."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from pancreas_seg._version import __version__
from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.geometry import Box
from pancreas_seg.inference.anatomy import Anatomy
from pancreas_seg.inference.cascade import Found, find
from pancreas_seg.inference.confidence import confidence
from pancreas_seg.inference.quality import Evidence, assess, metal_ml, tissue_share
from pancreas_seg.inference.restore import restore_probability
from pancreas_seg.inference.segmentation import Segmentation
from pancreas_seg.inference.stage import Pass, Stage, StageProgress, fine_pass, timed, whole
from pancreas_seg.io import MemoryLimit, Scan
from pancreas_seg.network.engine import Engine, make_engine
from pancreas_seg.network.stages import load_ensemble
from pancreas_seg.network.weights import Weights

if TYPE_CHECKING:
    from torch import nn

    Networks = Engine | nn.Module | Sequence[nn.Module]

_BASE_GB = 0.7
_BYTES_PER_VOXEL = 4.0
"""Mask, its copy to write, and the file's bytes."""

_FOR_COARSE_TOO = ("infer.precision", "infer.window_batch", "infer.engine", "infer.torch_compile")


@dataclass(eq=False)
class Segmenter:
    """Networks that are ready to segment.

    Parameters
    ----------
    network : Module, or sequence of Module
        Gives logits (N, 1 + classes, *S). The class probabilities of several are averaged.
    config : Config
    weights_sha256 : str
        What tells these networks from others.
    device : str
        "auto", "cpu" or "cuda".
    coarse : tuple of Module and Config, optional
        The network that tells where to look, and its configuration.
    weights_files : tuple of str
        SHA-256 of each weights file.

    Raises
    ------
    ConfigError
        If there is no such device, or ``infer.mode`` is "cascade" without a coarse network.
    """

    network: Networks
    config: Config
    weights_sha256: str = ""
    device: str = "auto"
    coarse: tuple[Networks, Config] | None = None
    weights_files: tuple[str, ...] = ()
    weights: tuple[Weights, ...] = ()
    _fine: Stage = field(init=False)
    _coarse: Stage | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._fine = Stage(_ready(self.network, self.config, self.device), self.config, self.weights)
        if self.config.infer.mode == "cascade" and self.coarse is None:
            raise ConfigError(
                "config.no_coarse",
                where="infer.mode",
                found="cascade, but no coarse network in the weights",
                expected="weights with one",
                advice="Use infer.mode auto or full, or pack a coarse network with `pancreas-seg weights pack`.",
            )
        if self.coarse is not None and self.config.infer.mode != "full":
            self._coarse = Stage(_ready(*self.coarse, self.device), self.coarse[1])

    @classmethod
    def from_weights(
        cls,
        path: str | Path | Sequence[str | Path],
        device: str = "auto",
        settings: tuple[str, ...] = (),
        threads: int = 0,
    ) -> Self:
        """Load weights.

        Parameters
        ----------
        path : path, or sequence of paths
            A weights file of one network or a packed one, the folder of a training, or "starter" for the weights that
            ship with the package. Fine networks of several are averaged.
        device : str
            "auto", "cpu" or "cuda".
        settings : tuple of str
            "section.key=value" for the infer, clean and verdict sections of the fine networks; infer.precision,
            window_batch, engine and torch_compile hold for the coarse network, too.
        threads : int
            Of the engine; 0 for all CPUs.

        Raises
        ------
        WeightsError, ConfigError
        """
        stages = load_ensemble(path)
        config = stages.fine[0].config.with_settings(settings)
        coarse = None
        if stages.coarse is not None and config.infer.mode != "full":
            both = [setting for setting in settings if setting.partition("=")[0].strip() in _FOR_COARSE_TOO]
            its_config = stages.coarse.config.with_settings(both)
            coarse = make_engine([stages.coarse], its_config, its_config.infer.engine, device, threads), its_config
        engine = make_engine(stages.fine, config, config.infer.engine, device, threads)
        return cls(engine, config, stages.sha256, device, coarse, stages.files, stages.fine)

    def attention_levels(self) -> tuple[int, ...]:
        """Levels of the fine networks that have a gate, finest (0) first.

        Raises
        ------
        ConfigError
            If there are none, or not the same in all networks.
        """
        return self._fine.attention_levels()

    def memory_limit(self, probability: bool = False, attention: bool = False) -> MemoryLimit:
        """What reading and segmenting a CT may take (``infer.max_memory_gb``), and what it takes.

        The numbers are upper bounds of what `benchmarks/scaling.py` measures.
        """
        levels = len(self.attention_levels()) if attention else 0
        return MemoryLimit(
            self.config.infer.max_memory_gb, _BASE_GB, _BYTES_PER_VOXEL + 8 * probability + (4 + 3 * levels) * attention
        )

    def segment(
        self, scan: Scan, probability: bool = False, progress: StageProgress | None = None, attention: bool = False
    ) -> Segmentation:
        """Segment a CT.

        Parameters
        ----------
        scan : Scan
        probability : bool
            Whether to keep the first label's probability on the scan's grid; 0 outside a cascade's box.
        progress : callable, optional
            Called with what is being done, windows done and windows in all.
        attention : bool
            Whether to keep the attention coefficients on the scan's grid; 0 outside a cascade's box.

        Raises
        ------
        ConfigError
            If attention is asked for and the networks have no gates, or not the same.
        """
        names, timings = self.config.infer.output, dict[str, float]()
        levels = self.attention_levels() if attention else ()
        found = self._find(scan, timings, progress)
        with timed(timings, "restore"):
            mask = _on_grid_of(scan, found.fine, lambda fine: fine.mask, np.uint8)
            on_scan = _on_grid_of(scan, found.fine, _probability, np.float32) if probability else None
        maps = self._attention(scan, found.fine, len(levels), timings, progress) if attention else None
        with timed(timings, "assess"):
            inner = _around(found.fine)
            volumes, means = _measured(scan, mask, names, inner)
            evidence = self._evidence(scan, found, mask, inner, volumes[names[0]], means.get(names[0]))
            verdict, reasons = assess(evidence, self.config.verdict)
        return Segmentation(
            scan=scan,
            mask=mask,
            labels=dict(enumerate(names, start=1)),
            volume_ml=volumes,
            mean_hu=means,
            box=_shifted_box(evidence.mask, inner),
            verdict="review" if found.reasons else verdict,
            reasons=[*found.reasons, *reasons],
            timings_s=timings,
            provenance={**self._provenance(found), "evidence": evidence.as_dict()},
            probability=on_scan,
            attention=maps,
            attention_levels=levels,
        )

    def _evidence(
        self, scan: Scan, found: Found, mask: NDArray[np.uint8], inner: Box | None, volume_ml: float, hu: float | None
    ) -> Evidence:
        """What the verdict goes by; ``inner`` is a box around the mask."""
        organ = np.zeros((1, 1, 1), dtype=bool) if inner is None else mask[inner.slices] == 1
        located, fine = found.located, found.fine
        seen = fine is not None and inner is not None and bool(organ.any())
        stability = probability = agreement = None
        if seen and fine is not None:
            probability, stability = confidence(self._fine, fine, self.config.verdict.stability_shift_hu)
        if seen and inner is not None and located is not None and located.organ.any():
            agreement = located.agreement(organ, scan.geometry.crop(inner))
        return Evidence(
            organ=self.config.infer.output[0],
            lowest_hu=float(scan.image.min()),
            mask=organ,
            at_border=inner is not None and _at_border(organ, inner, scan.geometry.shape),
            volume_ml=volume_ml,
            mean_hu=hu,
            probability=probability,
            agreement=agreement,
            stability=stability,
            organs_ml=None if located is None else located.organs_ml,
            anatomy=Anatomy() if located is None else located.anatomy,
            tissue_share=tissue_share(scan.image),
            metal_ml=0.0 if inner is None else metal_ml(scan.image, scan.geometry, inner),
        )

    def _find(self, scan: Scan, timings: dict[str, float], progress: StageProgress | None) -> Found:
        if self._coarse is not None:
            return find(self._fine, self._coarse, scan, timings, progress)
        return Found(fine_pass(self._fine, scan, timings, progress), "full", [], None)

    def _attention(
        self, scan: Scan, fine: Pass | None, n_levels: int, timings: dict[str, float], progress: StageProgress | None
    ) -> NDArray[np.uint8]:
        out = np.zeros((*scan.geometry.shape, n_levels), dtype=np.uint8, order="F")
        if fine is None:
            return out
        with timed(timings, "attention"):
            maps = self._fine.attention(fine.prediction.image, progress)
            for n, level in enumerate(maps):
                on_box = restore_probability(level, fine.prediction.model, fine.geometry)
                out[(*fine.box.slices, n)] = np.rint(255 * on_box)
        return out

    def _provenance(self, found: Found) -> dict[str, Any]:
        return {
            "weights": {"sha256": self.weights_sha256, "files": list(self.weights_files or (self.weights_sha256,))},
            "config_fingerprint": self.config.fingerprint(),
            "mode": found.mode,
            "cascade": found.facts,
            "engine": self._fine.engine.name,
            "device": self._fine.engine.device,
            "precision": self._fine.engine.precision,
            "versions": self.versions(),
        }

    def versions(self) -> dict[str, str]:
        """Of this package and of what computes."""
        return {
            "pancreas_seg": __version__,
            "python": platform.python_version(),
            self._fine.engine.name: self._fine.engine.version,
            "numpy": np.__version__,
        }


def _ready(networks: Networks, config: Config, device: str) -> Engine:
    """An engine as it is; torch modules in one of torch."""
    if hasattr(networks, "probabilities"):
        return cast(Engine, networks)
    from torch import nn

    from pancreas_seg.network.torch_engine import TorchEngine

    return TorchEngine([networks] if isinstance(networks, nn.Module) else networks, config, device)


def _on_grid_of(
    scan: Scan, fine: Pass | None, values: Callable[[Pass], NDArray[Any]], dtype: type[np.generic]
) -> NDArray[Any]:
    """What a pass says of its box, as an (I, J, K) array on the whole CT's grid; 0 outside."""
    if fine is not None and fine.box == whole(scan):
        return values(fine)
    out = np.zeros(scan.geometry.shape, dtype=dtype, order="F")
    if fine is not None:
        out[fine.box.slices] = values(fine)
    return out


def _probability(fine: Pass) -> NDArray[np.float32]:
    return restore_probability(fine.prediction.probabilities[0], fine.prediction.model, fine.geometry)


def _around(fine: Pass | None) -> Box | None:
    """Box of the CT around all that a pass found."""
    inner = None if fine is None else Box.around(fine.mask > 0)
    return None if fine is None or inner is None else inner.moved(fine.box.start)


def _shifted_box(organ: NDArray[np.bool_], inner: Box | None) -> Box | None:
    box = None if inner is None else Box.around(organ)
    return None if box is None or inner is None else box.moved(inner.start)


def _at_border(organ: NDArray[np.bool_], inner: Box, shape: Sequence[int]) -> bool:
    """Whether a mask on a box reaches the first or last voxels of an image of a shape."""
    return any(
        (inner.start[axis] == 0 and organ.take(0, axis=axis).any())
        or (inner.stop[axis] == shape[axis] and organ.take(-1, axis=axis).any())
        for axis in range(3)
    )


def _measured(
    scan: Scan, mask: NDArray[np.uint8], names: tuple[str, ...], box: Box | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Volume in ml and mean HU of each label, all of it inside a box."""
    volumes = dict.fromkeys(names, 0.0)
    means = {}
    if box is not None:
        part, image = mask[box.slices], scan.image[box.slices]
        for value, name in enumerate(names, start=1):
            values = image[part == value]
            volumes[name] = values.size * scan.geometry.voxel_ml
            if values.size:
                means[name] = float(values.mean(dtype=np.float64))
    return volumes, means
