"""The sections of a configuration and what each key means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

IGNORE = 255
"""Class index of voxels that say nothing: loss and validation leave them out."""


@dataclass(frozen=True)
class DataConfig:
    """What the network sees: the model grid, the HU window, the shape of a sample, and the classes."""

    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 2.0)
    """Voxel size of the model grid along Right, Anterior, Superior."""
    window_hu: tuple[float, float] = (-160.0, 240.0)
    """HU that become 0 and 1; values outside are clipped."""
    patch_size: tuple[int, ...] = (96, 96, 64)
    """Voxels of a sample: three numbers for 3D patches, two (Right, Anterior) for 2D slices."""
    neighbour_slices: int = 0
    """2D only: slices below and above that are given as additional channels, on each side."""
    classes: tuple[str, ...] = ("pancreas",)
    """Names of the network's output channels after the background."""
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"pancreas": ("pancreas", "cancer")})
    """Label names of the manifest that make up a class, where it isn't the class's own name alone."""
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where preprocessed volumes are kept during training."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training samples. Probabilities are per sample; 0 switches a change off."""

    affine_probability: float = 0.7
    rotate_degrees: float = 15.0
    scale_range: float = 0.15
    elastic_probability: float = 0.0
    elastic_mm: float = 8.0
    """Largest displacement of the elastic deformation's control points."""
    elastic_grid_mm: float = 40.0
    """Distance between the elastic deformation's control points."""
    noise_probability: float = 0.2
    noise_hu: float = 20.0
    """Largest standard deviation of the added Gaussian noise."""
    organ_probability: float = 0.0
    organ_hu: float = 15.0
    """Standard deviation of an offset drawn for each labelled class by itself, as other contrast phases have it."""
    hollow_hu: float = 15.0
    """The same for stomach, duodenum, colon and bowel, whose contents (water, oral contrast, food) differ most."""
    bias_probability: float = 0.0
    bias_hu: float = 15.0
    """Largest value of a smooth field that is added."""
    contrast_probability: float = 0.3
    contrast_gamma: float = 0.3
    """Gamma is drawn from 1/(1 + this) to 1 + this."""
    shift_hu: float = 20.0
    """Largest offset added to all voxels."""
    lowres_probability: float = 0.1
    lowres_zoom: float = 0.5
    """Smallest factor by which the resolution of an axis is lowered."""
    sharpen_probability: float = 0.0
    sharpen_most: float = 1.5
    """Largest multiple of the difference between a voxel and its neighbours along an axis that is added to it."""
    mirror_probability: float = 0.0
    """Left-right mirroring. Off, since the abdomen isn't symmetric."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the Attention U-Net."""

    spatial_dims: Literal[2, 3] = 3
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Features of each level, finest first."""
    convs_per_level: int = 2
    norm: Literal["batch", "instance"] = "batch"
    gate: Literal["grid", "dense", "none"] = "grid"
    """"grid": the paper's gates, none on the first skip. "dense": a gate on every skip at full resolution."""
    deep_supervision: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """How the network learns."""

    seed: int = 0
    steps: int = 20_000
    """Optimiser steps in all, rounded up to whole rounds."""
    validate_every: int = 500
    """Steps of one round: after each, validation, checkpoint and a line in metrics.csv."""
    batch_size: int = 2
    pancreas_fraction: float = 0.5
    """Share of samples centred on (or, in 2D, holding) a voxel of the first class."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.99
    """For sgd (Nesterov)."""
    schedule: Literal["constant", "poly", "cosine"] = "poly"
    warmup_steps: int = 100
    clip_gradient_norm: float = 12.0
    """0 switches clipping off."""
    loss: Literal["dice", "dice_ce", "ce"] = "dice"
    loss_background: bool = False
    """Whether the Dice loss counts the background as a class."""
    loss_batch: bool = True
    """Whether Dice sums run over the whole batch instead of each sample by itself."""
    loss_epsilon: float = 1e-5
    supervision_weights: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """Weights of the outputs, finest first; normalised to a sum of 1."""
    class_weights: tuple[float, ...] = ()
    """Weight of each of data.classes in the Dice loss; empty for equal ones."""
    average_decay: float = 0.0
    """Weights are validated and saved as a running average that keeps this share at each step; 0 for none."""
    norm_statistics: Literal["batch", "stored"] = "batch"
    """What batch norm normalises by in training: each batch's own mean and variance, or those that came with the
    weights it started from, as when segmenting. "stored" is for a last phase, from weights with good statistics."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    early_stop_rounds: int = 0
    """Stop after that many rounds without a better validation Dice; 0 never stops early."""
    workers: int = 0
    """Processes that prepare samples."""


