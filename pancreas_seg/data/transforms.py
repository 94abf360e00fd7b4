"""From a CT in HU to what the network sees. Training and segmenting share this path.

Deterministic part: orientation RAS, the model grid's spacing, the HU window to 0..1, all by MONAI transforms.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Orientationd, ScaleIntensityRanged, Spacingd
from numpy.typing import NDArray
from torch import Tensor

from pancreas_seg.config import Config
from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import Scan, read_ct, read_mask

IMAGE, LABEL, CENTRES = "image", "label", "centres"


def preprocessing(config: Config, with_label: bool = False) -> Compose:
    """The deterministic transforms of a dictionary with MetaTensors (1, I, J, K).

    Gives the image in 0..1 and, with ``with_label``, the label map, both on the model grid in RAS.
    """
    keys = [IMAGE, LABEL] if with_label else [IMAGE]
    modes = ["bilinear", "nearest"] if with_label else ["bilinear"]
    low, high = config.data.window_hu
    return Compose(
        [
            Orientationd(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(keys, pixdim=config.data.spacing_mm, mode=modes, padding_mode="border", dtype=torch.float32),
            ScaleIntensityRanged([IMAGE], a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
        ],
        log_stats=False,
    )


def as_metatensor(array: NDArray[Any], geometry: Geometry) -> MetaTensor:
    """An (I, J, K) array on a grid as a float32 MetaTensor (1, I, J, K)."""
    tensor = torch.from_numpy(np.ascontiguousarray(array[None], dtype=np.float32))
    return MetaTensor(tensor, affine=torch.from_numpy(geometry.affine.copy()))


def model_input(scan: Scan, config: Config) -> tuple[Tensor, Geometry]:
    """The network's input for a scan: (1, I', J', K') float32 in 0..1, and the model grid it lies on."""
    out = preprocessing(config)({IMAGE: as_metatensor(scan.image, scan.geometry)})[IMAGE]
    return out.as_tensor().contiguous(), _geometry(out)


def class_table(label_names: Mapping[int, str], config: Config) -> NDArray[np.uint8]:
    """A table from a label file's values to class indices (0 for what is no class).

    A value counts for a class if its name is the class's own, or is listed under it in ``data.merge`` and is no class
    itself.

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
    if not (table == 1).any():
        raise InputError(
            "input.labels_without_class",
            where="labels",
            found=f"label names {', '.join(sorted(set(label_names.values())))}",
            expected=f"one that is {classes[0]!r} or listed under it in data.merge",
            advice="Correct `labels` in the manifest, or data.classes and data.merge in the configuration.",
        )
    return table


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
        return {IMAGE: image.half(), LABEL: label, CENTRES: torch.nonzero(label[0] == 1).to(torch.int16)}


def training_volume(config: Config) -> Compose:
    """Everything that is deterministic in training: read, preprocess, compact."""
    steps = [ReadCased(config), *preprocessing(config, with_label=True).transforms, Compactd()]
    # With log_stats MONAI logs a failing transform's input, and with it paths, which can name a patient.
    return Compose(steps, log_stats=False)


def _geometry(tensor: MetaTensor) -> Geometry:
    i, j, k = (int(n) for n in tensor.shape[1:])
    return Geometry((i, j, k), tensor.affine.numpy())
