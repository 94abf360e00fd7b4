"""Training samples per second: `pancreas-seg train` beside the plain MONAI way.

Both train on the same phantoms with MONAI's SupervisedTrainer, the same patch, batch, channels, Dice loss and AdamW,
and augmentation of the same kinds with the same probabilities. The plain way is the one of MONAI's tutorials:
monai.networks.nets.AttentionUnet in fp32, CacheDataset, RandCropByPosNegLabeld and MONAI's random transforms. The two
run in turn, so that a machine that slows down slows both, each in a process of its own: ours has the C library keep
freed memory, as the verb `train` does. Prints one table, with the share of time that making samples
takes; the ratio is of the medians over all counted steps.

    .venv/bin/python benchmarks/training_throughput.py [--steps 4] [--turns 3] [--preset default]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader, list_data_collate
from monai.engines import SupervisedTrainer
from monai.losses import DiceLoss
from monai.networks.nets import AttentionUnet
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)
from monai.utils import set_determinism

from pancreas_seg.config import Config, load_preset
from pancreas_seg.data.augment import MARGIN
from pancreas_seg.data.loading import SampleDataset, VolumeDataset, sample_loader
from pancreas_seg.data.manifest import Manifest, load_manifest
from pancreas_seg.data.phantom import write_cohort
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.precision import choose_precision
from pancreas_seg.training.engine import make_optimizer, make_trainer
from pancreas_seg.training.memory import keep_freed_memory

CPU = torch.device("cpu")


@dataclass
class Clock:
    """Seconds of each step, and of the part of it in which samples were made."""

    steps: list[float] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    in_samples: float = 0.0
    last: float = 0.0

    def watch(self, trainer: SupervisedTrainer) -> None:
        def started() -> None:
            self.last, self.in_samples = time.perf_counter(), 0.0

        def completed() -> None:
            now = time.perf_counter()
            self.steps.append(now - self.last)
            self.samples.append(self.in_samples)
            self.last, self.in_samples = now, 0.0

        trainer.add_event_handler(Events.EPOCH_STARTED, started)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, completed)


class TimedDataset(torch.utils.data.Dataset[Any]):
    """A data set that tells a clock how long its items take."""

    def __init__(self, inner: Any, clock: Clock) -> None:
        self.inner, self.clock = inner, clock

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        start = time.perf_counter()
        item = self.inner[index]
        self.clock.in_samples += time.perf_counter() - start
        return item

    def set_round(self, number: int) -> None:
        self.inner.set_round(number)


def ours(manifest: Manifest, config: Config, steps: int, clock: Clock) -> Callable[[], None]:
    """As `training.trainer` does it, without files and validation."""
    volumes = VolumeDataset(manifest.of_split("training"), config)
    network = AttentionUNet.from_config(config).to(memory_format=torch.channels_last_3d)
    settings = config.with_settings([f"train.validate_every={steps}"])
    dataset = TimedDataset(SampleDataset(volumes, settings, steps * config.train.batch_size), clock)
    loader = sample_loader(dataset, settings)  # type: ignore[arg-type]
    precision = choose_precision(config.train.precision, CPU)
    optimizer = make_optimizer(network, config.train)

    def turn() -> None:
        trainer = make_trainer(network, optimizer, loader, settings, precision, CPU, 1)  # type: ignore[arg-type]
        clock.watch(trainer)
        trainer.run()

    return turn


def plain(manifest: Manifest, config: Config, steps: int, clock: Clock) -> Callable[[], None]:
    """As MONAI's tutorials do it."""
    items = [{"image": str(case.image), "label": str(case.label)} for case in manifest.of_split("training")]
    batch = config.train.batch_size
    dataset = CacheDataset(items, _plain_transforms(config, manifest), progress=False)
    network = AttentionUnet(
        3, 1, config.out_channels, config.network.channels, (2,) * (len(config.network.channels) - 1)
    )
    optimizer = torch.optim.AdamW(network.parameters(), config.train.learning_rate)
    loss = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def turn() -> None:
        repeated = torch.utils.data.Subset(TimedDataset(dataset, clock), [n % len(items) for n in range(steps * batch)])
        trainer = SupervisedTrainer(
            device=CPU,
            max_epochs=1,
            train_data_loader=DataLoader(repeated, batch_size=batch, collate_fn=list_data_collate),
            network=network,
            optimizer=optimizer,
            loss_function=loss,
            decollate=False,
        )
        clock.watch(trainer)
        trainer.run()

    return turn


