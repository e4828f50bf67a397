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

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Count = int | tuple[int, int] | None  # of digits: a number, the (least, most), or any number

BLANK = 0  # the symbol of an empty column; digit d is symbol d + 1
SYMBOLS = 11
LARGEST = 9
NEVER = -1e30  # the logarithm of zero: the gradient of a sum whose terms are all -inf would not be defined


class Reading(NamedTuple):
    """Hold one strip's digits from left to right, their columns, and the probability of these digits."""

    digits: list[int]
    columns: list[int]
    probability: float

    def __str__(self) -> str:
        return f"{' + '.join(map(str, self.digits)) or 'no digits'} = {sum(self.digits)}, {self.probability:.1%}"


def sum_log_likelihood(logits: Tensor, sums: Tensor, count: Count = 4) -> Tensor:
    """Return the log-probability (N,) that `count` digits are there and add up to `sums` (N,).

    A sum that no such digits have gets -inf. Raises ValueError if the count does not fit the columns.
    """
    least, most = _bounds(logits, count)
    sums = sums.to(logits.device)
    if least == most > 1:
        empty, odds = _odds(logits)
        return empty + _coefficient(odds, most, sums)
    table = sum_distribution(logits, count, int(sums.max()) if len(sums) else 0)
    reachable = (sums >= 0) & (sums < table.shape[1])
    chosen = table.gather(1, sums.clamp(0, table.shape[1] - 1)[:, None])[:, 0]
    return chosen.masked_fill(~reachable, -torch.inf)


def sum_distribution(logits: Tensor, count: Count = 4, largest: int | None = None) -> Tensor:
    """Return the log-probabilities (N, 9K + 1) of the sums 0..9K, where `count` allows at most K digits.

    They add up to the probability of the count. Sums above `largest` may be left out.
    """
    least, most = _bounds(logits, count)
    if least == 0 and most == logits.shape[1]:
        return _any_digits(logits, LARGEST * most if largest is None else largest)
    empty, odds = _odds(logits)
    terms = [odds.new_zeros(len(odds), 1, 1), *_ways(odds, most, least)][least : most + 1]
    tables = [torch.logsumexp(each, dim=1) for each in terms]  # (N, 9k + 1) for k = least..most
    padded = [F.pad(each, (0, LARGEST * most + 1 - each.shape[1]), value=NEVER) for each in tables]
    return empty[:, None] + torch.logsumexp(torch.stack(padded), dim=0)


def moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means (N,) of the sum and of the count of digits: those of the columns, added up."""
    p = logits.softmax(dim=-1)[..., BLANK + 1 :]  # (N, T, 10)
    values = torch.arange(LARGEST + 1, dtype=p.dtype, device=p.device)
    return (p @ values).sum(-1), p.sum(-1).sum(-1)


@torch.no_grad()
def read_strings(views: Tensor, count: Count = None) -> list[Reading]:
    """Return the most likely digits of N strips, each seen in V views: (V, N, T, 11) logits.

    Each view proposes the best single placement of its most likely count, exactly: the columns with the best odds of a
    digit. The count is decided first, over all placements: a digit shared between two columns can be the best symbol
    of neither. The proposal with the highest mean probability over the views is taken. That is the probability of
    these digits anywhere, given that the count is allowed.
    """
    (v, n), logits = views.shape[:2], views.flatten(0, 1)
    least, most = _bounds(logits, count)
    odds = _odds(logits)[1]
    counts = _placed(torch.logsumexp(odds, dim=-1)[:, None].expand(-1, most, -1))[:, least:]
    allowed, lengths = counts.logsumexp(dim=1), least + counts.argmax(dim=1)  # (V N,)
    gains, symbols = odds.max(dim=-1)  # (V N, T)
    order = gains.argsort(dim=1, descending=True, stable=True)[:, : lengths.max()]  # (V N, K)
    padding = torch.arange(order.shape[1], device=order.device) >= lengths[:, None]
    columns = order.masked_fill(padding, odds.shape[1] - 1).sort(dim=1).values
    digits = symbols.gather(1, columns)

    means = []
    for proposed, length in zip(digits.split(n), lengths.split(n), strict=True):
        emitted = odds.transpose(1, 2).gather(1, proposed.repeat(v, 1)[:, :, None].expand(-1, -1, odds.shape[1]))
        found = _placed(emitted).gather(1, length.repeat(v)[:, None])[:, 0]
        means.append((found - allowed).exp().clamp(max=1).view(v, n).mean(dim=0))
    probabilities, best = torch.stack(means).max(dim=0)
    rows = best * n + torch.arange(n, device=best.device)
    parts = (each[rows].tolist() for each in (digits, columns, lengths))
    return [Reading(d[:k], c[:k], p) for d, c, k, p in zip(*parts, probabilities.tolist(), strict=True)]


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


def _ways(odds: Tensor, digits: int, least: int) -> list[Tensor]:
    """Return for k = 1..digits the terms (N, P, 9k + 1) of log F_k; entry t has the last digit at column k - 1 + t.

    Only columns with room for the other digits are kept, of which there are at least `least` in all. So every entry is
    finite, and P, the number of columns, is at most T - least + 1 and T - k + 1.
    """
    places = odds.shape[1] - max(least, 1) + 1
    terms = [odds[:, :places]]
    for k in range(1, digits):
        last = odds[:, k : k + places]
        before = torch.logcumsumexp(terms[-1][:, : last.shape[1]], dim=1)
        terms.append(_times(before, last))
    return terms


def _times(polynomials: Tensor, factors: Tensor) -> Tensor:
    """Multiply polynomials (..., S) by factors (..., D), given as log-coefficients: (..., S + D - 1)."""
    size = factors.shape[-1]
    windows = F.pad(polynomials, (size - 1, size - 1), value=NEVER).unfold(-1, size, 1)  # (..., S + D - 1, D)
    return torch.logsumexp(windows + factors.flip(-1)[..., None, :], dim=-1)


def _coefficient(odds: Tensor, digits: int, sums: Tensor) -> Tensor:
    """Return log F_digits(T) at `sums` only, (N,): half of the digits are placed from either end and meet between."""
    n, columns, _ = odds.shape
    a, b = digits - digits // 2, digits // 2
    places = columns - digits + 1  # of each digit
    terms = _ways(torch.cat([odds, odds.flip(1)]), a, digits)
    left = terms[a - 1][:n]  # (N, P, 9a + 1), a digits up to this column, one in it
    rest = sums[:, None] - torch.arange(left.shape[2], device=sums.device)  # (N, 9a + 1): what the right half must add
    possible = (rest >= 0) & (rest <= LARGEST * b)
    right = torch.logcumsumexp(terms[b - 1][n:], dim=1).flip(1)  # (N, P, 9b + 1), b digits after it
    left = left + right.gather(2, rest.clamp(0, LARGEST * b)[:, None].expand(-1, places, -1))
    left = left.masked_fill(~possible[:, None], NEVER)
    return torch.logsumexp(left.flatten(1), dim=1).masked_fill(~possible.any(dim=1), -torch.inf)


def _placed(odds: Tensor) -> Tensor:
    """Return the log of the ways (N, K + 1) to place the first 0..K of K symbols with log-odds (N, K, T) in order."""
    ways = odds.new_zeros(odds.shape[0], odds.shape[2] + 1)
    placed = [ways[:, -1]]
    for k, each in enumerate(odds.unbind(1)):
        ways = torch.logcumsumexp(each[:, k:] + ways[:, :-1], dim=1)
        placed.append(ways[:, -1])
    return torch.stack(placed, dim=1)


def _any_digits(logits: Tensor, largest: int) -> Tensor:
    """Return the log-probabilities (N, largest + 1) of sums of any number of digits: a blank adds 0, as the digit 0."""
    log_p = logits.log_softmax(dim=-1)
    zero = torch.logaddexp(log_p[..., BLANK], log_p[..., BLANK + 1])
    added = torch.cat([zero[..., None], log_p[..., BLANK + 2 :]], dim=-1)  # (N, T, 10)
    product = F.pad(added[:, 0], (0, max(0, largest - LARGEST)), value=NEVER)[:, : largest + 1]
    for factor in added[:, 1:].unbind(1):
        product = _times(product, factor)[:, : largest + 1]
    return product
