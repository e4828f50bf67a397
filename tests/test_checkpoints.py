"""Checkpoints, resume states and records: what comes back is what was saved, or an error that names the file."""

import hashlib
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from digitsum import checkpoints
from digitsum.checkpoints import best_checkpoint, load_checkpoint, load_state, read_metadata, save_checkpoint
from digitsum.errors import CheckpointError, DigitsumError, RecordError
from digitsum.models import MODELS, StripModel
from digitsum.objectives import OBJECTIVES
from digitsum.runs import LARGEST_RECORD, locked, read_record

NAN, INF = float("nan"), float("inf")
ENTRY = {"value": 0.5, "low": 0.25, "high": 0.75}
ABOUT: dict[str, Any] = {
    "experiment": "small-regression", "seed": 3, "data": "0123456789abcdef", "commit": "0123abcd",
    "settings": {"model": "small", "model_args": {"heads": 2}, "objective": "regression"},
    "validation": {"accuracy": ENTRY},
}  # fmt: skip
STATE = {"weights": torch.arange(12.0).view(3, 4), "best_epoch": 1}
RECORD: dict[str, Any] = {
    "experiment": "small-regression", "source": "digits", "seed": 3, "weights": "none", "settings": {"model": "small"},
    "changed": {"lr": [0.1, 0.2]}, "parameters": 5, "best_epoch": 1, "data": {"fingerprint": "0123456789abcdef"},
    "history": [{"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.5, "val_loss": 3.0, "val_accuracy": 0.25}],
    "metrics": dict.fromkeys(("val", "test", "entire"), {"n": 4, "accuracy": ENTRY, "mse": ENTRY, "mae": ENTRY}),
    "seconds": {"train": 1.5, "total": 2.0},
}  # fmt: skip


class Small(StripModel):
    """A model of a few hundred bytes, so that most of its file is header."""

    def __init__(self, outputs: int, heads: int = 1) -> None:
        super().__init__()
        self.head = torch.nn.Linear(4, outputs)
        self.heads = heads
        assert heads < 8
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("constant", torch.tensor([0.25]), persistent=False)

    def forward(self, images):
        return self.head(images[:, 0, :4, 0]) * self.heads + self.constant


@dataclass
class Evil:
    """Once unpickled, it writes a file."""

    marker: Path

    def __reduce__(self):
        return Path.write_text, (self.marker, "executed")


@pytest.fixture(autouse=True, scope="module")
def small_is_a_model():
    MODELS["small"] = Small
    yield
    del MODELS["small"]


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small(1, heads=2)


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
    assert isinstance(loaded, Small) and loaded.heads == 2 and not loaded.training
    assert loaded.objective == OBJECTIVES["regression"]
    assert loaded.metadata.items() >= ABOUT.items() and loaded.metadata == read_metadata(path)
    images = torch.rand(3, 1, 40, 168)
    assert torch.equal(loaded(images), model(images)), "with its constants, which are in no file"
    assert torch.equal(safetensors.torch.load_file(path)["head.weight"], model.head.weight), "others can open it too"
    state = load_state(sound[load_state])
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {"best_epoch": 1} and read_record(sound[read_record]) == RECORD
    before = path.read_bytes()
    save_checkpoint(model, path, **dict(reversed(ABOUT.items())))
    assert path.read_bytes() == before, "the same weights and metadata give the same bytes"


def test_half_precision_and_older_files_that_name_the_model_beside_the_settings_are_loaded(model, tmp_path):
    about = {"settings": {}, "model": "small", "model_args": {"heads": 2}, "objective": "regression"}
    save_checkpoint(model.half(), tmp_path / "older.safetensors", **ABOUT | about)
    loaded = load_checkpoint(tmp_path / "older.safetensors")
    assert loaded.heads == 2 and torch.equal(loaded.head.weight, model.head.weight.float())


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
    flip(tmp_path / "small-regression-seed2.safetensors", b"head.bias", b"heap.bias")
    with pytest.raises(CheckpointError, match=r"seed2.safetensors .* digest"):
        best_checkpoint(tmp_path, "small-regression")


def flip(path: Path, where: bytes, replacement: bytes) -> None:
    content = path.read_bytes()
    assert content.count(where) == 1 and len(where) == len(replacement)
    path.write_bytes(content.replace(where, replacement))


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
}
WEIGHTS_DAMAGES = {
    "a header of a gigabyte": lambda path: path.write_bytes((10**9).to_bytes(8, "little") + path.read_bytes()[8:]),
    "a tensor's shape": lambda path: flip(path, b"[1,4]", b"[4,1]"),
    "an argument": lambda path: flip(path, b'{\\"heads\\": 2}', b'{\\"heads\\": 3}'),
}


@pytest.mark.parametrize(
    ("read", "damage"),
    [(read, damage) for read in (load_checkpoint, load_state, read_record) for damage in DAMAGES]
    + [(load_checkpoint, damage) for damage in WEIGHTS_DAMAGES],
)
def test_a_damaged_file_is_named_with_the_remedy(read, damage, sound):
    (DAMAGES | WEIGHTS_DAMAGES)[damage](sound[read])
    with pytest.raises(DigitsumError) as caught:
        read(sound[read])
    assert str(sound[read]) in str(caught.value)
    train = "python -m digitsum train small-regression --preset full"
    assert (train if read is load_checkpoint else "elete it") in str(caught.value)


def test_a_compressed_state_is_refused(tmp_path):
    path = tmp_path / "resume.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    seal(path)
    with pytest.raises(CheckpointError, match="compressed"):
        load_state(path)


def seal(path: Path) -> None:
    path.write_bytes(hashlib.sha256(path.read_bytes()).digest() + path.read_bytes())


@pytest.mark.parametrize("read", [load_checkpoint, load_state])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(position=st.floats(0, 1, exclude_max=True, allow_subnormal=False), bits=st.integers(1, 255))
def test_a_damaged_byte_is_noticed_wherever_it_is(read, position, bits, sound):
    content, damaged = bytearray(sound[read].read_bytes()), sound[read].with_name("damaged")
    content[int(position * len(content))] ^= bits
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read(damaged)


@pytest.mark.parametrize("load", [load_checkpoint, load_state])
def test_nothing_is_ever_unpickled(load, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    torch.save({"model": Evil(marker)}, path)
    for prepare in (lambda path: None, seal):
        prepare(path)
        with pytest.raises(CheckpointError, match="evil.pt"):
            load(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists(), "it does, once somebody unpickles it"


# What is whole and hostile

UNFIT: list[dict[str, Any]] = [
    {"model": "baseline_cnn", "model_args": {"hidden": 80_000}},  # 8 GB
    {"model": "reader", "model_args": {"depths": [1_000_000, 1, 1, 1]}, "objective": "sum_likelihood"},
    {"model": "baseline_cnn", "model_args": {"channels": [4] * 10_000}},
    {"model": "reader", "model_args": {}, "objective_args": {"outputs": 1_000_000_000}},
    *({key: None} for key in (*ABOUT, "model", "model_args", "objective", "objective_args") if key != "commit"),
    *({"model_args": args} for args in (5, {"tails": 2}, {"outputs": 1}, {"heads": 9}, {"heads": "2"}, {"heads": INF})),
    *({"validation": accuracy} for accuracy in ({}, [1], {"accuracy": {"value": 7.0}}, {"accuracy": {"value": NAN}})),
    *({"model": model} for model in ("of_tomorrow", ["small"])), {"objective_args": {"of_tomorrow": 1}}, {"seed": "3"},
    *({"objective": objective} for objective in ("of_tomorrow", "classification", "sum_likelihood")),
]  # fmt: skip


@pytest.mark.parametrize("wrong", UNFIT, ids=lambda wrong: str(wrong)[:60])
def test_a_small_hostile_checkpoint_is_refused_at_once(wrong, model, path):
    save_checkpoint(model, path, **ABOUT | wrong)
    started = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert time.perf_counter() - started < 5
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 1000


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_weights_or_answers_that_are_no_numbers_are_refused(value, model, path):
    model.head.weight.data[0, 2] = value
    save_checkpoint(model, path, **ABOUT)
    columns = path.with_name("columns.safetensors")  # one number for each column
    about = {"model": "reader", "model_args": {"widths": [2, 2, 2]}}
    save_checkpoint(MODELS["reader"](1, widths=(2, 2, 2)), columns, **ABOUT | about)
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
    writers: dict[Any, Callable[[Path], None]] = {
        load_checkpoint: lambda path: save_checkpoint(model, path, **ABOUT | {"seed": 4}),
        load_state: lambda path: checkpoints.save_state(path, **STATE | {"best_epoch": 2}),
        read_record: lambda path: checkpoints.write_json(RECORD | {"seed": 4}, path),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # bytes of a file
    try:
        for kind, write in writers.items():
            with pytest.raises(OSError, match="cannot be written .* is kept"):
                write(sound[kind])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file: file.read_bytes() for file in sound[load_state].parent.iterdir()} == before


def test_a_file_is_never_seen_half_written_and_can_be_read_by_others(path, model, monkeypatch, tmp_path):
    whole = Path.write_bytes

    def look(*arguments, **options):
        whole(*arguments, **options)
        assert read_metadata(path)["seed"] == 3

    monkeypatch.setattr(Path, "write_bytes", look)
    save_checkpoint(model, path, **ABOUT | {"seed": 4})
    assert read_metadata(path)["seed"] == 4 and not list(path.parent.glob(".*"))
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_the_next_run_of_the_same_name_sweeps_what_a_killed_one_left(tmp_path):
    weights, record = tmp_path / "m" / "a[1]-seed1.safetensors", tmp_path / "r" / "a[1]-seed1.json"
    kept = [tmp_path / "m" / name for name in (".a[1]-seed10.resume.pt.0a.tmp", ".a1-seed1.safetensors.0a.tmp")]
    stale = [weights.with_name(".a[1]-seed1.resume.pt.0a.tmp"), record.with_name(".a[1]-seed1.json.0a.tmp")]
    for file in kept + stale:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with locked(weights, record):
        assert not any(file.exists() for file in stale)
    assert all(file.exists() for file in kept)


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.secrets, "token_hex", lambda size: "0a")  # as if somebody had guessed it
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".a.json.0a.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="cannot be written"):
        checkpoints.write_json({}, tmp_path / "a.json")
    assert (tmp_path / "precious").read_text() == "kept"
