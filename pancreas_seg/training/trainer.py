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
from typing import cast

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
from pancreas_seg.data.transforms import class_table, labelled_classes
from pancreas_seg.errors import ConfigError, ManifestError
from pancreas_seg.io import remove_unfinished, replacing
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.precision import choose_precision
from pancreas_seg.network.weights import Weights, save_weights
from pancreas_seg.training.attention import AttentionRecord, plot_attention
from pancreas_seg.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pancreas_seg.training.curves import plot_curves
from pancreas_seg.training.dice import ClassDice
from pancreas_seg.training.engine import learning_rate, make_average, make_evaluator, make_optimizer, make_trainer
from pancreas_seg.training.processes import Processes, joined
from pancreas_seg.training.start import start_from

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
    init: Weights | None = None,
) -> TrainingResult:
    """Train the network that a Config describes.

    Several processes that torchrun started train one network together, each with ``train.batch_size`` samples a step.

    Parameters
    ----------
    manifest : path
        JSON as `pancreas-seg manifest build` makes it.
    out : path
        Folder for config.toml, best.safetensors, last.safetensors, checkpoint.safetensors, metrics.csv, curves.png,
        attention.png with its records, and TensorBoard events.
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
    init : Weights, optional
        What to start from instead of random weights; classes go by their names.

    Raises
    ------
    ManifestError, InputError
        If the data cannot be used.
    ConfigError
        If ``out`` holds a training and ``resume`` is False, its checkpoint is of other settings, or ``init`` is of
        another network.
    TrainingError
        If the loss is no longer finite.
    """
    out = Path(out)
    data = load_manifest(manifest, None if root is None else Path(root))
    with joined(device) as processes:
        result = _Run(data, out, config, fold, resume, processes, show_progress, init)()
        processes.wait()
    return result


