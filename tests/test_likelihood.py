"""The exact sum likelihood against enumeration, in value, gradient and range."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.likelihood import BLANK, SYMBOLS, moments, read_strings, sum_distribution, sum_log_likelihood


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
    means = [sum(chance * f(string) for string, chance in strings.items()) for f in (sum, len)]
    assert [mean.item() for mean in moments(logits)] == pytest.approx(means)
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


@settings(deadline=None, max_examples=8)
@given(columns=st.integers(1, 4), count=st.integers(0, 4), views=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_readings_are_placements_of_the_most_likely_count_that_all_views_find_likeliest(columns, count, views, seed):
    logits = random_logits(views, columns, seed=seed)
    exact = min(count, columns)
    for told, least, most in ((None, 0, columns), (exact, exact, exact), ((exact // 2, columns), exact // 2, columns)):
        proposed, given_count = [], []
        for view in logits:
            possible = {s: chance for s, chance in outcomes(view).items() if least <= len(s) <= most}
            counts = [sum(chance for s, chance in possible.items() if len(s) == k) for k in range(columns + 1)]
            best = max(
                (chance, symbols)
                for symbols, chance in placements(view).items()
                if columns - symbols.count(BLANK) == counts.index(max(counts))
            )[1]
            proposed.append([(t, symbol - 1) for t, symbol in enumerate(best) if symbol != BLANK])
            given_count.append({s: chance / sum(possible.values()) for s, chance in possible.items()})
        means = [sum(p[tuple(digit for _, digit in each)] for p in given_count) / views for each in proposed]
        reading = read_strings(logits[:, None], told)[0]
        assert reading.probability == pytest.approx(max(means))
        likeliest = [each for each, mean in zip(proposed, means, strict=True) if mean == pytest.approx(max(means))]
        assert list(zip(reading.columns, reading.digits, strict=True)) in likeliest
