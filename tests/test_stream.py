"""Streamed training strips: the same whoever asks, each once an epoch, and kept apart from everything else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import digitsum.data
from digitsum import stream as streams
from digitsum import training
from digitsum.__main__ import main
from digitsum.compose import compose
from digitsum.data import DataError, digit_glyphs
from digitsum.experiments import EXPERIMENTS
from digitsum.stream import CHUNK, StripStream, streamed
from digitsum.training import train

SHORT = replace(EXPERIMENTS["baseline_cnn-regression"], epochs=2, batch_size=8)


@pytest.fixture
def stream(monkeypatch) -> StripStream:
    """50 strips in chunks of 16 and 17."""
    monkeypatch.setattr(streams, "CHUNK", 20)
    return StripStream(*digit_glyphs(), 50, seed=3)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 10**7))
def test_chunks_are_small_and_nearly_equal(n):
    sizes = StripStream(np.zeros(0), np.zeros(0), n, seed=0).sizes
    assert sum(sizes) == n and min(sizes) > 0 and max(sizes) <= CHUNK and max(sizes) - min(sizes) <= 1


def test_a_chunk_is_a_function_of_seed_and_number(stream):
    assert stream.sizes == [16, 17, 17]
    prints = [stream.chunk(k).fingerprint for k in range(3)]
    assert [strips.fingerprint for strips in stream.chunks([2, 0, 1])] == [prints[2], prints[0], prints[1]]
    other = replace(stream, seed=4)
    assert len({*prints, *(other.chunk(k).fingerprint for k in range(3))}) == 6


def test_no_chunk_is_drawn_like_a_set_that_is_evaluated(stream):
    """Such sets have plain seeds, and NumPy takes (seed, 0) for a plain seed."""
    plain = {compose(stream.glyphs, stream.labels, 17, seed=seed).fingerprint for seed in range(10)}
    assert plain.isdisjoint(stream.chunk(k).fingerprint for k in range(3))


def test_the_first_strips_can_be_had_at_once(stream):
    assert stream[:None] is stream
    whole = np.concatenate([stream.chunk(k).images for k in range(3)])
    for stop in (0, 1, 16, 20, 50, 99):
        first = stream[:stop]
        assert np.array_equal(first.images, whole[:stop]) and len(first.sums) == min(stop, 50)
    with pytest.raises(ValueError, match="first"):
        stream[1:]


def test_the_fingerprint_tells_streams_apart(stream):
    others = [replace(stream, n=51), replace(stream, seed=4), replace(stream, labels=stream.labels[::-1])]
    assert len({stream.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert StripStream(*digit_glyphs(), 50, seed=3).fingerprint == stream.fingerprint


def test_training_sees_every_strip_once_an_epoch_in_another_order(stream, tiny, monkeypatch):
    seen = []
    to_input = training.to_input
    monkeypatch.setattr(training, "to_input", lambda images: seen.append(images) or to_input(images))
    data = replace(tiny, train=stream, val=tiny.val[:8])
    first = train(SHORT, data, device="cpu", progress=False)
    expected = sorted(image.tobytes() for image in stream[:50].images)
    steps = sum(-(-size // 8) for size in stream.sizes)
    epochs = [torch.cat(seen[start : start + steps]).numpy() for start in (0, steps + 1)]  # one batch of validation
    assert [sorted(image.tobytes() for image in images) for images in epochs] == [expected, expected]
    assert not np.array_equal(*epochs)
    again = train(SHORT, data, device="cpu", progress=False)
    assert [row["train_loss"] for row in again.history] == [row["train_loss"] for row in first.history]


def test_the_courses_files_cannot_be_streamed(tiny):
    with pytest.raises(DataError, match="course"):
        streamed(replace(tiny, source="course"), 50)


def test_a_streamed_run_has_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digitsum.data, "STRIPS", 100)
    monkeypatch.setattr(digitsum.data, "UNSEEN", 20)
    name = "baseline_cnn-regression"
    assert main(["train", name, "--source", "digits", "--preset", "smoke", "--device", "cpu", "--stream", "70"]) == 0
    assert "70 training strips streamed" in capsys.readouterr().out
    record = json.loads(Path(f"results/digits-stream70-smoke/{name}-seed0.json").read_text())
    assert record["data"]["strips"]["train"] == record["metrics"]["train"]["n"] == 70
    assert record["settings"]["train_limit"] is None
