"""The exact probability of a sum, when the digits and their places are unknown.

A reader sees a strip as `T` columns. Each column, on its own, emits nothing or one digit. The probability that
exactly `K` columns emit a digit and that these digits add up to `s` is a sum over every placement and every digit
string: the coefficient of `w^K z^s` in

    prod_t (p_t,nothing + w * sum_d p_t,d z^d).

With the odds `r_t(z) = sum_d p_t,d / p_t,nothing z^d` it is `prod_t p_t,nothing` times the elementary symmetric
polynomial of degree K in r_1..r_T, which is built digit by digit, all columns at once: if `F_k(t, z)` holds the
ways to place k digits in the first t columns,

    F_k(t, z) = sum_{t' <= t} r_t'(z) F_k-1(t' - 1, z),

one short convolution and one running sum over the columns: K steps instead of T, and for a single sum K / 2, half of
the digits being placed from either end. Every term is positive and kept as a logarithm, so nothing cancels and
nothing underflows, in the value or in its gradient (each symbol's posterior probability minus its prior one).

Everywhere: logits (N, T, 11), unnormalised log-probabilities of the symbols nothing, 0, 1, ..., 9 of each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOTHING = 0  # the symbol of an empty column; digit d is symbol d + 1
SYMBOLS = 11
LARGEST = 9
NEVER = -1e30  # for -inf where all terms of a sum may be missing, whose gradient would not be defined


class Reading(NamedTuple):
    """One strip's digits from left to right, the columns they stand in, and the probability of these digits."""

    digits: list[int]
    columns: list[int]
    probability: float


class Moments(NamedTuple):
    """The means of the sum and of the count of digits, each (N,)."""

    sum_mean: Tensor
    count_mean: Tensor


def sum_log_likelihood(logits: Tensor, sums: Tensor, count: int | tuple[int, int] | None = 4) -> Tensor:
    """The log-probability (N,) that each strip's digits add up to `sums` (N,) and that there are `count` of them.

    `count` is the number of digits, or the (least, most) digits, or None for any number. A sum that no such digits
    have gets -inf. Raises ValueError if the count does not fit the columns.
    """
    least, most = _bounds(logits, count)
    empty, odds = _odds(logits)
    sums = sums.to(odds.device)
    if most == least and most > 0:
        return empty + _coefficient(odds, most, sums)
    if least == 0 and most == logits.shape[1]:
        table = _product(logits, int(sums.max()) if len(sums) else 0)
    else:
        table = _any_count(odds, least, most)
        table = empty[:, None] + table
    reachable = (sums >= 0) & (sums < table.shape[1])
    chosen = table.gather(1, sums.clamp(0, table.shape[1] - 1)[:, None])[:, 0]
    return chosen.masked_fill(~reachable, -torch.inf)


def sum_distribution(logits: Tensor, count: int | tuple[int, int] | None = 4) -> Tensor:
    """The log-probabilities (N, 9K + 1) of the sums 0..9K, K the most digits that `count` allows.

    They add up to the probability of the count (see `count_distribution`), which is 1 if any count is allowed; subtract
    their logsumexp for the distribution of the sum given the count.
    """
    least, most = _bounds(logits, count)
    if least == 0 and most == logits.shape[1]:
        return _product(logits, LARGEST * most)
    empty, odds = _odds(logits)
    table = _every_sum(odds, most) if least == most > 0 else _any_count(odds, least, most)
    return empty[:, None] + table


def count_distribution(logits: Tensor) -> Tensor:
    """The log-probabilities (N, T + 1) of the number of digits, 0..T: the same product with z = 1."""
    occupied = torch.logsumexp(logits[..., NOTHING + 1 :], dim=-1)
    two = torch.stack([logits[..., NOTHING], occupied], dim=-1)
    return _product_tree(two - torch.logsumexp(logits, dim=-1, keepdim=True), logits.shape[1])


def moments(logits: Tensor) -> Moments:
    """The means of the sum and the count of digits, in closed form: those of the columns, added up."""
    p = logits.softmax(dim=-1)[..., NOTHING + 1 :]  # (N, T, 10)
    values = torch.arange(LARGEST + 1, dtype=p.dtype, device=p.device)
    return Moments(sum_mean=(p @ values).sum(-1), count_mean=p.sum(-1).sum(-1))


def string_log_likelihood(logits: Tensor, digits: Tensor) -> Tensor:
    """The log-probability (N,) that each strip's digits, from left to right, are `digits` (N, K), wherever placed."""
    n, columns, _ = logits.shape
    length = digits.shape[1]
    empty, odds = _odds(logits)
    if length > columns:
        return torch.full_like(empty, -torch.inf)
    emitted = odds.transpose(1, 2).gather(1, digits[:, :, None].expand(n, length, columns))
    return empty + _placed(emitted.unbind(1), odds)


