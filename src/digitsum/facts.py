"""What the paper says in numbers: from records, as text ready to be set."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from . import extras, plots
from .claims import judged
from .compose import GLYPH, HEIGHT, MAX_GAP, MIN_GAP, WIDTH
from .data import STRIPS
from .evaluation import CONFIDENCE, over_seeds
from .experiments import EXPERIMENTS
from .look import EDGES
from .objectives import NUM_SUMS
from .pseudo_labels import SURE
from .records import Record, in_rows, trained_on, unchanged
from .reported import PEERS_ON_CUT_DIGITS, PEERS_ON_STRIPS, REPORTED, Reported
from .reproduce import seeds_of
from .studies import READER, STUDIES, variants_of, without_one
from .tables import (
    NOTHING,
    SPLITS,
    command,
    departures,
    error_of,
    hardware_words,
    in_float32,
    learned_from,
    mean_error,
    mean_share,
    ranked,
    seeds_words,
    share_of,
    spread,
    study_command,
)
from .training import build

STACKS = 3  # of tables of layers, side by side
PAIRS = 6  # of digits that are taken for each other are named
BLOCKS = {  # what is one row of a table of layers, though it is made of several
    "Convolution": "convolution", "MultiheadAttention": "attention", "Residual": "residual block",
    "Bottleneck": "bottleneck block", "EncoderBlock": "transformer block",
}  # fmt: skip
MARKERS = {"o": "●○", "s": "■□", "D": "◆◇", "^": "▲△", "v": "▼▽"}  # of plots, filled and hollow, as characters
COUNTED = (("unknown", "strings"), ("unknown", "count"), ("known", "strings"))  # what is told of other counts

# What is known of the course's images, under the names of look.py's measurements, with where it is known from.
COURSE = (
    ("pixel mean", "15.51", "a published report on all images"),
    ("pixel standard deviation", "56.11", "the same"),
    ("ink lost to overlap", "0.24 ± 0.09 %", "that mean, against MNIST's mean ink"),
    ("left edge", "5, 6, 9, 13, 21", "100 published images"),
    ("right edge", "81, 95, 108, 117, 135", "the same"),
    ("top edge", "2, 4, 6, 8, 11", "the same"),
    ("mean of the sums", "17.80", "the label files"),
    ("variance of the sums", "33.28", "the label files"),
)


def facts_json(
    records: Sequence[Record], seen: Record | None, studies: Mapping[str, Any], comparison: Record | None = None
) -> str:
    """Everything that the paper says in numbers, as text ready to be set."""
    rows, records = compared(records), ranked(records)
    by_name = {seeds[0]["experiment"]: seeds for seeds in rows}
    systems = {name: _system(seeds) for name, seeds in by_name.items()}
    reader = systems[READER]
    others = [
        system
        for system in systems.values()
        if system["model"] != READER and system["learns_from"] == "sums" and not system["departs"]
    ]
    runner_up = max(others, key=lambda system: system["at"]["val"], default=None)
    networks, variants = _networks(systems)
    versions = [record["versions"] for record in records]
    facts = {
        "systems": systems,
        "reader": reader,
        "runner_up": runner_up,
        "minutes": runner_up and _minutes_alike(*(by_name[system["name"]] for system in (runner_up, reader))),
        "lead": runner_up and _order(reader["range"]["unseen"], runner_up["range"]["unseen"]),
        "theirs": [_beside(rows, stated) for stated in REPORTED.values()],
        "peers": [["strips", *row] for row in PEERS_ON_STRIPS] + [["digits", *row] for row in PEERS_ON_CUT_DIGITS],
        "claims": judged(records),
        "paired": _paired(comparison) if comparison else None,
        "widening": _widening(comparison),
        "layers": _stacks(networks),
        "variants": variants,
        "commands": _commands(records),
        "studies": _studies(studies, records),
        "study_commands": {
            name: study_command(name, [seed for seeds in studies.get(name, {}).values() for seed in seeds])
            for name in STUDIES
        },
        "augmentation": _augmentation(studies, records),
        "start_helps": _start_helps(studies, records),
        "in_float32": {
            "ablations": in_float32([seed for seeds in studies.get("ablations", {}).values() for seed in seeds]),
            "systems": in_float32([seed for seeds in rows for seed in seeds]),
        },
        "task": _task(),
        "generator": [
            [name, theirs, _measured(name, seen["generator"][name]), where] for name, theirs, where in COURSE
        ] if seen else [],
        "look": _seen(seen) if seen else None,
        "data": records[0]["data"] | {"strips": {SPLITS[k]: f"{n:,}" for k, n in records[0]["data"]["strips"].items()}},
        "most_seeds": max(system["seeds"] for system in systems.values()),
        "versions": {
            package: ", ".join(sorted({each[package] for each in versions if package in each}))
            for package in dict.fromkeys(package for each in versions for package in each)
        },
    }  # fmt: skip
    text = json.dumps(facts, ensure_ascii=False, indent=1)
    for loose, tied in ((" %", "\u00a0%"), (" ± ", "\u00a0±\u00a0"), ("worst ", "worst\u00a0"), ("–", "\u2060–\u2060")):
        text = text.replace(loose, tied)  # so that no line ends within a number
    return text


# The parts of the facts


def compared(records: Sequence[Record]) -> list[list[Record]]:
    """A row per experiment, all its seeds, in the order of README's table: of several the one with its own settings."""
    chosen: dict[str, list[Record]] = {}
    for seeds in sorted(in_rows(records), key=lambda seeds: bool(seeds[0]["changed"])):
        chosen.setdefault(seeds[0]["experiment"], seeds)
    return in_rows(ranked([record for seeds in chosen.values() for record in seeds]))


