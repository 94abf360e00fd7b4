"""status.html: one page without scripts, that loads nothing and itself anew every few seconds."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Any
from urllib.parse import quote

_STYLE = """
:root { color-scheme: light dark; --back: #f4f6f8; --card: #fff; --text: #16202a; --soft: #5b6875; --line: #dde3e8;
  --ok: #12663c; --ok-back: #dcf2e6; --review: #7a4b00; --review-back: #fdedcc; --bad: #98201b; --bad-back: #fbdfdd;
  --run: #0b5394; --run-back: #dcebfa; }
@media (prefers-color-scheme: dark) { :root { --back: #10161c; --card: #19222b; --text: #e6ebf0; --soft: #9aa7b4;
  --line: #2b3742; --ok: #7fdcab; --ok-back: #153a28; --review: #f5c46b; --review-back: #42310f; --bad: #ff9d96;
  --bad-back: #4a1d1b; --run: #8cc4ff; --run-back: #17324d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.device { border-left: .25rem solid var(--review); padding: .2rem .7rem; margin: .7rem 0; }
.counts { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr)); gap: .6rem;
  margin: 1rem 0 0; padding: 0; }
.counts div, .case, .note { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .6rem .8rem; }
.counts dt { color: var(--soft); font-size: .85rem; } .counts dd { margin: 0; font-size: 1.6rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.case { margin: .5rem 0; } .head { display: flex; flex-wrap: wrap; gap: .2rem .7rem; align-items: baseline; }
.name { font-weight: 600; overflow-wrap: anywhere; flex: 1 1 10rem; }
.tag { border-radius: 1rem; padding: .05rem .6rem; font-size: .85rem; font-weight: 600; white-space: nowrap; }
.ok { color: var(--ok); background: var(--ok-back); } .review { color: var(--review); background: var(--review-back); }
.refused, .failed { color: var(--bad); background: var(--bad-back); }
.run { color: var(--run); background: var(--run-back); }
.note { border-color: var(--bad); color: var(--bad); margin: .6rem 0; }
progress { width: 100%; height: .7rem; accent-color: var(--run); } ul { margin: .3rem 0 0; padding-left: 1.1rem;
  overflow-wrap: anywhere; }
a { color: var(--run); } footer { margin: 2rem 0 1rem; }
"""

_COUNTS = (
    ("waiting", "waiting"),
    ("settling", "arriving"),
    ("running", "running"),
    ("ok", "ok"),
    ("review", "review"),
    ("refused", "refused"),
    ("failed", "failed"),
)


def page(facts: dict[str, Any], refresh_s: int) -> str:
    """The page.

    Parameters
    ----------
    facts : dict
        What status.json says.
    refresh_s : int
        After how long the browser loads it again.
    """
    counts = facts["counts"]
    tiles = "".join(f"<div><dt>{title}</dt><dd>{counts[key]}</dd></div>" for key, title in _COUNTS)
    ignored = counts["ignored"]
    left_alone = f" {_n(ignored, 'entry', 'entries')} of other kinds left alone." if ignored else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{refresh_s}">
<meta name="robots" content="noindex">
<title>{counts["running"]} running, {counts["waiting"] + counts["settling"]} waiting: pancreas-seg watch</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<h1>pancreas-seg watch</h1>
<p class="device">{escape(facts["note"])}</p>
{_watchers(facts["watchers"])}
<dl class="counts">{tiles}</dl>
<p class="soft">{_n(facts["ended_last_hour"], "case", "cases")} ended in the last hour.{left_alone}</p>
{_section("Running", [_running(case) for case in facts["running"]])}
{_section("Waiting", _names(facts["waiting"], facts["settling"], counts))}
{_section("Last cases", [_case(case) for case in facts["last"]] or ['<p class="soft">None yet.</p>'])}
<footer class="soft">
<p>Written {_time(facts["written"])} by version {escape(facts["version"])}. The page loads itself anew every
{refresh_s} s; when this time is more than two minutes old, no watcher is at work.</p>
<p>Counts are of what lies in the watched folder now. Names are those of the files that were dropped.</p>
</footer>
</body>
</html>
"""


def _watchers(watchers: list[dict[str, Any]]) -> str:
    if not watchers:
        return '<p class="note">No watcher is at work. What is dropped now waits until one starts.</p>'
    names = ", ".join(f"{escape(w['name'])} ({'busy' if w['busy'] else 'idle'})" for w in watchers)
    problems = sorted({w["problem"] for w in watchers if w["problem"]})
    notes = "".join(f'<p class="note">{escape(problem)}</p>' for problem in problems)
    return f'<p class="soft">{_n(len(watchers), "watcher", "watchers")}: {names}</p>{notes}'


def _section(title: str, parts: list[str]) -> str:
    return f"<h2>{title}</h2>\n" + "\n".join(parts) if parts else ""


def _running(case: dict[str, Any]) -> str:
    windows, tries = case["windows"], case["tries"]
    bar = (
        f'<progress value="{windows[0]}" max="{windows[1]}">{windows[0]} of {windows[1]}</progress>' if windows else ""
    )
    tag = '<span class="tag run">running</span>' if case["watched"] else '<span class="tag review">silent</span>'
    told = [f"since {_time(case['since'])}", *([f"try {tries}"] if tries > 1 else [])]
    told.append(escape(case["watcher"]) if case["watched"] else "its watcher is silent; it will be taken over")
    return (
        f'<div class="case"><div class="head"><span class="name">{escape(case["case"])}</span>'
        f'{tag}</div>{bar}<p class="soft">{", ".join(told)}</p></div>'
    )


def _names(waiting: list[str], settling: list[str], counts: dict[str, int]) -> list[str]:
    names = [*waiting, *(f"{name} (arriving)" for name in settling)]
    more = counts["waiting"] + counts["settling"] - len(names)
    items = "".join(f"<li>{escape(name)}</li>" for name in names)
    return [f"<ul>{items}</ul>" + (f'<p class="soft">and {more} more</p>' if more else "")] if names else []


def _case(case: dict[str, Any]) -> str:
    told = [_time(case["ended"])]
    if case["volume_ml"] is not None:
        told.append(f"{case['volume_ml']:.1f} ml")
    if case["took_s"] is not None:
        told.append(f"took {case['took_s']:.0f} s" if case["took_s"] >= 1 else "took under 1 s")
    name = escape(case["case"])
    if case["output"]:
        name = f'<a href="{quote(case["output"], errors="replace")}/">{name}</a>'
    reasons = "".join(f"<li>{escape(reason['text'])}</li>" for reason in case["reasons"])
    return (
        f'<div class="case"><div class="head"><span class="name">{name}</span>'
        f'<span class="tag {escape(case["status"])}">{escape(case["status"])}</span></div>'
        f'<p class="soft">{" · ".join(told)}</p>{f"<ul>{reasons}</ul>" if reasons else ""}</div>'
    )


def _time(text: str) -> str:
    """A time as people read it, in UTC, since the one who reads may be elsewhere."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return "?"


def _n(n: int, one: str, several: str) -> str:
    return f"{n} {one if n == 1 else several}"
