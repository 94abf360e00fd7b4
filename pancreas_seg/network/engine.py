"""What runs the networks: torch, or OpenVINO on CPUs where it is installed.

Neither is imported before it is chosen. An engine holds the networks of one stage, which see the same data; their class
probabilities are averaged.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import platform
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.network.weights import Weights, mismatch

EngineName = Literal["auto", "torch", "openvino"]

log = logging.getLogger(__name__)


class Engine(Protocol):
    """Networks of a stage, ready to run."""

    name: str
    device: str
    precision: str
    version: str

    def probabilities(self, windows: NDArray[np.float32], classes: Sequence[int]) -> NDArray[np.float32]:
        """Probabilities (N, K, *S) of K classes (0 is the background) for windows (N, C, *S) in 0..1."""


def make_engine(
    weights: Sequence[Weights], config: Config, name: EngineName = "auto", device: str = "auto", threads: int = 0
) -> Engine:
    """Make the networks of some weights ready to run.

    "auto" is the fastest engine that is installed and safe here: OpenVINO on an x86-64 CPU, else torch. If OpenVINO
    cannot run a network, "auto" says so and takes torch.

    Parameters
    ----------
    weights : sequence of Weights
        All for the same data.
    config : Config
        ``infer.precision``, ``infer.torch_compile`` and the network's shape.
    name : {"auto", "torch", "openvino"}
    device : {"auto", "cpu", "cuda"}
    threads : int
        Of the engine; 0 for all CPUs that this process may use.

    Raises
    ------
    ConfigError
        If the engine is not installed, or cannot run on the device or in the number format.
    WeightsError
        If the tensors don't fit the network.
    """
    chosen, why = choose_engine(name, device)
    if chosen == "openvino":
        from pancreas_seg.network.openvino_engine import OpenVinoEngine

        try:
            return OpenVinoEngine([w.arrays for w in weights], config, threads)
        except KeyError as error:
            raise mismatch(weights[0].path, f"There is no tensor {error}.") from error
        except RuntimeError as error:
            if name == "openvino":
                raise
            log.warning("OpenVINO cannot run this network (%s); torch does.", str(error).splitlines()[0])
    from pancreas_seg.network.torch_engine import TorchEngine

    log.debug("engine torch: %s", why)
    return TorchEngine([w.network() for w in weights], config, device, threads)


def choose_engine(name: EngineName, device: str) -> tuple[str, str]:
    """The engine for a wish and a device, and why.

    Raises
    ------
    ConfigError
        If OpenVINO is asked for and not installed, or with CUDA.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if name == "openvino":
        if device == "cuda":
            raise _unfit("openvino with --device cuda", "OpenVINO on the CPU, or torch on CUDA")
        if not installed:
            raise _unfit(
                "openvino, which is not installed", "an installed engine", "pip install 'pancreas-seg[openvino]'"
            )
        return "openvino", "asked for"
    if name == "torch":
        return "torch", "asked for"
    if device == "cuda":
        return "torch", "CUDA is asked for"
    if not installed:
        return "torch", "OpenVINO is not installed (pip install 'pancreas-seg[openvino]')"
    if device == "auto" and has_cuda_driver():
        return "torch", "there is a CUDA driver"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "torch", f"OpenVINO is not tried on {platform.machine()}"
    return "openvino", "the fastest on this CPU"


def has_cuda_driver() -> bool:
    """True if the library of an NVIDIA driver can be loaded; takes no time, unlike asking torch."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


def _unfit(found: str, expected: str, advice: str = "Choose --engine auto.") -> ConfigError:
    return ConfigError("config.engine", where="--engine", found=found, expected=expected, advice=advice)
