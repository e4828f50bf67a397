"""A reader of single digits, for where every digit and its place is known."""

from __future__ import annotations

from .cnn_attention import CNNAttention


class DigitCNN(CNNAttention):
    """The convolutions of report E without attention, on single digits cut out of their strips (see cuts.py).

    Shapes: images (N, 1, 40, 28) -> (N, outputs), of which only the first ten, the digits, ever occur.
    """

    width = 28  # one glyph
    reads_cuts = True

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs, attention_after=())
