"""Scores, differences and p-values as text: rounding never shows a 0, or a 100 %, that is none."""

import math
from collections.abc import Iterable, Sequence

from swa_cli.evaluation.result import Comparison, Score

NOT_DEFINED = "n/a"
_DIGITS = 4
"""After the point, of what is not in percent."""
_LARGE = 100
_MOST = 12
"""Digits after the point: what is smaller is the rounding of float64."""


def percent(fraction: float, digits: int = 2) -> str:
    """``fraction`` in percent; rounding never shows 0 or 100 for what is not.

    >>> percent(0.99999), percent(1.0), percent(0.00001)
    ('99.99', '100.00', '0.01')
    """
    if fraction < 1 and round(100 * fraction, digits) >= _LARGE:
        return f"{100 - 10.0**-digits:.{digits}f}"
    return _never_zero(100 * fraction, digits)


def column(score: Score, values: Sequence[float | None]) -> list[str]:
    """One score of several candidates, with the same digits: at least four of the largest; blank where it is missing.

    >>> nll = Score(name="nll", label="NLL", higher_is_better=False, percent=False, shown=True)
    >>> column(nll, [0.37118, None, math.nan]), column(nll, [0.00021, 0.000134]), column(nll, [12345.678, 9.0])
    (['0.3712', '', 'n/a'], ['0.0002100', '0.0001340'], ['12345.7', '9.0'])
    """
    largest = max(_magnitudes(values), default=1.0)
    digits = max(_digits_of_large(largest), min(_DIGITS - 1 - _exponent(largest), _MOST))
    return ["" if value is None else _value(score, value, digits) for value in values]


def heading(score: Score) -> str:
    """What a column of it is called.

    >>> heading(Score(name="ece", label="ECE", higher_is_better=False, percent=True, shown=True))
    'ECE %'
    """
    return f"{score.label} %" if score.percent else score.label


def value(score: Score, number: float) -> str:
    """One score with its unit.

    >>> value(Score(name="ece", label="ECE", higher_is_better=False, percent=True, shown=True), 0.0291)
    '2.91 %'
    """
    (text,) = column(score, [number])
    return f"{text} %" if score.percent and text != NOT_DEFINED else text


def points(score: Score) -> str:
    """The unit of a difference."""
    return " points" if score.percent else ""


def difference(score: Score, comparison: Comparison) -> tuple[str, str, str]:
    """The difference and the bounds of its interval, all with as many digits as show the smallest of them.

    Infinite and NaN bounds, those of a single example, stay as they are: see `interval`.
    """
    scale = _scale(score)
    numbers = [scale * number for number in (comparison.difference, comparison.ci_low, comparison.ci_high)]
    sizes = _magnitudes(numbers)
    digits = 2 if score.percent else _digits_of_large(max(sizes, default=0.0))
    smallest = min(sizes, default=1.0)
    if round(smallest, digits) == 0:
        digits = min(1 - _exponent(smallest), _MOST)
    middle, low, high = (f"{number + 0.0:+.{digits}f}" for number in numbers)  # + 0.0: no minus before a zero
    return middle, low, high


def interval(score: Score, comparison: Comparison) -> str:
    """``low to high``, or that there is none."""
    if not (math.isfinite(comparison.ci_low) and math.isfinite(comparison.ci_high)):
        return "no interval"
    _, low, high = difference(score, comparison)
    return f"{low} to {high}"


def amount(score: Score, size: float) -> str:
    """A size of two significant digits, with its unit.

    >>> accuracy = Score(name="accuracy", label="accuracy", higher_is_better=True, percent=True, shown=True)
    >>> amount(accuracy, 0.00912), amount(accuracy, 0.3)
    ('0.91 points', '30 points')
    """
    scaled = _scale(score) * size
    return f"{scaled:.{_two_significant(scaled)}f}{points(score)}"


def at_most(score: Score, size: float) -> str:
    """As `amount`, rounded up."""
    scaled = _scale(score) * size
    digits = _two_significant(scaled)
    up = math.ceil(round(scaled * 10**digits, 6)) / 10**digits  # 0.2 × 100 is 20.000000000000004
    return f"{up:.{digits}f}{points(score)}"


def as_given(score: Score, size: float) -> str:
    """A size as the user gave it, with its unit.

    >>> as_given(Score(name="ece", label="ECE", higher_is_better=False, percent=True, shown=True), 0.002)
    '0.2 points'
    """
    return f"{_scale(score) * size:g}{points(score)}"


def p_text(p_value: float) -> str:
    """A p-value.

    >>> p_text(2.87e-6), p_text(0.0312), p_text(0.998), p_text(1.0), p_text(math.nan)
    ('< 0.0001', '0.031', '> 0.99', '1', 'n/a')
    """
    if math.isnan(p_value):
        return NOT_DEFINED
    if p_value < 1e-4:  # noqa: PLR2004
        return "< 0.0001"
    return "> 0.99" if 0.99 < p_value < 1 else f"{p_value:.2g}"  # noqa: PLR2004


def _value(score: Score, number: float, digits: int) -> str:
    if math.isnan(number):
        return NOT_DEFINED
    return percent(number) if score.percent else _never_zero(number, digits)


def _never_zero(number: float, digits: int) -> str:
    if number != 0 and round(number, digits) == 0:
        number = math.copysign(10.0**-digits, number)
    return f"{number + 0.0:.{digits}f}"


def _scale(score: Score) -> int:
    return 100 if score.percent else 1


def _magnitudes(numbers: Iterable[float | None]) -> list[float]:
    return [abs(number) for number in numbers if number and math.isfinite(number)]


def _exponent(number: float) -> int:
    return math.floor(math.log10(number))


def _digits_of_large(largest: float) -> int:
    """Six digits in all where the number is large."""
    return _DIGITS if largest < _LARGE else max(0, _DIGITS + 1 - _exponent(largest))


def _two_significant(size: float) -> int:
    return min(max(0, 1 - _exponent(size)), _MOST) if size > 0 and math.isfinite(size) else 0
