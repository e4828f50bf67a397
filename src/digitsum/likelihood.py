"""The exact probability of a sum, when the digits and their places are unknown.

A reader sees a strip as `T` columns. Each column independently holds a blank or one digit. The probability that
exactly `K` columns hold a digit and that these digits add up to `s` is a sum over every placement and every digit
string. It is the coefficient of `w^K z^s` in

    prod_t (p_t,blank + w * sum_d p_t,d z^d).

With the odds `r_t(z) = sum_d p_t,d / p_t,blank z^d` it is `prod_t p_t,blank` times the elementary symmetric
polynomial of degree K in r_1..r_T. That is built digit by digit, all columns at once. If `F_k(t, z)` holds the
ways to place k digits in the first t columns,

    F_k(t, z) = sum_{t' <= t} r_t'(z) F_k-1(t' - 1, z).

Each step is one short convolution and one running sum over the columns. It takes K steps instead of T. A single sum
takes K / 2, as half of the digits are placed from either end. Every term is positive and kept as a logarithm, so
nothing cancels or underflows, neither in the value nor in its gradient.

Everywhere: logits (N, T, 11), unnormalised log-probabilities of the symbols blank, 0, 1, ..., 9 of each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Count = int | tuple[int, int] | None  # of digits: a number, the (least, most), or any number

BLANK = 0  # the symbol of an empty column; digit d is symbol d + 1
SYMBOLS = 11
LARGEST = 9
NEVER = -1e30  # for -inf where all terms of a sum may be missing, whose gradient would not be defined


class Reading(NamedTuple):
    """Hold one strip's digits from left to right, their columns, and the probability of these digits."""

    digits: list[int]
    columns: list[int]
    probability: float

    def __str__(self) -> str:
        return f"{' + '.join(map(str, self.digits)) or 'no digits'} = {sum(self.digits)}, {self.probability:.1%}"


class Moments(NamedTuple):
    """Hold the means of the sum and of the count of digits, each (N,)."""

    sum_mean: Tensor
    count_mean: Tensor


def sum_log_likelihood(logits: Tensor, sums: Tensor, count: Count = 4) -> Tensor:
    """Return the log-probability (N,) that `count` digits are there and add up to `sums` (N,).

    A sum that no such digits have gets -inf. Raises ValueError if the count does not fit the columns.
    """
    least, most = _bounds(logits, count)
    empty, odds = _odds(logits)
    sums = sums.to(odds.device)
    if most == least and most > 0:
        return empty + _coefficient(odds, most, sums)
    if least == 0 and most == logits.shape[1]:
        table = _product(_column_sums(logits), int(sums.max()) if len(sums) else 0)
    else:
        table = empty[:, None] + _any_count(odds, least, most)
    reachable = (sums >= 0) & (sums < table.shape[1])
    chosen = table.gather(1, sums.clamp(0, table.shape[1] - 1)[:, None])[:, 0]
    return chosen.masked_fill(~reachable, -torch.inf)


def sum_distribution(logits: Tensor, count: Count = 4) -> Tensor:
    """Return the log-probabilities (N, 9K + 1) of the sums 0..9K, where `count` allows at most K digits.

    They add up to the probability of the count. Subtract their logsumexp for the distribution given the count.
    """
    least, most = _bounds(logits, count)
    if least == 0 and most == logits.shape[1]:
        return _product(_column_sums(logits), LARGEST * most)
    empty, odds = _odds(logits)
    return empty[:, None] + _any_count(odds, least, most)


def count_distribution(logits: Tensor) -> Tensor:
    """Return the log-probabilities (N, T + 1) of the number of digits, 0..T: the same product with z = 1."""
    occupied = torch.logsumexp(logits[..., BLANK + 1 :], dim=-1)
    two = torch.stack([logits[..., BLANK], occupied], dim=-1)
    return _product(two.log_softmax(dim=-1), logits.shape[1])


def moments(logits: Tensor) -> Moments:
    """Return the means of sum and count in closed form: those of the columns, added up."""
    p = logits.softmax(dim=-1)[..., BLANK + 1 :]  # (N, T, 10)
    values = torch.arange(LARGEST + 1, dtype=p.dtype, device=p.device)
    return Moments(sum_mean=(p @ values).sum(-1), count_mean=p.sum(-1).sum(-1))


