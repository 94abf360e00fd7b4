"""One call from a manifest to weights."""

from __future__ import annotations

import csv
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.utils import set_determinism
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pancreas_seg.config import Config
from pancreas_seg.data.loading import SampleDataset, VolumeDataset, cases_fingerprint, sample_loader
from pancreas_seg.data.manifest import Case, Manifest, load_manifest
from pancreas_seg.errors import ConfigError, ManifestError
from pancreas_seg.io import remove_unfinished, replacing
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.precision import choose_device, choose_precision
from pancreas_seg.network.weights import save_weights
from pancreas_seg.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pancreas_seg.training.curves import plot_curves
from pancreas_seg.training.dice import ClassDice
from pancreas_seg.training.engine import learning_rate, make_average, make_evaluator, make_optimizer, make_trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """Files of a finished training, and the validation Dice of the best round (NaN without validation cases)."""

    best: Path
    last: Path
    best_dice: float
    rounds: int


def train(
    manifest: str | Path,
    out: str | Path,
    config: Config,
    *,
    root: str | Path | None = None,
    fold: int | None = None,
    resume: bool = False,
    device: str = "auto",
    show_progress: bool = False,
) -> TrainingResult:
    """Train the network that a Config describes.

    Parameters
    ----------
    manifest : path
        JSON as `pancreas-seg manifest build` makes it.
    out : path
        Folder for config.toml, best.safetensors, last.safetensors, checkpoint.safetensors, metrics.csv, curves.png and
        TensorBoard events.
    config : Config
    root : path, optional
        Folder that the manifest's relative paths start from; by default what the manifest says.
    fold : int, optional
        The manifest's fold that validates; the others train. Without it all training cases train, and cases of the
        split "validation" validate, where there are any.
    resume : bool
        Whether to go on from ``out``'s checkpoint; without one, training starts at the beginning. On a CPU the result
        is the same, bit for bit, as that of a training that was not interrupted.
    device : {"auto", "cpu", "cuda"}
    show_progress : bool
        Whether to show a progress bar on stderr.

    Raises
    ------
    ManifestError, InputError
        If the data cannot be used.
    ConfigError
        If ``out`` holds a training and ``resume`` is False, or its checkpoint is of other settings.
    TrainingError
        If the loss is no longer finite.
    """
    out = Path(out)
    data = load_manifest(manifest, None if root is None else Path(root))
    run = _Run(data, out, config, fold, resume, device, show_progress)
    return run()