def _system(seeds: Sequence[Record]) -> dict[str, Any]:
    """A row of the comparison: all seeds of one experiment."""
    first = seeds[0]
    settings, splits = first["settings"], [split for split in SPLITS if split in first["metrics"]]
    shares = {split: [seed["metrics"][split]["accuracy"] for seed in seeds] for split in splits}
    read = first.get("strings") or {}  # only a reader's strips are read digit by digit
    return {
        "name": first["experiment"],
        "colour": plots.colour_of(first["experiment"]),
        "marker": _marker(plots.look_of(first["experiment"])),
        "model": settings["model"],
        "report": EXPERIMENTS[first["experiment"]].report,
        "learns_from": settings["supervision"],
        "trained_on": f"{trained_on(first):,}",
        "learned": learned_from(first),
        "settings": ", ".join([
            f"{settings['optimizer']} at {settings['lr']:g}", f"batches of {settings['batch_size']}",
            f"{settings['epochs']} epoch" + "s" * (settings["epochs"] > 1),
            *(["augmented"] if settings["augment"] else []),
        ]) if settings["epochs"] else "nothing is trained",
        "augmented": settings["augment"] is not None,
        "sharpened": bool((settings["augment"] or {}).get("sharpen")),
        "note": departures(first),
        "departs": bool(first["changed"]),
        "seeds": len(seeds),
        "seeded": len(seeds_of(first["experiment"], (0, 1))) > 1,
        "seeds_text": seeds_words(seeds),
        "parameters": f"{first['parameters']:,}",
        "millions": f"{first['parameters'] / 1e6:.2f}",
        "best_epoch": _span([seed["best_epoch"] for seed in seeds]),
        "minutes": _minutes(seeds),
        "hardware": list(dict.fromkeys(hardware_words(seed["hardware"]) for seed in seeds)),
        "text": {split: share_of(seeds, split) for split in splits},
        "short": {split: _percent(statistics.mean(s["value"] for s in shares[split])) for split in splits},
        "at": {split: statistics.mean(s["value"] for s in shares[split]) for split in splits},
        "range": {split: _range(shares[split]) for split in splits},
        "errors": {measure: mean_error([s["metrics"]["test"][measure] for s in seeds]) for measure in ("mae", "mse")},
        "strings": {split: statistics.mean(s["strings"][split]["value"] for s in seeds) for split in read},
        "strings_text": {split: _percent(over_seeds([s["strings"][split] for s in seeds])["value"]) for split in read},
    }  # fmt: skip


