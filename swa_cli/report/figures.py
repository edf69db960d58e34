"""Formatting of scores, differences and p-values; rounding never shows a false 0 or 100 %."""

import math
from collections.abc import Iterable, Sequence

from swa_cli.evaluation import ALPHA, Comparison, Score

NOT_DEFINED = "n/a"
_DIGITS = 4
"""Decimals of a score that is not in percent."""
_LARGE = 100
_ROUNDING = 1e-12
"""Numbers smaller than this, relative to the others in the column, are rounding errors of float64."""
_PLAIN = range(-5, 9)
"""Powers of ten that are written without an exponent."""
_SMALLEST = -300
"""The smallest power of ten that is distinguished from zero."""


def percent(fraction: float, digits: int = 2) -> str:
    """Format ``fraction`` in percent; rounding never shows 0 or 100 for another value.

    >>> percent(0.99999), percent(1.0), percent(0.00001)
    ('99.99', '100.00', '0.01')
    """
    if fraction < 1 and round(100 * fraction, digits) >= _LARGE:
        return f"{100 - 10.0**-digits:.{digits}f}"
    return _fixed(0.0 if abs(fraction) < _ROUNDING else 100 * fraction, digits)


def column(score: Score, values: Sequence[float | None]) -> list[str]:
    """Format one score of several candidates with the same decimals, at least four digits of the largest.

    Missing scores are blank.

    >>> nll = Score(name="nll", label="NLL", higher_is_better=False, percent=False, shown=True)
    >>> column(nll, [0.37118, None, math.nan]), column(nll, [0.00021, 0.000134]), column(nll, [12345.678, 9.0])
    (['0.3712', '', 'n/a'], ['0.0002100', '0.0001340'], ['12345.7', '9.0'])
    >>> column(nll, [0.37118, -1e-17, math.inf]), column(nll, [1.5e20, 0.25])
    (['0.3712', '0.0000', 'inf'], ['1.500e+20', '2.500e-01'])
    """
    largest = max(_magnitudes(values), default=1.0)
    digits = max(_digits_of_large(largest), _DIGITS - 1 - _exponent(largest))
    scientific = _exponent(largest) not in _PLAIN
    texts: list[str] = []
    for value in values:
        if value is None or math.isnan(value):
            texts.append("" if value is None else NOT_DEFINED)
        elif score.percent:
            texts.append(percent(value))
        elif scientific:
            texts.append(_scientific(value, _DIGITS - 1))
        else:
            texts.append(_fixed(0.0 if abs(value) < _ROUNDING * largest else value, digits))
    return texts


def heading(score: Score) -> str:
    """Return the heading of the score's column.

    >>> heading(Score(name="ece", label="ECE", higher_is_better=False, percent=True, shown=True))
    'ECE %'
    """
    return f"{score.label} %" if score.percent else score.label


def value(score: Score, number: float) -> str:
    """Format one score with its unit.

    >>> value(Score(name="ece", label="ECE", higher_is_better=False, percent=True, shown=True), 0.0291)
    '2.91 %'
    """
    (text,) = column(score, [number])
    return f"{text} %" if score.percent and text != NOT_DEFINED else text


def points(score: Score) -> str:
    """Return the unit of a difference."""
    return " points" if score.percent else ""


def has_interval(comparison: Comparison) -> bool:
    """Return whether both bounds are finite; with a few examples they are not."""
    return math.isfinite(comparison.ci_high - comparison.ci_low)


def difference(score: Score, comparison: Comparison) -> str:
    """Format the difference with its unit."""
    if math.isnan(comparison.difference):
        return NOT_DEFINED
    if math.isinf(comparison.difference):
        return f"infinitely {'higher' if comparison.difference > 0 else 'lower'}"
    return f"{numbers(score, comparison)[0]}{points(score)}"


def interval(score: Score, comparison: Comparison) -> str:
    """Format the interval as ``low to high``, or ``no interval``."""
    if not has_interval(comparison):
        return "no interval"
    _, low, high = numbers(score, comparison)
    return f"{low} to {high}"


