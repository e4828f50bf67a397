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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from digitsum.checkpoints import (
    FORMAT,
    CheckpointError,
    load_checkpoint,
    load_state,
    read_metadata,
    save_checkpoint,
    save_state,
)
from digitsum.extras import ExtraError
from digitsum.models import MODELS, StripModel
from digitsum.objectives import OBJECTIVES

ABOUT = {
    "model": "small", "model_args": {"heads": 2}, "objective": "regression", "seed": 3, "commit": None,
    "validation": {"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}}, "weights": "none",
}  # fmt: skip
STATE = {
    "model": {"weight": torch.arange(12.0).view(3, 4), "count": torch.tensor(7)},
    "history": [{"epoch": 1, "train_loss": 0.125}],
    "best_epoch": 1,
}


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


def test_what_a_model_needs_and_is_not_there_is_no_fault_of_its_weights(path, monkeypatch):
    def lacking(*_, **__):
        raise ExtraError("small needs largelib: pip install largelib")

    monkeypatch.setitem(MODELS, "small", lacking)
    with pytest.raises(ExtraError, match="pip install largelib"):
        load_checkpoint(path)


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small(1, heads=2)


@pytest.fixture
def path(model, tmp_path) -> Path:
    """A sound checkpoint."""
    path = tmp_path / "small-regression.safetensors"
    save_checkpoint(model, path, **ABOUT)
    return path


@pytest.fixture
def state_path(tmp_path) -> Path:
    """A sound state of the run "this run"."""
    path = tmp_path / "resume.pt"
    save_state(path, key="this run", **STATE)
    return path


class Evil:
    """Once unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "executed")


# Checkpoints


def test_weights_can_be_read_by_whoever_reads_other_files(path: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_round_trip(path, model):
    loaded = load_checkpoint(path)
    assert isinstance(loaded, Small) and loaded.heads == 2 and not loaded.training
    assert loaded.objective == OBJECTIVES["regression"]
    assert loaded.metadata.items() >= ABOUT.items() and loaded.metadata["format"] == FORMAT
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    images = torch.rand(3, 1, 40, 168)
    assert torch.equal(loaded(images), model(images))


def test_metadata_can_be_read_alone(path):
    assert read_metadata(path).items() >= ABOUT.items()


def test_the_file_opens_with_safetensors_alone(path, model):
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["objective"]) == "regression"
        assert torch.equal(file.get_tensor("head.weight"), model.head.weight)


def test_saving_makes_the_folder(model, tmp_path):
    save_checkpoint(model, tmp_path / "models" / "mnist" / "x.safetensors", **ABOUT)
    assert read_metadata(tmp_path / "models" / "mnist" / "x.safetensors")["model"] == "small"


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
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "a directory", "empty", "text", "safetensors of somebody else"])
def test_reading_the_metadata_alone_names_it_too(damage, path):
    DAMAGES[damage](path)
    with pytest.raises(CheckpointError) as caught:
        read_metadata(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [("reader.safetensors", "reader"), ("ocr-seed3-5ae37fb5/best.safetensors", "ocr"), ("mine.safetensors", "NAME")],
)
def test_a_missing_file_comes_with_the_command_that_makes_it(path, name, tmp_path):
    with pytest.raises(CheckpointError, match=f"python -m digitsum train {name} --preset full$"):
        load_checkpoint(tmp_path / path)


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
    ],
    ids=str,
)
def test_weights_of_another_model_are_refused(wrong, named, model, path):
    save_checkpoint(model, path, **ABOUT | wrong | {"commit": "0123abcd"})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit this version of the code") and named in message
    assert "0123abcd" in message, "the commit it was saved at"
    assert "\n" not in message and len(message) < 1000, "torch names every weight, on a line of its own"


def test_metadata_that_lacks_the_model_is_refused(model, path):
    save_checkpoint(model, path, seed=3)
    with pytest.raises(CheckpointError, match="small-regression.safetensors does not fit"):
        load_checkpoint(path)


@pytest.mark.parametrize("version", ["digitsum-0", None, 7])
def test_another_version_is_refused(version, model, path):
    save_checkpoint(model, path, **ABOUT | {"format": version})
    for read in (load_checkpoint, read_metadata):
        with pytest.raises(CheckpointError, match="not a checkpoint of this version") as caught:
            read(path)
        assert str(path) in str(caught.value) and repr(version) in str(caught.value)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_damaged_byte_is_noticed_wherever_it_is(position, bits, path, model, tmp_path):
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= bits
    damaged = tmp_path / "damaged.safetensors"
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
    """Stands in for a function that writes a file, on a disk that is full half-way."""
    for argument in arguments:
        if isinstance(argument, Path):
            argument.write_text("half of it")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("what", ["checkpoint", "state"])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(what, path, state_path, model, monkeypatch):
    before = {file: file.read_bytes() for file in (path, state_path)}
    monkeypatch.setattr(Path, "write_bytes", failing)
    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="No space left"):
        if what == "checkpoint":
            save_checkpoint(model, path, **ABOUT | {"seed": 4})
        else:
            save_state(state_path, key="another run", **STATE)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_file_is_never_seen_half_written(path, model, monkeypatch):
    """Until the last moment the old file is what others read."""
    whole = Path.write_bytes

    def look(*arguments, **options):
        whole(*arguments, **options)
        assert read_metadata(path)["seed"] == 3

    monkeypatch.setattr(Path, "write_bytes", look)
    save_checkpoint(model, path, **ABOUT | {"seed": 4})
    assert read_metadata(path)["seed"] == 4
    assert list(path.parent.iterdir()) == [path]


# States of unfinished runs


def same_state(one: dict, other: dict) -> bool:
    return (
        one.keys() == other.keys()
        and one["model"].keys() == other["model"].keys()
        and all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
        and all(one[name] == other[name] for name in one if name != "model")
    )


def test_state_round_trip(state_path):
    assert same_state(load_state(state_path, "this run"), STATE | {"key": "this run"})


def test_the_state_of_another_run_is_refused(state_path):
    with pytest.raises(CheckpointError, match="other settings or other data. Delete it") as caught:
        load_state(state_path, "another run")
    assert str(state_path) in str(caught.value)


def deflate(path: Path) -> None:
    """The same archive, compressed: a small file that can expand to a huge one."""
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
    "without a key": lambda path: torch.save(STATE, path),
}


@pytest.mark.parametrize("damage", STATE_DAMAGES)
def test_a_state_that_cannot_be_used_is_named_with_the_remedy(damage, state_path):
    STATE_DAMAGES[damage](state_path)
    with pytest.raises(CheckpointError, match="Delete it") as caught:
        load_state(state_path, "this run")
    assert str(state_path) in str(caught.value)


def test_compressed_states_are_refused_for_what_they_are(state_path):
    deflate(state_path)
    with pytest.raises(CheckpointError, match="compressed"):
        load_state(state_path, "this run")


@pytest.mark.filterwarnings("ignore")  # torch's about odd pickles
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_damaged_byte_of_a_state_is_noticed_wherever_it_is(position, bits, state_path):
    content = bytearray(state_path.read_bytes())
    content[int(position * len(content))] ^= bits
    damaged = state_path.with_name("damaged.pt")
    damaged.write_bytes(content)
    try:
        loaded = load_state(damaged, "this run")
    except CheckpointError as error:
        assert str(damaged) in str(error)
    else:
        assert same_state(loaded, STATE | {"key": "this run"})


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
@pytest.mark.parametrize("load", [load_checkpoint, lambda path: load_state(path, "this run")])
def test_nothing_is_ever_unpickled(write, load, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    write({"key": "this run", "model": Evil(marker)}, path)
    with pytest.raises(CheckpointError, match="evil.pt"):
        load(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # it would have, had anyone unpickled it
    assert marker.exists()
