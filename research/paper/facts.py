"""What report.typ reads: records as they are, and what Python can say of them better than Typst."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from digitsum import plots
from digitsum.errors import RecordError

from ..studies import READER, SMALL
from . import cells
from .records import Entry, Record, Studies, one_row_each
from .reported import REPORTED, Reported
from .tables import MEASURED, tables_of

SHOWN = ("ablations", "sums", "counts", "cut_digits", "tta", "calibration", "ensemble", "pseudo_labels")
MARKERS = {"o": "●○", "s": "■□", "D": "◆◇", "^": "▲△", "v": "▼▽"}  # of plots, filled and hollow
MEASURES = {"accuracy": "", "floor": " floor", "ceiling": " ceiling", "mse": " MSE", "mae": " MAE"}


def facts(records: Sequence[Record], studies: Studies, comparison: Record | None, seen: Record) -> dict[str, Any]:
    """Return all that the paper tells. Raises RecordError if records are missing."""
    rows = one_row_each(records)
    lacking = [f"of {name}" for name in (*REPORTED, READER, SMALL) if name not in rows]
    lacking += [f"of the study {name} (python -m research study {name})" for name in SHOWN if not studies.get(name)]
    if lacking or comparison is None:
        raise RecordError(f"The paper lacks records {', '.join(lacking or ['of the comparison'])}")
    return {
        "systems": {name: _system(seeds) for name, seeds in rows.items()},
        "theirs": [_beside(stated, rows[name]) for name, stated in REPORTED.items()],
        "tables": tables_of(records, studies, comparison),
        "variants": {name: shares(seeds) for study in ("ablations", "sums") for name, seeds in studies[study].items()},
        "measured": {name: cells.column(studies[name][READER], "measured") for name in SHOWN if name in MEASURED},
        "ensemble_of": len(studies["ensemble"][READER][0]["seeds"]),
        "comparison": comparison, "seen": seen, "data": records[0]["data"],
    }  # fmt: skip


def shares(seeds: Sequence[Record]) -> dict[str, Any]:
    """Return the accuracy on each split, and `strings`, if a row reads digits: unseen strips with all digits right."""
    entries = {split: cells.column(seeds, "metrics", split, "accuracy") for split in seeds[0]["metrics"]}
    return {name: of_seeds(each) for name, each in (entries | {"strings": cells.strings(seeds)}).items() if each}


def of_seeds(seeds: Sequence[Entry]) -> dict[str, Any]:
    """Return the mean of value, low and high over seeds, the extremes, and text.

    All seeds read the same strips, so together they are no larger sample and the interval stays that of one seed.
    The extremes of a single seed are its interval.
    """
    means = {key: statistics.mean(seed[key] for seed in seeds) for key in ("value", "low", "high")}
    values = [seed["value"] for seed in seeds] if len(seeds) > 1 else [means["low"], means["high"]]
    texts = {"brief": cells.summary(seeds), "text": cells.summary(seeds, worst=True)}
    return means | {"least": min(values), "most": max(values)} | texts


def _system(seeds: Sequence[Record]) -> dict[str, Any]:
    """Describe a row of seeds."""
    first, settings, look = seeds[0], seeds[0]["settings"], plots.look_of(seeds[0]["experiment"])
    words = [f"{settings['optimizer']} at {settings['lr']:g}", f"batches of {settings['batch_size']}"]
    words += [f"{settings['epochs']} epoch{'s' * (settings['epochs'] > 1)}", *["augmented"] * bool(settings["augment"])]
    return {
        "name": first["experiment"], "model": settings["model"], "colour": look["color"],
        "marker": MARKERS[look["marker"]][look["markerfacecolor"] != look["color"]],
        "learned": cells.learned_from(first), "settings": ", ".join(words) if settings["epochs"] else "no training",
        "note": cells.departures(first), "departs": bool(first["changed"]),
        "seeds": len(seeds), "seeds_text": cells.seeds_words(seeds),
        "parameters": f"{first['parameters']:,}", "millions": f"{first['parameters'] / 1e6:.2f}",
        "best_epoch": _span([seed["best_epoch"] for seed in seeds]),
        "minutes": _span([round(seed["seconds"]["train"] / 60) for seed in seeds]),
        "hardware": list(dict.fromkeys(cells.hardware_words(seed["hardware"]) for seed in seeds)),
        **{error: cells.of_runs(seeds, "test", error) for error in ("mae", "mse")}, **shares(seeds),
    }  # fmt: skip


def _span(values: Sequence[int]) -> str:
    """Return the lowest and the highest value, "12–16"; one number if they are the same."""
    return "–".join(map(str, sorted({min(values), max(values)})))


def _beside(stated: Reported, seeds: Sequence[Record]) -> dict[str, Any]:
    """Put what a report states beside the same measures of ours."""
    ours = [
        f"{cells.SPLITS[split]}{MEASURES[measure]} {cells.of_runs(seeds, split, measure, worst=True)}"
        for split, measure in stated.measures
    ]
    learned, departs = cells.learned_from(seeds[0]), bool(seeds[0]["changed"])
    return stated._asdict() | {
        "ours": "; ".join(ours), "departs": departs, "differs": "" if departs else stated.differs,
        "labels": learned if "label" in learned else "",
    }  # fmt: skip