def amount(score: Score, size: float) -> str:
    """Format a size with two significant digits and its unit.

    >>> accuracy = Score(name="accuracy", label="accuracy", higher_is_better=True, percent=True, shown=True)
    >>> amount(accuracy, 0.00912), amount(accuracy, 0.3)
    ('0.91 points', '30 points')
    """
    scaled = _scale(score) * size
    return f"{_two_significant(scaled)}{points(score)}"


def at_most(score: Score, size: float) -> str:
    """Format a size above 0 as in `amount`, rounded up."""
    scaled = _scale(score) * size
    exponent = _exponent(scaled)
    step = 10.0 ** max(_SMALLEST, exponent - 1 if exponent not in _PLAIN else min(0, exponent - 1))
    up = math.ceil(round(scaled / step, 6)) * step  # 0.2 × 100 is 20.000000000000004
    return f"{_two_significant(up)}{points(score)}"


def as_given(score: Score, size: float) -> str:
    """Format a size as the user gave it, with its unit.

    >>> accuracy = Score(name="accuracy", label="accuracy", higher_is_better=True, percent=True, shown=True)
    >>> as_given(accuracy, 0.002), as_given(accuracy, 0.01)
    ('0.2 points', '1 point')
    """
    text = f"{_scale(score) * size:.12g}"
    return f"{text}{points(score).removesuffix('s') if text == '1' else points(score)}"


def p_text(p_value: float) -> str:
    """Format a p-value; rounding never moves it across 0.05.

    >>> p_text(2.87e-6), p_text(0.0312), p_text(0.998), p_text(1.0), p_text(math.nan), p_text(0.0501)
    ('< 0.0001', '0.031', '> 0.99', '1', 'n/a', '> 0.05')
    """
    if math.isnan(p_value):
        return NOT_DEFINED
    if p_value < 1e-4:  # noqa: PLR2004
        return "< 0.0001"
    if 0.99 < p_value < 1:  # noqa: PLR2004
        return "> 0.99"
    text = f"{p_value:.2g}"
    return f"> {ALPHA}" if p_value > ALPHA >= float(text) else text


def numbers(score: Score, comparison: Comparison) -> tuple[str, str, str]:
    """Format the difference and its bounds, which are finite, with signs and without unit.

    They have enough decimals to show the smallest of them, but no more than six digits of the largest.
    """
    found = comparison.difference, comparison.ci_low, comparison.ci_high
    scaled = [_scale(score) * number for number in found]
    sizes = _magnitudes(scaled)
    largest, smallest = max(sizes, default=1.0), min(sizes, default=1.0)
    if _exponent(largest) not in _PLAIN:
        middle, low, high = (_scientific(number, _DIGITS - 1, "+") for number in scaled)
        return middle, low, high
    fewest = 2 if score.percent else _digits_of_large(largest)
    digits = fewest
    if round(smallest, digits) == 0:
        digits = min(1 - _exponent(smallest), max(fewest, _DIGITS + 1 - _exponent(largest)))
    middle, low, high = (_fixed(number, digits, "+") for number in scaled)
    return middle, low, high


def _fixed(number: float, digits: int, sign: str = "") -> str:
    """Format without a minus before zero, and without rounding to a false zero."""
    if number != 0 and round(number, digits) == 0:
        number = math.copysign(10.0**-digits, number)
    return f"{number + 0.0:{sign}.{digits}f}"


def _scientific(number: float, digits: int, sign: str = "") -> str:
    return f"{number:{sign}.{digits}e}" if number else f"{0:{sign}}"


def _scale(score: Score) -> int:
    return 100 if score.percent else 1


def _magnitudes(values: Iterable[float | None]) -> list[float]:
    return [abs(number) for number in values if number and math.isfinite(number)]


def _exponent(number: float) -> int:
    return math.floor(math.log10(number))


def _digits_of_large(largest: float) -> int:
    """Return the decimals that show six digits of a large number."""
    return _DIGITS if largest < _LARGE else max(0, _DIGITS + 1 - _exponent(largest))


def _two_significant(size: float) -> str:
    if size == 0:
        return "0"
    if _exponent(size) not in _PLAIN:
        return _scientific(size, 1)
    return f"{size:.{max(0, 1 - _exponent(size))}f}"
