"""One pass of a stage's networks over a CT, or over a box of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.config import Config
from pancreas_seg.data.model_grid import model_grid, model_input
from pancreas_seg.errors import ConfigError
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.inference.body import body_box
from pancreas_seg.inference.clean import clean_mask
from pancreas_seg.inference.restore import covering, restore_mask
from pancreas_seg.io import Scan
from pancreas_seg.network.engine import Engine
from pancreas_seg.network.weights import Weights
from pancreas_seg.network.windows import Progress, sweep

if TYPE_CHECKING:
    from pancreas_seg.network.torch_engine import TorchEngine


StageProgress = Callable[[str, int, int], None]
"""Called with what is being done ("coarse", "fine" or "attention"), windows done and windows in all."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A CT as the network sees it, and what the network says.

    Parameters
    ----------
    image : (1, I, J, K) float32 array
        On the model grid, in 0..1.
    model : Geometry
        The model grid.
    probabilities : (C, I, J, K) float32 array
        Of the classes that were asked for, averaged over the stage's networks.
    """

    image: NDArray[np.float32]
    model: Geometry
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Pass:
    """What the fine stage found in a box of a CT.

    Parameters
    ----------
    box : Box
        Voxels of the CT.
    geometry : Geometry
        Of the box.
    prediction : Prediction
    mask : (I, J, K) uint8 array
        On the box, cleaned; values as `Segmentation` has them.
    """

    box: Box
    geometry: Geometry
    prediction: Prediction
    mask: NDArray[np.uint8]


@dataclass(eq=False)
class Stage:
    """Networks that see the same data, ready to run; their class probabilities are averaged.

    Parameters
    ----------
    engine : Engine
    config : Config
    weights : tuple of Weights
        Of the networks, for what only torch can tell; may be left out where the engine is torch.
    """

    engine: Engine
    config: Config
    weights: tuple[Weights, ...] = ()

    def predict(
        self,
        scan: Scan,
        names: Sequence[str],
        timings: dict[str, float],
        prefix: str = "",
        progress: StageProgress | None = None,
        crop: Box | None = None,
    ) -> Prediction:
        """Preprocess a CT and give the probabilities of the named classes; outside the body they are 0.

        With ``crop``, voxels of the model grid, only these are looked at, and the prediction lies on them. Seconds are
        added to ``timings`` under "preprocess" and "network" with the prefix in front.
        """
        classes = [1 + self.config.data.classes.index(name) for name in names]
        with timed(timings, f"{prefix}preprocess"):
            image, model = model_input(scan, self.config, crop)
            body = body_box(image[0], model.spacing_mm)
        with timed(timings, f"{prefix}network"):
            run = partial(self.engine.probabilities, classes=classes)
            found = sweep(run, image, self.config, len(classes), _of(prefix.rstrip("_") or "fine", progress), body)
        return Prediction(image, model, found)

    def attention(self, image: NDArray[np.float32], progress: StageProgress | None = None) -> NDArray[np.float32]:
        """Attention coefficients (L, I, J, K), 0 to 1, of a preprocessed image, finest level first."""
        levels = self.attention_levels()
        run = partial(self._torch.attention, levels=levels)
        return sweep(run, image, self.config, len(levels), _of("attention", progress))

    @cached_property
    def _torch(self) -> TorchEngine:
        from pancreas_seg.network.torch_engine import TorchEngine

        if isinstance(self.engine, TorchEngine):
            return self.engine
        return TorchEngine([weights.network() for weights in self.weights], self.config, self.engine.device)

    def attention_levels(self) -> tuple[int, ...]:
        """Levels that have a gate, finest (0) first.

        Raises
        ------
        ConfigError
            If there are none, or not the same in all networks.
        """
        from pancreas_seg.network.torch_engine import gate_levels

        levels = sorted({gate_levels(network) for network in self._torch.networks})
        if levels == [()]:
            shape = self.config.network
            code, found = "config.no_gates", f"none (gate = {shape.gate!r} with {len(shape.channels)} levels)"
        elif len(levels) > 1:
            code, found = "config.gates_differ", " and ".join(str(list(one)) for one in levels)
        else:
            return levels[0]
        raise ConfigError(
            code,
            where="attention",
            found=f"gates on levels: {found}",
            expected="networks with attention gates, all on the same levels",
            advice="Segment without --attention, or with other weights.",
        )


def fine_pass(
    stage: Stage,
    scan: Scan,
    timings: dict[str, float],
    progress: StageProgress | None = None,
    crop: Box | None = None,
) -> Pass:
    """Segment a CT, or a crop of its model grid: preprocess, predict, restore and clean, all of that crop alone."""
    config = stage.config
    model = model_grid(scan.geometry.as_ras(), config.data.spacing_mm)
    everything = crop is None or crop.shape == model.shape
    box = whole(scan) if crop is None or everything else covering(model, crop, scan.geometry)
    geometry = scan.geometry.crop(box)
    prediction = stage.predict(scan, config.infer.output, timings, progress=progress, crop=crop)
    with timed(timings, "restore"):
        mask, inner = restore_mask(prediction.probabilities, prediction.model, geometry, config.infer.threshold)
    with timed(timings, "clean"):
        if inner is not None:
            mask[inner.slices] = clean_mask(mask[inner.slices], geometry.voxel_ml, config.clean)
    return Pass(box, geometry, prediction, mask)


def whole(scan: Scan) -> Box:
    """The box of all voxels of a CT."""
    return Box((0, 0, 0), scan.geometry.shape)


def _of(stage: str, progress: StageProgress | None) -> Progress | None:
    return None if progress is None else partial(progress, stage)


@contextmanager
def timed(timings: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``timings[name]``."""
    start = time.perf_counter()
    yield
    timings[name] = timings.get(name, 0.0) + time.perf_counter() - start
