"""Checkpoints, resume states and records: what comes back is what was saved, or an error that names the file."""

import hashlib
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from digitsum import checkpoints
from digitsum.checkpoints import best_checkpoint, load_checkpoint, load_state, read_metadata, save_checkpoint
from digitsum.errors import CheckpointError, DigitsumError, RecordError
from digitsum.models import MODELS, StripModel
from digitsum.objectives import OBJECTIVES
from digitsum.runs import LARGEST_RECORD, read_record

NAN, INF = float("nan"), float("inf")
ARGUMENTS = {"channels": [2, 2], "hidden": 2, "normalise": [0.1, 0.3]}
ABOUT: dict[str, Any] = {
    "experiment": "small-regression", "seed": 3, "data": "0123456789abcdef", "commit": "0123abcd",
    "settings": {"model": "baseline_cnn", "model_args": ARGUMENTS, "objective": "regression"},
    "validation": {"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}},
}  # fmt: skip
STATE = {"weights": torch.arange(12.0).view(3, 4), "best_epoch": 1}
RECORD = json.loads((REPOSITORY / "results" / "mnist" / "most_common-seed0.json").read_text(encoding="utf-8"))


@pytest.fixture
def model() -> StripModel:
    torch.manual_seed(0)
    return MODELS["baseline_cnn"](1, **ARGUMENTS)


@pytest.fixture
def sound(model, tmp_path) -> dict[Any, Path]:
    """A sound file of each kind, by what reads it."""
    files = {load_checkpoint: "small-regression-seed3.safetensors", load_state: "resume.pt", read_record: "record.json"}
    save_checkpoint(model, tmp_path / files[load_checkpoint], **ABOUT)
    checkpoints.save_state(tmp_path / files[load_state], **STATE)
    checkpoints.write_json(RECORD, tmp_path / files[read_record])
    return {read: tmp_path / name for read, name in files.items()}


@pytest.fixture
def path(sound) -> Path:
    return sound[load_checkpoint]


def test_round_trip(sound, path, model):
    loaded = load_checkpoint(path)
    assert not loaded.training and loaded.objective == OBJECTIVES["regression"]
    assert loaded.metadata.items() >= ABOUT.items() and loaded.metadata == read_metadata(path)
    images = torch.rand(3, 1, 40, 168)
    torch.testing.assert_close(loaded(images), model(images))  # with its constants, which are in no file
    assert torch.equal(safetensors.torch.load_file(path)["head.weight"], model.head.weight), "others can open it too"
    state = load_state(sound[load_state])
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {"best_epoch": 1} and read_record(sound[read_record]) == RECORD
    before = path.read_bytes()
    save_checkpoint(model, path, **dict(reversed(ABOUT.items())))
    assert path.read_bytes() == before, "the same weights and metadata give the same bytes"
    (other := path.with_name("other")).touch()
    assert path.stat().st_mode == other.stat().st_mode, "others may read it"


def test_without_a_seed_the_best_on_validation_is_loaded(model, tmp_path):
    """Of equals the lowest seed; other experiments whose name begins alike do not count, and no damaged file."""
    assert best_checkpoint(tmp_path, "small-regression") is None
    accuracies = {10: 0.6, 2: 0.8, 9: 0.8, 1: 0.7}
    for experiment, higher in (("small-regression", 0.0), ("small-regression-seedless", 0.1)):
        for seed, value in accuracies.items():
            about = {"experiment": experiment, "seed": seed, "validation": {"accuracy": {"value": value + higher}}}
            save_checkpoint(model, tmp_path / f"{experiment}-seed{seed}.safetensors", **ABOUT | about)
    assert best_checkpoint(tmp_path, "small-regression") == tmp_path / "small-regression-seed2.safetensors"
    assert load_checkpoint(tmp_path / "small-regression.safetensors").metadata["seed"] == 2
    (tmp_path / "small-regression-seed2.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"seed2.safetensors cannot be used"):
        best_checkpoint(tmp_path, "small-regression")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "empty": lambda path: path.write_bytes(b""),
    "cut within the first bytes": lambda path: path.write_bytes(path.read_bytes()[:4]),
    "cut by two bytes": lambda path: path.write_bytes(path.read_bytes()[:-2]),  # a record's last is a line feed
    "longer by a byte": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "text": lambda path: path.write_text("not weights"),
    "nested deeply": lambda path: path.write_text("[" * 200_000),
    "safetensors of somebody else": lambda path: safetensors.torch.save_file({"w": torch.ones(2)}, path),
    "metadata nested deeply": lambda path: safetensors.torch.save_file({}, path, {checkpoints.FORMAT: "[" * 200_000}),
    "a pickle of torch": lambda path: torch.save({"w": torch.ones(2)}, path),
    "a header of a gigabyte": lambda path: path.write_bytes((10**9).to_bytes(8, "little") + path.read_bytes()[8:]),
}


@pytest.mark.parametrize("read", [load_checkpoint, load_state, read_record])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_the_remedy(read, damage, sound):
    DAMAGES[damage](sound[read])
    with pytest.raises(DigitsumError) as caught:
        read(sound[read])
    assert str(sound[read]) in str(caught.value)
    train = "python -m digitsum train small-regression --preset full"
    assert (train if read is load_checkpoint else "elete it") in str(caught.value)


def seal(path: Path) -> None:
    path.write_bytes(hashlib.sha256(path.read_bytes()).digest() + path.read_bytes())


def test_nothing_of_a_state_is_unpickled_or_expanded(tmp_path):
    path = tmp_path / "resume.pt"
    torch.save({"a": Path()}, path)
    seal(path)
    with pytest.raises(CheckpointError, match="weights_only"):
        load_state(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    seal(path)
    with pytest.raises(CheckpointError, match="compressed"):
        load_state(path)


@pytest.mark.parametrize("read", [load_checkpoint, load_state])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(position=st.floats(0, 1, exclude_max=True, allow_subnormal=False), bits=st.integers(1, 255))
def test_a_damaged_byte_is_noticed_wherever_it_is(read, position, bits, sound):
    content, damaged = bytearray(sound[read].read_bytes()), sound[read].with_name("damaged")
    content[int(position * len(content))] ^= bits
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read(damaged)


# What is whole and hostile


def of(**settings: Any) -> dict[str, Any]:
    return {"settings": ABOUT["settings"] | settings}


UNFIT: list[dict[str, Any]] = [
    of(model_args={"hidden": 80_000}),  # 8 GB
    of(model="reader", model_args={"depths": [1_000_000, 1, 1, 1]}, objective="sum_likelihood"),
    of(model_args={"channels": [4] * 10_000}),
    of(model="reader", model_args={}, objective_args={"outputs": 1_000_000_000}),
    *({key: None} for key in ABOUT if key != "commit"), {"seed": "3"},
    *({"validation": accuracy} for accuracy in ({}, [1], {"accuracy": {"value": 7.0}}, {"accuracy": {"value": NAN}})),
    *(of(**{key: None}) for key in ("model", "model_args", "objective", "objective_args")),
    *(of(model_args=args) for args in (5, {"tails": 2}, {"outputs": 1})),
    *(of(model_args={"hidden": size}) for size in (9, "2", INF)),
    *(of(model=model) for model in ("of_tomorrow", ["reader"])), of(objective_args={"of_tomorrow": 1}),
    *(of(objective=objective) for objective in ("of_tomorrow", "classification", "sum_likelihood")),
]  # fmt: skip


@pytest.mark.parametrize("wrong", UNFIT)
def test_a_small_hostile_checkpoint_is_refused_at_once(wrong, model, path):
    save_checkpoint(model, path, **ABOUT | wrong)
    started = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert time.perf_counter() - started < 5
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 1000


def test_weights_or_answers_that_are_no_numbers_are_refused(model, path):
    model.head.weight.data[0, 1] = NAN
    save_checkpoint(model, path, **ABOUT)
    columns = path.with_name("columns.safetensors")  # one number for each column
    args = {"widths": [2, 2, 2]}
    save_checkpoint(MODELS["reader"](1, **args), columns, **ABOUT | of(model="reader", model_args=args))
    for file in (path, columns):
        with pytest.raises(CheckpointError, match="finite numbers"):
            load_checkpoint(file)


@pytest.mark.parametrize("key", ["changed", "history", "metrics", "data", "settings", "seconds", "parameters"])
def test_a_record_of_other_types_or_too_large_is_refused(key, sound):
    path, hostile = sound[read_record], [None, "x", [[1, 2, 3]], {"a": {}} if key not in ("data", "settings") else 1]
    for text in (*(json.dumps(RECORD | {key: wrong}) for wrong in hostile), " " * LARGEST_RECORD + json.dumps(RECORD)):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RecordError, match="record.json cannot be used"):
            read_record(path)


def test_a_full_disk_leaves_the_old_files_and_nothing_else(sound, model):
    resource = pytest.importorskip("resource")
    before = {file: file.read_bytes() for file in sound.values()}
    writers = (
        lambda: save_checkpoint(model, sound[load_checkpoint], **ABOUT | {"seed": 4}),
        lambda: checkpoints.save_state(sound[load_state], **STATE | {"best_epoch": 2}),
        lambda: checkpoints.write_json(RECORD | {"seed": 4}, sound[read_record]),
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # bytes of a file
    try:
        for write in writers:
            with pytest.raises(OSError, match="cannot be written .* is kept"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file: file.read_bytes() for file in sound[load_state].parent.iterdir()} == before
