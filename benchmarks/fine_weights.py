"""The weights that the speed benchmarks run: a fine network at 1.5 mm with 96³ windows that knows the phantoms.

    .venv/bin/python benchmarks/fine_weights.py OUT [--steps 0]

The network is the default one, 16-32-64-128-256. It starts from the starter's fine network (2 mm, 160 channels at the
deepest level), whose tensors it takes into the corners of its own so that it gives the same; that already draws the
phantoms' pancreas with a Dice of 0.96 at 1.5 mm. With --steps it learns from four phantoms, too. OUT gets
fine_STEPS.safetensors and packed_STEPS.safetensors, the same network with the starter's
coarse one. An interrupted training goes on where it was. These weights are for timing on phantoms, not for patients.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from pancreas_seg.config import Config, InferConfig
from pancreas_seg.data.phantom import write_cohort
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.stages import load_stages, pack_weights
from pancreas_seg.network.weights import Weights, save_weights
from pancreas_seg.training.start import start_from
from pancreas_seg.training.trainer import train

CASES, SEED = 4, 100
"""Of the phantoms that are trained with; no benchmark segments these."""


def fine_config(starter: Config, steps: int) -> Config:
    """The starter's fine configuration at 1.5 mm with 96³ patches, for the pancreas alone, with the default channels.

    Inference is the default one: overlap and threshold 0.5, as plain MONAI has them.
    """
    return replace(
        starter,
        data=replace(starter.data, spacing_mm=(1.5, 1.5, 1.5), patch_size=(96, 96, 96), classes=("pancreas",)),
        network=replace(starter.network, channels=(16, 32, 64, 128, 256)),
        augment=replace(starter.augment, affine_probability=0.5, elastic_probability=0.0),
        train=replace(
            starter.train,
            steps=max(steps, 1),
            validate_every=10,
            batch_size=1,
            learning_rate=5e-4,
            warmup_steps=10,
            class_weights=(),
            average_decay=0.95,
            pancreas_fraction=0.6,
            norm_statistics="batch",
        ),
        infer=InferConfig(),
    )


def widened(weights: Weights, config: Config) -> Weights:
    """Weights of a wider network of the same depth that gives what the narrower one gives.

    New channels keep their random start, and count for nothing yet in those that were there.
    """
    torch.manual_seed(0)
    theirs = replace(config, data=replace(config.data, classes=weights.config.data.classes))
    state = AttentionUNet.from_config(theirs).state_dict()
    for name, old in weights.state.items():
        new = state[name]
        corner = tuple(slice(n) for n in old.shape)
        if new.ndim > 1:
            new[: old.shape[0]] = 0.0
        new[corner] = old.to(new.dtype)
    return replace(weights, arrays={name: value.numpy() for name, value in state.items()}, config=theirs)


def make_weights(out: Path, steps: int) -> tuple[Path, Path]:
    """The files fine_STEPS.safetensors and packed_STEPS.safetensors in ``out``, made if they aren't there."""
    fine, packed, coarse = (out / f"{name}_{steps}.safetensors" for name in ("fine", "packed", "coarse"))
    if packed.exists():
        return fine, packed
    starter = load_stages("starter")
    if starter.coarse is None:
        raise SystemExit("the starter weights hold no coarse network")
    config = fine_config(starter.fine[0].config, steps)
    init = widened(starter.fine[0], config)
    if steps:
        manifest = out / "phantoms" / "manifest.json"
        if not manifest.exists():
            write_cohort(manifest.parent, CASES, SEED, (1.5, 1.5, 2.0))
        shutil.copyfile(train(manifest, out / f"run_{steps}", config, resume=True, init=init).last, fine)
    else:
        network = AttentionUNet.from_config(config)
        start_from(network, config, init)
        save_weights(fine, network, config)
    save_weights(coarse, starter.coarse.network(), starter.coarse.config, starter.coarse.card)
    pack_weights(packed, [fine], coarse)
    return fine, packed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=0, help="default 0")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    print(*make_weights(options.out, options.steps), sep="\n")


if __name__ == "__main__":
    main()
