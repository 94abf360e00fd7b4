"""What all verbs say to the terminal: exit codes, progress, figures in a line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pancreas_seg.evaluation.statistics import Summary
    from pancreas_seg.inference.cohort import CaseOutcome

DONE, BUG, USAGE, REFUSED, PARTLY, INTERRUPTED = 0, 1, 2, 3, 4, 130


def exit_code(outcomes: Sequence[CaseOutcome]) -> int:
    from pancreas_seg.inference.cohort import NOT_WRITTEN

    bad = [outcome.status for outcome in outcomes if outcome.status in ("refused", "failed")]
    if not bad:
        return DONE
    if len(outcomes) > 1:
        return PARTLY
    if outcomes[0].reasons == NOT_WRITTEN:
        return USAGE
    return REFUSED if bad == ["refused"] else BUG


def progress_bar(title: str, unit: str) -> Callable[[int, int], None]:
    """Progress bars on stderr, called with steps done and in all, one after the other; silent if that's no terminal."""
    from tqdm import tqdm

    bar: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=title, unit=unit, total=total, disable=None, file=sys.stderr, leave=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()
            bar = None

    return show


def helps_only() -> bool:
    """Whether this is one of torchrun's processes, but not the first, which speaks for all."""
    return os.environ.get("RANK", "0") != "0"


def describe(summary: Summary) -> str:
    """One line: means with the number of cases, and of what was left out."""
    n = f"{summary.n_ok} case" + ("" if summary.n_ok == 1 else "s")
    left_out = f"; {summary.n_missing} missing, {summary.n_failed} failed" if summary.n_ok < summary.n_cases else ""
    values = {name: d.mean for name, d in summary.metrics.items()}
    if not values:
        return f"{summary.label}: no case evaluated{left_out}"
    if summary.n_both_empty == summary.n_ok:
        return f"{summary.label}: in neither reference nor prediction of {n}{left_out}; check the label values"
    infinite = summary.metrics["hd95_mm"].infinite
    finite = f" over the {summary.n_ok - infinite} with both masks" if infinite else ""
    surface = ", ".join(
        f"{name.upper().replace('_', ' at ').replace('MM', ' mm')} {values[name]:.4f}"
        for name in values
        if name.startswith("nsd")
    )
    return (
        f"Dice {values['dice']:.4f} ({summary.label}: reference {values['reference_ml']:.1f} ml, "
        f"prediction {values['prediction_ml']:.1f} ml; {n}{left_out}), {surface}, "
        f"HD95 {values['hd95_mm']:.2f} mm{finite}"
    )
