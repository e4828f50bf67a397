"""Other people's numbers, as they state them: the reports' on the course's files, and those of other public systems."""

from __future__ import annotations

from typing import NamedTuple

NOTHING = "–"


class Reported(NamedTuple):
    """A system of a report, and what the report states of it."""

    experiment: str  # that runs it here
    report: str
    system: str
    states: str
    measures: tuple[tuple[str, str], ...]  # (split, measure) of ours that stand beside the report's numbers
    differs: str = ""  # why our number may differ although we changed no setting that the report gives


_VALIDATION = (("val", "accuracy"),)
_TRAIN_AND_VALIDATION = (("train", "accuracy"), *_VALIDATION)
_BORROWED = "We trained it with the settings chosen for one attention layer at the end. It may need its own."
_ROWS = (
    Reported(
        "baseline_cnn-regression", "A", "two convolutions, regression", "test MSE 12.463", (("test", "mse"),),
        "The report leaves optimiser, batch size and length open. We keep the best epoch on validation.",
    ),
    Reported(
        "baseline_cnn-classification", "A", "two convolutions, classification", "test 9.22 %, MAE 3.76",
        (("test", "accuracy"), ("test", "mae")),
    ),
    Reported(
        "cnn3_dropout-classification", "B", "three convolutions, dropout 0.7", "validation about 13.5 %", _VALIDATION,
    ),
    Reported(
        "resnet50-classification", "B", "ResNet-50, ImageNet weights", "test 84–85 %, entire 90–91 %",
        (("test", "accuracy"), ("entire", "accuracy")),
    ),
    Reported(
        "vgg16_frozen-regression", "C", "VGG, frozen, a trained head", "no better than its CNN, far dearer",
        _VALIDATION,
    ),
    Reported(
        "cnn2_dropout-regression", "D", "two convolutions, dropout, regression",
        "validation: floor 10.6 %, ceiling 12.03 %, rounded 11.72 %, MAE 2.8462",
        (("val", "floor"), ("val", "ceiling"), ("val", "accuracy"), ("val", "mae")),
        "The report leaves learning rate, batch size and dropout rate open.",
    ),
    Reported(
        "cnn2_linear-regression", "E", "two convolutions and a linear layer", "entire 16 % within 0.5",
        (("entire", "accuracy"),), "The report leaves widths, learning rate, batch size and length open.",
    ),
    Reported(
        "ocr", "E", "OCR, digits summed", "7.8 % of 10,000", (("first_10000", "accuracy"), ("entire", "accuracy")),
        "The report does not say how it prepares strips for tesseract. We chose that on validation strips.",
    ),
    Reported("yolo-boxes_digit_labels", "E", "YOLO, its own categories", "finds no digits", (("unseen", "accuracy"),)),
    Reported("vit-regression", "E", "Vision Transformer, fine-tuned", "6.4 %", _VALIDATION),
    Reported(
        "cnn_attention-regression", "E", "five convolutions, attention", "train 96.77 %, validation 75.25 %",
        _TRAIN_AND_VALIDATION,
        "The report leaves sizes, optimiser and length open. We chose them on validation strips.",
    ),
    Reported(
        "cnn_no_attention-regression", "E", "no attention, more layers", "train 94.74 %, validation 70.02 %",
        _TRAIN_AND_VALIDATION,
        "The report leaves sizes, optimiser and length open. We chose them for the network with attention.",
    ),
    Reported(
        "cnn_attention_several-regression", "E", "several attention layers", "train 86.75 %, validation 65.48 %",
        _TRAIN_AND_VALIDATION, f"{_BORROWED} It also reads fewer of its training strips.",
    ),
    Reported(
        "cnn_attention_between-regression", "E", "attention between convolutions 3 and 4",
        "train 93.09 %, validation 70.95 %", _TRAIN_AND_VALIDATION, _BORROWED,
    ),
)  # fmt: skip
REPORTED = {row.experiment: row for row in _ROWS}

# What other public systems reach, as they state it: (system, learns from, accuracy, parameters).
PEERS_ON_STRIPS = (
    ("ResNet-18, fine-tuned", "sums, and 50,000 more composed strips", "95.55 % test", "11 M"),
    ("ResNet with four heads", "digit labels: 330 by hand, the rest by a labeller trained on MNIST",
     "93.6–95.2 % test", "1.22 M"),
    ("segmentation, then LeNet", "MNIST's digit labels", "78.06 % of all 30,000", NOTHING),
    ("CNN, 7x7 kernels, average pooling", "sums", "53.00 % test", "2.5 M"),
    ("regression on generated strips", "MNIST", "39.35 %", NOTHING),
    ("CNN in Keras", "sums", "16.83 %", "0.6 M"),
)  # fmt: skip
_TWO, _FOUR = "15,000 sums of two 2-digit numbers", "5,000 sums of four digits"
PEERS_ON_CUT_DIGITS = (
    ("CTSketch", _TWO, "96.7 %", NOTHING),
    ("DeepSoftLog", _TWO, "96.6 %", NOTHING),
    ("DeepStochLog", _TWO, "96.4 %", NOTHING),
    ("A-NeSI", _TWO, "95.96 ± 0.38 %", NOTHING),
    ("DeepProbLog", _TWO, "95.2 %", NOTHING),
    ("LTN", _TWO, "77.5 ± 35.6 % (seeds collapse)", NOTHING),
    ("DeepSoftLog", _FOUR, "94.13 %", NOTHING),
    ("A-NeSI", _FOUR, "93.53 %", NOTHING),
    ("IndeCateR", _FOUR, "92.55 %", NOTHING),
    ("CTSketch", _FOUR, "92.17 %", NOTHING),
    ("Scallop", _FOUR, "88.90 %", NOTHING),
)