def read_strings(logits: Tensor, count: int | tuple[int, int] | None = None) -> list[Reading]:
    """Each strip's most likely digits with their columns: the best single placement of the most likely count, exactly.

    The columns with the best odds of a digit are taken until the count is met. An open count comes first, over all
    placements, since one digit shared between two columns makes none or two of them the best symbol of a column. The
    probability is that of the digits, wherever they stand, given that the count is allowed.
    """
    logits = _precise(logits)
    digits, columns, allowed = _best_strings(logits, count)
    probabilities = _string_probabilities(logits, allowed, digits).tolist()
    return [Reading(*each) for each in zip(digits, columns, probabilities, strict=True)]


def most_agreed(looks: Tensor, count: int | tuple[int, int] | None = None) -> list[Reading]:
    """The readings of N strips, each seen in several looks (V, N, T, 11): what one look reads and all find likeliest.

    Each look reads its most likely digits; of these, the ones are taken that have the highest probability in the mean
    over all looks.
    """
    views, n = looks.shape[:2]
    logits = _precise(looks.flatten(0, 1))
    digits, columns, allowed = _best_strings(logits, count)
    # Every look's probability of what every look reads: its own logits for each reading, and all readings in turn.
    rows = torch.arange(views * n, device=logits.device).view(views, 1, n).expand(views, views, n).flatten()
    table = _string_probabilities(logits[rows], allowed[rows], digits * views).view(views, views, n)
    probabilities, best = (each.tolist() for each in table.mean(dim=0).max(dim=0))  # over the readings, (N,)
    return [
        Reading(digits[k * n + row], columns[k * n + row], probability)
        for row, (k, probability) in enumerate(zip(best, probabilities, strict=True))
    ]


def _precise(logits: Tensor) -> Tensor:
    """The logits of what was learned, in float32 or better."""
    logits = logits.detach()
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _best_strings(
    logits: Tensor, count: int | tuple[int, int] | None
) -> tuple[list[list[int]], list[list[int]], Tensor]:
    """What `read_strings` reads: digits, columns, and the log-probability (N,) that the count is allowed."""
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
    """The probability (N,) of each strip's digits, given that their count is one of those `allowed` (N,), in logs."""
    log_probability = torch.empty_like(allowed)
    lengths = torch.tensor([len(row) for row in digits])
    for length in lengths.unique().tolist():  # strips of equal length together
        rows = (lengths == length).nonzero()[:, 0].to(logits.device)
        strings = torch.tensor([row for row in digits if len(row) == length], device=logits.device, dtype=torch.long)
        log_probability[rows] = string_log_likelihood(logits[rows], strings.reshape(len(rows), length))
    return (log_probability - allowed).exp().clamp(max=1)


def _bounds(logits: Tensor, count: int | tuple[int, int] | None) -> tuple[int, int]:
    """The least and the most digits that `count` allows."""
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
    """The log-probability (N,) that all columns are empty, and each digit's log-odds (N, T, 10) against nothing."""
    nothing = logits[..., NOTHING]
    empty = (nothing - torch.logsumexp(logits, dim=-1)).sum(dim=-1)
    return empty, logits[..., NOTHING + 1 :] - nothing[..., None]


def _place_one_more(ways: Tensor, odds: Tensor) -> Tensor:
    """The terms (N, T', S + 9) of log F_k, from log F_k-1 (N, T', S) before each column and its odds (N, T', 10)."""
    windows = F.pad(ways, (LARGEST, LARGEST), value=-torch.inf).unfold(2, LARGEST + 1, 1)  # (N, T', S + 9, 10)
    return torch.logsumexp(windows + odds.flip(2)[:, :, None], dim=-1)


def _ways(odds: Tensor, digits: int) -> list[Tensor]:
    """For k = 1..digits the terms (N, T - k + 1, 9k + 1) of log F_k: entry t is for the last digit in column k - 1 + t.

    Only columns with room for k - 1 digits before them are kept, so every entry is finite.
    """
    terms = [odds]
    for k in range(1, digits):
        before = torch.logcumsumexp(terms[-1][:, :-1], dim=1)
        terms.append(_place_one_more(before, odds[:, k:]))
    return terms


def _coefficient(odds: Tensor, digits: int, sums: Tensor) -> Tensor:
    """log F_digits(T) at `sums` only, (N,): half of the digits are placed from either end, and they meet in between."""
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


