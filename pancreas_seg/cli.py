"""The command line: one verb is one public function; errors become exit codes.

0 done, 2 wrong usage or configuration, 3 input refused, 4 some of several cases refused or failed, 1 a bug.
Paths written go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pancreas_seg._version import __version__
from pancreas_seg.errors import ConfigError, InputError, PancreasSegError

if TYPE_CHECKING:
    from pancreas_seg.config import Config
    from pancreas_seg.inference.cohort import CaseInput, CaseOutcome
    from pancreas_seg.inference.segmenter import Segmentation

DONE, BUG, USAGE, REFUSED, PARTLY = 0, 1, 2, 3, 4
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("pancreas_seg").setLevel(logging.WARNING if options.quiet else logging.INFO)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # it would log each error a second time
    try:
        return int(options.run(options))
    except PancreasSegError as error:
        print(f"pancreas-seg: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pancreas-seg: interrupted; finished files are complete, the unfinished one is gone", file=sys.stderr)
        return _INTERRUPTED


def _segment(options: argparse.Namespace) -> int:
    from pancreas_seg.inference.cohort import find_cases, segment_cases
    from pancreas_seg.inference.segmenter import Segmenter

    cases = find_cases(options.input)
    _only_sections(options.settings, ("infer", "clean"))
    segmenter = Segmenter.from_weights(options.weights, options.device, tuple(options.settings))

    def saved(case: CaseInput, result: Segmentation, written: list[Path]) -> None:
        if options.preview:
            from pancreas_seg.report.preview import write_preview

            path = options.out / case.case / "preview.png"
            written.append(write_preview(path, result.scan.image, result.mask, result.scan.geometry))
        print(*written, sep="\n", flush=True)

    outcomes = segment_cases(
        segmenter,
        cases,
        options.out,
        probability=options.probability,
        resume=options.resume,
        on_progress=lambda case: _bar(case, "window"),
        on_saved=saved,
    )
    print(options.out / "summary.csv")
    for outcome in outcomes:
        volume = f", {outcome.volume_ml} ml" if outcome.volume_ml else ""
        reasons = f" ({outcome.reasons})" if outcome.reasons else ""
        print(f"{outcome.case}: {outcome.status}{reasons}{volume}, {outcome.took_s} s", file=sys.stderr)
    return _exit_code(outcomes)


def _exit_code(outcomes: Sequence[CaseOutcome]) -> int:
    bad = [outcome.status for outcome in outcomes if outcome.status in ("refused", "failed")]
    if not bad:
        return DONE
    if len(outcomes) > 1:
        return PARTLY
    return REFUSED if bad == ["refused"] else BUG


def _bar(title: str, unit: str) -> Callable[[int, int], None]:
    """A progress bar on stderr, called with steps done and in all; silent where stderr is no terminal."""
    from tqdm import tqdm

    bar = tqdm(desc=title, unit=unit, disable=None, file=sys.stderr, leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show


def _train(options: argparse.Namespace) -> int:
    from pancreas_seg.training.trainer import train

    result = train(
        options.data,
        options.out,
        _config(options),
        fold=options.fold,
        resume=options.resume,
        device=options.device,
        show_progress=sys.stderr.isatty(),
    )
    names = ("config.toml", "metrics.csv", "curves.png", "checkpoint.safetensors")
    print(result.best, result.last, *(options.out / name for name in names), sep="\n")
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    import numpy as np

    from pancreas_seg.evaluation.metrics import dice
    from pancreas_seg.io import read_mask

    reference, prediction = read_mask(options.reference), read_mask(options.prediction)
    if not reference.geometry.same_grid(prediction.geometry, tolerance_mm=0.1):
        raise InputError(
            "input.grids_differ",
            where=options.prediction,
            found=f"a grid of {prediction.geometry.shape}",
            expected=f"the reference's grid of {reference.geometry.shape}, within 0.1 mm",
            advice="Resample one onto the other first.",
        )
    wanted, found = reference.labels == options.reference_label, prediction.labels == options.prediction_label
    ml = reference.geometry.voxel_ml
    print(
        f"Dice {dice(wanted, found):.4f} "
        f"(reference {np.count_nonzero(wanted) * ml:.1f} ml, prediction {np.count_nonzero(found) * ml:.1f} ml; 1 case)"
    )
    return DONE


def _manifest_build(options: argparse.Namespace) -> int:
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
        progress=_bar("hash", "case"),
        **extra,
    )
    print(manifest)
    return DONE


def _manifest_check(options: argparse.Namespace) -> int:
    from pancreas_seg.data.manifest import load_manifest
    from pancreas_seg.data.manifest_check import check_manifest, format_findings

    manifest = load_manifest(options.file, options.root)
    findings = check_manifest(manifest, _bar("check", "case"))
    print(format_findings(findings, len(manifest.cases)))
    return REFUSED if findings else DONE


def _phantom(options: argparse.Namespace) -> int:
    from pancreas_seg.data.phantom import write_cohort

    spacing_mm, progress = tuple(options.spacing_mm), _bar("draw", "case")
    print(write_cohort(options.out, options.cases, options.seed, spacing_mm, options.folds, progress))
    return DONE


def _info(options: argparse.Namespace) -> int:
    import platform

    from pancreas_seg.config import preset_names

    if options.preset or options.config:
        print(_config(options).to_toml(), end="")
        return DONE
    print(f"pancreas-seg {__version__}, Python {platform.python_version()}")
    print("Research software, not a medical device.")
    print(f"presets: {', '.join(preset_names())}")
    import monai
    import torch

    from pancreas_seg.network.precision import choose_device, choose_precision

    device = choose_device("auto")
    print(f"torch {torch.__version__}, monai {monai.__version__}, {torch.get_num_threads()} threads")
    print(f"device {device.type}, precision {choose_precision('auto', device)}")
    if options.weights:
        from pancreas_seg.network.weights import load_weights

        weights = load_weights(options.weights)
        print(f"weights SHA-256 {weights.sha256}")
        for key, value in weights.card.items():
            print(f"{key}: {value}")
        print(weights.config.to_toml(), end="")
    return DONE


def _config(options: argparse.Namespace) -> Config:
    from pancreas_seg.config import load_config, load_preset

    config = load_config(options.config) if options.config else load_preset(options.preset or "default")
    return config.with_settings(options.settings)


def _only_sections(settings: Sequence[str], allowed: tuple[str, ...]) -> None:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pancreas-seg",
        description="Pancreas segmentation in abdominal CT. Research software, not a medical device.",
        epilog="Exit codes: 0 done; 2 wrong usage or configuration; 3 input refused; "
        "4 some of several cases refused or failed; 1 a bug.",
    )
    parser.add_argument("--version", action="version", version=f"pancreas-seg {__version__}")
    parser.add_argument("--quiet", action="store_true", help="only warnings and errors on stderr")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_segment(verbs)
    _add_train(verbs)

    evaluate = verbs.add_parser("evaluate", help="compare a mask with a reference")
    evaluate.add_argument("--reference", type=Path, required=True, metavar="FILE")
    evaluate.add_argument("--prediction", type=Path, required=True, metavar="FILE")
    evaluate.add_argument("--reference-label", type=int, default=1, metavar="VALUE", help="default 1")
    evaluate.add_argument("--prediction-label", type=int, default=1, metavar="VALUE", help="default 1")
    evaluate.set_defaults(run=_evaluate)

    _add_manifest(verbs)

    phantom = verbs.add_parser("phantom", help="write synthetic CTs with labels and a manifest")
    phantom.add_argument("--out", type=Path, required=True, metavar="DIR")
    phantom.add_argument("--cases", type=int, default=8, metavar="N", help="default 8")
    phantom.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    phantom.add_argument(
        "--spacing-mm", type=float, nargs=3, default=(2.0, 2.0, 3.0), metavar=("X", "Y", "Z"), help="default 2 2 3"
    )
    phantom.add_argument("--folds", type=int, default=2, metavar="K", help="default 2")
    phantom.set_defaults(run=_phantom)

    info = verbs.add_parser("info", help="versions, device, a preset's settings, a weights file's card")
    info.add_argument("--weights", type=Path, metavar="FILE")
    _add_config(info)
    info.set_defaults(run=_info)
    return parser


def _add_segment(verbs: Any) -> None:
    verb = verbs.add_parser("segment", help="find the pancreas in CTs")
    verb.add_argument(
        "input", type=Path, nargs="+", metavar="INPUT", help="CT file (.nii .nii.gz .nrrd .mha), folder, or manifest"
    )
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets one folder per case")
    verb.add_argument("--weights", type=Path, required=True, metavar="FILE", help="as `train` writes them")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.add_argument("--probability", action="store_true", help="write probability.nii.gz too")
    verb.add_argument("--preview", action="store_true", help="write preview.png too")
    verb.add_argument("--resume", action="store_true", help="leave out cases that are finished")
    _add_settings(verb)
    verb.set_defaults(run=_segment)


def _add_train(verbs: Any) -> None:
    verb = verbs.add_parser("train", help="train the network with labelled CTs")
    verb.add_argument("--data", type=Path, required=True, metavar="MANIFEST")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for weights, metrics and curves")
    _add_config(verb)
    verb.add_argument("--fold", type=int, metavar="K", help="the fold that validates; the others train")
    verb.add_argument("--resume", action="store_true", help="go on with an interrupted training")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.set_defaults(run=_train)


def _add_manifest(verbs: Any) -> None:
    manifest = verbs.add_parser("manifest", help="build or check the list of a data set's cases")
    sub = manifest.add_subparsers(title="verbs", required=True, metavar="VERB")
    build = sub.add_parser("build", help="make a manifest from a folder")
    build.add_argument("root", type=Path, metavar="ROOT")
    build.add_argument("--layout", choices=("msd", "nih", "btcv", "pairs"), required=True)
    build.add_argument("--out", type=Path, required=True, metavar="FILE")
    build.add_argument("--folds", type=int, metavar="K", help="default: the published folds, else 5")
    build.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    build.add_argument(
        "--label", dest="labels", action="append", default=[], metavar="VALUE=NAME", help="pairs: a label's name"
    )
    build.add_argument(
        "--patient-pattern", metavar="REGEX", help="pairs: its first group, found in a file's name, is the patient"
    )
    build.set_defaults(run=_manifest_build)
    check = sub.add_parser("check", help="open every file and list all problems; exit code 3 if there are any")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--root", type=Path, metavar="DIR", help="folder that relative paths start from")
    check.set_defaults(run=_manifest_check)


def _add_config(verb: argparse.ArgumentParser) -> None:
    group = verb.add_mutually_exclusive_group()
    group.add_argument("--preset", metavar="NAME", help="settings that ship with the package (see `info`)")
    group.add_argument("--config", type=Path, metavar="FILE", help="settings from a TOML file")
    _add_settings(verb)


def _add_settings(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="change one setting"
    )
