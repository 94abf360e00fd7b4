"""What each verb does: options in, one public function called, exit code out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pancreas_seg._version import __version__
from pancreas_seg.cli.terminal import (
    BUG,
    DONE,
    INTERRUPTED,
    REFUSED,
    describe,
    exit_code,
    helps_only,
    progress_bar,
)
from pancreas_seg.errors import ConfigError

if TYPE_CHECKING:
    from pancreas_seg.config import Config
    from pancreas_seg.network.weights import Weights


def export(options: argparse.Namespace) -> int:
    from pancreas_seg.io import read_mask
    from pancreas_seg.io.dicom import read_series
    from pancreas_seg.io.dicom_output import require_highdicom, write_dicom_seg, write_rtstruct

    names = _label_names(options.labels)
    if options.format == "dicom-seg":
        require_highdicom()
    mask = read_mask(options.mask)
    write = write_dicom_seg if options.format == "dicom-seg" else write_rtstruct
    headers = read_series(options.series, options.series_uid).headers()
    print(write(options.out, mask.labels, mask.geometry, headers, names, made=options.made))
    return DONE


def watch(options: argparse.Namespace) -> int:
    if options.health is not None:
        from pancreas_seg.watch.pulse import health

        healthy, sentence = health(options.health)
        print(sentence)
        return DONE if healthy else BUG
    if options.inputs is None or options.out is None:
        raise ConfigError(
            "config.no_folder",
            where="watch",
            found="fewer than two folders",
            expected="the folder to watch and the one for results",
            advice="Write `pancreas-seg watch IN OUT`.",
        )
    from pancreas_seg.inference.segmenter import Segmenter
    from pancreas_seg.watch.segmenting import segment_with
    from pancreas_seg.watch.stop import stopping_on_signals
    from pancreas_seg.watch.watcher import WatchOptions
    from pancreas_seg.watch.watcher import watch as watch_folder

    only_sections(options.settings, ("infer", "clean", "verdict"))
    mode = [f"infer.mode={options.mode}"] if options.mode else []
    how = WatchOptions(options.settle, options.interval, options.lease, options.once)
    with stopping_on_signals() as stop:
        segmenter = Segmenter.from_weights(options.weights, options.device, (*options.settings, *mode))
        segment_one = segment_with(segmenter, probability=options.probability, preview=options.preview)
        outcomes = watch_folder(options.inputs, options.out, segment_one, how, stop)
    if options.once:
        return INTERRUPTED if stop.asked else exit_code(outcomes)
    return DONE


def train(options: argparse.Namespace) -> int:
    from pancreas_seg.cross_validation import cross_validate
    from pancreas_seg.training.memory import keep_freed_memory
    from pancreas_seg.training.trainer import train

    keep_freed_memory()
    init, config = _start(options)
    shared: dict[str, Any] = {
        "root": options.root,
        "resume": options.resume,
        "device": options.device,
        "show_progress": sys.stderr.isatty(),
        "init": init,
    }
    if options.fold == "all":
        result = cross_validate(options.data, options.out, config, **shared)
        if result.study is None:
            return DONE
        weights = [path for fold in result.folds for path in (fold.training.best, fold.training.last)]
        print(*weights, *result.written, sep="\n")
        for summary in result.study.summaries:
            print(describe(summary), file=sys.stderr)
        return exit_code([outcome for fold in result.folds for outcome in fold.outcomes])
    done = train(options.data, options.out, config, fold=options.fold, **shared)
    names = ("config.toml", "metrics.csv", "curves.png", "attention.png", "checkpoint.safetensors")
    written = [options.out / name for name in names]
    if not helps_only():
        print(done.best, done.last, *(path for path in written if path.exists()), sep="\n")
    return DONE


def _start(options: argparse.Namespace) -> tuple[Weights | None, Config]:
    """The weights to start from, and the settings: those that were named, or else those inside the weights."""
    if options.init is None:
        return None, _config(options)
    from pancreas_seg.network.stages import load_stages
    from pancreas_seg.training.start import fine_tuning

    weights = load_stages(options.init).fine[0]
    if options.preset is not None or options.config is not None:
        return weights, _config(options)
    return weights, fine_tuning(weights.config).with_settings(options.settings)


def manifest_build(options: argparse.Namespace) -> int:
    from pancreas_seg.data.manifest_build import build_manifest

    extra: dict[str, Any] = {}
    if options.layout == "pairs":
        extra = {"labels": _label_names(options.labels), "patient": options.patient_pattern}
    manifest = build_manifest(
        options.layout,
        options.root,
        options.out,
        folds=options.folds,
        seed=options.seed,
        progress=progress_bar("hash", "case"),
        **extra,
    )
    print(manifest)
    return DONE


def manifest_check(options: argparse.Namespace) -> int:
    from pancreas_seg.data.manifest import load_manifest
    from pancreas_seg.data.manifest_check import check_manifest, format_findings

    manifest = load_manifest(options.file, options.root)
    findings = check_manifest(manifest, progress_bar("check", "case"))
    print(format_findings(findings, len(manifest.cases)))
    return REFUSED if findings else DONE


def phantom(options: argparse.Namespace) -> int:
    from pancreas_seg.data.phantom import write_cohort

    spacing_mm, progress = tuple(options.spacing_mm), progress_bar("draw", "case")
    print(write_cohort(options.out, options.cases, options.seed, spacing_mm, options.folds, progress))
    return DONE


def info(options: argparse.Namespace) -> int:
    import platform

    from pancreas_seg.config import preset_names

    if options.preset or options.config:
        print(_config(options).to_toml(), end="")
        return DONE
    print(f"pancreas-seg {__version__}, Python {platform.python_version()}")
    print("Research software, not a medical device.")
    print(f"presets: {', '.join(preset_names())}")
    import torch

    from pancreas_seg.config import load_preset
    from pancreas_seg.network.engine import choose_engine
    from pancreas_seg.network.precision import choose_device, choose_precision

    device = choose_device("auto")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; device {device.type}, ", end="")
    print(f"precision {choose_precision('auto', device)}")
    name, why = choose_engine("auto", "auto")
    print(f"engine {name}: {why}")
    if name == "openvino":
        from pancreas_seg.network import openvino_engine

        print(openvino_engine.describe())
    most = load_preset("default").infer.max_memory_gb
    print(f"memory: a CT that would need more than {most:g} GB is refused (infer.max_memory_gb)")
    if options.weights:
        _describe_weights(options.weights)
    return DONE


def _describe_weights(path: str) -> None:
    from pancreas_seg.network.stages import load_stages

    stages = load_stages(path)
    print(f"weights SHA-256 {stages.sha256}")
    networks = [("coarse", stages.coarse)] if stages.coarse is not None else []
    for stage, weights in [*networks, *(("fine", fine) for fine in stages.fine)]:
        data = weights.config.data
        parameters = sum(p.numel() for p in weights.network().parameters())
        spacing = " x ".join(f"{mm:g}" for mm in data.spacing_mm)
        print(f"\n{stage} network: {', '.join(data.classes)}; {spacing} mm; {parameters:,} parameters")
        for key, value in weights.card.items():
            print(f"{key}: {value}")
        print(weights.config.to_toml(), end="")


def weights_pack(options: argparse.Namespace) -> int:
    from pancreas_seg.network.stages import pack_weights

    print(pack_weights(options.out, options.fine, options.coarse, options.half))
    return DONE


def _config(options: argparse.Namespace) -> Config:
    from pancreas_seg.config import load_config, load_preset

    config = load_config(options.config) if options.config else load_preset(options.preset or "default")
    return config.with_settings(options.settings)


def only_sections(settings: Sequence[str], allowed: tuple[str, ...]) -> None:
    for setting in settings:
        if setting.split(".")[0].strip() not in allowed:
            raise ConfigError(
                "config.fixed_by_weights",
                where=f"--set {setting}",
                found="a setting that the weights fix",
                expected=f"one of the sections {', '.join(allowed)}",
                advice="To change it, train again.",
            )


def _label_names(pairs: Sequence[str]) -> dict[int, str]:
    names = {}
    for pair in pairs:
        value, equals, name = pair.partition("=")
        if not (equals and value.isdigit() and name):
            raise ConfigError(
                "config.bad_label",
                where=f"--label {pair}",
                found=repr(pair),
                expected="VALUE=NAME, for example 1=pancreas",
                advice="Give one --label for each value in the label files.",
            )
        names[int(value)] = name
    return names or {1: "pancreas"}
