"""Checkpoints and resume states: what comes back is what was saved, or a CheckpointError that names the file."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from digitsum.checkpoints import (
    best_checkpoint,
    load_checkpoint,
    load_state,
    read_metadata,
    save_checkpoint,
    save_state,
    write_json,
)
from digitsum.errors import CheckpointError
from digitsum.models import MODELS, StripModel
from digitsum.objectives import OBJECTIVES

ABOUT = {
    "model": "small", "model_args": {"heads": 2}, "objective": "regression", "seed": 3, "commit": None,
    "experiment": "small-regression", "validation": {"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}},
}  # fmt: skip
STATE = {
    "model": {"weight": torch.arange(12.0).view(3, 4), "count": torch.tensor(7)},
    "history": [{"epoch": 1, "train_loss": 0.125}],
    "best_epoch": 1,
}
every_byte = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.generate],
)  # fmt: skip


class Small(StripModel):
    """A model of a few hundred bytes, so that most of its file is header."""

    def __init__(self, outputs: int, heads: int = 1) -> None:
        super().__init__()
        self.head = torch.nn.Linear(4, outputs)
        self.heads = heads
        assert heads < 8
        self.register_buffer("count", torch.tensor(5))

    def forward(self, images):
        return self.head(images[:, 0, :4, 0]) * self.heads


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
def path(model, tmp_path) -> Path:
    """A sound checkpoint."""
    path = tmp_path / "small-regression-seed3.safetensors"
    save_checkpoint(model, path, **ABOUT)
    return path


@pytest.fixture
def state_path(tmp_path) -> Path:
    """A sound state of an unfinished run."""
    path = tmp_path / "resume.pt"
    save_state(path, **STATE)
    return path


class Evil:
    """Once unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "executed")


# Checkpoints


def test_round_trip(path, model):
    loaded = load_checkpoint(path)
    assert isinstance(loaded, Small) and loaded.heads == 2 and not loaded.training
    assert loaded.objective == OBJECTIVES["regression"]
    assert loaded.metadata == read_metadata(path) and loaded.metadata.items() >= ABOUT.items()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    images = torch.rand(3, 1, 40, 168)
    assert torch.equal(loaded(images), model(images))
    with safe_open(path, framework="pt") as file:  # others can open it with safetensors alone
        assert json.loads(file.metadata()["objective"]) == "regression"
        assert torch.equal(file.get_tensor("head.weight"), model.head.weight)


def test_arguments_of_the_objective_come_back(model, path):
    save_checkpoint(model, path, **ABOUT | {"objective_args": {"outputs": 1}})
    assert load_checkpoint(path).objective.outputs == 1


def test_without_a_seed_the_best_on_validation_is_loaded(model, tmp_path):
    """Of equals the lowest seed; other experiments whose name begins alike do not count."""
    assert best_checkpoint(tmp_path, "small-regression") is None
    accuracies = {10: 0.6, 2: 0.8, 9: 0.8, 1: 0.7}
    for experiment, higher in (("small-regression", 0.0), ("small-regression-seedless", 0.1)):
        for seed, value in accuracies.items():
            about = {"experiment": experiment, "seed": seed, "validation": {"accuracy": {"value": value + higher}}}
            save_checkpoint(model, tmp_path / f"{experiment}-seed{seed}.safetensors", **ABOUT | about)
    assert best_checkpoint(tmp_path, "small-regression") == tmp_path / "small-regression-seed2.safetensors"
    assert load_checkpoint(tmp_path / "small-regression.safetensors").metadata["seed"] == 2
    assert load_checkpoint(tmp_path / "small-regression-seed10.safetensors").metadata["seed"] == 10


def flip(path: Path, where: bytes, replacement: bytes) -> None:
    content = path.read_bytes()
    assert content.count(where) == 1 and len(where) == len(replacement)
    path.write_bytes(content.replace(where, replacement))


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "a directory": directory,
    "empty": lambda path: path.write_bytes(b""),
    "cut within the header's length": lambda path: path.write_bytes(path.read_bytes()[:4]),
    "cut within the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer by a byte": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a weight's bit": flip_last_bit,
    "the header's length": lambda path: path.write_bytes(b"\xff" + path.read_bytes()[1:]),
    "a tensor's name": lambda path: flip(path, b"head.weight", b"heap.weight"),
    "a tensor's shape": lambda path: flip(path, b"[1,4]", b"[4,1]"),
    "the seed": lambda path: flip(path, b'"seed":"3"', b'"seed":"4"'),
    "an argument": lambda path: flip(path, b'{\\"heads\\": 2}', b'{\\"heads\\": 3}'),
    "text": lambda path: path.write_text("not weights"),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "safetensors of somebody else": lambda path: safetensors.torch.save_file({"w": torch.ones(2)}, path),
    "a pickle of torch": lambda path: torch.save({"w": torch.ones(2)}, path),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"w": 1})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_used_is_named(damage, path):
    DAMAGES[damage](path)
    for read in (load_checkpoint, read_metadata):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(path) in str(caught.value)
    if damage == "missing":
        assert "python -m digitsum train small-regression --preset full" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model": "baseline_cnn", "model_args": {}}, "baseline_cnn"),
        ({"model": "of_tomorrow"}, "of_tomorrow"),
        ({"objective": "classification"}, "classification"),
        ({"objective": "of_tomorrow"}, "of_tomorrow"),
        ({"model_args": {"tails": 2}}, "tails"),
        ({"model_args": {"heads": 9}}, "small"),
        ({"model_args": 5}, "small"),
        ({"model": None}, "None"),
        ({"format": "digitsum-0"}, "digitsum-0"),
        ({"format": None}, "None"),
    ],
    ids=str,
)
def test_weights_of_another_model_or_format_are_refused(wrong, named, model, path):
    save_checkpoint(model, path, **ABOUT | {"commit": "0123abcd"} | wrong)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and named in message
    assert "format" in wrong or "0123abcd" in message, "the commit it was saved at"
    assert "\n" not in message and len(message) < 1000, "torch names every weight, on a line of its own"


