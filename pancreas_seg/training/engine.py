"""MONAI's SupervisedTrainer and SupervisedEvaluator, set up from a Config."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from pancreas_seg.config import Config, TrainConfig
from pancreas_seg.data.loading import VolumeDataset
from pancreas_seg.data.transforms import IMAGE, LABEL, LABELLED
from pancreas_seg.errors import TrainingError
from pancreas_seg.network.decision import decided_among_all
from pancreas_seg.network.loss import SegmentationLoss
from pancreas_seg.network.precision import Precision, autocast
from pancreas_seg.network.torch_engine import TorchEngine
from pancreas_seg.network.windows import sweep
from pancreas_seg.training.dice import ClassDice
from pancreas_seg.training.processes import Processes


def make_optimizer(network: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW."""
    parameters = list(network.parameters())
    if train.optimizer == "sgd":
        nesterov = train.momentum > 0
        return torch.optim.SGD(
            parameters, train.learning_rate, train.momentum, weight_decay=train.weight_decay, nesterov=nesterov
        )
    kind = torch.optim.Adam if train.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, train.learning_rate, weight_decay=train.weight_decay)


def make_average(network: nn.Module, train: TrainConfig) -> AveragedModel | None:
    """The exponential moving average of weights and batch statistics, or None."""
    if train.average_decay == 0:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(train.average_decay), use_buffers=True)


def training_mode(network: nn.Module, train: TrainConfig) -> None:
    """Put a network into training mode, its batch norm only if it is to normalise by the batch."""
    network.train()
    if train.norm_statistics == "stored":
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def learning_rate(step: int, total: int, train: TrainConfig) -> float:
    """Learning rate of a step (from 0): linear warm-up, then constant, (1 - t)^0.9, or half a cosine."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    t = (step - train.warmup_steps) / max(1, total - train.warmup_steps)
    t = min(max(t, 0.0), 1.0)
    shape = {"constant": 1.0, "poly": (1 - t) ** 0.9, "cosine": 0.5 * (1 + math.cos(math.pi * t))}
    return train.learning_rate * shape[train.schedule]


def make_trainer(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Any],
    config: Config,
    precision: Precision,
    device: torch.device,
    rounds: int,
) -> SupervisedTrainer:
    """A SupervisedTrainer whose epoch is one round and whose learning rate follows the schedule.

    Its ``state.output`` has "loss" and "accuracy". MONAI's own ``amp`` is for CUDA only, hence the own iteration, which
    runs bf16 on CPUs as well.
    """
    loss_function = SegmentationLoss.from_config(config)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    total = rounds * config.train.validate_every
    layout = torch.channels_last if config.network.spatial_dims == 2 else torch.channels_last_3d

    def iteration(engine: SupervisedTrainer, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        image = batch[IMAGE].to(device, non_blocking=True, memory_format=layout)
        label = batch[LABEL].to(device, non_blocking=True)
        labelled = batch[LABELLED].to(device, non_blocking=True)
        step = engine.state.iteration - 1
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, total, config.train)
        training_mode(engine.network, config.train)
        engine.optimizer.zero_grad(set_to_none=True)
        with autocast(precision, device):
            outputs = engine.network(image)
        loss = engine.loss_function(outputs, label, labelled)
        if not torch.isfinite(loss):
            raise TrainingError(
                "training.not_finite",
                where=f"step {step + 1}",
                found=f"the loss {loss.item()}",
                expected="a finite number",
                advice='Lower train.learning_rate or use train.precision "fp32". The last round is kept.',
            )
        scaler.scale(loss).backward()
        if config.train.clip_gradient_norm > 0:
            scaler.unscale_(engine.optimizer)
            nn.utils.clip_grad_norm_(engine.network.parameters(), config.train.clip_gradient_norm)
        scaler.step(engine.optimizer)
        scaler.update()
        finest = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        right = (finest.detach().argmax(1, keepdim=True) == label).float().mean()
        return {"loss": loss.item(), "accuracy": right.item()}

    trainer = SupervisedTrainer(
        device=device,
        max_epochs=rounds,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=loss_function,
        epoch_length=config.train.validate_every,
        iteration_update=iteration,
        decollate=False,
    )

    @trainer.on(Events.EPOCH_STARTED)
    def _start_round(engine: SupervisedTrainer) -> None:
        loader.dataset.set_round(engine.state.epoch - 1)  # type: ignore[attr-defined]

    return trainer


def make_evaluator(
    network: nn.Module, volumes: VolumeDataset, config: Config, precision: Precision, processes: Processes
) -> tuple[SupervisedEvaluator, ClassDice]:
    """A SupervisedEvaluator over whole volumes by sliding windows, on the model grid; key metric "val_dice".

    Of several processes each takes its share of the volumes; the metric is over all.
    """
    names = config.data.classes
    outputs = [1 + names.index(name) for name in config.infer.output]
    dice = ClassDice(config.out_channels, names, config.infer.output, processes)
    running = replace(config, infer=replace(config.infer, precision=precision, torch_compile=False))

    def iteration(engine: SupervisedEvaluator, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        run = TorchEngine([engine.network], running, str(processes.device))
        probabilities = sweep(
            partial(run.probabilities, classes=range(config.out_channels)),
            batch[IMAGE][0].float().cpu().numpy(),
            config,
            config.out_channels,
        )
        prediction = torch.from_numpy(decided_among_all(probabilities, outputs, config.infer.threshold))[None, None]
        return {"pred": prediction, "label": batch[LABEL], "labelled": batch[LABELLED]}

    evaluator = SupervisedEvaluator(
        device=processes.device,
        val_data_loader=DataLoader(volumes, batch_size=1, collate_fn=_only_volume),
        network=network,
        iteration_update=iteration,
        key_val_metric={"val_dice": dice},
        decollate=False,
    )
    return evaluator, dice


def _only_volume(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: items[0][key][None] for key in (IMAGE, LABEL, LABELLED)}
