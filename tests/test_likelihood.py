"""The exact sum likelihood against enumeration, in value, gradient and range."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.likelihood import (
    BLANK,
    SYMBOLS,
    count_distribution,
    moments,
    read_strings,
    read_views,
    string_log_likelihood,
    sum_distribution,
    sum_log_likelihood,
)


def random_logits(n: int, columns: int, *, scale: float = 2.0, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, columns, SYMBOLS, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def placements(logits: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Return the probability of each of the 11^T assignments of symbols to the columns of one strip (T, 11)."""
    p = logits.double().softmax(-1).tolist()
    return {
        symbols: math.prod(column[symbol] for column, symbol in zip(p, symbols, strict=True))
        for symbols in itertools.product(range(SYMBOLS), repeat=len(p))
    }


def outcomes(logits: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Return the probability of every digit string of one strip (T, 11), over all assignments."""
    strings: dict[tuple[int, ...], float] = {}
    for symbols, chance in placements(logits).items():
        string = tuple(symbol - 1 for symbol in symbols if symbol != BLANK)
        strings[string] = strings.get(string, 0.0) + chance
    return strings


@settings(deadline=None, max_examples=20)
@given(
    columns=st.integers(1, 4),
    bounds=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    scale=st.floats(0.1, 8.0, allow_subnormal=False),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_enumeration(columns, bounds, scale, seed):
    logits = random_logits(1, columns, scale=scale, seed=seed)
    strings = outcomes(logits[0])
    least, most = (min(bound, columns) for bound in sorted(bounds))
    for count in (most, (least, most), None):
        low, high = (0, columns) if count is None else (count, count) if isinstance(count, int) else count
        truth = torch.zeros(9 * high + 1, dtype=torch.float64)
        for string, chance in strings.items():
            if low <= len(string) <= high:
                truth[sum(string)] += chance
        torch.testing.assert_close(sum_distribution(logits, count)[0].exp(), truth)
        every = torch.arange(-1, 9 * high + 2)
        padded = torch.nn.functional.pad(truth, (1, 1))
        torch.testing.assert_close(sum_log_likelihood(logits.expand(len(every), -1, -1), every, count).exp(), padded)


@settings(deadline=None, max_examples=20)
@given(columns=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_strings_counts_and_moments_agree_with_enumeration(columns, seed):
    logits = random_logits(1, columns, seed=seed)
    strings = outcomes(logits[0])
    counts = torch.zeros(columns + 1, dtype=torch.float64)
    for string, chance in strings.items():
        counts[len(string)] += chance
    torch.testing.assert_close(count_distribution(logits)[0].exp(), counts)

    for length in range(columns + 1):
        digits = torch.tensor([9, 0, 9, 3][:length], dtype=torch.long)[None]
        chance = string_log_likelihood(logits, digits).exp()
        torch.testing.assert_close(chance[0].item(), strings[tuple(digits[0].tolist())])

    def mean(f):
        return sum(chance * f(string) for string, chance in strings.items())

    truth = torch.tensor([mean(sum), mean(len)], dtype=torch.float64)
    torch.testing.assert_close(torch.cat(tuple(moments(logits))), truth)


@pytest.mark.parametrize("columns", [4, 7, 22, 42])
@pytest.mark.parametrize("count", [4, (0, 4), (1, 4), None])
def test_the_gradient_is_defined_for_any_number_of_columns(columns, count):
    """Against finite differences along one direction; the sums are the least, the largest and one between."""
    logits = random_logits(4, columns).requires_grad_()
    sums = torch.tensor([0, 17, 36, 9 * columns if count is None else 36])
    value = sum_log_likelihood(logits, sums, count)
    assert value.isfinite().all()
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    step = 1e-5 * random_logits(4, columns, seed=1)
    with torch.no_grad():
        change = sum_log_likelihood(logits + step, sums, count) - sum_log_likelihood(logits - step, sums, count)
    torch.testing.assert_close((2 * gradient * step).sum(dim=(1, 2)), change, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count", [4, (1, 6), None])
@pytest.mark.parametrize("confidence", [0.0, 60.0, 300.0])
def test_float32_is_exact_where_probabilities_are_tiny(count, confidence):
    """Strips read with great confidence as 9999, 0000 or empty, and labelled otherwise: down to exp(-1200)."""
    logits = random_logits(6, 42, dtype=torch.float32)
    logits[:4, :, BLANK] += confidence
    logits[0, 3::10, 10] += 2 * confidence
    logits[1, 3::10, 1] += 2 * confidence
    sums = torch.tensor([0, 36, 20, 36, 1, 35])
    values, gradients = [], []
    for x in (logits, logits.double()):
        x = x.requires_grad_()
        value = sum_log_likelihood(x, sums, count)
        gradients.append(torch.autograd.grad(value.sum(), x)[0].double())
        values.append(value.detach().double())
    assert values[0].isfinite().all() and gradients[0].isfinite().all()
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2, atol=1e-2)


def ways_to_tell(count: int, columns: int) -> dict[int | tuple[int, int] | None, range]:
    """Return each way to tell a reader of the count, with the counts that it allows."""
    exact = min(count, columns)
    return {
        None: range(columns + 1), exact: range(exact, exact + 1), (exact // 2, columns): range(exact // 2, columns + 1)
    }  # fmt: skip


@settings(deadline=None, max_examples=20)
@given(columns=st.integers(1, 4), count=st.integers(0, 4), seed=st.integers(0, 2**31))
def test_readings_are_the_most_likely_placements_of_the_most_likely_count(columns, count, seed):
    logits = random_logits(1, columns, seed=seed)
    chances, strings = placements(logits[0]), outcomes(logits[0])
    counts = count_distribution(logits)[0].tolist()
    for told, allowed in ways_to_tell(count, columns).items():
        likeliest = max(allowed, key=counts.__getitem__)
        best = max((s for s in chances if columns - s.count(BLANK) == likeliest), key=chances.__getitem__)
        reading = read_strings(logits, told)[0]
        assert reading.columns == [t for t, symbol in enumerate(best) if symbol != BLANK]
        assert reading.digits == [symbol - 1 for symbol in best if symbol != BLANK]
        possible = {s: c for s, c in strings.items() if len(s) in allowed}
        assert reading.probability == pytest.approx(possible[tuple(reading.digits)] / sum(possible.values()))


@settings(deadline=None, max_examples=12)
@given(columns=st.integers(1, 4), count=st.integers(0, 4), views=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_of_several_views_the_reading_is_taken_that_all_find_likeliest(columns, count, views, seed):
    logits = random_logits(views, columns, seed=seed)
    every = [outcomes(view) for view in logits]
    for told, allowed in ways_to_tell(count, columns).items():
        possible = [{s: c for s, c in strings.items() if len(s) in allowed} for strings in every]
        read = [tuple(read_strings(view[None], told)[0].digits) for view in logits]
        means = [sum(k[digits] / sum(k.values()) for k in possible) / views for digits in read]
        agreed = read_views(logits[:, None], told)[0]
        assert agreed.probability == pytest.approx(max(means))
        assert tuple(agreed.digits) == read[means.index(max(means))] or len(set(means)) < len(means)
