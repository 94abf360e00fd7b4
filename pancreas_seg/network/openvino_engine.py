"""Networks on OpenVINO, on the CPU. Torch is not imported.

OpenVINO's converter and its telemetry are never loaded: the model is built by `openvino_graph`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.network.cpus import available_cpus
from pancreas_seg.network.openvino_graph import build_model

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """See `pancreas_seg.network.engine.Engine`.

    A model is compiled for each shape of windows and choice of classes, and kept.

    Parameters
    ----------
    states : sequence of mappings of str to array
        Tensors of each network.
    config : Config
    threads : int
        0 for all CPUs that this process may use.

    Raises
    ------
    ConfigError
        If the number format is none that OpenVINO has on this CPU.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, states: Sequence[Mapping[str, NDArray[Any]]], config: Config, threads: int = 0) -> None:
        openvino = _import_openvino()
        self.version = str(openvino.__version__).split("-")[0]
        self._openvino, self._ops = openvino, openvino.opset15
        self._core = openvino.Core()
        self._config = config
        self._threads = threads or available_cpus()
        self.precision = self._chosen(config.infer.precision)
        self._compiled: dict[tuple[tuple[int, ...], tuple[int, ...]], Any] = {}
        self._states = tuple(states)
        build_model(states[0], config, [0], self._image((1, config.in_channels, *config.data.patch_size)), self._ops)

    def probabilities(self, windows: NDArray[np.float32], classes: Sequence[int]) -> NDArray[np.float32]:
        """Probabilities (N, K, *S) of K classes for windows (N, C, *S) in 0..1."""
        request = self._request(windows.shape, tuple(classes))
        return np.array(request.infer([np.ascontiguousarray(windows)], share_inputs=True)[0])

    def _request(self, shape: tuple[int, ...], classes: tuple[int, ...]) -> Any:
        if (shape, classes) not in self._compiled:
            ops, image = self._ops, self._image(shape)
            each = [build_model(state, self._config, classes, image, ops) for state in self._states]
            mean = each[0]
            for other in each[1:]:
                mean = ops.add(mean, other)
            if len(each) > 1:
                mean = ops.multiply(mean, np.float32(1 / len(each)))
            model = self._openvino.Model([mean], [image], "AttentionUNet")
            options = {
                "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": self._threads,
            }
            self._compiled[shape, classes] = self._core.compile_model(model, "CPU", options).create_infer_request()
        return self._compiled[shape, classes]

    def _image(self, shape: tuple[int, ...]) -> Any:
        return self._ops.parameter(list(shape), np.float32, name="image")

    def _chosen(self, wish: str) -> str:
        able = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if wish == "auto":
            return "bf16" if able else "fp32"
        if wish not in _HINTS:
            raise ConfigError(
                "config.precision",
                where="infer.precision",
                found=f"{wish} with OpenVINO on a CPU",
                expected="auto, fp32 or bf16",
                advice="Leave infer.precision at auto.",
            )
        return wish


def describe() -> str:
    """Version, processor, number format and threads, in a line."""
    openvino = _import_openvino()
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    name = core.get_property("CPU", "FULL_DEVICE_NAME")
    version = str(openvino.__version__).split("-")[0]
    return f"OpenVINO {version}, {name}, {'bf16' if 'BF16' in able else 'fp32'}, {available_cpus()} threads"


def _import_openvino() -> ModuleType:
    """OpenVINO without its telemetry: it goes on without that package where it is not installed."""
    blocked = "openvino_telemetry"
    before = sys.modules.get(blocked)
    sys.modules[blocked] = None  # type: ignore[assignment]
    try:
        import openvino
        import openvino.opset15
    finally:
        if before is None:
            del sys.modules[blocked]
        else:
            sys.modules[blocked] = before
    return openvino