class _Run:
    """One training: the parts are made once, then the trainer runs and calls back after each round."""

    def __init__(
        self,
        data: Manifest,
        out: Path,
        config: Config,
        fold: int | None,
        resume: bool,
        processes: Processes,
        show: bool,
        init: Weights | None,
    ) -> None:
        self.out, self.config, self.processes = out, config, processes
        checkpoint = out / "checkpoint.safetensors"
        if checkpoint.exists() and not resume:
            raise ConfigError(
                "config.run_exists",
                where=out,
                found="a training that was started before",
                expected="an empty folder",
                advice="Add --resume to go on with it, or choose another folder.",
            )
        if config.train.norm_statistics == "stored" and init is None:
            raise ConfigError(
                "config.no_stored_statistics",
                where="train.norm_statistics",
                found='"stored", and no weights to start from',
                expected="weights whose statistics are kept",
                advice='Add --init, or leave train.norm_statistics at "batch".',
            )
        training, validation = _split(data, fold)
        _check_classes(data, training, config, init)
        self.cases = cases_fingerprint(training, validation)
        self.card = {"data": data.name, "training_cases": str(len(training)), "fold": str(fold)}
        self.rounds = math.ceil(config.train.steps / config.train.validate_every)
        self.show = show and processes.first
        set_determinism(config.train.seed)
        self.precision = choose_precision(config.train.precision, processes.device)
        self.network = self._start(init)
        self.optimizer = make_optimizer(self.network, config.train)
        self.average = make_average(self.network, config.train)
        self.progress = Progress()
        if resume and checkpoint.exists():
            self.progress = load_checkpoint(checkpoint, self.network, self.optimizer, config, self.cases, self.average)
        if processes.first:
            remove_unfinished(out)
            with replacing(out / "config.toml") as temporary:
                temporary.write_text(config.to_toml(), encoding="utf-8")
        self.volumes = VolumeDataset(training, config, out / "cache", self.show)
        self.evaluator, self.dice = self._evaluator(validation)
        self.attention = AttentionRecord(out / "attention", self.volumes[0], config) if processes.first else None
        self.trainer = self._trainer()
        self.started = time.monotonic()
        self.loss_sum = self.accuracy_sum = 0.0

    def _start(self, init: Weights | None) -> AttentionUNet:
        """The network with its first weights, on the device."""
        config = self.config
        network = AttentionUNet.from_config(config)
        if init is not None:
            self.card["started_from"] = init.sha256
            for note in start_from(network, config, init):
                log.info("%s", note)
        layout = torch.channels_last if config.network.spatial_dims == 2 else torch.channels_last_3d
        return network.to(self.processes.device).to(memory_format=layout)  # type: ignore[call-overload]

    def __call__(self) -> TrainingResult:
        total = self.rounds * self.config.train.validate_every
        done = self.progress.round * self.config.train.validate_every
        self.bar = tqdm(total=total, initial=done, unit="step", disable=not self.show, file=sys.stderr, smoothing=0.05)
        # A resumed training overwrites the events of steps that were not checkpointed.
        self.events = (
            SummaryWriter(str(self.out / "tensorboard"), purge_step=done + 1) if self.processes.first else None
        )
        try:
            if self.progress.round < self.rounds and not self._stops_early():
                with logging_redirect_tqdm():
                    self.trainer.run()
        finally:
            self.bar.close()
            if self.events is not None:
                self.events.close()
        best, last = self.out / "best.safetensors", self.out / "last.safetensors"
        return TrainingResult(best, last, self.progress.best_dice, self.progress.round)

    @property
    def result_network(self) -> AttentionUNet:
        """What is validated and saved: the averaged network, or the network itself."""
        return self.network if self.average is None else cast(AttentionUNet, self.average.module)

    def _evaluator(self, validation: Sequence[Case]) -> tuple[SupervisedEvaluator | None, ClassDice | None]:
        if not validation:
            log.warning("no validation cases: the last weights count as the best")
            return None, None
        self.share = validation[self.processes.rank :: self.processes.count]
        volumes = VolumeDataset(self.share, self.config, self.out / "cache", self.show)
        return make_evaluator(self.result_network, volumes, self.config, self.precision, self.processes)

    def _trainer(self) -> SupervisedTrainer:
        config = self.config
        here = self.processes
        length = config.train.batch_size * config.train.validate_every
        loader = sample_loader(SampleDataset(self.volumes, config, length, here.rank, here.count), config)
        outputs = len(self.network.side_heads) + 1 if config.network.deep_supervision else 1
        weights = config.train.supervision_weights[:outputs]
        wrapped = here.wrapped(self.network, all_used=len(weights) == outputs and min(weights) > 0)
        trainer = make_trainer(wrapped, self.optimizer, loader, config, self.precision, here.device, self.rounds)
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
        self.processes.agree_on_buffers(self.result_network)
        row = self._measure(engine)
        progress = self.progress
        progress.round = engine.state.epoch
        progress.history.append(row)
        score = row.get("val_dice", math.nan)
        better = math.isnan(progress.best_dice) or score > progress.best_dice
        if better:
            progress.best_dice, progress.best_round = score, progress.round
        if self.processes.first:
            self._write(row, better)
        if self._stops_early():
            log.info("no better validation Dice for %d rounds: stopping", self.config.train.early_stop_rounds)
            engine.terminate()

    def _write(self, row: dict[str, float], better: bool) -> None:
        """The files of a round; the checkpoint comes last."""
        progress = self.progress
        card = {**self.card, "round": str(progress.round), "val_dice": f"{row.get('val_dice', math.nan):.4f}"}
        if better:
            save_weights(self.out / "best.safetensors", self.result_network, self.config, card)
        save_weights(self.out / "last.safetensors", self.result_network, self.config, card)
        _write_metrics(self.out / "metrics.csv", progress.history)
        plot_curves(progress.history, self.out / "curves.png")
        if self.attention is not None:
            self.attention.keep(self.result_network, progress.round)
            plot_attention(self.out / "attention", self.out / "attention.png")
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

    def _measure(self, engine: SupervisedTrainer) -> dict[str, float]:
        """One row of metrics.csv."""
        train = self.config.train
        step = engine.state.epoch * train.validate_every
        sums = torch.tensor([self.loss_sum, self.accuracy_sum], dtype=torch.float64)
        loss, accuracy = (self.processes.sum(sums) / (train.validate_every * self.processes.count)).tolist()
        row = {
            "round": float(engine.state.epoch),
            "step": float(step),
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": learning_rate(step - 1, self.rounds * train.validate_every, train),
        }
        self.loss_sum = self.accuracy_sum = 0.0
        if self.evaluator is not None and self.dice is not None:
            if self.share:
                self.evaluator.run()
                row["val_dice"] = self.evaluator.state.metrics["val_dice"]
            else:
                self.dice.reset()
                row["val_dice"] = self.dice.compute()
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
        if self.events is None:
            return
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


def _check_classes(data: Manifest, training: Sequence[Case], config: Config, init: Weights | None) -> None:
    """Refuse a class that no training case is labelled for, unless it is one that the first weights know."""
    labelled = torch.stack([labelled_classes(class_table(case.labels, config), config) for case in training]).any(dim=0)
    nowhere = [name for name, some in zip(config.data.classes, labelled[1:].tolist(), strict=True) if not some]
    known = () if init is None else init.config.data.classes
    unknown = [name for name in nowhere if name not in known]
    if unknown:
        raise ManifestError(
            "manifest.class_nowhere",
            where=data.path,
            found=f"no training case with a label for {', '.join(unknown)}",
            expected="for each of data.classes some case that has it among its labels",
            advice="Correct the names in `labels` of the manifest, or in data.classes or data.merge.",
        )
    if nowhere:
        log.info("without labels in any case, so not trained further: %s", ", ".join(nowhere))


def _raise(_: SupervisedTrainer, error: BaseException) -> None:
    raise error


def _write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in history for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