class _Run:
    """One training: the parts are made once, then the trainer runs and calls back after each round."""

    def __init__(
        self, data: Manifest, out: Path, config: Config, fold: int | None, resume: bool, device: str, show: bool
    ) -> None:
        self.out, self.config = out, config
        checkpoint = out / "checkpoint.safetensors"
        if checkpoint.exists() and not resume:
            raise ConfigError(
                "config.run_exists",
                where=out,
                found="a training that was started before",
                expected="an empty folder",
                advice="Add --resume to go on with it, or choose another folder.",
            )
        training, validation = _split(data, fold)
        remove_unfinished(out)
        self.cases = cases_fingerprint(training, validation)
        set_determinism(config.train.seed)
        self.device = choose_device(device)
        self.precision = choose_precision(config.train.precision, self.device)
        layout = torch.channels_last if config.network.spatial_dims == 2 else torch.channels_last_3d
        network = AttentionUNet.from_config(config).to(self.device)
        self.network = network.to(memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.network, config.train)
        self.average = make_average(self.network, config.train)
        self.progress = Progress()
        if resume and checkpoint.exists():
            self.progress = load_checkpoint(checkpoint, self.network, self.optimizer, config, self.cases, self.average)
        self.rounds = math.ceil(config.train.steps / config.train.validate_every)
        self.show = show
        with replacing(out / "config.toml") as temporary:
            temporary.write_text(config.to_toml(), encoding="utf-8")
        self.volumes = VolumeDataset(training, config, out / "cache", show)
        self.card = {"data": data.name, "training_cases": str(len(training)), "fold": str(fold)}
        self.evaluator, self.dice = self._evaluator(validation)
        self.trainer = self._trainer()
        self.started = time.monotonic()
        self.loss_sum = self.accuracy_sum = 0.0

    def __call__(self) -> TrainingResult:
        total = self.rounds * self.config.train.validate_every
        done = self.progress.round * self.config.train.validate_every
        self.bar = tqdm(total=total, initial=done, unit="step", disable=not self.show, file=sys.stderr, smoothing=0.05)
        # A resumed training overwrites the events of steps that were not checkpointed.
        self.events = SummaryWriter(str(self.out / "tensorboard"), purge_step=done + 1)
        try:
            if self.progress.round < self.rounds and not self._stops_early():
                with logging_redirect_tqdm():
                    self.trainer.run()
        finally:
            self.bar.close()
            self.events.close()
        best, last = self.out / "best.safetensors", self.out / "last.safetensors"
        return TrainingResult(best, last, self.progress.best_dice, self.progress.round)

    @property
    def result_network(self) -> torch.nn.Module:
        """What is validated and saved: the averaged network, or the network itself."""
        return self.network if self.average is None else self.average.module

    def _evaluator(self, validation: Sequence[Case]) -> tuple[SupervisedEvaluator | None, ClassDice | None]:
        if not validation:
            log.warning("no validation cases: the last weights count as the best")
            return None, None
        volumes = VolumeDataset(validation, self.config, self.out / "cache", self.show)
        return make_evaluator(self.result_network, volumes, self.config, self.precision, self.device)

    def _trainer(self) -> SupervisedTrainer:
        config = self.config
        dataset = SampleDataset(self.volumes, config, config.train.batch_size * config.train.validate_every)
        loader = sample_loader(dataset, config)
        trainer = make_trainer(self.network, self.optimizer, loader, config, self.precision, self.device, self.rounds)
        trainer.load_state_dict(
            {"epoch": self.progress.round, "max_epochs": self.rounds, "epoch_length": config.train.validate_every}
        )
        trainer.add_event_handler(Events.EXCEPTION_RAISED, _raise)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._after_round)
        return trainer

    def _after_step(self, engine: SupervisedTrainer) -> None:
        output = engine.state.output
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.loss_sum += output["loss"]
        self.accuracy_sum += output["accuracy"]
        self.bar.update(1)
        if engine.state.iteration % 10 == 0:
            self.bar.set_postfix(loss=f"{output['loss']:.3f}", refresh=False)

    def _after_round(self, engine: SupervisedTrainer) -> None:
        row = self._measure(engine)
        progress = self.progress
        progress.round = engine.state.epoch
        progress.history.append(row)
        score = row.get("val_dice", math.nan)
        better = math.isnan(progress.best_dice) or score > progress.best_dice
        if better:
            progress.best_dice, progress.best_round = score, progress.round
        card = {**self.card, "round": str(progress.round), "val_dice": f"{score:.4f}"}
        if better:
            save_weights(self.out / "best.safetensors", self.result_network, self.config, card)
        save_weights(self.out / "last.safetensors", self.result_network, self.config, card)
        _write_metrics(self.out / "metrics.csv", progress.history)
        plot_curves(progress.history, self.out / "curves.png")
        self._write_events(row)
        save_checkpoint(
            self.out / "checkpoint.safetensors",
            self.network,
            self.optimizer,
            progress,
            self.config,
            self.cases,
            self.average,
        )
        if self._stops_early():
            log.info("no better validation Dice for %d rounds: stopping", self.config.train.early_stop_rounds)
            engine.terminate()

    def _measure(self, engine: SupervisedTrainer) -> dict[str, float]:
        """One row of metrics.csv."""
        train = self.config.train
        step = engine.state.epoch * train.validate_every
        row = {
            "round": float(engine.state.epoch),
            "step": float(step),
            "loss": self.loss_sum / train.validate_every,
            "accuracy": self.accuracy_sum / train.validate_every,
            "learning_rate": learning_rate(step - 1, self.rounds * train.validate_every, train),
        }
        self.loss_sum = self.accuracy_sum = 0.0
        if self.evaluator is not None and self.dice is not None:
            self.evaluator.run()
            row["val_dice"] = self.evaluator.state.metrics["val_dice"]
            row["val_accuracy"] = self.dice.accuracy()
            row |= {f"val_dice_{name}": value for name, value in self.dice.per_class().items()}
        row["elapsed_s"] = time.monotonic() - self.started
        shown = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k in ("loss", "val_dice", "learning_rate"))
        log.info("round %d/%d: %s", engine.state.epoch, self.rounds, shown)
        return row

    def _stops_early(self) -> bool:
        patience = self.config.train.early_stop_rounds
        return (
            patience > 0 and self.evaluator is not None and self.progress.round - self.progress.best_round >= patience
        )

    def _write_events(self, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name not in ("round", "step"):
                self.events.add_scalar(name, value, int(row["step"]))
        self.events.flush()


def _split(manifest: Manifest, fold: int | None) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    training, validation = manifest.training_cases(fold)
    if not training:
        raise ManifestError(
            "manifest.no_training_cases",
            where=manifest.path,
            found="no case to train on",
            expected="at least one case with a label under `training`",
            advice="`pancreas-seg manifest check` shows what the manifest holds.",
        )
    return training, validation


def _raise(_: SupervisedTrainer, error: BaseException) -> None:
    raise error


def _write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in history for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
