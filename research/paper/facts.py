"""The paper's numbers, from records, as text for report.typ; plain numbers too where report.typ compares them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from digitsum import plots
from digitsum.errors import RecordError
from digitsum.evaluation import CONFIDENCE

from ..studies import READER, STUDIES, variants_of
from . import cells
from .claims import judged
from .records import Entry, Record, in_rows, trained_on, unchanged
from .reported import PEERS_ON_CUT_DIGITS, PEERS_ON_STRIPS, REPORTED, Reported

Studies = Mapping[str, Mapping[str, Sequence[Record]]]  # the records of each study, by variant

SHOWN = ("ablations", "sums", "counts", "cut_digits", "tta", "calibration", "ensemble", "pseudo_labels")
MARKERS = {"o": "●○", "s": "■□", "D": "◆◇", "^": "▲△", "v": "▼▽"}  # of plots, filled and hollow
MEASURES = {"accuracy": "", "floor": " floor", "ceiling": " ceiling", "mse": " MSE", "mae": " MAE"}


def facts_json(records: Sequence[Record], seen: Record, studies: Studies, comparison: Record | None) -> str:
    """Return the facts as JSON, with spaces that keep a line from ending within a number."""
    text = json.dumps(facts(records, seen, studies, comparison), ensure_ascii=False, indent=1)
    for loose, tied in ((" %", "\u00a0%"), (" ± ", "\u00a0±\u00a0"), ("worst ", "worst\u00a0"), ("–", "\u2060–\u2060")):
        text = text.replace(loose, tied)
    return text


def facts(records: Sequence[Record], seen: Record, studies: Studies, comparison: Record | None) -> dict[str, Any]:
    """Return all numbers of the paper. Raises RecordError if records are missing."""
    lacking = [f"of {name}" for name in REPORTED if not any(record["experiment"] == name for record in records)]
    lacking += [f"of the study {name} ({cells.study_command(name)})" for name in SHOWN if name not in studies]
    if lacking or comparison is None:
        raise RecordError(f"The paper lacks records {', '.join(lacking or ['of the comparison'])}")
    rows = one_row_each(records)
    return {
        "systems": {row[0]["experiment"]: _system(row) for row in rows},
        "theirs": [_beside(rows, stated) for stated in REPORTED.values()],
        "peers": [["strips", *row] for row in PEERS_ON_STRIPS] + [["digits", *row] for row in PEERS_ON_CUT_DIGITS],
        "claims": judged(records),
        "comparison": _comparison(comparison),
        **{study: _variants(study, studies[study], records) for study in ("ablations", "sums", "cut_digits")},
        "counts": _counts(studies["counts"][READER]),
        "tta": {
            key: of_seeds([record["measured"]["splits"]["unseen"][key] for record in studies["tta"][READER]])
            for key in ("again", "once", "several")
        },
        "calibration": _calibration(studies["calibration"][READER]),
        "ensemble": _calibration(studies["ensemble"][READER]),
        "pseudo_labels": studies["pseudo_labels"][READER][0]["measured"],
        "study_commands": {name: cells.study_command(name) for name in SHOWN},
        "in_float32": {
            "systems": cells.in_float32(records),
            "ablations": cells.in_float32([run for runs in studies["ablations"].values() for run in runs]),
        },
        "data": records[0]["data"],
        "seen": seen,
        "generator": {name: _statistic(name, value) for name, value in seen["generator"].items()},
        "versions": _versions([record["versions"] for record in records]),
    }


def by_variant(studied: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Group the records of studies by study and variant."""
    studies: dict[str, dict[str, list[Record]]] = {}
    for record in studied:
        studies.setdefault(record["study"], {}).setdefault(record["experiment"], []).append(record)
    return studies


def one_row_each(records: Sequence[Record]) -> list[list[Record]]:
    """Return one row of seeds per experiment, in the tables' order: with its own settings, if there is such a row."""
    chosen: dict[str, list[Record]] = {}
    for row in sorted(in_rows(records), key=lambda row: bool(row[0]["changed"])):
        chosen.setdefault(row[0]["experiment"], row)
    return in_rows(cells.ranked([record for row in chosen.values() for record in row]))


