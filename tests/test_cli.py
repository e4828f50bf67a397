"""The command line: train, evaluate and predict in a temporary folder, and faults in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import digitsum.studies
from digitsum import load_checkpoint, load_data, predict
from digitsum.__main__ import main
from digitsum.checkpoints import CheckpointError, read_metadata, save_checkpoint
from digitsum.experiments import EXPERIMENTS
from digitsum.performance import FIGURE
from digitsum.studies import STUDIES
from digitsum.tables import PAGES
from digitsum.training import build

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "baseline_cnn-classification"
OF_EACH_KIND = [NAME, "cnn_attention-regression", "reader"]
SMOKE = ["--source", "digits", "--preset", "smoke", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def weights(workplace) -> dict[str, Path]:
    """Untrained weights of one model of each kind, as if they were published."""
    paths = {}
    for name in OF_EACH_KIND:
        experiment = EXPERIMENTS[name]
        paths[name] = workplace / "models" / "digits" / f"{name}.safetensors"
        save_checkpoint(
            build(experiment), paths[name], experiment=name, model=experiment.model,
            model_args=experiment.model_args, objective=experiment.objective, seed=0, weights="none",
            data=load_data("digits").fingerprint,
        )  # fmt: skip
    return paths


def assert_one_line(captured, *words: str) -> None:
    """On standard error; progress bars, which are drawn there too, aside."""
    lines = [line for line in captured.err.splitlines() if "it/s" not in line and "s/it" not in line and line.strip()]
    assert len(lines) == 1 and lines[0].startswith("digitsum: "), captured.err
    for word in words:
        assert word in lines[0]


def rows(table: str) -> dict[str, int]:
    """The splits of a table of metrics, with the number of their strips."""
    return {split: int(n) for split, n in re.findall(r"^\| (\w+) \| (\d+) \|", table, re.MULTILINE)}


SPLITS = {"train": 160, "val": 20, "test": 20, "unseen": 30, "entire": 200}


def test_train_evaluate_predict(workplace, capsys):
    folders = ["--models", "m", "--results", "r"]
    assert main(["train", NAME, "cnn_attention-regression", *SMOKE, "--seed", "2", *folders]) == 0
    said = capsys.readouterr().out
    assert "source: digits" in said and rows(said) == SPLITS
    assert f"{NAME}: epochs is 1 (the experiment's own: {EXPERIMENTS[NAME].epochs})" in said
    assert f"{NAME}.safetensors holds this run" in said
    assert {path.name for path in Path("r/digits-smoke").iterdir()} == {
        f"{NAME}-seed2.json",
        "cnn_attention-regression-seed2.json",
    }
    checkpoint = Path(f"m/digits-smoke/{NAME}.safetensors")
    assert read_metadata(checkpoint)["seed"] == 2

    assert main(["evaluate", str(checkpoint), "--source", "digits", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert rows(said) == SPLITS and "seed 2" in said and "other strips" not in said

    strips = load_data("digits").test[:3]
    np.save("strips.npy", strips.images)
    Image.fromarray(strips.images[0]).save("strip.png")
    assert main(["predict", "strips.npy", "strip.png", "--checkpoint", str(checkpoint), "--device", "cpu"]) == 0
    sums = predict(load_checkpoint(checkpoint), strips.images)
    assert capsys.readouterr().out.splitlines() == [
        *(f"strips.npy[{row}]: {total}" for row, total in enumerate(sums)),
        f"strip.png[0]: {sums[0]}",
    ]


def test_settings_can_be_given(capsys):
    options = ["--epochs", "2", "--batch-size", "16", "--lr", "0.0005", "--train-limit", "32", "--evaluate-limit", "8"]
    assert main(["train", NAME, *SMOKE, *options]) == 0
    assert re.findall(rf"^{NAME}: (\w+) is (\S+) ", capsys.readouterr().out, re.MULTILINE) == [
        ("epochs", "2"),
        ("batch_size", "16"),
        ("lr", "0.0005"),
        ("train_limit", "32"),
        ("evaluate_limit", "8"),
    ]


def test_evaluate_takes_all_published_weights_of_the_source(weights, capsys):
    assert main(["evaluate", "--source", "digits", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert all(str(path.relative_to(Path.cwd())) in said for path in weights.values())


def test_evaluate_says_where_weights_were_trained_on_other_strips(weights, capsys):
    assert main(["evaluate", str(weights[NAME]), "--source", "digits", "--data-seed", "1"]) == 0
    assert "trained on other strips" in capsys.readouterr().out


def test_evaluate_renews_a_record_only_of_the_weights_that_it_tells_of(weights, capsys):
    assert main(["evaluate", str(weights[NAME]), "--source", "digits", "--renew"]) == 1
    assert "is not the record of" in capsys.readouterr().err


def test_evaluate_without_any_weights_says_how_to_make_some(capsys):
    assert main(["evaluate", "--source", "digits", "--models", "nowhere"]) == 1
    assert_one_line(capsys.readouterr(), "nowhere", "python -m digitsum train")


def test_a_study_is_made_once_and_printed(capsys, monkeypatch):
    arguments = ["study", "ablations", "--source", "digits", "--device", "cpu", "--seeds", "3", "--epochs", "1"]
    arguments += ["--train-limit", "32", "--only", "additive_regression"]
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert (
        said.startswith("results/studies/digits/ablations/additive_regression-seed3.json train ") and "unseen" in said
    )
    monkeypatch.setattr(digitsum.studies, "train", None)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_a_study_that_cannot_be_made_leaves_the_others_to_be_made(capsys, monkeypatch):
    made = []

    def run(name, *_, **__):
        if name == "ensemble":
            raise CheckpointError("no readers")
        made.append(name)
        return []

    monkeypatch.setattr("digitsum.__main__.run_study", run)
    assert main(["study", "all", "--source", "digits"]) == 1
    assert_one_line(capsys.readouterr(), "ensemble", "no readers")
    assert set(made) == set(STUDIES) - {"ensemble"}


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_predict_on_a_long_row_of_digits(name, weights, capsys):
    """A strip of 200 columns: read by models that take any width, refused by name by the others."""
    np.save("long.npy", np.pad(load_data("digits").test.images[:1], ((0, 0), (0, 0), (0, 32))))
    status = main(["predict", "long.npy", "--checkpoint", str(weights[name])])
    captured = capsys.readouterr()
    if build(EXPERIMENTS[name]).width is None:
        value, likely = r"( \(-?\d+\.\d\d\))?", r" with probability (\d+\.\d)%"
        digits = likely + ", digits" + r" \d" * 4 + likely + r"; next \d+" + likely
        reads = EXPERIMENTS[name].objective == "sum_likelihood"
        line = re.fullmatch(r"long\.npy\[0\]: \d+" + (digits if reads else value) + "\n", captured.out)
        assert status == 0 and line
        if reads:
            total, _, runner_up = map(float, line.groups())
            assert total >= runner_up and total + runner_up <= 100.1
    else:
        assert status == 1
        assert_one_line(captured, "long.npy", "BaselineCNN", "168", "200", "readers")


def test_predict_goes_on_after_what_it_cannot_read(weights, capsys):
    for stem, width in (("long", 200), ("four", 168)):
        np.save(f"{stem}.npy", np.eye(40, width, dtype=np.uint8) * 255)
    assert main(["predict", "long.npy", "none.png", "four.npy", "--checkpoint", str(weights[NAME])]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("four.npy[0]: ") and captured.out.count("\n") == 1
    assert [line.split()[1].rstrip(":") for line in captured.err.splitlines()][0] == "long.npy"
    assert "none.png" in captured.err.splitlines()[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", NAME, "--source", "course", "--root", "nowhere"], ["nowhere", "data<k>.npy"]),
        (["train", NAME, *SMOKE, "--lr", "1e30", "--epochs", "2"], ["loss", "epoch 1", "learning rate"]),
        (["evaluate", "nowhere.safetensors", "--source", "digits"], ["nowhere.safetensors", "not there"]),
        (["evaluate", "text.png", "--source", "digits"], ["text.png", "safetensors"]),
        (["evaluate", ".", "--source", "digits"], ["a folder", "safetensors"]),
        (["study", "counts", "--source", "digits", "--data-seed", "1"], ["reader.safetensors", "other strips"]),
        (["study", "calibration", "--source", "digits", "--models", "nowhere"], ["nowhere", "not there"]),
        (["study", "sums", "--only", "7"], ["sums", "7", "500, 1000"]),
        (["study", "ablations", "--only", "lenet-5000"], ["ablations", "lenet-5000", "no_start"]),
        (["study", "counts", "--only", "no_start"], ["counts", "no_start", "trains nothing"]),
        (["predict", "text.png", "--models", "nowhere"], ["--models"]),
        (["predict", "text.png", "--checkpoint", "nowhere.safetensors"], ["nowhere.safetensors", "not there"]),
        (["predict", "text.png", "--checkpoint", "WEIGHTS"], ["text.png", "not a readable image"]),
        (["predict", "nowhere.png", "--checkpoint", "WEIGHTS"], ["nowhere.png"]),
        (["predict", "text.npy", "--checkpoint", "WEIGHTS"], ["text.npy"]),
        (["tables", "--results", "."], ["README.md", "not there", "root"]),
        (["tables", "--results", "nowhere"], ["nowhere", "not there"]),
        (["train", NAME, *SMOKE, "--lr", "fast"], ["fast is not a number above 0"]),
        (["train", "resnet50-regression", *SMOKE, "--weights", "IMAGENET1K_V1"], ["IMAGENET1K_V1"]),
        (["train", NAME, *SMOKE, "--epochs", "0"], ["epochs"]),
        (["train", NAME, *SMOKE, "--batch-size", "0"], ["batch"]),
        (["train", NAME, *SMOKE, "--train-limit", "0"], ["train"]),
        (["train", NAME, *SMOKE, "--seed", "-1"], ["seed"]),
        (["train", NAME, *SMOKE, "--lr", "-0.1"], ["lr"]),
        (["train", NAME, *SMOKE, "--lr", "nan"], ["lr"]),
        (["train", "cnn_attention-regression", *SMOKE, "--batch-size", "1"], ["batch"]),
        (["train", "cnn_attention-regression", *SMOKE, "--train-limit", "1"], ["batch"]),
        (["train", NAME, *SMOKE, "--weights", "IMAGENET1K_V1"], ["baseline_cnn", "weights"]),
        (["train", "resnet50-regression", *SMOKE, "--weights", "of_tomorrow"], ["of_tomorrow", "IMAGENET1K_V1"]),
        (["train", NAME, *SMOKE, "--models", "text.png"], ["text.png"]),
        (["predict", "text.png", "--checkpoint", "WEIGHTS", "--device", "toaster"], ["toaster"]),
        pytest.param(
            ["predict", "text.png", "--checkpoint", "WEIGHTS", "--device", "cuda"], ["cuda"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there"),
        ),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("train", "evaluate", "predict", "study", "tables") else None,
)  # fmt: skip
def test_faults_are_one_line(arguments, words, weights, workplace, capsys):
    for name in ("text.png", "text.npy"):
        (workplace / name).write_text("neither an image nor weights")
    try:
        assert main([str(weights[NAME]) if word == "WEIGHTS" else word for word in arguments]) == 1
    except SystemExit as refused:  # argparse's own, with the usage above it
        last = capsys.readouterr().err.splitlines()[-1]
        assert refused.code == 2 and all(word in last for word in words), last
    else:
        assert_one_line(capsys.readouterr(), *words)


def test_commands_hand_on_what_they_are_given(monkeypatch):
    given = []

    def note(*arguments, **options):
        given.append((arguments, options))
        return {"changed": {}, "metrics": {}, "checkpoint": ""}

    for name in ("make_report", "run_experiment"):
        monkeypatch.setattr(f"digitsum.__main__.{name}", note)
    monkeypatch.setattr("digitsum.__main__.run_study", lambda *names, **options: note(*names, **options) and [])
    assert main(["report", "--results", "r", "--models", "m", "--root", "d", "--output", "o.pdf", "--redraw"]) == 0
    assert given.pop() == ((Path("r"), Path("m"), Path("d")), {"output": Path("o.pdf"), "redraw": True})
    assert main(["train", "resnet50-regression", "--source", "digits", "--on-missing-weights", "scratch"]) == 0
    assert given.pop()[1]["on_missing_weights"] == "scratch"
    study = ["study", "counts", "--source", "digits", "--device", "cpu", "--models", "m", "--results", "r"]
    assert main([*study, "--checkpoint", "a", "b"]) == 0
    options = given.pop()[1]
    assert options["checkpoints"] == [Path("a"), Path("b")]
    assert (options["models"], options["results"]) == (Path("m"), Path("r"))


def test_tables_renews_every_page_and_the_figure(monkeypatch, tmp_path, capsys):
    for page in PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / page, tmp_path / page)
    (tmp_path / "few" / "bench").mkdir(parents=True)
    (machine, *_) = (REPOSITORY / "results" / "bench").glob("amd*.json")
    shutil.copy(machine, tmp_path / "few" / "bench")
    monkeypatch.chdir(tmp_path)
    for words in ("has new tables", "agrees with the records already"):
        assert main(["tables", "--results", "few"]) == 0
        assert capsys.readouterr().out.splitlines() == [f"{page} {words}" for page in PAGES]
    assert (tmp_path / "docs" / FIGURE).is_file()


@pytest.mark.parametrize("arguments", [[], ["train"], ["train", "resnet"], ["predict"], ["evaluate", "-x"]])
def test_wrong_usage_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2 and "usage: python -m digitsum" in capsys.readouterr().err


def test_runs_as_a_module():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-m", "digitsum", "--help"], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    assert all(command in run.stdout for command in ("train", "evaluate", "predict", "tables"))


def test_the_example_of_the_readme(monkeypatch, capsys):
    """The same digits and sums, and probabilities as near as processors agree, in bfloat16 and out of it."""
    monkeypatch.chdir(REPOSITORY)
    readme = Path("README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python -m digitsum (predict docs.*)$", readme, re.MULTILINE)
    (expected,) = re.findall(r"^docs/example\.png\[0\]: .*$", readme, re.MULTILINE)
    assert main([*command.split(), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out.strip()
    percents = r"[\d.]+%"
    assert re.sub(percents, "", printed) == re.sub(percents, "", expected)
    shares = [[float(share[:-1]) for share in re.findall(percents, line)] for line in (printed, expected)]
    assert shares[0] == pytest.approx(shares[1], abs=3)
