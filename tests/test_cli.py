"""The command line: train, evaluate and predict in a temporary folder, and faults in one line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ENVIRONMENT, REPOSITORY, save
from PIL import Image

from digitsum import load_checkpoint, load_data, predict
from digitsum.__main__ import main
from digitsum.checkpoints import read_metadata
from digitsum.experiments import EXPERIMENTS
from digitsum.training import build

NAME = "baseline_cnn-classification"
OF_EACH_KIND = [NAME, "cnn_attention-regression", "reader"]
SPLITS = ("train", "val", "test", "unseen", "entire")
SMOKE = ["--source", "digits", "--preset", "smoke", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def weights(workplace) -> dict[str, Path]:
    """Untrained weights of one model of each kind, as if they were published."""
    paths = {name: workplace / "models" / "digits" / f"{name}-seed0.safetensors" for name in OF_EACH_KIND}
    for name, path in paths.items():
        save(build(EXPERIMENTS[name]), path, EXPERIMENTS[name], data=load_data("digits").fingerprint)
    return paths


def test_train_evaluate_predict(capsys):
    folders = ["--models", "m", "--results", "r", "--folder", "mine", "--epochs", "2", "--lr", "0.0005"]
    assert main(["train", NAME, "baseline_cnn-regression", *SMOKE, "--seed", "2", "3", *folders]) == 0
    said = capsys.readouterr().out
    assert "source: digits" in said and f"{NAME}: epochs is 2, not {EXPERIMENTS[NAME].epochs}" in said
    runs = [f"{name}-seed{seed}" for name in (NAME, "baseline_cnn-regression") for seed in (2, 3)]
    assert {path.stem for path in Path("r/mine").glob("[!.]*")} == set(runs)
    assert all(Path(f"m/mine/{run}.safetensors").exists() and f"r/mine/{run}.json" in said for run in runs)
    assert said.splitlines()[-1].startswith('Next: inference.ipynb with FOLDER = "mine"')

    checkpoint = Path(f"m/mine/{NAME}-seed2.safetensors")
    assert read_metadata(checkpoint)["settings"]["lr"] == 0.0005
    assert main(["train", NAME, *SMOKE, *folders, "--seed", "2", "--lr", "0.1"]) == 1
    assert "other settings" in capsys.readouterr().err
    assert main(["evaluate", str(checkpoint), "--source", "digits", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert all(f"| {split} " in said for split in SPLITS) and "other strips" not in said
    assert said.splitlines()[-1].startswith('Next: inference.ipynb with FOLDER = "mine"')

    strips = load_data("digits").test[:3]
    np.save("strips.npy", strips.images)
    Image.fromarray(strips.images[0]).save("strip.png")
    assert main(["predict", "strips.npy", "strip.png", "--checkpoint", str(checkpoint), "--device", "cpu"]) == 0
    sums = predict(load_checkpoint(checkpoint), strips.images)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split()[0].rstrip(",") for line in lines] == [str(sum_) for sum_ in (*sums, sums[0])]


def test_evaluate_takes_all_weights_of_the_source_and_says_of_which_strips_they_are(weights, capsys):
    save(build(EXPERIMENTS["reader"]), weights["reader"], EXPERIMENTS["reader"], data="other")
    assert main(["evaluate", "--source", "digits", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert all(path.name in said for path in weights.values()) and said.count("other strips") == 1


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_predict_reads_a_folder_of_any_widths_and_writes_tables(name, weights, capsys):
    """A strip of 200 columns is read by models that take any width, and refused by name by the others."""
    strips = load_data("digits").test.images[:3]
    Path("rows").mkdir()
    np.save("rows/long.npy", np.pad(strips[:1], ((0, 0), (0, 0), (0, 32))))
    np.save("rows/two.npy", strips[1:])
    Path("rows/text.png").write_text("no image")
    tables = ["--csv", "out.csv", "--json", "out.json", "--show", "out.png"]
    assert main(["predict", "rows", "--checkpoint", str(weights[name]), "--digits", "4", *tables]) == 2
    captured = capsys.readouterr()
    refused = ["text.png"] if EXPERIMENTS[name].model != "baseline_cnn" else ["long.npy", "text.png"]
    assert [re.match(r"digitsum: rows/(\w+\.\w+)", line)[1] for line in captured.err.splitlines()] == refused
    answers = json.loads(Path("out.json").read_text())
    assert len(answers) == len(pd.read_csv("out.csv")) == 4
    sums = predict(load_checkpoint(weights[name]), strips[1:], 4).tolist()
    assert [row["sum"] for row in answers if row["file"] == "rows/two.npy"] == sums
    assert Image.open("out.png").size[0] > 100


FAULTS = {  # a command: words of its one line
    f"train {NAME} --source course --root nowhere": "nowhere data<k>.npy",
    f"train {NAME} --lr 1e30 --epochs 2": "loss epoch learning rate",
    "train": "reader",
    f"train {NAME} --epochs 0": "epochs",
    "train cnn_attention-regression --batch-size 1": "batch",
    f"train {NAME} --models text.png": "text.png",
    f"train {NAME} --device toaster": "toaster",
    "evaluate nowhere.safetensors --source digits": "nowhere.safetensors digitsum train",
    "evaluate --source digits --models nowhere": "nowhere",
    "predict": "image",
    "predict text.png --checkpoint WEIGHTS": "text.png",
    "predict strip.npy --checkpoint WEIGHTS --digits 99": "99",
    "predict strip.npy --checkpoint WEIGHTS --digits -1": "-1",
}


@pytest.mark.parametrize("command", FAULTS)
def test_faults_are_one_line(command, weights, capsys):
    Path("text.png").write_text("neither an image nor weights")
    np.save("strip.npy", load_data("digits").test.images[:1])
    name, *options = command.replace("WEIGHTS", str(weights["reader"])).split()
    usual = SMOKE if name == "train" and "--source" not in options else []
    assert main([name, *usual, *options]) in (1, 2)
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.strip() and "it/s" not in line and "s/it" not in line]
    assert len(lines) == 1 and lines[0].startswith("digitsum: "), error  # but for progress bars
    assert all(word in lines[0] for word in FAULTS[command].split())


def test_predict_prints_what_the_readme_says(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    (promised,) = re.findall(r"This prints `([^`]+)`", Path("README.md").read_text(encoding="utf-8"))
    assert main(["predict", "docs/example.png", "--device", "cpu"]) == 0
    pattern = r"(.*probability )([\d.]+)(%.*)"  # processors differ in the last digits
    (before, said, after), (words, stated, end) = (
        re.fullmatch(pattern, line).groups() for line in (capsys.readouterr().out.strip(), promised)
    )
    assert (before, after) == (words, end) and abs(float(said) - float(stated)) < 0.5


@pytest.mark.parametrize("arguments", [["train", "resnet"], ["evaluate", "-x"], ["fly"]])
def test_wrong_usage_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2 and "--help" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "draw"])
def test_every_command_explains_itself_by_an_example(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0 and f"Example: python -m digitsum {command}" in said


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom digitsum.__main__ import main\ntry:\n    main(['train', '--help'])\n"
        "finally:\n    assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and "digitsum" in done.stdout, done.stderr