def string_log_likelihood(logits: Tensor, digits: Tensor) -> Tensor:
    """Return the log-probability (N,) that each strip's digits, from left to right, are `digits` (N, K), anywhere."""
    n, columns, _ = logits.shape
    length = digits.shape[1]
    empty, odds = _odds(logits)
    if length > columns:
        return torch.full_like(empty, -torch.inf)
    emitted = odds.transpose(1, 2).gather(1, digits[:, :, None].expand(n, length, columns))
    return empty + _placed(emitted.unbind(1), odds)


def read_strings(logits: Tensor, count: Count = None) -> list[Reading]:
    """Return each strip's most likely digits: the best single placement of the most likely count, exactly.

    The columns with the best odds of a digit are taken until the count is met. An open count is decided first, over
    all placements: a digit shared between two columns can be the best symbol of neither. The probability is that of
    the digits anywhere, given that the count is allowed.
    """
    logits = _precise(logits)
    digits, columns, allowed = _best_strings(logits, count)
    probabilities = _string_probabilities(logits, allowed, digits).tolist()
    return [Reading(*each) for each in zip(digits, columns, probabilities, strict=True)]


def read_views(logits: Tensor, count: Count = None) -> list[Reading]:
    """Return the readings of N strips seen in several views (V, N, T, 11).

    Each view proposes its most likely digits. The proposal with the highest mean probability over all views is taken.
    """
    views, n = logits.shape[:2]
    logits = _precise(logits.flatten(0, 1))
    digits, columns, allowed = _best_strings(logits, count)
    # Every view's probability of every view's digits: its own logits for each proposal, and all proposals in turn.
    rows = torch.arange(views * n, device=logits.device).view(views, 1, n).expand(views, views, n).flatten()
    table = _string_probabilities(logits[rows], allowed[rows], digits * views).view(views, views, n)
    probabilities, best = (each.tolist() for each in table.mean(dim=0).max(dim=0))  # over the readings, (N,)
    return [
        Reading(digits[k * n + row], columns[k * n + row], probability)
        for row, (k, probability) in enumerate(zip(best, probabilities, strict=True))
    ]


def _precise(logits: Tensor) -> Tensor:
    """Return the logits without their gradient, in float32 or better."""
    logits = logits.detach()
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _best_strings(logits: Tensor, count: Count) -> tuple[list[list[int]], list[list[int]], Tensor]:
    """Return digits, columns, and the log-probability (N,) that the count is allowed."""
    least, most = _bounds(logits, count)
    empty, odds = _odds(logits)
    gains, symbols = odds.max(dim=-1)  # (N, T)
    if least == most:
        allowed = empty + _placed([torch.logsumexp(odds, dim=-1)] * most, odds)
        lengths = torch.full_like(symbols[:, 0], most)
    else:
        counts = count_distribution(logits)[:, least : most + 1]
        allowed, lengths = counts.logsumexp(dim=1), least + counts.argmax(dim=1)
    order = gains.argsort(dim=1, descending=True, stable=True)
    taken = order.argsort(dim=1) < lengths[:, None]  # the columns with the best odds of a digit

    ends = lengths.cumsum(dim=0).tolist()
    parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    digits, columns = symbols[taken].tolist(), taken.nonzero()[:, 1].tolist()
    return [digits[part] for part in parts], [columns[part] for part in parts], allowed


def _string_probabilities(logits: Tensor, allowed: Tensor, digits: list[list[int]]) -> Tensor:
    """Return the probability (N,) of each strip's digits, given the log-probability `allowed` (N,) of their count."""
    log_probability = torch.empty_like(allowed)
    lengths = torch.tensor([len(row) for row in digits])
    for length in lengths.unique().tolist():  # strips of equal length together
        rows = (lengths == length).nonzero()[:, 0].to(logits.device)
        strings = torch.tensor([row for row in digits if len(row) == length], device=logits.device, dtype=torch.long)
        log_probability[rows] = string_log_likelihood(logits[rows], strings.reshape(len(rows), length))
    return (log_probability - allowed).exp().clamp(max=1)


def _bounds(logits: Tensor, count: Count) -> tuple[int, int]:
    """Return the least and the most digits that `count` allows."""
    if logits.ndim != 3 or logits.shape[2] != SYMBOLS:
        raise ValueError(f"logits must be (N, T, {SYMBOLS}), got {tuple(logits.shape)}")
    columns = logits.shape[1]
    if count is None:
        return 0, columns
    least, most = (count, count) if isinstance(count, int) else count
    if not 0 <= least <= most <= columns:
        raise ValueError(f"count {count} does not fit {columns} columns")
    return least, most


