"""MONAI transforms from a case's files to a training volume. The way to the model grid is the one of segmenting."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from numpy.typing import NDArray
from torch import Tensor

from pancreas_seg.config import IGNORE, Config
from pancreas_seg.data.model_grid import image_on_grid, labels_on_grid, model_grid
from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import read_ct, read_mask

IMAGE, LABEL, CENTRES, LABELLED = "image", "label", "centres", "labelled"

IGNORE_NAME = "ignore"
"""Name in a manifest of label values that say nothing; they become the class index IGNORE."""


def preprocessing(config: Config, with_label: bool = False) -> Compose:
    """The deterministic transforms of a dictionary with MetaTensors (1, I, J, K).

    Gives the image in 0..1 and, with ``with_label``, the label map, both on the model grid in RAS.
    """
    return Compose([ToModelGridd([IMAGE, LABEL] if with_label else [IMAGE], config)], log_stats=False)


class ToModelGridd(MapTransform):
    """Bring image and label, MetaTensors (1, I, J, K), onto the model grid. See `pancreas_seg.data.model_grid`."""

    def __init__(self, keys: Sequence[str], config: Config) -> None:
        super().__init__(keys)
        self.config = config

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.keys:
            source = _geometry(data[key])
            target = model_grid(source.as_ras(), self.config.data.spacing_mm)
            array = data[key][0].numpy()
            moved = (
                labels_on_grid(array, source, target)
                if key == LABEL
                else image_on_grid(array, source, target, self.config)
            )
            out[key] = as_metatensor(moved, target)
        return out


def as_metatensor(array: NDArray[Any], geometry: Geometry) -> MetaTensor:
    """An (I, J, K) array on a grid as a float32 MetaTensor (1, I, J, K)."""
    tensor = torch.from_numpy(np.ascontiguousarray(array[None], dtype=np.float32))
    return MetaTensor(tensor, affine=torch.from_numpy(geometry.affine.copy()))


def class_table(label_names: Mapping[int, str], config: Config) -> NDArray[np.uint8]:
    """A table from a label file's values to class indices (0 for what is no class).

    A value counts for a class if its name is the class's own, or is listed under it in ``data.merge`` and is no class
    itself. Values named "ignore" become 255: the loss and validation leave their voxels out.

    Raises
    ------
    InputError
        If the first class has no value at all.
    """
    classes = config.data.classes
    home = {name: name for name in classes}
    for name in classes:
        for source in config.data.merge.get(name, ()):
            home.setdefault(source, name)
    table = np.zeros(max(label_names, default=0) + 1, dtype=np.uint8)
    for value, name in label_names.items():
        if name in home:
            table[value] = 1 + classes.index(home[name])
        elif name == IGNORE_NAME:
            table[value] = IGNORE
    if not (table == 1).any():
        raise InputError(
            "input.labels_without_class",
            where="labels",
            found=f"label names {', '.join(sorted(set(label_names.values())))}",
            expected=f"one that is {classes[0]!r} or listed under it in data.merge",
            advice="Correct `labels` in the manifest, or data.classes and data.merge in the configuration.",
        )
    return table


def labelled_classes(table: NDArray[np.uint8], config: Config) -> Tensor:
    """Which classes a case is labelled for, (1 + classes,) bool: those that some value of its labels stands for.

    Of a class that is not, the label map says nothing: its voxels lie somewhere in what is 0 there.
    """
    labelled = torch.from_numpy(np.isin(np.arange(config.out_channels), table))
    labelled[0] = True
    return labelled


class ReadCased(MapTransform):
    """Read a case's files into MetaTensors: the CT in HU, the label map in class indices.

    Takes a dictionary with paths under "image" and "label" and ``label_names``, the meaning of the label's values.
    """

    def __init__(self, config: Config, keys: tuple[str, ...] = (IMAGE, LABEL)) -> None:
        super().__init__(keys)
        self.config = config

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Raise InputError if a file is unsound, or the label's grid is not the CT's."""
        scan = read_ct(data[IMAGE])
        out: dict[Hashable, Any] = {IMAGE: as_metatensor(scan.image, scan.geometry)}
        if LABEL in self.keys:
            mask = read_mask(data[LABEL])
            if not scan.geometry.same_grid(mask.geometry, tolerance_mm=0.1):
                raise InputError(
                    "input.grids_differ",
                    where=mask.path,
                    found=f"a grid of {mask.geometry.shape}, {scan.geometry.distance_mm(mask.geometry):.2f} mm off",
                    expected=f"the CT's grid of {scan.geometry.shape}",
                    advice="Resample the label map onto its CT; `pancreas-seg manifest check` finds all such cases.",
                )
            table = class_table(data["label_names"], self.config)
            if int(mask.labels.max()) >= len(table):
                table = np.concatenate([table, np.zeros(int(mask.labels.max()) + 1 - len(table), np.uint8)])
            out[LABEL] = as_metatensor(table[mask.labels], mask.geometry)
            out[LABELLED] = labelled_classes(table, self.config)
        return out


class Compactd(MapTransform):
    """Make preprocessed volumes small for a cache: image float16, label uint8, and the first class's voxels.

    "centres" holds the indices (n, 3) of the first class's voxels as int16, where patches can be centred.
    """

    def __init__(self) -> None:
        super().__init__([IMAGE, LABEL])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image, label = (data[key].as_tensor() for key in (IMAGE, LABEL))
        label = label.to(torch.uint8)
        centres = torch.nonzero(label[0] == 1).to(torch.int16)
        return {IMAGE: image.half(), LABEL: label, CENTRES: centres, LABELLED: data[LABELLED]}


def training_volume(config: Config) -> Compose:
    """Everything that is deterministic in training: read, preprocess, compact."""
    # Flat: MONAI takes a Compose for random, and would cache what stands before it alone.
    steps = [ReadCased(config), *preprocessing(config, with_label=True).transforms, Compactd()]
    # With log_stats MONAI logs a failing transform's input, and with it paths, which can name a patient.
    return Compose(steps, log_stats=False)


def _geometry(tensor: MetaTensor) -> Geometry:
    i, j, k = (int(n) for n in tensor.shape[1:])
    return Geometry((i, j, k), tensor.affine.numpy())