def of_seeds(seeds: Sequence[Entry]) -> dict[str, Any]:
    """Return the mean of value, low and high over seeds, the extremes, and text.

    All seeds read the same strips, so together they are no larger sample and the interval stays that of one seed.
    The extremes of a single seed are its interval.
    """
    means = {key: statistics.mean(seed[key] for seed in seeds) for key in ("value", "low", "high")}
    values = [seed["value"] for seed in seeds] if len(seeds) > 1 else [means["low"], means["high"]]
    least, most = min(values), max(values)
    return means | {
        "least": least, "most": most, "range": f"{100 * least:.1f} to {100 * most:.1f} %",
        "mean": _percent(means["value"]), "brief": cells.mean_share(seeds), "text": cells.spread(seeds),
    }  # fmt: skip


# The parts of the facts


def _system(seeds: Sequence[Record]) -> dict[str, Any]:
    """Describe a row of the comparison."""
    first, settings = seeds[0], seeds[0]["settings"]
    look = plots.look_of(first["experiment"])
    epochs = f"{settings['epochs']} epoch{'s' * (settings['epochs'] > 1)}"
    words = [f"{settings['optimizer']} at {settings['lr']:g}", f"batches of {settings['batch_size']}", epochs]
    words += ["augmented"] * bool(settings["augment"])
    return {
        "name": first["experiment"], "model": settings["model"], "colour": look["color"],
        "marker": MARKERS[look["marker"]][look["markerfacecolor"] != look["color"]],
        "learned": cells.learned_from(first), "trained_on": f"{trained_on(first):,}",
        "settings": ", ".join(words) if settings["epochs"] else "no training",
        "note": cells.departures(first), "departs": bool(first["changed"]),
        "seeds": len(seeds), "seeds_text": cells.seeds_words(seeds),
        "parameters": f"{first['parameters']:,}", "millions": f"{first['parameters'] / 1e6:.2f}",
        "best_epoch": _span([seed["best_epoch"] for seed in seeds]),
        "minutes": _span([round(seed["seconds"]["train"] / 60) for seed in seeds]),
        "hardware": list(dict.fromkeys(cells.hardware_words(seed["hardware"]) for seed in seeds)),
        **{error: cells.mean_error([seed["metrics"]["test"][error] for seed in seeds]) for error in ("mae", "mse")},
    } | _shares(seeds)  # fmt: skip


def _shares(seeds: Sequence[Record]) -> dict[str, Any]:
    """Return the accuracy on each split; `strings` are unseen strips read right digit by digit, None if none is."""
    shares = {split: [seed["metrics"][split]["accuracy"] for seed in seeds] for split in seeds[0]["metrics"]}
    if "unseen" in seeds[0].get("strings", {}):
        shares["strings"] = [seed["strings"]["unseen"] for seed in seeds]
    return {"strings": None} | {what: of_seeds(each) for what, each in shares.items()}


def _span(values: Sequence[int]) -> str:
    """Return the lowest and the highest value, "12–16" or "−10 to 6"; one number if they are the same."""
    ends = [f"{value}".replace("-", "−") for value in sorted({min(values), max(values)})]
    return ("–" if min(values) >= 0 else " to ").join(ends)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _beside(rows: Sequence[Sequence[Record]], stated: Reported) -> dict[str, Any]:
    """Put what a report states beside the same measures of ours."""
    seeds = next(row for row in rows if row[0]["experiment"] == stated.experiment)
    parts = []
    for split, measure in stated.measures:
        cell = cells.error_of if measure in ("mse", "mae") else cells.share_of
        parts.append(f"{cells.SPLITS[split]}{MEASURES[measure]} {cell(seeds, split, measure)}")
    learned, departs = cells.learned_from(seeds[0]), bool(seeds[0]["changed"])
    return {
        "report": stated.report, "system": stated.system, "theirs": stated.whole, "ours": "; ".join(parts),
        "departs": departs, "differs": "" if departs else stated.differs,
        "labels": learned if "label" in learned else "",
    }  # fmt: skip


