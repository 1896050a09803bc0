"""A small robust regression: what grows with some sizes, learned from runs of which a few were odd.

No array library: three unknowns and some hundred runs are milliseconds of plain Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from operator import mul
from statistics import fmean, median

Row = Sequence[float]

_ROUNDS = 20
_CLOSE = 0.05  # deviations below 5 % weigh alike, lest one run that fits by chance decide
_FARTHEST = 1.0  # a run that took e times as long as predicted pulls no harder than this
_WORTH = 0.97  # a further column must lessen the deviations by 3 % to be taken
_STILL = 1e-3  # of the largest coefficient: what follows is nothing beside the spread of runs
_SINGULAR = 1e-9


def fit_positive(rows: Sequence[Row], values: Sequence[float]) -> tuple[float, ...] | None:
    """Return a coefficient for each column, none negative, so that their sum predicts the values; or None.

    It minimizes deviations in proportion, for a run of an hour counts no more than one of a second, and the pull of
    an outlier is bounded. Columns that do not help, or would count backwards, get 0.

    Args:
        rows: For each run what it may depend on, without negative numbers; all of one length.
        values: What came of it, more than 0.
    """
    if not rows:
        return None
    width = len(rows[0])
    best: tuple[float, ...] | None = None
    least = math.inf
    for count in range(1, width + 1):
        candidates = [
            (_deviation(found, rows, values), found)
            for columns in combinations(range(width), count)
            if (found := _fit(columns, rows, values)) is not None
        ]
        if candidates and min(candidates)[0] < least * _WORTH:
            least, best = min(candidates)
    return best


def predict(coefficients: Row, row: Row) -> float:
    """Return what is predicted for a row."""
    total: float = sum(map(mul, coefficients, row))
    return total


def _deviation(coefficients: Row, rows: Sequence[Row], values: Sequence[float]) -> float:
    return fmean(
        min(abs(_log_ratio(value, predict(coefficients, row))), _FARTHEST)
        for row, value in zip(rows, values, strict=True)
    )


def _fit(columns: tuple[int, ...], rows: Sequence[Row], values: Sequence[float]) -> tuple[float, ...] | None:
    """Return the coefficients by these columns alone; None where they do not determine them, or one is negative."""
    kept = [[row[column] for column in columns] for row in rows]
    scales = [median(row[at] for row in kept) for at in range(len(columns))]
    if min(scales) <= 0:
        return None
    scaled = [[x / scale for x, scale in zip(row, scales, strict=True)] for row in kept]
    # The first guess is the plainest one that outliers do not move: each column tells an equal part.
    guesses = [value / sum(row) for value, row in zip(values, scaled, strict=True) if sum(row) > 0]
    coefficients = [median(guesses) / len(columns)] * len(columns)
    for _ in range(_ROUNDS):
        found = _step(coefficients, scaled, values)
        if found is None:
            return None
        moved = max(abs(a - b) for a, b in zip(found, coefficients, strict=True))
        coefficients = found
        if moved <= _STILL * max(map(abs, found)):
            break
    if min(coefficients) < 0:
        return None
    by_column = dict(zip(columns, (c / scale for c, scale in zip(coefficients, scales, strict=True)), strict=True))
    return tuple(by_column.get(column, 0.0) for column in range(len(rows[0])))


def _step(coefficients: list[float], rows: Sequence[Row], values: Sequence[float]) -> list[float] | None:
    """Solve the weighted least squares around what is predicted now, where a logarithm is nearly a straight line."""
    size = len(coefficients)
    matrix = [[0.0] * (size + 1) for _ in range(size)]
    for row, value in zip(rows, values, strict=True):
        predicted = max(sum(map(mul, coefficients, row)), value * 1e-3)
        off = max(-_FARTHEST, min(math.log(value / predicted), _FARTHEST))
        weight = 1 / (max(abs(off), _CLOSE) * predicted * predicted)
        target = (1 + off) * predicted
        for i, line in enumerate(matrix):
            factor = weight * row[i]
            for j in range(i, size):
                line[j] += factor * row[j]
            line[size] += factor * target
    for i in range(size):
        for j in range(i):
            matrix[i][j] = matrix[j][i]
    return _solved(matrix)


def _solved(matrix: list[list[float]]) -> list[float] | None:
    """Return the solution of a small system of equations (Gauss, with pivots); None where it has not just one."""
    size = len(matrix)
    for at in range(size):
        pivot = max(range(at, size), key=lambda i: abs(matrix[i][at]))
        if abs(matrix[pivot][at]) <= _SINGULAR * max(abs(x) for line in matrix for x in line[:size]):
            return None
        matrix[at], matrix[pivot] = matrix[pivot], matrix[at]
        for i in range(size):
            if i != at:
                factor = matrix[i][at] / matrix[at][at]
                matrix[i] = [x - factor * y for x, y in zip(matrix[i], matrix[at], strict=True)]
    return [matrix[at][size] / matrix[at][at] for at in range(size)]


def _log_ratio(value: float, predicted: float) -> float:
    return math.log(value / predicted) if predicted > 0 else math.inf