@every_byte
@given(position=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_damaged_byte_is_noticed_wherever_it_is(position, bits, path, model, tmp_path):
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= bits
    damaged = tmp_path / "damaged-seed3.safetensors"
    damaged.write_bytes(content)
    try:
        loaded = load_checkpoint(damaged)
    except CheckpointError as error:
        assert str(damaged) in str(error)
    else:  # nothing that counts was changed
        assert loaded.metadata == load_checkpoint(path).metadata
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


# Writing


def failing(*arguments, **options):
    """Stand in for a function that writes a file, on a disk that is full half-way."""
    for argument in arguments:
        if isinstance(argument, Path):
            with argument.open("w") as file:
                file.write("half of it")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("what", ["checkpoint", "state", "json"])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(what, path, state_path, model, monkeypatch):
    before = {file: file.read_bytes() for file in (path, state_path)}
    for owner, name in ((Path, "write_bytes"), (Path, "write_text"), (torch, "save")):
        monkeypatch.setattr(owner, name, failing)
    with pytest.raises(OSError, match="No space left"):
        if what == "checkpoint":
            save_checkpoint(model, path, **ABOUT | {"seed": 4})
        elif what == "state":
            save_state(state_path, **STATE)
        else:
            write_json({"a": 1}, path)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_file_is_never_seen_half_written_and_can_be_read_by_others(path, model, monkeypatch, tmp_path):
    """Until the last moment the old file is what others read."""
    whole = Path.write_bytes

    def look(*arguments, **options):
        whole(*arguments, **options)
        assert read_metadata(path)["seed"] == 3

    monkeypatch.setattr(Path, "write_bytes", look)
    save_checkpoint(model, path, **ABOUT | {"seed": 4})
    assert read_metadata(path)["seed"] == 4 and list(path.parent.iterdir()) == [path]
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


# States of unfinished runs


def same_state(one: dict, other: dict) -> bool:
    return (
        one.keys() == other.keys()
        and one["model"].keys() == other["model"].keys()
        and all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
        and all(one[name] == other[name] for name in one if name != "model")
    )


def test_state_round_trip(state_path):
    assert same_state(load_state(state_path), STATE)


def deflate(path: Path) -> None:
    """Write the same archive compressed: a small file that can expand to a huge one."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def call_entries_folders(path: Path) -> None:
    """Set the archive's attribute of a folder on every entry; torch would then read none of their bytes."""
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\1\2")
    while at >= 0:
        content[at + 38] |= 0x10
        at = content.find(b"PK\1\2", at + 1)
    path.write_bytes(content)


STATE_DAMAGES: dict[str, Callable[[Path], object]] = {
    "a directory": directory,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "text": lambda path: path.write_text("not a state"),
    "compressed": deflate,
    "folders": call_entries_folders,
    "a tensor": lambda path: torch.save(torch.ones(2), path),
    "a list": lambda path: torch.save([STATE], path),
}


@pytest.mark.parametrize("damage", STATE_DAMAGES)
def test_a_state_that_cannot_be_used_is_named_with_the_remedy(damage, state_path):
    STATE_DAMAGES[damage](state_path)
    with pytest.raises(CheckpointError, match="Delete it") as caught:
        load_state(state_path)
    assert str(state_path) in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # torch's about odd pickles
@every_byte
@given(position=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_damaged_byte_of_a_state_is_noticed_wherever_it_is(position, bits, state_path):
    content = bytearray(state_path.read_bytes())
    content[int(position * len(content))] ^= bits
    damaged = state_path.with_name("damaged.pt")
    damaged.write_bytes(content)
    try:
        loaded = load_state(damaged)
    except CheckpointError as error:
        assert str(damaged) in str(error)
    else:
        assert same_state(loaded, STATE)


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
@pytest.mark.parametrize("load", [load_checkpoint, load_state])
def test_nothing_is_ever_unpickled(write, load, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    write({"key": "this run", "model": Evil(marker)}, path)
    with pytest.raises(CheckpointError, match="evil.pt"):
        load(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # it would have, had anyone unpickled it
    assert marker.exists()
