"""The verbs and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pancreas_seg._version import __version__
from pancreas_seg.cli import evaluating, segmenting, verbs


def _whole_number(lowest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{value} is below {lowest}")
        return value

    parse.__name__ = "whole number"
    return parse


def _seconds(lowest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not lowest <= value <= 86400:
            raise argparse.ArgumentTypeError(f"{text} is not within {lowest:g} to 86400 s")
        return value

    parse.__name__ = "number of seconds"
    return parse


def _fold(text: str) -> int | str:
    return text if text == "all" else _whole_number(0)(text)


_fold.__name__ = "fold"


def _millimetres(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 50:
        raise argparse.ArgumentTypeError(f"{text} is not within 0.1 to 50 mm")
    return value


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pancreas-seg",
        description="Pancreas segmentation in abdominal CT. Research software, not a medical device.",
        epilog="Exit codes: 0 done; 2 wrong usage or configuration; 3 input refused; "
        "4 some of several cases refused or failed; 1 a bug.",
    )
    parser.add_argument("--version", action="version", version=f"pancreas-seg {__version__}")
    parser.add_argument("--quiet", action="store_true", help="only warnings and errors on stderr")
    commands = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_segment(commands)
    _add_train(commands)

    _add_evaluate(commands)
    _add_manifest(commands)
    _add_weights(commands)
    _add_export(commands)
    _add_watch(commands)

    phantom = commands.add_parser("phantom", help="write synthetic CTs with labels and a manifest")
    phantom.add_argument("--out", type=Path, required=True, metavar="DIR")
    phantom.add_argument("--cases", type=_whole_number(1), default=8, metavar="N", help="default 8")
    phantom.add_argument("--seed", type=_whole_number(0), default=0, metavar="S", help="default 0")
    phantom.add_argument(
        "--spacing-mm",
        type=_millimetres,
        nargs=3,
        default=(2.0, 2.0, 3.0),
        metavar=("X", "Y", "Z"),
        help="default 2 2 3",
    )
    phantom.add_argument("--folds", type=_whole_number(1), default=2, metavar="K", help="default 2")
    phantom.set_defaults(run=verbs.phantom)

    info = commands.add_parser("info", help="versions, device, a preset's settings, a weights file's card")
    info.add_argument("--weights", metavar="FILE", help="or the word starter")
    _add_config(info)
    info.set_defaults(run=verbs.info)
    return parser


def _add_segment(commands: Any) -> None:
    verb = commands.add_parser("segment", help="find the pancreas in CTs")
    verb.add_argument(
        "input",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help="CT file (.nii .nii.gz .nrrd .mha), DICOM folder, zip or file, folder of such, or manifest",
    )
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets one folder per case")
    verb.add_argument(
        "--weights",
        nargs="+",
        default=["starter"],
        metavar="FILE",
        help="weights files, or folders of trainings, to be averaged; default: starter, those of this package",
    )
    verb.add_argument("--mode", choices=("auto", "cascade", "full"), help="short for --set infer.mode=...")
    verb.add_argument("--engine", choices=("auto", "torch", "openvino"), help="short for --set infer.engine=...")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.add_argument("--jobs", type=_whole_number(1), default=1, metavar="N", help="processes for many CTs; default 1")
    verb.add_argument("--dicom-seg", action="store_true", help="write mask.dcm too: a DICOM SEG (DICOM input only)")
    verb.add_argument("--rtstruct", action="store_true", help="write rtstruct.dcm too: contours (DICOM input only)")
    verb.add_argument("--probability", action="store_true", help="write probability.nii.gz too")
    verb.add_argument("--attention", action="store_true", help="write attention.nii.gz too")
    verb.add_argument("--preview", action="store_true", help="write preview.png too")
    verb.add_argument("--series", metavar="UID", help="the DICOM series to take where there are several")
    verb.add_argument("--allow-tilt", action="store_true", help="shear DICOM slices of a tilted gantry back")
    verb.add_argument("--resume", action="store_true", help="leave out cases that are finished")
    _add_settings(verb)
    verb.set_defaults(run=segmenting.segment)


def _add_watch(commands: Any) -> None:
    verb = commands.add_parser("watch", help="segment what is dropped into a folder")
    verb.add_argument("inputs", type=Path, nargs="?", metavar="IN", help="folder that CTs are dropped into")
    verb.add_argument("out", type=Path, nargs="?", metavar="OUT", help="gets one folder per case and status.html")
    verb.add_argument(
        "--weights", nargs="+", default=["starter"], metavar="FILE", help="as for segment; write IN and OUT before it"
    )
    verb.add_argument("--mode", choices=("auto", "cascade", "full"), help="short for --set infer.mode=...")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.add_argument("--probability", action="store_true", help="write probability.nii.gz too")
    verb.add_argument("--preview", action="store_true", help="write preview.png too")
    verb.add_argument(
        "--settle",
        type=_seconds(0),
        default=10.0,
        metavar="S",
        help="seconds for which nothing of an input may change before it is taken; default 10",
    )
    verb.add_argument(
        "--interval", type=_seconds(0.05), default=5.0, metavar="S", help="seconds between two looks; default 5"
    )
    verb.add_argument(
        "--lease",
        type=_seconds(1),
        default=180.0,
        metavar="S",
        help="seconds of silence after which others take a case over; default 180",
    )
    verb.add_argument("--once", action="store_true", help="end when nothing is left to do")
    verb.add_argument(
        "--health", type=Path, metavar="OUT", help="only tell whether a watcher of this machine is at work on OUT"
    )
    _add_settings(verb)
    verb.set_defaults(run=verbs.watch)


def _add_train(commands: Any) -> None:
    verb = commands.add_parser("train", help="train the network with labelled CTs")
    verb.add_argument("--data", type=Path, required=True, metavar="MANIFEST")
    verb.add_argument("--root", type=Path, metavar="DIR", help="folder that the manifest's relative paths start from")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for weights, metrics and curves")
    _add_config(verb)
    verb.add_argument(
        "--fold",
        type=_fold,
        metavar="K",
        help='the fold that validates, the others train; "all" does this for each and evaluates the unseen cases',
    )
    verb.add_argument("--init", metavar="FILE", help='weights to start from; "starter" are those of the package')
    verb.add_argument("--resume", action="store_true", help="go on with an interrupted training")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.set_defaults(run=verbs.train)


def _add_evaluate(commands: Any) -> None:
    verb = commands.add_parser("evaluate", help="compare masks with references")
    verb.add_argument(
        "--reference", "--data", type=Path, required=True, metavar="PATH", help="label map, folder of such, or manifest"
    )
    verb.add_argument(
        "--prediction", "--predictions", type=Path, required=True, metavar="PATH", help="mask, or folder of `segment`"
    )
    verb.add_argument("--out", type=Path, metavar="DIR", help="gets cases.csv, summary.json and plots.png")
    verb.add_argument(
        "--compare", type=Path, metavar="PATH", help="a second set of predictions, to compare the first with"
    )
    verb.add_argument(
        "--label",
        dest="labels",
        action="append",
        default=[],
        metavar="NAME=VALUE+VALUE",
        help="a structure's values in the references",
    )
    verb.add_argument(
        "--prediction-label",
        dest="prediction_labels",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="its values in the predictions",
    )
    verb.add_argument(
        "--tolerance-mm",
        type=float,
        nargs="+",
        default=(1.0, 2.0),
        metavar="MM",
        help="of the surface Dice; default 1 2",
    )
    verb.add_argument("--resample", action="store_true", help="bring predictions on other grids onto the references'")
    verb.set_defaults(run=evaluating.evaluate)


def _add_manifest(commands: Any) -> None:
    manifest = commands.add_parser("manifest", help="build or check the list of a data set's cases")
    sub = manifest.add_subparsers(title="verbs", required=True, metavar="VERB")
    build = sub.add_parser("build", help="make a manifest from a folder")
    build.add_argument("root", type=Path, metavar="ROOT")
    build.add_argument("--layout", choices=("msd", "nih", "btcv", "pairs"), required=True)
    build.add_argument("--out", type=Path, required=True, metavar="FILE")
    build.add_argument("--folds", type=_whole_number(0), metavar="K", help="default: the published folds, else 5")
    build.add_argument("--seed", type=_whole_number(0), default=0, metavar="S", help="default 0")
    build.add_argument(
        "--label", dest="labels", action="append", default=[], metavar="VALUE=NAME", help="pairs: a label's name"
    )
    build.add_argument(
        "--patient-pattern", metavar="REGEX", help="pairs: its first group, found in a file's name, is the patient"
    )
    build.set_defaults(run=verbs.manifest_build)
    check = sub.add_parser("check", help="open every file and list all problems; exit code 3 if there are any")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--root", type=Path, metavar="DIR", help="folder that relative paths start from")
    check.set_defaults(run=verbs.manifest_check)


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser("weights", help="put several networks into one weights file")
    sub = weights.add_subparsers(title="verbs", required=True, metavar="VERB")
    pack = sub.add_parser("pack", help="fine networks, to be averaged, and a coarse one that finds where to look")
    pack.add_argument("--fine", nargs="+", required=True, metavar="FILE", help="weights file, or folder of a training")
    pack.add_argument("--coarse", type=Path, metavar="FILE")
    pack.add_argument("--half", action="store_true", help="store numbers in 16 bits")
    pack.add_argument("--out", type=Path, required=True, metavar="FILE")
    pack.set_defaults(run=verbs.weights_pack)


def _add_export(commands: Any) -> None:
    verb = commands.add_parser("export", help="write a mask, also one edited afterwards, as DICOM")
    verb.add_argument("mask", type=Path, metavar="MASK", help="label map (.nii .nii.gz .nrrd .mha) on the CT's grid")
    verb.add_argument("--format", choices=("dicom-seg", "rtstruct"), required=True)
    verb.add_argument("--series", type=Path, required=True, metavar="PATH", help="the CT in DICOM: folder, zip or file")
    verb.add_argument("--series-uid", metavar="UID", help="the DICOM series to take where there are several")
    verb.add_argument("--out", type=Path, required=True, metavar="FILE")
    verb.add_argument(
        "--label", dest="labels", action="append", default=[], metavar="VALUE=NAME", help="default 1=pancreas"
    )
    verb.add_argument(
        "--made",
        choices=("automatic", "semiautomatic", "manual"),
        default="semiautomatic",
        help="who drew the mask: the networks, the networks and then a person (default), a person",
    )
    verb.set_defaults(run=verbs.export)


def _add_config(verb: argparse.ArgumentParser) -> None:
    group = verb.add_mutually_exclusive_group()
    group.add_argument("--preset", metavar="NAME", help="settings that ship with the package (see `info`)")
    group.add_argument("--config", type=Path, metavar="FILE", help="settings from a TOML file")
    _add_settings(verb)


def _add_settings(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="change one setting"
    )
