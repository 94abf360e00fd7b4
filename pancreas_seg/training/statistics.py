"""Batch norm's statistics, taken anew after training from samples as the network will see them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pancreas_seg.config import Config
from pancreas_seg.data.augment import centre
from pancreas_seg.data.loading import VolumeDataset, cut_sample
from pancreas_seg.data.manifest import Case
from pancreas_seg.data.transforms import IMAGE
from pancreas_seg.errors import TrainingError
from pancreas_seg.network.attention_unet import AttentionUNet

_LOG = logging.getLogger(__name__)


@torch.no_grad()
def renew_statistics(network: AttentionUNet, cases: Sequence[Case], config: Config, samples: int = 60) -> None:
    """Replace batch norm's running means and variances by averages over samples without augmentation.

    The running ones come from augmented samples and from everything that training mixed in (synthetic CTs, for
    example); a CT that is to be segmented has neither. The samples are cut as in training, from the cases in turn, and
    each counts the same. The network is left in evaluation mode; its weights don't change.

    Parameters
    ----------
    network : AttentionUNet
    cases : sequence of Case
        Labelled CTs like those that the network is for.
    config : Config
        The network's; ``train.seed`` chooses the samples.
    samples : int

    Raises
    ------
    TrainingError
        If the network has no batch norm.
    ManifestError, InputError
        If a case cannot be read.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise TrainingError(
            "training.no_batch_norm",
            where="network",
            found=f"norm = {config.network.norm!r}",
            expected='"batch"',
            advice="Networks with instance norm have no statistics to take.",
        )
    volumes = VolumeDataset(list(cases), config)
    rng = np.random.default_rng([config.train.seed, 2])
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for index in range(samples):
        sample = cut_sample(volumes[index % len(volumes)], config, rng)
        network(centre(sample[IMAGE], config.data.patch_size)[None].float())
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    _LOG.info("statistics of %d samples of %d cases", samples, len(cases))
