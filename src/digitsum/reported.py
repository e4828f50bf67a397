"""Other people's numbers, as they state them: the reports' on the course's files, and those of other public systems."""

from __future__ import annotations

from typing import NamedTuple

NOTHING = "–"


class Reported(NamedTuple):
    """A system of a report, and what the report states of it.

    `words` have a place for each of the `numbers`; where there is little room, `brief` has places for some.
    """

    experiment: str  # that runs it here
    report: str
    system: str
    words: str
    numbers: tuple[str, ...] = ()
    brief: str = ""
    measures: tuple[tuple[str, str], ...] = ()  # (split, measure) of ours that stand beside the numbers
    differs: str = ""  # why ours may differ from them although nothing that the report gives was changed

    @property
    def whole(self) -> str:
        """All that the report states."""
        return self.words.format(*self.numbers)

    @property
    def short(self) -> str:
        """The report and the most of it that fits into a narrow column."""
        return f"{self.report}: {(self.brief or self.words).format(*self.numbers)}"


_WORDS, _BRIEF = "train {0}, validation {1}", "validation {1}, train {0}"  # of report E's networks
_MEASURES = (("train", "accuracy"), ("val", "accuracy"))
_BORROWED = "Trained by the settings chosen for one attention layer at the end: it may want settings of its own."
_UNFITTED = f"{_BORROWED} By these it reads fewer of its training strips too."

REPORTED = {
    row.experiment: row
    for row in (
        Reported(
            "baseline_cnn-regression", "A", "two convolutions, regression", "test MSE {}", ("12.463",),
            measures=(("test", "mse"),),
            differs="Optimiser, batch size and length were left open; ours keeps its best epoch on validation.",
        ),
        Reported(
            "baseline_cnn-classification", "A", "two convolutions, classification", "test {}, MAE {}",
            ("9.22 %", "3.76"), measures=(("test", "accuracy"), ("test", "mae")),
        ),
        Reported(
            "cnn3_dropout-classification", "B", "three convolutions, dropout 0.7", "validation about {}", ("13.5 %",),
            measures=(("val", "accuracy"),),
        ),
        Reported(
            "resnet50-classification", "B", "ResNet-50, ImageNet weights", "test {}, entire {}",
            ("84–85 %", "90–91 %"), measures=(("test", "accuracy"), ("entire", "accuracy")),
        ),
        Reported(
            "vgg16_frozen-regression", "C", "VGG, frozen, a trained head", "no better than the CNN, far dearer",
            brief="no better than its CNN", measures=(("val", "accuracy"),),
        ),
        Reported(
            "cnn2_dropout-regression", "D", "two convolutions, dropout, regression",
            "validation: floor {}, ceiling {}, rounded {}, MAE {}", ("10.6 %", "12.03 %", "11.72 %", "2.8462"),
            brief="validation {2}, MAE {3}",
            measures=(("val", "floor"), ("val", "ceiling"), ("val", "rounded"), ("val", "mae")),
            differs="Learning rate, batch size and rate of dropout were left open.",
        ),
        Reported(
            "cnn2_linear-regression", "E", "two convolutions and a linear layer", "entire {} within 0.5", ("16 %",),
            brief="entire {}", measures=(("entire", "within_half"),),
            differs="Widths, learning rate, batch size and length were left open.",
        ),
        Reported(
            "ocr", "E", "OCR, digits summed", "{} of {}", ("7.8 %", "10,000"),
            measures=(("first_10000", "accuracy"), ("entire", "accuracy")),
            differs="How strips are brought to tesseract was left open, and chosen here on validation strips.",
        ),
        Reported(
            "yolo-boxes_digit_labels", "E", "YOLO, its own categories", "finds no digits",
            measures=(("unseen", "accuracy"),),
        ),
        Reported(
            "vit-regression", "E", "Vision Transformer, fine-tuned", "{}", ("6.4 %",), measures=(("val", "accuracy"),)
        ),
        Reported(
            "cnn_attention-regression", "E", "five convolutions, attention",
            _WORDS, ("96.77 %", "75.25 %"), _BRIEF, _MEASURES,
            differs="Sizes, optimiser and length were left open, and chosen here on validation strips.",
        ),
        Reported(
            "cnn_no_attention-regression", "E", "no attention, more layers",
            _WORDS, ("94.74 %", "70.02 %"), _BRIEF, _MEASURES,
            differs="Sizes, optimiser and length were left open, and chosen here for the network with attention.",
        ),
        Reported(
            "cnn_attention_several-regression", "E", "several attention layers",
            _WORDS, ("86.75 %", "65.48 %"), _BRIEF, _MEASURES, _UNFITTED,
        ),
        Reported(
            "cnn_attention_between-regression", "E", "attention between convolutions 3 and 4",
            _WORDS, ("93.09 %", "70.95 %"), _BRIEF, _MEASURES, _BORROWED,
        ),
    )
}  # fmt: skip

# What other public systems reach, as they state it: (system, learns from, accuracy, parameters).
PEERS_ON_STRIPS = (
    ("ResNet-18, fine-tuned", "sums, and 50,000 more composed strips", "95.55 % test", "11 M"),
    (
        "ResNet with four heads",
        "digit labels: 330 by hand, the rest by a labeller trained on MNIST",
        "93.6–95.2 % test",
        "1.22 M",
    ),
    ("segmentation, then LeNet", "MNIST's digit labels", "78.06 % of all 30,000", NOTHING),
    ("CNN, 7x7 kernels, average pooling", "sums", "53.00 % test", "2.5 M"),
    ("regression on generated strips", "MNIST", "39.35 %", NOTHING),
    ("CNN in Keras", "sums", "16.83 %", "0.6 M"),
)
PEERS_ON_CUT_DIGITS = (
    ("CTSketch", "15,000 sums of two 2-digit numbers", "96.7 %", NOTHING),
    ("DeepSoftLog", "15,000 sums of two 2-digit numbers", "96.6 %", NOTHING),
    ("DeepStochLog", "15,000 sums of two 2-digit numbers", "96.4 %", NOTHING),
    ("A-NeSI", "15,000 sums of two 2-digit numbers", "95.96 ± 0.38 %", NOTHING),
    ("DeepProbLog", "15,000 sums of two 2-digit numbers", "95.2 %", NOTHING),
    ("LTN", "15,000 sums of two 2-digit numbers", "77.5 ± 35.6 % (seeds collapse)", NOTHING),
    ("DeepSoftLog", "5,000 sums of four digits", "94.13 %", NOTHING),
    ("A-NeSI", "5,000 sums of four digits", "93.53 %", NOTHING),
    ("IndeCateR", "5,000 sums of four digits", "92.55 %", NOTHING),
    ("CTSketch", "5,000 sums of four digits", "92.17 %", NOTHING),
    ("Scallop", "5,000 sums of four digits", "88.90 %", NOTHING),
)
