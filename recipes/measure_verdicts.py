"""Segment sound CTs and spoiled ones with the starter weights, and print how many of each kind are marked for review.

    .venv/bin/python recipes/measure_verdicts.py OUT [--data DATA] [--weights FILE] [--phantoms 20] [--spoiled 3]

Each case is a line of OUT/cases.jsonl. What is there already for these weights is not segmented again but judged anew,
so that thresholds (--set verdict.KEY=VALUE) can be tried. DATA is as for train_starter.py. Phantoms have seeds 1000,
1001, ...; the weights were trained with none of them. A sound phantom is flagged rightly if its mask has a Dice below
0.8 with the drawn pancreas. Where the coarse network finds nothing the whole image is not searched (infer.fallback):
the verdict is "review" either way.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.config import VerdictConfig
from pancreas_seg.data.phantom import LABELS, draw_phantom, unfit
from pancreas_seg.evaluation.metrics import dice
from pancreas_seg.geometry import Geometry
from pancreas_seg.inference.anatomy import Anatomy
from pancreas_seg.inference.clean import count_components
from pancreas_seg.inference.quality import Evidence, assess
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import Scan, read_ct
from pancreas_seg.network.stages import STARTER

FIRST_SEED = 1000
SPACING_MM = (2.5, 2.5, 3.0)
PANCREAS = next(value for value, name in LABELS.items() if name == "pancreas")
REAL = ("cb001/small_ct", "crlm1006/ct", "c3l00189/ct", "totalseg/ct", "acrinflt001/ct")
SPOILED_REAL = ("cb001/small_ct",)
# The share of their height, from the feet up, that is below the liver and the kidneys.
PELVIS = {"totalseg/ct": 0.55, "acrinflt001/ct": 0.3}
GOOD_DICE = 0.8

Case = tuple[str, str, Callable[[], tuple[NDArray[Any], Geometry, NDArray[np.bool_] | None]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--data", type=Path, metavar="DATA", help="real CTs")
    parser.add_argument("--weights", default=STARTER, metavar="FILE", help="default: those of the package")
    parser.add_argument("--phantoms", type=int, default=20, metavar="N", help="sound phantoms")
    parser.add_argument("--spoiled", type=int, default=3, metavar="N", help="phantoms of each spoiled kind")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.from_weights(options.weights, settings=("infer.fallback=none", *options.settings))
    rows = []
    for kind, name, make in cases(options.phantoms, options.spoiled, options.data):
        row = measured(options.out / "cases.jsonl", segmenter, kind, name, make)
        rows.append({**row, "reasons": judged(row, segmenter.config.verdict)})
        sys.stderr.write(f"{kind} {name}: {', '.join(rows[-1]['reasons']) or 'ok'}\n")
    sys.stdout.write(table(rows) + f"\nweights {segmenter.weights_sha256[:12]}\n")


def cases(sound: int, spoiled: int, data: Path | None) -> Iterator[Case]:
    """Kind, name, and what makes the image, its geometry and the pancreas, if that is known."""
    for seed in range(FIRST_SEED, FIRST_SEED + sound):
        yield "sound", f"phantom {seed}", lambda seed=seed: _phantom(seed)
    for seed in range(FIRST_SEED, FIRST_SEED + spoiled):
        for kind, spoil in unfit.SPOILED.items():
            yield kind, f"phantom {seed}", lambda seed=seed, spoil=spoil: (*spoil(*_phantom(seed)[:2]), None)
        yield "chest", f"phantom {seed}", lambda seed=seed: (*unfit.chest(seed), None)
        yield "pelvis", f"phantom {seed}", lambda seed=seed: (*unfit.pelvis(seed), None)
    yield "head", "drawn", lambda: (*unfit.head(), None)
    for kind, hu, inserts in (("air", -1000.0, False), ("water", 0.0, False), ("rods in water", 0.0, True)):
        yield kind, "drawn", lambda hu=hu, inserts=inserts: (*unfit.cylinder(hu, inserts=inserts), None)
    if data is None:
        return
    for name in REAL:
        yield "sound", f"CT {name}", lambda name=name: (*_real(data, name), None)
    for name in SPOILED_REAL:
        for kind, spoil in unfit.SPOILED.items():
            yield kind, f"CT {name}", lambda name=name, spoil=spoil: (*spoil(*_real(data, name)), None)
    for name, top in PELVIS.items():
        yield (
            "pelvis",
            f"CT {name}",
            lambda name=name, top=top: (*unfit.part_of_height(*_real(data, name), 0, top), None),
        )


def measured(cache: Path, segmenter: Segmenter, kind: str, name: str, make: Callable[[], Any]) -> dict[str, Any]:
    """A case's row: from the file, or segmented and added to it."""
    key = {"kind": kind, "case": name, "weights": segmenter.weights_sha256}
    for line in cache.read_text(encoding="utf-8").splitlines() if cache.exists() else ():
        row: dict[str, Any] = json.loads(line)
        if row.items() >= key.items():
            return row
    hu, geometry, pancreas = make()
    result = segmenter.segment(Scan(hu, geometry, Path(name), ""))
    codes = [reason.code for reason in result.reasons]
    row = {
        **key,
        "searching": [code for code in codes if code.startswith("result.coarse_") or code == "result.box_limit"],
        "at_border": "result.touches_border" in codes,
        "components": count_components(result.mask == 1),
        "volume_ml": round(result.volume_ml["pancreas"], 2),
        "mean_hu": result.mean_hu.get("pancreas"),
        "dice": None if pancreas is None else round(dice(pancreas, result.mask == 1), 3),
        "evidence": result.provenance["evidence"],
    }
    with cache.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def judged(row: dict[str, Any], settings: VerdictConfig) -> list[str]:
    """Codes of the reasons for review, by these thresholds."""
    facts = dict(row["evidence"])
    names = ("liver_right_of_spleen_mm", "liver_in_front_of_kidneys_mm", "liver_above_kidneys_mm", "spleen_to_liver")
    anatomy = Anatomy(*(facts.pop(name) for name in names))
    pieces = np.zeros((2 * row["components"] + 1, 1, 1), dtype=bool)
    pieces[1::2] = True
    evidence = Evidence(
        organ="pancreas",
        mask=pieces,
        at_border=row["at_border"],
        volume_ml=row["volume_ml"],
        mean_hu=row["mean_hu"],
        anatomy=anatomy,
        **facts,
    )
    return [*row["searching"], *(reason.code for reason in assess(evidence, settings)[1])]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each kind of phantoms and of real CTs, how many are flagged, and why."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], "CTs" if row["case"].startswith("CT") else "phantoms"), []).append(row)
    out = "| kind | of | cases | review | ok | reasons |\n| --- | --- | --- | --- | --- | --- |\n"
    for (kind, of), members in groups.items():
        flagged = [row for row in members if row["reasons"]]
        counts = Counter(code.removeprefix("result.") for row in flagged for code in row["reasons"])
        reasons = ", ".join(f"{code} {n}" for code, n in counts.most_common())
        out += f"| {kind} | {of} | {len(members)} | {len(flagged)} | {len(members) - len(flagged)} | {reasons} |\n"
    known = [row for row in rows if row["dice"] is not None]
    good = [row for row in known if row["dice"] >= GOOD_DICE]
    bad = [row for row in known if row["dice"] < GOOD_DICE]
    out += f"\nSound phantoms with a Dice of {GOOD_DICE} or more: {len(good)}, of them flagged: "
    out += f"{sum(bool(row['reasons']) for row in good)}; with less: {len(bad)}, of them flagged: "
    return out + f"{sum(bool(row['reasons']) for row in bad)}.\n"


def _phantom(seed: int) -> tuple[NDArray[Any], Geometry, NDArray[np.bool_]]:
    phantom = draw_phantom(seed, SPACING_MM, "LPS")
    return phantom.hu, phantom.geometry, phantom.labels == PANCREAS


def _real(data: Path, name: str) -> tuple[NDArray[Any], Geometry]:
    scan = read_ct(data / f"{name}.nii.gz")
    return scan.image, scan.geometry


if __name__ == "__main__":
    main()
