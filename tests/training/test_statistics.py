"""Batch norm's statistics, taken anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pancreas_seg.config import Config
from pancreas_seg.data.loading import VolumeDataset, cut_sample
from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.data.transforms import IMAGE
from pancreas_seg.errors import TrainingError
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.training.statistics import renew_statistics

CONFIG = Config().changed(
    {
        "data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [16, 16, 8]},
        "network": {"channels": [4, 8]},
        "augment": {"noise_probability": 1.0, "noise_hu": 400.0},
    }
)


def test_they_are_those_of_samples_without_augmentation(cohort) -> None:
    cases = load_manifest(cohort).cases[:3]
    network = AttentionUNet.from_config(CONFIG).train()
    network(torch.rand(2, 1, 16, 16, 8) + 5)
    weights = {name: value.clone() for name, value in network.named_parameters()}
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm3d))
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv3d))
    renew_statistics(network, cases, CONFIG, samples=7)

    rng, volumes = np.random.default_rng([CONFIG.train.seed, 2]), VolumeDataset(list(cases), CONFIG)
    means, variances = [], []
    for index in range(7):
        block = cut_sample(volumes[index % 3], CONFIG, rng)[IMAGE]
        start = [(n - want) // 2 for n, want in zip(block.shape[1:], (16, 16, 8), strict=True)]
        patch = block[:, start[0] : start[0] + 16, start[1] : start[1] + 16, start[2] : start[2] + 8]
        with torch.no_grad():
            features = convolution(patch[None].float())[0].flatten(1)
        means.append(features.mean(1))
        variances.append(features.var(1))
    torch.testing.assert_close(first.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)
    assert not network.training
    assert first.momentum == nn.BatchNorm3d(1).momentum
    assert all(torch.equal(weights[name], value) for name, value in network.named_parameters())


def test_there_are_none_with_instance_norm(cohort) -> None:
    config = CONFIG.with_settings(["network.norm=instance"])
    with pytest.raises(TrainingError, match="training.no_batch_norm"):
        renew_statistics(AttentionUNet.from_config(config), load_manifest(cohort).cases[:1], config)