def _every_sum(odds: Tensor, digits: int) -> Tensor:
    """log F_digits(T) at every sum, (N, 9 digits + 1): the halves of `_coefficient`, but not as logarithms.

    Products and sums of positive float64 numbers are as exact as their logarithms and several times as fast, where
    none is too small to be told from zero; where one is, and on devices without float64, logarithms it is.
    """
    if odds.device.type == "mps":
        return _any_count(odds, digits, digits)
    n, columns, _ = odds.shape
    a, b = digits - digits // 2, digits // 2
    places = columns - digits + 1  # of the last digit of the left half
    largest = odds.amax(dim=(1, 2), keepdim=True)
    positive = (odds - largest).double().exp()
    terms = [torch.cat([positive, positive.flip(1)])]  # as in `_ways`
    for k in range(1, a):
        before = terms[-1][:, :-1].cumsum(dim=1)
        size = before.shape[2]
        term = before.new_zeros(*before.shape[:2], size + LARGEST)
        for digit in range(LARGEST + 1):
            term[..., digit : digit + size] += before * terms[0][:, k:, digit, None]
        terms.append(term)
    left = terms[a - 1][:n, :places]
    if b:
        right = terms[b - 1][n:, :places].cumsum(dim=1).flip(1)
        pairs = left.transpose(1, 2) @ right  # (N, 9a + 1, 9b + 1)
        shifted = F.pad(pairs, (0, pairs.shape[1])).flatten(1)[:, : -pairs.shape[1]]  # each row one to the right
        table = shifted.view(n, pairs.shape[1], -1).sum(dim=1)
    else:
        table = left.sum(dim=1)
    if n and table.min() < torch.finfo(table.dtype).tiny:
        return _any_count(odds, digits, digits)
    return (table.log() + digits * largest[:, :, 0]).to(odds.dtype)


def _placed(emitted: Sequence[Tensor], odds: Tensor) -> Tensor:
    """The log of the ways (N,) to place symbols from left to right in columns, the k-th at the log-odds emitted[k]."""
    ways = odds.new_zeros(odds.shape[0], odds.shape[1] + 1)
    for k, each in enumerate(emitted):
        ways = torch.logcumsumexp(each[:, k:] + ways[:, :-1], dim=1)
    return ways[:, -1]


def _any_count(odds: Tensor, least: int, most: int) -> Tensor:
    """log sum_k F_k(T), k = least..most: (N, 9 most + 1)."""
    tables = []
    if least == 0:
        tables.append(odds.new_zeros(len(odds), 1))
    if most > 0:
        tables += [torch.logsumexp(ways, dim=1) for ways in _ways(odds, most)[max(least, 1) - 1 :]]
    tables = [F.pad(table, (0, LARGEST * most + 1 - table.shape[1]), value=-torch.inf) for table in tables]
    return tables[0] if len(tables) == 1 else torch.logsumexp(torch.stack(tables), dim=0)


def _product(logits: Tensor, degree: int) -> Tensor:
    """log of prod_t (p_nothing + sum_d p_d z^d) up to z^degree: (N, at most degree + 1)."""
    log_p = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    zero = torch.logaddexp(log_p[..., NOTHING], log_p[..., NOTHING + 1])  # an empty column adds 0, as the digit 0 does
    return _product_tree(torch.cat([zero[..., None], log_p[..., NOTHING + 2 :]], dim=-1), degree)


def _product_tree(polynomials: Tensor, degree: int) -> Tensor:
    """The product over T of polynomials (N, T, D), up to `degree`: (N, at most degree + 1), log-coefficients all.

    Neighbours are multiplied in pairs, about log2 T rounds.
    """
    degree = min(degree, polynomials.shape[1] * (polynomials.shape[2] - 1))
    polynomials = polynomials[..., : degree + 1]
    while polynomials.shape[1] > 1:
        odd = polynomials[:, -1:] if polynomials.shape[1] % 2 else None
        left, right = polynomials[:, :-1:2], polynomials[:, 1::2]
        size = left.shape[2]
        windows = F.pad(left, (size - 1, size - 1), value=NEVER)[..., : degree + size].unfold(2, size, 1)
        product = torch.logsumexp(windows + right.flip(2)[:, :, None], dim=-1)  # (N, T / 2, at most 2 D - 1)
        if odd is not None:
            odd = F.pad(odd, (0, product.shape[2] - size), value=NEVER)
            product = torch.cat([product, odd], dim=1)
        polynomials = product
    return polynomials[:, 0]
