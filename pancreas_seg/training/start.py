"""Training that starts from weights: fine-tuning, with other classes where the user has them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import Weights

_STEPS, _ROUND, _LEARNING_RATE = 2000, 100, 3e-4


def fine_tuning(config: Config) -> Config:
    """Settings for going on from weights with a configuration: as they were trained, but short and gentle."""
    train = replace(
        config.train,
        steps=_STEPS,
        validate_every=_ROUND,
        learning_rate=_LEARNING_RATE,
        warmup_steps=100,
        schedule="poly",
    )
    return replace(config, train=train)


def start_from(network: AttentionUNet, config: Config, weights: Weights) -> list[str]:
    """Put weights into a network, class by class where the classes differ; what was done, in sentences.

    Output channels go by the classes' names. Those of new classes keep their random start.

    Raises
    ------
    ConfigError
        If the network has another shape than the weights' (more than its classes differ).
    """
    theirs, ours = weights.config, config
    if theirs.network != ours.network or theirs.data.neighbour_slices != ours.data.neighbour_slices:
        found = [f"network.{k} = {v}" for k, v in vars(ours.network).items() if v != getattr(theirs.network, k)]
        if theirs.data.neighbour_slices != ours.data.neighbour_slices:
            found.append(f"data.neighbour_slices = {ours.data.neighbour_slices}")
        raise ConfigError(
            "config.init_differs",
            where="--init",
            found=", ".join(found),
            expected="the network section of the weights",
            advice="Leave --preset and --config away, so that the weights' own configuration is taken.",
        )
    old = {name: n for n, name in enumerate(("background", *theirs.data.classes))}
    new = ("background", *ours.data.classes)
    state = network.state_dict()
    for name, value in weights.state.items():
        state[name] = _by_class(state[name], value.float(), old, new) if "head" in name else value
    network.load_state_dict(state)
    return _notes(theirs, ours)


def _by_class(start: Tensor, value: Tensor, old: dict[str, int], new: tuple[str, ...]) -> Tensor:
    """The rows of an output layer in the new order of classes; ``start`` gives those of new classes."""
    return torch.stack([value[old[name]] if name in old else start[n] for n, name in enumerate(new)])


def _notes(theirs: Config, ours: Config) -> list[str]:
    notes = []
    kept = [c for c in ours.data.classes if c in theirs.data.classes]
    fresh = [c for c in ours.data.classes if c not in theirs.data.classes]
    gone = [c for c in theirs.data.classes if c not in ours.data.classes]
    notes.append(f"classes taken over: {', '.join(kept) or 'none'}")
    if fresh:
        notes.append(f"classes that start anew: {', '.join(fresh)}")
    if gone:
        notes.append(f"classes left out: {', '.join(gone)}")
    for key in ("spacing_mm", "window_hu"):
        a, b = getattr(theirs.data, key), getattr(ours.data, key)
        if a != b:
            notes.append(f"data.{key} is {list(b)}; the weights were trained with {list(a)}")
    return notes
