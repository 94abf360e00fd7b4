"""Where training stands, in one safetensors file: network, optimiser and counters. No pickle."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError, WeightsError
from pancreas_seg.network.weights import load_tensors, save_tensors

_SECTIONS = ("data", "augment", "network", "train")


@dataclass
class Progress:
    """Counters of a training."""

    round: int = 0
    """Rounds completed."""
    best_dice: float = math.nan
    best_round: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """One row of metrics.csv per round."""


def save_checkpoint(
    path: Path,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    config: Config,
    cases: str,
    average: AveragedModel | None = None,
) -> None:
    """Write everything that continuing needs, whole or not at all; ``cases`` tells which cases it is of."""
    tensors = {f"network.{name}": _array(value) for name, value in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{k}": _array(v) for k, v in average.state_dict().items()}
    state = optimizer.state_dict()
    plain: dict[str, dict[str, object]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = _array(value)
            else:
                plain.setdefault(str(index), {})[key] = value
    metadata = {
        "progress": json.dumps(asdict(progress)),
        "param_groups": json.dumps(state["param_groups"]),
        "plain_state": json.dumps(plain),
        "config_fingerprint": config.fingerprint(*_SECTIONS),
        "cases": cases,
    }
    save_tensors(path, tensors, metadata)


def load_checkpoint(
    path: Path,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    cases: str,
    average: AveragedModel | None = None,
) -> Progress:
    """Put a checkpoint's state into a network, an optimiser and the averaged weights; the counters.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or no checkpoint.
    ConfigError
        If it was trained with other settings of data, augment, network or train, or on other cases.
    """
    arrays, metadata, _ = load_tensors(path)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    if "progress" not in metadata:
        raise WeightsError(
            "weights.no_checkpoint",
            where=path,
            found="a safetensors file without a training's state",
            expected="checkpoint.safetensors as `pancreas-seg train` writes it",
            advice="Name the folder of an interrupted training.",
        )
    if metadata.get("config_fingerprint") != config.fingerprint(*_SECTIONS):
        raise ConfigError(
            "config.resume_differs",
            where=path,
            found="a checkpoint of other settings of data, augment, network or train",
            expected="the same settings as when it was started",
            advice="Give the same preset and --set options, or train into a new folder.",
        )
    if metadata.get("cases") != cases:
        raise ConfigError(
            "config.resume_other_cases",
            where=path,
            found="a checkpoint of other training or validation cases",
            expected="the same manifest, fold and files as when it was started",
            advice="Going on would validate on cases that were trained on. Give the same --data and --fold.",
        )
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    if average is not None:
        average.load_state_dict({k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")})
    state: dict[int, dict[str, object]] = {
        int(index): dict(values) for index, values in json.loads(metadata["plain_state"]).items()
    }
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    groups = json.loads(metadata["param_groups"])
    for group in groups:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return Progress(**json.loads(metadata["progress"]))


def _array(value: Tensor) -> NDArray[Any]:
    return np.asarray(value.detach().cpu().contiguous().numpy())
