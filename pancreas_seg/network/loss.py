"""The training loss: MONAI's Dice loss, cross-entropy, or both, over one or several network outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn
from torch.nn import functional as F

from pancreas_seg.config import IGNORE, Config


class SegmentationLoss(nn.Module):
    """Loss of logits against a label map.

    "dice" is one minus the soft Dice coefficient, averaged over the classes c (Milletari et al. 2016 without the
    squares)::

        1 - (2·Σ p_c·y_c + ε) / (Σ p_c + Σ y_c + ε)

    where p is the softmax over the classes, y the one-hot label and the sums run over all voxels (of the batch, or of
    each sample). "ce" is the mean cross-entropy, "dice_ce" the sum of both.

    A sample may be labelled for some of the classes only. What carries no label there may be background or any class
    that isn't labelled, so these are one class to the loss, whose probability is the sum of theirs (the marginal loss
    of Shi et al. 2021, "Marginal loss and exclusion loss for partially supervised multi-organ segmentation").

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
    class_weights : sequence of float
        Weight of each class after the background in the Dice part, normalised to a mean of 1; empty for equal ones.
    """

    def __init__(
        self,
        kind: str,
        background: bool,
        batch: bool,
        epsilon: float,
        supervision_weights: Sequence[float],
        class_weights: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.kind = kind
        self.supervision_weights = tuple(supervision_weights)
        weight = None
        if class_weights:
            weight = torch.tensor([1.0] * background + list(class_weights))
            weight = weight / weight.mean()
        self.dice = DiceLoss(
            include_background=background,
            smooth_nr=epsilon,
            smooth_dr=epsilon,
            batch=batch,
            weight=weight,
        )

    @classmethod
    def from_config(cls, config: Config) -> SegmentationLoss:
        """The loss that a Config describes."""
        train = config.train
        return cls(
            train.loss,
            train.loss_background,
            train.loss_batch,
            train.loss_epsilon,
            train.supervision_weights,
            train.class_weights,
        )

    def forward(self, outputs: Tensor | Sequence[Tensor], labels: Tensor, labelled: Tensor | None = None) -> Tensor:
        """Loss of logits against a label map; a scalar, computed in float32.

        Parameters
        ----------
        outputs : (N, C, *S) tensor, or list of such
            Logits. Coarser ones are compared with the share that each class has in their voxels.
        labels : (N, 1, *S) integer tensor
            Class indices; voxels of value 255 count for nothing.
        labelled : (N, C) bool tensor, optional
            Which classes each sample is labelled for; the background always is.
        """
        if isinstance(outputs, Tensor):
            return self._one(outputs, labels, labelled)
        pairs = list(zip(self.supervision_weights, outputs, strict=False))
        total = sum(weight for weight, _ in pairs)
        losses = [weight / total * self._one(logits, labels, labelled) for weight, logits in pairs if weight > 0]
        return torch.stack(losses).sum()

    def _one(self, logits: Tensor, labels: Tensor, labelled: Tensor | None) -> Tensor:
        partly = None if labelled is None or bool(labelled.all()) else labelled
        log_p = torch.log_softmax(logits.float(), dim=1)
        if partly is not None:
            log_p = _with_unlabelled_in_background(log_p, partly)
        ignored = labels == IGNORE
        target = one_hot(labels.masked_fill(ignored, 0), num_classes=logits.shape[1])
        if ignored.any():
            target = target * ~ignored
        hard = target.shape[2:] == logits.shape[2:]
        if not hard:
            target = F.interpolate(target, size=logits.shape[2:], mode="area")
        share = target.sum(dim=1, keepdim=True)  # of each voxel that counts
        parts = []
        if self.kind in ("dice", "dice_ce"):
            counts = share if partly is None else share * partly.view(*partly.shape, *[1] * (logits.ndim - 2))
            parts.append(self.dice(log_p.exp() * counts, target))
        if self.kind in ("ce", "dice_ce"):
            if hard:
                sums = F.nll_loss(log_p, labels[:, 0].long(), ignore_index=IGNORE, reduction="sum")
            else:
                sums = -(target * log_p).sum()
            parts.append(sums / share.sum().clamp(min=1.0))
        return torch.stack(parts).sum()


def _with_unlabelled_in_background(log_p: Tensor, labelled: Tensor) -> Tensor:
    """Log-probabilities (N, C, *S) with that of each sample's unlabelled classes added to class 0.

    Those of the unlabelled classes stay as they are. The sum runs over the chosen classes alone: exponentials of masked
    ones, far below the smallest number, took a fifth of a training step.
    """
    background = []
    for sample, known in zip(log_p, labelled, strict=True):
        rest = [0, *(1 + torch.nonzero(~known[1:])[:, 0]).tolist()]
        background.append(sample[rest].logsumexp(dim=0, keepdim=True) if len(rest) > 1 else sample[:1])
    return torch.cat([torch.stack(background), log_p[:, 1:]], dim=1)