def _odds(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probability (N,) that all columns are blank, and each digit's log-odds (N, T, 10)."""
    blank = logits[..., BLANK]
    empty = (blank - torch.logsumexp(logits, dim=-1)).sum(dim=-1)
    return empty, logits[..., BLANK + 1 :] - blank[..., None]


def _place_one_more(ways: Tensor, odds: Tensor) -> Tensor:
    """Return the terms (N, T', S + 9) of log F_k, from log F_k-1 (N, T', S) before each column and its odds."""
    windows = F.pad(ways, (LARGEST, LARGEST), value=-torch.inf).unfold(2, LARGEST + 1, 1)  # (N, T', S + 9, 10)
    return torch.logsumexp(windows + odds.flip(2)[:, :, None], dim=-1)


def _ways(odds: Tensor, digits: int) -> list[Tensor]:
    """Return for k = 1..digits the terms (N, T - k + 1, 9k + 1) of log F_k; entry t has the last digit at k - 1 + t.

    Only columns with room for k - 1 digits before them are kept, so every entry is finite.
    """
    terms = [odds]
    for k in range(1, digits):
        before = torch.logcumsumexp(terms[-1][:, :-1], dim=1)
        terms.append(_place_one_more(before, odds[:, k:]))
    return terms


def _coefficient(odds: Tensor, digits: int, sums: Tensor) -> Tensor:
    """Return log F_digits(T) at `sums` only, (N,): half of the digits are placed from either end and meet between."""
    n, columns, _ = odds.shape
    a, b = digits - digits // 2, digits // 2
    places = columns - digits + 1  # of the last digit of the left half
    terms = _ways(torch.cat([odds, odds.flip(1)]), a)
    left = terms[a - 1][:n, :places]  # (N, P, 9a + 1), a digits up to this column, one in it
    rest = sums[:, None] - torch.arange(left.shape[2], device=sums.device)  # (N, 9a + 1): what the right half must add
    possible = (rest >= 0) & (rest <= LARGEST * b)
    if b:
        right = torch.logcumsumexp(terms[b - 1][n:, :places], dim=1).flip(1)  # (N, P, 9b + 1), b digits after it
        left = left + right.gather(2, rest.clamp(0, LARGEST * b)[:, None].expand(-1, places, -1))
    # A large negative number instead of -inf keeps the gradient of a sum without any terms defined.
    left = left.masked_fill(~possible[:, None], torch.finfo(left.dtype).min)
    return torch.logsumexp(left.flatten(1), dim=1).masked_fill(~possible.any(dim=1), -torch.inf)


def _placed(emitted: Sequence[Tensor], odds: Tensor) -> Tensor:
    """Return the log of the ways (N,) to place symbols from left to right, the k-th at the log-odds emitted[k]."""
    ways = odds.new_zeros(odds.shape[0], odds.shape[1] + 1)
    for k, each in enumerate(emitted):
        ways = torch.logcumsumexp(each[:, k:] + ways[:, :-1], dim=1)
    return ways[:, -1]


def _any_count(odds: Tensor, least: int, most: int) -> Tensor:
    """Return log sum_k F_k(T) for k = least..most, (N, 9 most + 1)."""
    tables = []
    if least == 0:
        tables.append(odds.new_zeros(len(odds), 1))
    if most > 0:
        tables += [torch.logsumexp(ways, dim=1) for ways in _ways(odds, most)[max(least, 1) - 1 :]]
    tables = [F.pad(table, (0, LARGEST * most + 1 - table.shape[1]), value=-torch.inf) for table in tables]
    return tables[0] if len(tables) == 1 else torch.logsumexp(torch.stack(tables), dim=0)


def _column_sums(logits: Tensor) -> Tensor:
    """Return the log-probabilities (N, T, 10) of what each column adds to the sum: a blank adds 0, as the digit 0."""
    log_p = logits.log_softmax(dim=-1)
    zero = torch.logaddexp(log_p[..., BLANK], log_p[..., BLANK + 1])
    return torch.cat([zero[..., None], log_p[..., BLANK + 2 :]], dim=-1)


def _product(polynomials: Tensor, degree: int) -> Tensor:
    """Multiply T polynomials (N, T, D) up to `degree`: (N, degree + 1). All are log-coefficients."""
    size = polynomials.shape[2]
    product = F.pad(polynomials[:, 0], (0, max(0, degree + 1 - size)), value=NEVER)[:, : degree + 1]
    for factor in polynomials[:, 1:].unbind(1):
        windows = F.pad(product, (size - 1, 0), value=NEVER).unfold(1, size, 1)  # (N, degree + 1, D)
        product = torch.logsumexp(windows + factor.flip(1)[:, None], dim=-1)
    return product
