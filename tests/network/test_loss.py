from __future__ import annotations

import numpy as np
import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.network.loss import SegmentationLoss

EPSILON = 1e-5


def _batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, 2, generator=generator)
    return logits, torch.randint(0, 3, (2, 1, 4, 5, 2), generator=generator)


def _dice_by_hand(logits: np.ndarray, labels: np.ndarray, background: bool, batch: bool, eps: float) -> float:
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = []
    samples = [slice(None)] if batch else [slice(n, n + 1) for n in range(len(p))]
    for sample in samples:
        for c in range(0 if background else 1, 3):
            y = labels[sample, 0] == c
            q = p[sample, c]
            losses.append(1 - (2 * (q * y).sum() + eps) / (q.sum() + y.sum() + eps))
    return float(np.mean(losses))


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("epsilon", [1e-5, 1.0])
def test_dice_is_the_formula(background: bool, batch: bool, epsilon: float) -> None:
    logits, labels = _batch()
    loss = SegmentationLoss("dice", background, batch, epsilon, (1.0,))(logits, labels)
    expected = _dice_by_hand(logits.numpy(), labels.numpy(), background, batch, epsilon)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_and_sum() -> None:
    logits, labels = _batch()
    log_p = logits.numpy() - np.log(np.exp(logits.numpy()).sum(1, keepdims=True))
    by_hand = -np.take_along_axis(log_p, labels.numpy(), axis=1).mean()
    ce = SegmentationLoss("ce", False, True, EPSILON, (1.0,))(logits, labels)
    dice = SegmentationLoss("dice", False, True, EPSILON, (1.0,))(logits, labels)
    both = SegmentationLoss("dice_ce", False, True, EPSILON, (1.0,))(logits, labels)
    assert float(ce) == pytest.approx(by_hand, abs=1e-6)
    assert float(both) == pytest.approx(float(ce) + float(dice), abs=1e-6)


def test_perfect_and_worst_prediction() -> None:
    _, labels = _batch()
    perfect = 50.0 * torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    loss = SegmentationLoss.from_config(Config())
    assert float(loss(perfect, labels)) == pytest.approx(0.0, abs=1e-4)
    assert float(loss(perfect.roll(1, dims=1), labels)) == pytest.approx(1.0, abs=1e-3)


def test_supervision_weights_are_normalised_and_coarse_outputs_compared_with_coarse_labels() -> None:
    logits, labels = _batch()
    labels = labels.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    coarse = labels[:, :, ::2, ::2, ::2]  # blocks of one class, so their shares are 0 and 1
    fine = torch.randn(2, 3, 8, 10, 4)
    one = SegmentationLoss("dice", False, True, EPSILON, (1.0,))
    several = SegmentationLoss("dice", False, True, EPSILON, (3.0, 1.0, 7.0))
    expected = 0.75 * one(fine, labels) + 0.25 * one(logits, coarse)
    torch.testing.assert_close(several([fine, logits], labels), expected)


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits = torch.zeros(1, 2, 64, 64, 64, dtype=torch.bfloat16)
    labels = torch.ones(1, 1, 64, 64, 64, dtype=torch.uint8)
    loss = SegmentationLoss("dice", False, True, EPSILON, (1.0,))(logits, labels)
    assert float(loss) == pytest.approx(1 - 2 * 0.5 / 1.5, abs=1e-4)


def test_a_coarse_voxel_is_compared_with_the_share_of_each_class_in_its_block() -> None:
    """One of the eight voxels is class 1: q = 1/8, whichever voxel it is; ce is -(7/8)·log p_0 - (1/8)·log p_1."""
    logits = torch.tensor([0.3, -0.4]).reshape(1, 2, 1, 1, 1)
    p = torch.softmax(logits.flatten(), 0)
    for place in range(8):
        labels = torch.zeros(1, 1, 8)
        labels[0, 0, place] = 1
        loss = SegmentationLoss("ce", False, True, EPSILON, (1.0,))(logits, labels.reshape(1, 1, 2, 2, 2))
        assert float(loss) == pytest.approx(float(-(7 * p[0].log() + p[1].log()) / 8), abs=1e-6)


@pytest.mark.parametrize("kind", ["dice", "ce", "dice_ce"])
def test_classes_without_labels_are_one_with_the_background(kind: str) -> None:
    """Class 2 is unlabelled: the loss is that of a two-class problem whose background has both probabilities."""
    logits, labels = _batch()
    labels = (labels == 1).to(labels.dtype)
    loss = SegmentationLoss(kind, False, True, EPSILON, (1.0,))
    p = torch.softmax(logits, dim=1)
    merged = torch.stack([p[:, 0] + p[:, 2], p[:, 1]], dim=1).log()
    known = torch.tensor([[True, True, False]]).expand(2, -1)
    # The Dice loss is a mean over two classes, of which the unlabelled one gives 0.
    expected = {
        "dice": SegmentationLoss("dice", False, True, EPSILON, (1.0,))(merged, labels) / 2,
        "ce": SegmentationLoss("ce", False, True, EPSILON, (1.0,))(merged, labels),
    }
    expected["dice_ce"] = expected["dice"] + expected["ce"]
    torch.testing.assert_close(loss(logits, labels, known), expected[kind], atol=1e-5, rtol=1e-5)


def test_an_unlabelled_class_is_labelled_in_another_sample() -> None:
    logits, labels = _batch()
    known = torch.tensor([[True, True, False], [True, True, True]])
    labels[0][labels[0] == 2] = 0
    logits.requires_grad_()
    SegmentationLoss("ce", False, True, EPSILON, (1.0,))(logits, labels, known).backward()
    where = labels[:, 0] == 0
    # Where the first sample has no label, class 2 is as right as the background: both logits are pushed up together.
    assert (logits.grad[0, 2][where[0]] < 0).all()
    assert (logits.grad[1, 2][where[1]] > 0).all()


@pytest.mark.parametrize("kind", ["dice", "ce", "dice_ce"])
@pytest.mark.parametrize("coarse", [False, True])
def test_ignored_voxels_count_for_nothing(kind: str, coarse: bool) -> None:
    logits, labels = _batch()
    labels[:, :, :2] = 255
    if coarse:
        labels = labels.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    loss = SegmentationLoss(kind, False, True, EPSILON, (1.0,))
    kept = labels[:, :, 4:] if coarse else labels[:, :, 2:]
    torch.testing.assert_close(loss(logits, labels), loss(logits[:, :, 2:], kept))
    nothing = loss(logits, torch.full_like(labels, 255))
    assert torch.isfinite(nothing)


def test_class_weights_are_a_weighted_mean() -> None:
    logits, labels = _batch()
    p = torch.softmax(logits, dim=1)
    each = []
    for c in (1, 2):
        y = (labels[:, 0] == c).float()
        each.append(1 - (2 * (p[:, c] * y).sum() + EPSILON) / (p[:, c].sum() + y.sum() + EPSILON))
    weighted = SegmentationLoss("dice", False, True, EPSILON, (1.0,), (3.0, 1.0))(logits, labels)
    torch.testing.assert_close(weighted, (3 * each[0] + each[1]) / 4)