@dataclass(frozen=True)
class InferConfig:
    """How a volume is segmented."""

    mode: Literal["auto", "cascade", "full"] = "auto"
    """"cascade": a coarse network finds where to look. "full": everywhere. "auto": cascade if the weights can."""
    output: tuple[str, ...] = ("pancreas",)
    """Classes written to the mask, as values 1, 2, ... in this order."""
    threshold: float = 0.5
    """Probability above which a voxel is foreground; lower finds more where a network is unsure."""
    margin_mm: float = 20.0
    """Cascade: by how much the box around what the coarse network found is grown on each side."""
    fallback: Literal["full", "none"] = "full"
    """Cascade: what is done where the coarse network gives no usable box: look everywhere, or leave the mask empty."""
    coarse_volume_ml: tuple[float, float] = (2.0, 600.0)
    """Cascade: smallest and largest volume of the organ that the coarse network is believed."""
    coarse_gap_mm: float = 50.0
    """Cascade: pieces of the organ further apart than this make the coarse network's box unusable."""
    overlap: float = 0.5
    blend: Literal["gaussian", "constant"] = "gaussian"
    window_batch: int = 1
    """Windows (3D) or slices (2D: times 8) given to the network at once."""
    max_memory_gb: float = 4.0
    """A CT that would need more memory (10^9 bytes, of one process) is refused before it is read."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """What runs the network: "auto" is OpenVINO on an x86-64 CPU where it is installed, else torch."""
    torch_compile: bool = False
    """Engine torch: compile the network first (needs a C++ compiler; pays for many CTs)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


@dataclass(frozen=True)
class VerdictConfig:
    """When a result is marked for review. Numbers without a source were set by trial, see docs/verdict.md."""

    air_hu: float = -500.0
    """A CT holds air, so some voxel lies below this; otherwise the values are no HU, or the air was cut away."""
    tissue_share: float = 0.75
    """Smallest share of the voxels above -500 HU that has the HU of fat, organs and blood, -200 to 300."""
    volume_ml: tuple[float, float] = (20.0, 180.0)
    """Plausible volume of the first label."""
    mean_hu: tuple[float, float] = (-30.0, 180.0)
    """Plausible mean of the first label, without contrast and fatty up to the pancreatic phase."""
    probability: float = 0.8
    """Smallest mean probability inside the mask."""
    agreement: float = 0.75
    """Cascade: smallest Dice of the coarse and the fine network's masks."""
    stability: float = 0.85
    """Smallest Dice of the mask and one from a slightly changed input."""
    stability_shift_hu: float = 10.0
    """That change: so many HU more, and the grid moved by a voxel; 0 leaves the check out."""
    organs_ml: float = 400.0
    """Cascade: smallest volume of the other organs that the coarse network sees, where an abdomen is in view."""
    organs_apart_mm: float = 0.0
    """Cascade: how far the liver is at least to the right of the spleen, above the kidneys and in front of them."""
    spleen_to_liver: float = 0.6
    """Cascade: largest volume of the spleen as a share of the liver's; a mirrored liver is taken for a spleen, too."""
    metal_ml: float = 1.0
    """Largest volume above 2000 HU near the mask."""


@dataclass(frozen=True)
class CleanConfig:
    """What is done to the mask after the network."""

    keep_fraction: float = 0.25
    """Components smaller than this share of the largest one are removed; 1 keeps the largest alone."""
    fill_holes: bool = True
    minimum_volume_ml: float = 1.0
    """Components smaller than this are removed."""
