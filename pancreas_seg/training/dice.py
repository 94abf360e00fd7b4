"""Dice of label maps as an ignite metric, from one joint histogram per case."""

from __future__ import annotations

import torch
from ignite.metrics import Metric
from torch import Tensor

from pancreas_seg.training.processes import Processes


class ClassDice(Metric):
    """Mean over cases of 2·|P∩R| / (|P| + |R|), for each class after the background.

    The engine's output has ``"pred"`` and ``"label"``: integer tensors (N, 1, *S) with values below ``n_classes``, in
    the label also 255 for voxels that are left out; and ``"labelled"``, (N, n_classes) bool: the classes that the case
    is labelled for, others say nothing. A class that is in neither the prediction nor the reference of a case says
    nothing about that case and is left out, too; a class that was left out everywhere counts as NaN.

    Parameters
    ----------
    n_classes : int
        The background included.
    names : sequence of str
        Of the classes after the background.
    key_names : sequence of str
        The classes whose mean is the metric's value; `per_class` has them all.
    processes : Processes, optional
        Those that share the cases; the values are over the cases of all. Each asks for a value as often as the others.
    """

    def __init__(
        self, n_classes: int, names: tuple[str, ...], key_names: tuple[str, ...], processes: Processes | None = None
    ) -> None:
        self.n_classes = n_classes
        self.names = names
        self.key_names = key_names
        self.processes = processes
        super().__init__(output_transform=lambda output: (output["pred"], output["label"], output["labelled"]))

    def reset(self) -> None:
        self._dice_sum = torch.zeros(self.n_classes, dtype=torch.float64)
        self._counted = torch.zeros(self.n_classes, dtype=torch.float64)
        self._right = 0
        self._voxels = 0

    def update(self, output: tuple[Tensor, Tensor, Tensor]) -> None:
        for prediction, label, labelled in zip(*output, strict=True):
            counted = label < self.n_classes
            prediction, label = prediction[counted], label[counted]
            joint = torch.bincount(
                (label.long() * self.n_classes + prediction.long()).flatten(), minlength=self.n_classes**2
            ).reshape(self.n_classes, self.n_classes)
            both = joint.diag().double()
            either = (joint.sum(0) + joint.sum(1)).double()
            dice = 2 * both / either  # 0/0 is NaN: the class is in neither
            says = labelled & ~dice.isnan()
            self._dice_sum += dice.where(says, 0.0)
            self._counted += says
            self._right += int(joint.diag().sum())
            self._voxels += int(joint.sum())

    def compute(self) -> float:
        per_class = self.per_class()
        values = torch.tensor([per_class[name] for name in self.key_names], dtype=torch.float64)
        return float(values.nanmean())

    def per_class(self) -> dict[str, float]:
        """Mean Dice of each class."""
        mean = (self._over_all(self._dice_sum) / self._over_all(self._counted))[1:]
        return {name: float(value) for name, value in zip(self.names, mean, strict=True)}

    def accuracy(self) -> float:
        """Share of voxels with the right class, the background included."""
        right, voxels = self._over_all(torch.tensor([self._right, self._voxels], dtype=torch.float64)).tolist()
        return float(right / max(1.0, voxels))

    def _over_all(self, values: Tensor) -> Tensor:
        return values.clone() if self.processes is None else self.processes.sum(values.clone())
