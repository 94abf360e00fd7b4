"""Random changes to training samples. Geometry by one resampling, intensity by MONAI's transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandomizableTransform,
    RandShiftIntensityd,
)
from torch import Tensor
from torch.nn import functional as F

from pancreas_seg.config import AugmentConfig, Config
from pancreas_seg.data.transforms import IMAGE, LABEL

MARGIN = 1.25
"""How much larger than the patch a sample is cut, so that turning it brings in real voxels."""


HOLLOW = ("stomach", "duodenum", "small_bowel", "colon", "bowel")
"""Classes whose HU are those of their contents."""


class RandDeformd(RandomizableTransform, MapTransform):
    """Random rotation, scaling and elastic deformation of image (linear) and label (nearest) in one resampling.

    Takes samples (C, *S) that are larger than the patch and gives their centre, (C, *patch). The elastic part is a
    displacement of control points, interpolated linearly between them twice (which rounds the kinks off).

    Parameters
    ----------
    patch_size : sequence of int
        Two numbers for slices, three for patches.
    spacing_mm : sequence of float
        Of the sample's axes.
    settings : AugmentConfig
    """

    def __init__(self, patch_size: Sequence[int], spacing_mm: Sequence[float], settings: AugmentConfig) -> None:
        MapTransform.__init__(self, [IMAGE, LABEL])
        RandomizableTransform.__init__(self, prob=1.0)
        self.patch_size = tuple(patch_size)
        self.spacing_mm = np.asarray(spacing_mm[: len(patch_size)], dtype=np.float64)
        self.settings = settings

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.randomize(None)
        out = dict(data)
        matrix, control = self._draw_affine(), self._draw_control()
        if matrix is None and control is None:
            for key in self.keys:
                out[key] = centre(data[key], self.patch_size)
            return out
        grid = self._grid(matrix, control, data[IMAGE].shape[1:])
        for key, mode in ((IMAGE, "bilinear"), (LABEL, "nearest")):
            moved = F.grid_sample(data[key][None].float(), grid, mode=mode, padding_mode="border", align_corners=False)
            out[key] = moved[0].to(data[key].dtype)
        return out

    def _draw_affine(self) -> np.ndarray[Any, Any] | None:
        """A (D, D) matrix in millimetres, or None."""
        settings, dims = self.settings, len(self.patch_size)
        if self.R.random() >= settings.affine_probability:
            return None
        matrix = np.diag(1.0 + self.R.uniform(-1, 1) * settings.scale_range + self.R.uniform(-0.05, 0.05, dims))
        planes = [(0, 1)] if dims == 2 else [(0, 1), (0, 2), (1, 2)]
        for a, b in planes:
            angle = np.deg2rad(self.R.uniform(-1, 1) * settings.rotate_degrees)
            turn = np.eye(dims)
            turn[a, a] = turn[b, b] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
        return matrix

    def _draw_control(self) -> Tensor | None:
        """Displacements in mm of a coarse grid of control points, (1, D, *coarse), or None."""
        settings = self.settings
        if self.R.random() >= settings.elastic_probability:
            return None
        extent = np.asarray(self.patch_size) * self.spacing_mm
        coarse = np.maximum(2, np.ceil(extent / settings.elastic_grid_mm).astype(int) + 1)
        strength = self.R.uniform(0.2, 1.0) * settings.elastic_mm
        drawn = self.R.uniform(-1, 1, (1, len(coarse), *coarse)) * strength
        return torch.from_numpy(drawn.astype(np.float32))

    def _grid(self, matrix: np.ndarray[Any, Any] | None, control: Tensor | None, size: Sequence[int]) -> Tensor:
        """Where each voxel of the patch is taken from, (1, *patch, D) in grid_sample's coordinates."""
        axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(self.patch_size, self.spacing_mm, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
        if matrix is not None:
            points = points @ matrix.T.astype(np.float32)
        moved = torch.from_numpy(points)
        if control is not None:
            mode = "trilinear" if len(size) == 3 else "bilinear"
            middle = [2 * n - 1 for n in control.shape[2:]]
            smooth = F.interpolate(control, size=middle, mode=mode, align_corners=True)
            smooth = F.avg_pool3d(smooth, 3, 1, 1) if len(size) == 3 else F.avg_pool2d(smooth, 3, 1, 1)
            field = F.interpolate(smooth, size=self.patch_size, mode=mode, align_corners=True)
            moved = moved + field[0].movedim(0, -1)
        half = torch.tensor([n * mm / 2 for n, mm in zip(size, self.spacing_mm, strict=True)], dtype=torch.float32)
        return (moved / half).flip(-1)[None]


class RandOrganShiftd(RandomizableTransform, MapTransform):
    """Add an offset, drawn for each labelled class by itself, to the class's voxels, with borders smoothed over three.

    Parameters
    ----------
    prob : float
    sigmas : sequence of float
        Standard deviation of each class's offset, in the image's units; the first is class 1's.
    """

    def __init__(self, prob: float, sigmas: Sequence[float]) -> None:
        MapTransform.__init__(self, [IMAGE, LABEL])
        RandomizableTransform.__init__(self, prob=prob)
        self.sigmas = np.zeros(256)
        self.sigmas[1 : len(sigmas) + 1] = sigmas

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        self.randomize(None)
        table = torch.from_numpy(self.R.normal(0.0, self.sigmas).astype(np.float32))
        if self._do_transform:
            label = out[LABEL]
            pool = F.avg_pool3d if label.ndim == 4 else F.avg_pool2d
            offsets = pool(table[label.long()][None], 3, 1, 1, count_include_pad=False)[0]
            out[IMAGE] = out[IMAGE] + offsets
        return out


class RandBiasd(RandomizableTransform, MapTransform):
    """Add a smooth random field: values up to ``largest`` at three points along each axis, linear between them."""

    def __init__(self, prob: float, largest: float) -> None:
        MapTransform.__init__(self, [IMAGE])
        RandomizableTransform.__init__(self, prob=prob)
        self.largest = largest

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        self.randomize(None)
        size = out[IMAGE].shape[1:]
        points = self.R.uniform(-self.largest, self.largest, (1, 1, *[3] * len(size))).astype(np.float32)
        if self._do_transform:
            mode = "trilinear" if len(size) == 3 else "bilinear"
            field = F.interpolate(torch.from_numpy(points), size=size, mode=mode, align_corners=True)
            out[IMAGE] = out[IMAGE] + field[0]
        return out


class RandLowResolutiond(RandomizableTransform, MapTransform):
    """Lower the resolution of each axis by a random factor and bring it back, all of it linear.

    MONAI's RandSimulateLowResolutiond picks nearest voxels on the way down, which shifts the image against the label by
    half a voxel and more, always to the same side.
    """

    def __init__(self, prob: float, lowest_zoom: float) -> None:
        MapTransform.__init__(self, [IMAGE])
        RandomizableTransform.__init__(self, prob=prob)
        self.lowest_zoom = lowest_zoom

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        self.randomize(None)
        image = out[IMAGE][None]
        size = image.shape[2:]
        zooms = self.R.uniform(self.lowest_zoom, 1.0, len(size))
        if not self._do_transform:
            return out
        mode = "trilinear" if len(size) == 3 else "bilinear"
        small = [max(1, round(int(n) * zoom)) for n, zoom in zip(size, zooms, strict=True)]
        low = F.interpolate(image, size=small, mode=mode, align_corners=False)
        out[IMAGE] = F.interpolate(low, size=size, mode=mode, align_corners=False)[0]
        return out


class RandSharpend(RandomizableTransform, MapTransform):
    """Add to each voxel what sets it off from its neighbours along one axis: thick slices look thinner.

    Parameters
    ----------
    prob : float
    most : float
        Largest multiple of the difference between a voxel and the mean of it and its two neighbours.
    """

    def __init__(self, prob: float, most: float) -> None:
        MapTransform.__init__(self, [IMAGE])
        RandomizableTransform.__init__(self, prob=prob)
        self.most = most

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        self.randomize(None)
        image = out[IMAGE][None]
        dims = image.ndim - 2
        axis, amount = int(self.R.randint(dims)), float(self.R.uniform(0, self.most))
        if not self._do_transform:
            return out
        size = [3 if a == axis else 1 for a in range(dims)]
        padding = [1 if a == axis else 0 for a in range(dims)]
        pool = F.avg_pool3d if dims == 3 else F.avg_pool2d
        smooth = pool(image, size, 1, padding, count_include_pad=False)
        out[IMAGE] = (image + amount * (image - smooth))[0]
        return out


def augmentation(config: Config) -> Compose:
    """Random transforms of a sample ``{"image": (C, *S) float32, "label": (1, *S)}``, cut larger than the patch.

    Gives patches of exactly ``data.patch_size``.
    """
    settings, data = config.augment, config.data
    hu = data.window_hu[1] - data.window_hu[0]
    offsets = [(settings.hollow_hu if name in HOLLOW else settings.organ_hu) / hu for name in data.classes]
    return Compose(
        [
            RandDeformd(data.patch_size, data.spacing_mm, settings),
            RandFlipd([IMAGE, LABEL], prob=settings.mirror_probability, spatial_axis=0),
            RandOrganShiftd(settings.organ_probability, offsets),
            RandBiasd(settings.bias_probability, settings.bias_hu / hu),
            RandSharpend(settings.sharpen_probability, settings.sharpen_most),
            RandLowResolutiond(settings.lowres_probability, settings.lowres_zoom),
            RandAdjustContrastd(
                [IMAGE],
                prob=settings.contrast_probability,
                gamma=(1 / (1 + settings.contrast_gamma), 1 + settings.contrast_gamma),
            ),
            RandShiftIntensityd([IMAGE], offsets=settings.shift_hu / hu, prob=settings.contrast_probability),
            RandGaussianNoised([IMAGE], prob=settings.noise_probability, mean=0.0, std=settings.noise_hu / hu),
        ]
    )


def centre(x: Tensor, size: Sequence[int]) -> Tensor:
    """The centre of (C, *S) of a spatial size."""
    where = [slice(None)] + [
        slice((int(have) - want) // 2, (int(have) - want) // 2 + want)
        for have, want in zip(x.shape[1:], size, strict=True)
    ]
    return x[tuple(where)]