def _minutes(seeds: Sequence[Record]) -> str:
    return _span([round(seed["seconds"]["train"] / 60) for seed in seeds])


def _minutes_alike(*systems: Sequence[Record]) -> list[str] | None:
    """How long each system was trained, by its runs on what all of them were trained on; None where nothing is."""
    kinds = [{hardware_words(seed["hardware"]) for seed in seeds} for seeds in systems]
    alike = set.intersection(*kinds)
    runs = [[seed for seed in seeds if hardware_words(seed["hardware"]) in alike] for seeds in systems]
    return [_minutes(seeds) for seeds in runs] if alike else None


def _span(values: Sequence[int]) -> str:
    """The lowest and the highest value, "12–16", "−10 to 6"; a single number where they are the same."""
    ends = [f"{value}".replace("-", "−") for value in sorted({min(values), max(values)})]
    return ("–" if min(values) >= 0 else " to ").join(ends)


def _marker(look: Mapping[str, str]) -> str:
    """The marker of a look as a character."""
    return MARKERS[look["marker"]][look["markerfacecolor"] != look["color"]]


def _commands(records: Sequence[Record]) -> list[str]:
    """The commands that make all runs again: one for all experiments whose commands differ in the name alone."""
    names: dict[tuple[str, str], list[str]] = {}
    for seeds in in_rows(records):
        before, after = command(seeds[0]).split(seeds[0]["experiment"], 1)
        others = "".join(f" {seed['seed']}" for seed in seeds[1:])
        first = f" --seed {seeds[0]['seed']}"
        names.setdefault((before, after.replace(first, first + others)), []).append(seeds[0]["experiment"])
    return [before + " ".join(group) + after for (before, after), group in names.items()]


def _beside(rows: Sequence[Sequence[Record]], stated: Reported) -> dict[str, Any]:
    """A report's system: what it states, and the same of ours, where there is a record."""
    seeds: Sequence[Record] = next((row for row in rows if row[0]["experiment"] == stated.experiment), [])
    parts = []
    for split, measure in [pair for pair in stated.measures if seeds and pair[0] in seeds[0]["metrics"]]:
        error = measure in ("mse", "mae")
        way = {"accuracy": "", "within_half": " within 0.5"}.get(measure, f" {measure.upper() if error else measure}")
        parts.append(f"{SPLITS[split]}{way} {(error_of if error else share_of)(seeds, split, measure)}")
    told = bool(seeds) and seeds[0]["settings"]["supervision"] not in ("sums", "nothing")  # as no report's system is
    return {
        "report": stated.report, "system": stated.system, "theirs": stated.whole, "ours": "; ".join(parts),
        "departs": bool(seeds) and bool(seeds[0]["changed"]),
        "note": f"learned from {learned_from(seeds[0])}" if told else "",
        "differs": stated.differs if seeds and not seeds[0]["changed"] else "",
    }  # fmt: skip


def _paired(comparison: Record) -> dict[str, Any]:
    """How many neighbours in the ranking were compared strip by strip, and which could not be told apart."""
    near = [pair for pair in comparison["pairs"] if pair["p"] >= 1 - CONFIDENCE]
    return {
        "n": len(comparison["pairs"]), "near": [[pair["better"], pair["next"], f"{pair['p']:.2g}"] for pair in near],
        "p": f"{1 - CONFIDENCE:g}",
    }  # fmt: skip