def _comparison(comparison: Record) -> dict[str, Any]:
    """Count the neighbours that were compared, and name those that the test cannot tell apart."""
    near = [pair for pair in comparison["pairs"] if pair["p"] >= 1 - CONFIDENCE]
    wider = {name: math.sqrt(effect) for name, effect in comparison["design_effect"].items()}
    others = [factor for name, factor in wider.items() if name != READER]
    return {
        "n": len(comparison["pairs"]), "near": [[pair["better"], pair["next"], f"{pair['p']:.2g}"] for pair in near],
        "wider": f"{wider[READER]:.1f}", "others_wider": f"{min(others):.1f}–{max(others):.1f}",
    }  # fmt: skip


def _variants(study: str, studied: Mapping[str, Sequence[Record]], records: Sequence[Record]) -> dict[str, Any]:
    """Describe the variants of a study: its base first, then the best on validation; or the fewest strips first."""
    base = STUDIES[study].base
    rows: dict[str, dict[str, Any]] = {}
    for variant in variants_of(study):
        if seeds := unchanged(records, base) if variant.name == base else studied.get(variant.name):
            rows[variant.name] = {
                "sentence": variant.sentence, "trained_on": trained_on(seeds[0]), "seeds": cells.seeds_words(seeds),
            } | _shares(seeds)  # fmt: skip
    order = sorted(rows, key=lambda name: (name != base, -rows[name]["val"]["value"]))
    if study != "ablations":
        order.sort(key=lambda name: rows[name]["trained_on"])
    return {name: rows[name] for name in order}


def _counts(records: Sequence[Record]) -> list[list[str]]:
    """Return a row for each other number of digits."""
    told = (("unknown", "strings"), ("unknown", "count"), ("known", "strings"))
    return [
        [digits, f"{entry['columns']}"]
        + [cells.spread([record["measured"][digits][way][what] for record in records]) for way, what in told]
        for digits, entry in records[0]["measured"].items()
    ]


def _calibration(records: Sequence[Record]) -> dict[str, Any]:
    """Describe how far probabilities can be trusted, as the mean over records; `refused` is a part of all errors."""
    seeds = [record["measured"] for record in records]

    def mean(of: Callable[[Record], float]) -> float:
        return statistics.mean(map(of, seeds))

    def refused(seed: Record) -> float:
        answered = seed["abstaining"]
        return 1 - answered["n"] * (1 - answered["value"]) / (seed["n"] * (1 - seed["accuracy"]["value"]))

    numbers = {
        "certainty": mean(lambda seed: sum(p * n for p, _, n in seed["plain"]["reliability"]) / seed["n"]),
        "ece": mean(lambda seed: seed["plain"]["expected_calibration_error"]),
        "tempered": mean(lambda seed: seed["tempered"]["expected_calibration_error"]),
    }
    described = {
        "readers": len(records[0]["seeds"]) * len(records), "temperature": f"{mean(lambda s: s['temperature']):.2f}",
        "accuracy": of_seeds([seed["accuracy"] for seed in seeds]), "refused": f"{100 * mean(refused):.0f} %",
        "kept": of_seeds([seed["abstaining"] for seed in seeds]), "numbers": numbers,
    } | {name: _percent(number) for name, number in numbers.items()}  # fmt: skip
    if "offset" not in seeds[0]:
        return described
    return described | {
        "centre": f"{mean(lambda seed: seed['centre_error']['value']):.1f}",
        "offsets": _span([round(seed["offset"]) for seed in seeds]),
        "overlap": [
            {"columns": f"{first['from']} to {first['to']}" if first["to"] > 0 else "none", "n": first["n"]}
            | of_seeds([seed["overlap"][k] for seed in seeds])
            for k, first in enumerate(seeds[0]["overlap"])
        ],
    }


def _statistic(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{100 * value:.2f} %" if name.startswith("ink") else f"{value:.2f}"


def _versions(each: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return all versions of each package."""
    packages = dict.fromkeys(package for versions in each for package in versions)
    return {name: ", ".join(sorted({versions[name] for versions in each if name in versions})) for name in packages}
