"""Train the starter weights that ship with the package, from the CTs that their model card names.

    .venv/bin/python recipes/train_starter.py DATA OUT

DATA holds the folders cb001, crlm1006, c3l00189, totalseg, totalseg_dicom, acrinflt001 and masks. Both stages,
`starter-coarse` and `starter-fine`, are trained several times, each training from the weights of the one before: first
without the CT of --hold-out, which gives a figure for a CT that was not seen; then with all CTs and phantoms, with
stronger deformation; then with batch norm's statistics taken from the CTs alone and kept. The fine stage goes on with
the shapes of other people's pancreases, and last with acrinflt001, too, which has no labels and gets those that the
networks draw (PHASES). OUT/starter.safetensors is the packed result. An interrupted run goes on where it was. On two
CPU cores it takes about eight hours.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

from starter_data import Mix, mixed, prepare, self_labelled

from pancreas_seg.config import load_preset
from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.network.stages import pack_weights
from pancreas_seg.network.weights import load_weights, save_weights
from pancreas_seg.training.memory import keep_freed_memory
from pancreas_seg.training.statistics import renew_statistics
from pancreas_seg.training.trainer import train

DEFORMED = {
    "augment": {
        "scale_range": 0.25,
        "elastic_probability": 0.8,
        "elastic_mm": 26.0,
        "elastic_grid_mm": 50.0,
        "organ_probability": 0.7,
        "organ_hu": 20.0,
        "hollow_hu": 20.0,
    },
    "train": {"validate_every": 100},
}
"""How the later trainings differ from the first."""


@dataclass(frozen=True)
class Phase:
    """A training with all CTs: what it sees, and its settings.

    With ``renewed``, batch norm's statistics are first taken anew from the CTs; with ``self_labelled``, the weights so
    far draw labels for a CT that has none.
    """

    name: str
    mix: Mix
    settings: tuple[str, ...]
    renewed: bool = False
    self_labelled: bool = False


_20 = Mix({"crlm1006": 8, "cb001": 8, "c3l00189": 6, "totalseg": 4, "totalseg_dicom": 2}, phantoms=20)
_40 = Mix({"crlm1006": 12, "cb001": 11, "c3l00189": 8, "totalseg": 6, "totalseg_dicom": 3}, phantoms=40)
SHARES = {"crlm1006": 20, "cb001": 18, "c3l00189": 14, "totalseg": 10, "totalseg_dicom": 5}
_KEEPING = Mix(SHARES, phantoms=40)
SHAPED = Mix(SHARES, phantoms=20, shapes=True)

_KEPT = ("train.norm_statistics=stored", "augment.hollow_hu=60", "train.learning_rate=7e-4", "train.seed=11")
"""For the last training of each."""

_ON_SHAPES = ("train.norm_statistics=stored", "augment.hollow_hu=60", "augment.sharpen_probability=0.3")
"""For the trainings with other shapes: statistics kept, random sharpening."""

_FLAT = ("train.schedule=constant",)
"""For trainings of the shipped weights that were planned longer and ended early: their mean learning rate."""

PHASES = {
    "coarse": (
        Phase("all_20", _20, ("train.learning_rate=1e-3", "train.steps=2900", "train.seed=3")),
        Phase("all_40", _40, (*_FLAT, "train.learning_rate=5.2e-4", "train.steps=400", "train.seed=4")),
        Phase("all_40_end", _40, ("train.learning_rate=4.5e-4", "train.steps=400", "train.seed=6")),
        Phase("kept", _KEEPING, (*_KEPT, "train.steps=800"), renewed=True),
    ),
    "fine": (
        Phase("all_20", _20, ("train.learning_rate=1e-3", "train.steps=2700", "train.seed=3")),
        Phase("all_40", _40, (*_FLAT, "train.learning_rate=8.6e-4", "train.steps=1400", "train.seed=4")),
        Phase("all_40_on", _40, (*_FLAT, "train.learning_rate=5.3e-4", "train.steps=400", "train.seed=5")),
        Phase("all_40_end", _40, ("train.learning_rate=4.7e-4", "train.steps=600", "train.seed=6")),
        Phase("kept", _KEEPING, (*_KEPT, "train.steps=2400"), renewed=True),
        Phase("shapes", SHAPED, (*_ON_SHAPES, "train.learning_rate=7e-4", "train.steps=3400", "train.seed=51")),
        Phase(
            "self",
            Mix({**SHARES, "acrinflt001": 8}, phantoms=20, shapes=True),
            (*_ON_SHAPES, "train.learning_rate=4e-4", "train.steps=1200", "train.seed=61"),
            self_labelled=True,
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--hold-out", default="crlm1006", metavar="CASE", help="default crlm1006")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()
    manifest, folds = prepare(options.data, options.out / "data")
    fold = folds.index(options.hold_out)
    coarse = trained("coarse", manifest, options, fold)
    coarse = renewed(coarse, manifest, options.out / "coarse" / "renewed.safetensors")
    fine = trained("fine", manifest, options, fold, coarse)
    logging.info("%s", pack_weights(options.out / "starter.safetensors", [fine], coarse, half=True))


def trained(stage: str, manifest: Path, options: argparse.Namespace, fold: int, coarse: Path | None = None) -> Path:
    """Go through the phases of a stage; the last weights. ``coarse`` is needed by phases that label a CT themselves."""
    out, data = options.out / stage, options.out / "data"
    config = load_preset(f"starter-{stage}")
    last = train(manifest, out / "held_out", config, fold=fold, resume=True).last
    for phase in PHASES[stage]:
        if phase.self_labelled:
            packed = pack_weights(out / f"before_{phase.name}.safetensors", [last], coarse, half=True)
            manifest = self_labelled(manifest, options.data, packed, data)
        if phase.renewed:
            last = renewed(last, manifest, out / f"before_{phase.name}.safetensors")
        everything = mixed(manifest, data, f"{stage}_{phase.name}", phase.mix, options.data / "masks")
        settings = config.changed(DEFORMED).with_settings(phase.settings)
        last = train(everything, out / phase.name, settings, resume=True, init=load_weights(last)).last
    return last


def renewed(path: Path, manifest: Path, target: Path) -> Path:
    """Write weights with batch norm's statistics taken anew from the CTs; ``target``."""
    weights = load_weights(path)
    network = weights.network()
    renew_statistics(network, load_manifest(manifest).cases, weights.config)
    save_weights(target, network, weights.config, weights.card)
    return target


if __name__ == "__main__":
    main()