def _plain_transforms(config: Config, manifest: Manifest) -> Compose:
    keys, augment, data = ["image", "label"], config.augment, config.data
    low, high = data.window_hu
    pancreas = next(value for value, name in manifest.labels.items() if name == "pancreas")
    block = [round(n * MARGIN) for n in data.patch_size]
    turn = torch.deg2rad(torch.tensor(augment.rotate_degrees)).item()
    hu = high - low
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(keys, pixdim=data.spacing_mm, mode=("bilinear", "nearest")),
            ScaleIntensityRanged(["image"], low, high, 0.0, 1.0, clip=True),
            _Only(pancreas),
            SpatialPadd(keys, block),
            RandCropByPosNegLabeld(keys, "label", block, pos=1, neg=1, num_samples=1),
            RandAffined(
                keys,
                prob=augment.affine_probability,
                rotate_range=(turn,) * 3,
                scale_range=(augment.scale_range,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            CenterSpatialCropd(keys, data.patch_size),
            RandSimulateLowResolutiond(
                ["image"], prob=augment.lowres_probability, zoom_range=(augment.lowres_zoom, 1.0)
            ),
            RandAdjustContrastd(["image"], prob=augment.contrast_probability, gamma=(0.77, 1 + augment.contrast_gamma)),
            RandShiftIntensityd(["image"], offsets=augment.shift_hu / hu, prob=augment.contrast_probability),
            RandGaussianNoised(["image"], prob=augment.noise_probability, std=augment.noise_hu / hu),
        ]
    )


class _Only:
    """Make a label map of many organs one of the pancreas alone."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "label": (item["label"] == self.value).float()}


WAYS = {"ours": ours, "plain MONAI": plain}


def _serve(name: str, manifest: Path, preset: str, steps: int, pipe: Connection) -> None:
    """Run a turn for each message, and answer with the clock's seconds; ends with the pipe."""
    if name == "ours":
        keep_freed_memory()
    set_determinism(0)
    clock = Clock()
    run = WAYS[name](load_manifest(manifest), load_preset(preset), steps, clock)
    pipe.send(None)
    while pipe.recv():
        run()
        pipe.send((clock.steps[-steps:], clock.samples[-steps:]))


def _measured(manifest: Path, options: argparse.Namespace) -> dict[str, Clock]:
    """The clocks of both ways, without the first turn, which warms up."""
    spawn = multiprocessing.get_context("spawn")
    clocks = {name: Clock() for name in WAYS}
    pipes = {}
    for name in WAYS:
        pipes[name], end = spawn.Pipe()
        arguments = (name, manifest, options.preset, options.steps, end)
        spawn.Process(target=_serve, args=arguments, daemon=True).start()
        pipes[name].recv()
    for turn in range(options.turns + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            steps, samples = pipe.recv()
            if turn:
                clocks[name].steps += steps
                clocks[name].samples += samples
        print(f"turn {turn} of {options.turns}", flush=True)
    return clocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", default="default", help="settings of both (default: default)")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn (default 4)")
    parser.add_argument("--turns", type=int, default=3, help="counted turns of each (default 3)")
    options = parser.parse_args()
    config = load_preset(options.preset)
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(Path(folder), cases=2, seed=0)
        clocks = _measured(Path(folder) / "manifest.json", options)
    patch = "x".join(map(str, config.data.patch_size))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, preset {options.preset}, patch {patch}, "
        f"batch {config.train.batch_size}, ours in {choose_precision(config.train.precision, CPU)}"
    )
    print(f"{'':14}{'samples/s':>12}{'s/step':>10}{'s in samples':>14}")
    rates = {}
    for name, clock in clocks.items():
        step = statistics.median(clock.steps)
        rates[name] = config.train.batch_size / step
        print(f"{name:14}{rates[name]:>12.3f}{step:>10.3f}{statistics.median(clock.samples):>14.3f}")
    print(f"ratio {rates['ours'] / rates['plain MONAI']:.2f}")


if __name__ == "__main__":
    main()