def _widening(comparison: Record | None) -> dict[str, str]:
    """How many times wider intervals are for other handwriting: of the reader, and the span over the other systems."""
    factors = (comparison or {}).get("widening", {})
    others = [factor for name, factor in factors.items() if name != READER]
    return {
        "reader": f"{factors[READER]:.1f}" if READER in factors else "",
        "others": "–".join(dict.fromkeys(f"{end(others):.1f}" for end in (min, max))) if others else "",
    }


def _order(a: Sequence[float], b: Sequence[float]) -> int:
    """1 where the interval `a` lies above `b`, -1 where below, 0 where they meet."""
    return (a[0] > b[1]) - (a[1] < b[0])


def _range(seeds: Sequence[Mapping[str, float]]) -> list[float]:
    """The interval of a single run; of several seeds the lowest and the highest value."""
    if len(seeds) == 1:
        return [seeds[0]["low"], seeds[0]["high"]]
    values = [seed["value"] for seed in seeds]
    return [min(values), max(values)]


def by_variant(studied: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """The records of studies, by study and variant."""
    studies: dict[str, dict[str, list[Record]]] = {}
    for record in studied:
        studies.setdefault(record["study"], {}).setdefault(record["experiment"], []).append(record)
    return studies


def _studies(studies: Mapping[str, Mapping[str, Sequence[Record]]], records: Sequence[Record]) -> dict[str, Any]:
    """The studies of which there are records, as rows of text; those of an unchanged base are published `records`."""
    found: dict[str, Any] = {}
    for name in ("ablations", "sums", "cut_digits"):
        if name in studies:
            sentences = {variant.name: variant.sentence for variant in variants_of(name)}
            base = STUDIES[name].base
            published = {base: unchanged(records, base)} if base in sentences else {}
            whole = {variant: seeds for variant, seeds in (published | dict(studies[name])).items() if seeds}
            rows = sorted(whole.items(), key=lambda row: (row[0] != base, -statistics.mean(_validation(row[1]))))
            if name != "ablations":
                rows.sort(key=lambda row: trained_on(row[1][0]))
            found[name] = [
                [variant, sentences[variant], f"{trained_on(seeds[0]):,}", seeds_words(seeds)]
                + [share_of(seeds, split) for split in ("val", "test", "unseen")]
                + [mean_share(read) if (read := _read(seeds)) else NOTHING]
                for variant, seeds in rows
            ]
    if "counts" in studies:
        seeds = [record["measured"] for record in studies["counts"][READER]]
        lines = [
            [digits, str(seeds[0][digits]["columns"])]
            + [spread([s[digits][way][what] for s in seeds]) for way, what in COUNTED]
            for digits in seeds[0]
        ]
        found["counts"] = {"rows": lines, "n": f"{next(iter(seeds[0].values()))['n']:,}", "readers": len(seeds)}
    if "second_look" in studies:
        seeds = [record["measured"] for record in studies["second_look"][READER]]
        found["second_look"] = {
            split: {key: spread([s["splits"][split][key] for s in seeds]) for key in ("once", "several")}
            | {"again": mean_share([s["splits"][split]["again"] for s in seeds])}
            for split in seeds[0]["splits"]
        } | {"looks": seeds[0]["looks"], "below": f"{100 * seeds[0]['below']:g} %"}  # fmt: skip
        last = list(seeds[0]["splits"])[-1]
        found["second_look"]["last"] = found["second_look"][last] | {"split": last}
    if "pseudo_labels" in studies:
        measured = studies["pseudo_labels"][READER][0]["measured"]
        found["pseudo_labels"] = {
            key: f"{measured[key]:,}" for key in ("strips", "digits", "glyphs")
        } | {
            "wrong": f"{round(measured['digits'] * (1 - measured['right']['value'])):,}", "sure": f"{100 * SURE:g} %"
        }  # fmt: skip
    if "calibration" in studies:
        found["calibration"] = _calibration(studies["calibration"][READER])
    if "ensemble" in studies:
        record = studies["ensemble"][READER][0]
        together = _calibration([record])
        found["ensemble"] = {"readers": len(record["seeds"]), "accuracy": spread([record["measured"]["accuracy"]])} | {
            key: together[key] for key in ("ece", "kept", "refused", "errors_refused")
        }
    return found


def _read(seeds: Sequence[Record]) -> list[Mapping[str, float]]:
    """The shares of unseen strips read right digit by digit; none where the network does not read so."""
    return [seed["strings"]["unseen"] for seed in seeds if "unseen" in seed.get("strings", {})]


def _augmentation(studies: Mapping[str, Mapping[str, Sequence[Record]]], records: Sequence[Record]) -> dict[str, str]:
    """By how many points accuracy on `unseen` changes at most without a single augmentation, and without all."""
    base = STUDIES["ablations"].base
    augment = EXPERIMENTS[base].augment
    single = [f"no_{kind}" for kind in without_one(augment)] if augment else []
    runs = dict(studies.get("ablations", {})) | {base: unchanged(records, base)}
    variants = (base, "no_augmentation", *single)
    if not single or not all(runs.get(variant) for variant in variants):
        return {}
    at = {
        variant: statistics.mean(seed["metrics"]["unseen"]["accuracy"]["value"] for seed in runs[variant])
        for variant in variants
    }
    most = max(abs(at[variant] - at[base]) for variant in single)
    return {"one": f"{100 * most:.1f}", "all": f"{100 * (at[base] - at['no_augmentation']):.1f}"}


def _start_helps(studies: Mapping[str, Mapping[str, Sequence[Record]]], records: Sequence[Record]) -> bool | None:
    """Whether every seed with the start-up reads more unseen strips than any without; None where it was not studied."""
    without = studies.get("ablations", {}).get("no_start", [])
    both = [
        [seed["metrics"]["unseen"]["accuracy"] for seed in seeds]
        for seeds in (unchanged(records, STUDIES["ablations"].base), without)
    ]
    return _order(*map(_range, both)) > 0 if all(both) else None


def _validation(seeds: Sequence[Record]) -> list[float]:
    return [seed["metrics"]["val"]["accuracy"]["value"] for seed in seeds]


def _calibration(records: Sequence[Record]) -> dict[str, Any]:
    """How far the reader's probabilities can be trusted; of several readers the mean."""
    seeds = [record["measured"] for record in records]

    def average(of: Callable[[Mapping[str, Any]], float]) -> float:
        return statistics.mean(of(seed) for seed in seeds)

    def wrong(seed: Mapping[str, Any]) -> float:
        return seed["n"] * (1 - seed["accuracy"]["value"])

    certainty = average(lambda s: sum(mean * n for mean, _, n in s["plain"]["reliability"]) / s["n"])
    accuracy = over_seeds([seed["accuracy"] for seed in seeds])
    ece = average(lambda s: s["plain"]["expected_calibration_error"])
    refused = average(lambda s: 1 - s["abstaining"]["n"] * (1 - s["abstaining"]["value"]) / max(wrong(s), 1))
    groups = [_range([seed["overlap"][k] for seed in seeds]) for k in range(len(seeds[0].get("overlap", [])))]
    return {
        "n": f"{seeds[0]['n']:,}", "certainty": _percent(certainty), "accuracy": _percent(accuracy["value"]),
        "surer": int(certainty > accuracy["high"]) - int(certainty < accuracy["low"]),
        "ece": _percent(ece), "ece_value": ece,
        "tempered": _percent(average(lambda s: s["tempered"]["expected_calibration_error"])),
        "tempered_value": average(lambda s: s["tempered"]["expected_calibration_error"]),
        "temperature": f"{average(lambda s: s['temperature']):.2f}",
        "refused": f"{100 * seeds[0]['abstaining']['share']:g} %",
        "kept": spread([seed["abstaining"] for seed in seeds]), "errors_refused": f"{100 * refused:.0f} %",
        "centre": f"{average(lambda s: s['centre_error']['value']):.1f}" if "centre_error" in seeds[0] else "",
        "overlap": [
            ["none" if group["to"] <= 0 else f"{group['from']} to {group['to']}", f"{group['n']:,}",
             spread([seed["overlap"][k] for seed in seeds])]
            for k, group in enumerate(seeds[0].get("overlap", []))
        ],
        "closest_worse": len(groups) > 1 and _order(groups[-1], groups[0]) < 0,
        "others_worse": any(_order(group, groups[0]) < 0 for group in groups[1:-1]),
        "readers": len(seeds),
        "offsets": _span([round(seed["offset"]) for seed in seeds]) if "offset" in seeds[0] else "",
    }  # fmt: skip


def _task() -> dict[str, Any]:
    """What arithmetic says of the task: four independent digits, each of the ten equally likely."""
    strings = np.ones(1, np.int64)
    for _ in range(4):
        strings = np.convolve(strings, np.ones(10, np.int64))
    share = strings / strings.sum()
    reader = build(EXPERIMENTS[READER]).objective
    return {
        "strings": f"{strings.sum():,}", "sums": NUM_SUMS, "largest_sum": NUM_SUMS - 1,
        "most_common": int(strings.argmax()), "ways": f"{strings.max():,}",
        "guess": _percent(float(share.max())), "bits_of_sum": f"{-(share * np.log2(share)).sum():.1f}",
        "bits_of_digits": f"{math.log2(strings.sum()):.1f}", "height": HEIGHT, "width": WIDTH, "glyph": GLYPH,
        "min_gap": MIN_GAP, "max_gap": MAX_GAP, "offset": HEIGHT - GLYPH, "count": reader.count,
        "start_steps": reader.start_steps, "strips": f"{STRIPS:,}",
        "columns": _shapes(EXPERIMENTS[READER])[-1][1][-1], "edges": ", ".join(map(str, EDGES)),
        "confidence": f"{100 * CONFIDENCE:g} %",
    }  # fmt: skip


def _measured(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{100 * value:.2f} %" if name.startswith("ink") else f"{value:.2f}"


def _seen(seen: Record) -> dict[str, Any]:
    """What look.py measured, as text."""
    wrong = seen["errors"]
    return {
        "seed": seen["seed"],
        "n": f"{seen['data']['strips']['unseen']:,}", "generator_n": f"{seen['generator']['n']:,}",
        "errors": f"{wrong['n']:,}", "sure": wrong["sure"], "sure_above": f"{100 * wrong['sure_above']:g} %",
        "one_digit_share": f"{100 * wrong['one_digit'] / max(wrong['n'], 1):.0f} %",
        "pairs": wrong["pairs"][:PAIRS],
    }  # fmt: skip


# The models, layer by layer


def _networks(systems: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """A table of layers for each model that has some; and variants: their names, the names shown, what is different."""
    tables: dict[str, dict[str, Any]] = {}
    variants = []
    models = {EXPERIMENTS[name].model for name in systems} - set(extras.MODELS)
    for name, experiment in EXPERIMENTS.items():
        if experiment.model not in models:
            continue
        shown = tables.setdefault(experiment.model, {"name": name})["name"]
        usual = EXPERIMENTS[shown].model_args
        changed = {key: value for key, value in experiment.model_args.items() if value != usual.get(key, ...)}
        if name in systems and changed:
            words = ", ".join(_words(key, value) for key, value in changed.items())
            variants.append((name, shown, words))
    networks = [{"name": table["name"], "rows": _layers(table["name"])} for table in tables.values()]
    return [network for network in networks if len(network["rows"]) > 1], variants


def _words(setting: str, value: Any) -> str:
    """A model's setting in words."""
    parts = [str(part) for part in (value if isinstance(value, tuple) else () if value is None else (value,))]
    words = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + "".join(parts[-1:]) or "no"
    return {
        "attention_after": f"attention after convolution{'s' * (len(parts) > 1)} {words}" if parts else "no attention",
        "channels": f"{words} channels",
        "convolutions": f"{words} convolutions",
        "dropout": f"dropout of {words}",
        "hidden": f"a hidden layer of {words}" if parts else "no hidden layer",
        "normalise": f"inputs less {parts[0]} and over {parts[-1]}" if parts else "plain inputs",
        "widths": f"widths of {words}",
    }.get(setting, f"{setting.replace('_', ' ')} {words}")


def _layers(name: str) -> list[list[str]]:
    """The rows of a model's table: layer, shape of its output, parameters; equal neighbours share a row."""
    rows: list[list[Any]] = []
    for label, shape, parameters in _shapes(EXPERIMENTS[name]):
        if rows and rows[-1][:3] == [label, shape, parameters]:
            rows[-1][3] += 1
        else:
            rows.append([label, shape, parameters, 1])
    return [
        [label + (f", {times} times" if times > 1 else ""), " × ".join(map(str, shape)), f"{times * parameters:,}"]
        for label, shape, parameters, times in rows
    ]


def _stacks(models: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The models' tables in STACKS stacks of about the same height."""
    stacks: list[list[dict[str, Any]]] = [[] for _ in range(STACKS)]
    for model in models:
        min(stacks, key=lambda stack: sum(len(each["rows"]) + 3 for each in stack)).append(model)
    return stacks


def _shapes(experiment: Any) -> list[tuple[str, list[int], int]]:
    """Each layer with the shape of its output for one strip, or what else the model takes, and its parameters.

    All but BLOCKS are opened; a normalisation counts to the layer before it, and what has neither weights nor pools is
    left out.
    """
    rows: list[tuple[str, list[int], int]] = []
    model = build(replace(experiment, weights=None)).eval()
    for layer in _opened(model):
        layer.register_forward_hook(lambda layer, _, out: _add_row(rows, layer, out))
    with torch.no_grad():
        model(torch.zeros(1, 1, HEIGHT, model.width or WIDTH))
    beside = sum(p.numel() for p in model.parameters()) - sum(parameters for *_, parameters in rows)
    return rows + ([("parameters beside the layers", [], beside)] if beside else [])


def _opened(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child).__name__ in BLOCKS or not any(True for _ in child.children()):
            yield child
        else:
            yield from _opened(child)


def _add_row(rows: list[tuple[str, list[int], int]], layer: nn.Module, out: Any) -> None:
    out = out[0] if isinstance(out, tuple) else out
    parameters = sum(p.numel() for p in layer.parameters())
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
        last = next((k for k in reversed(range(len(rows))) if rows[k][2]), None)
        if last is None:
            rows.append(("normalisation", list(out.shape[1:]), parameters))
        else:
            label, shape, before = rows[last]
            rows[last] = (label, shape, before + parameters)
    elif parameters or "Pool" in type(layer).__name__:
        rows.append((_label(layer), list(out.shape[1:]), parameters))


def _label(layer: nn.Module) -> str:
    """A layer in words: "convolution 3 × 3", "Residual"."""
    inner = layer[0] if isinstance(layer, nn.Sequential) else layer
    if isinstance(inner, nn.Conv2d):
        size = " × ".join(map(str, inner.kernel_size))
        stride = inner.stride if len(set(inner.stride)) > 1 else inner.stride[:1]
        step = "" if stride == (1,) else f", stride {' × '.join(map(str, stride))}"
        return f"convolution {size}{step}"
    if isinstance(inner, nn.Linear):
        return "linear"
    return {"MaxPool2d": "max pooling", "AdaptiveAvgPool2d": "average pooling"}.get(
        type(layer).__name__, BLOCKS.get(type(layer).__name__, type(layer).__name__)
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
