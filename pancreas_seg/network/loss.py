"""The training loss: MONAI's Dice loss, cross-entropy, or both, over one or several network outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn
from torch.nn import functional as F

from pancreas_seg.config import Config


class SegmentationLoss(nn.Module):
    """Loss of logits against a label map.

    "dice" is one minus the soft Dice coefficient, averaged over the classes c (Milletari et al. 2016 without the
    squares)::

        1 - (2·Σ p_c·y_c + ε) / (Σ p_c + Σ y_c + ε)

    where p is the softmax over the classes, y the one-hot label and the sums run over all voxels (of the batch, or of
    each sample). "ce" is the mean cross-entropy, "dice_ce" the sum of both.

    Parameters
    ----------
    kind : {"dice", "dice_ce", "ce"}
    background : bool
        Whether the Dice part counts class 0.
    batch : bool
        Whether the Dice sums run over the whole batch.
    epsilon : float
        ε above.
    supervision_weights : sequence of float
        Weight of each output when the network gives several, finest first; the weights that are used are normalised
        to a sum of 1. Outputs beyond the sequence weigh nothing.
    """

    def __init__(
        self, kind: str, background: bool, batch: bool, epsilon: float, supervision_weights: Sequence[float]
    ) -> None:
        super().__init__()
        self.kind = kind
        self.supervision_weights = tuple(supervision_weights)
        self.dice = DiceLoss(
            include_background=background,
            softmax=True,
            smooth_nr=epsilon,
            smooth_dr=epsilon,
            batch=batch,
        )

    @classmethod
    def from_config(cls, config: Config) -> SegmentationLoss:
        """The loss that a Config describes."""
        train = config.train
        return cls(train.loss, train.loss_background, train.loss_batch, train.loss_epsilon, train.supervision_weights)

    def forward(self, outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        """Loss of logits against labels (N, 1, *S); a scalar, computed in float32.

        ``outputs`` is (N, C, *S), or a list of such, where coarser ones are compared with the share that each class
        has in their voxels.
        """
        if isinstance(outputs, Tensor):
            return self._one(outputs, labels)
        pairs = list(zip(self.supervision_weights, outputs, strict=False))
        total = sum(weight for weight, _ in pairs)
        losses = [weight / total * self._one(logits, labels) for weight, logits in pairs if weight > 0]
        return torch.stack(losses).sum()

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.float()
        target = one_hot(labels, num_classes=logits.shape[1])
        if target.shape[2:] != logits.shape[2:]:
            target = F.interpolate(target, size=logits.shape[2:], mode="area")
        parts = []
        if self.kind in ("dice", "dice_ce"):
            parts.append(self.dice(logits, target))
        if self.kind in ("ce", "dice_ce"):
            hard = target.shape[2:] == labels.shape[2:]
            parts.append(F.cross_entropy(logits, labels[:, 0].long() if hard else target))
        return torch.stack(parts).sum()
