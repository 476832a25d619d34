"""Numbers and names as people read them, in one place, so that every format shows them alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

DASH = "\u2013"
TIMES = "\u00d7"

#: A glyph for each status and verdict, so that colour is never the only sign.
GLYPHS = {
    "ok": "\u2713",
    "diverged": "\u2717",
    "missing": "\u2205",
    "unexpected": "+",
    "shape_mismatch": "\u2260",
    "nonfinite": "\u221e",
    "not_compared": "?",
    "PARITY": "\u2713",
    "DIVERGED": "\u2717",
    "INCOMPLETE": "?",
    "INVALID": "!",
    "SIGNED OFF": "\u2713",
    "REFUSED": "\u2717",
}

# Control characters could control a terminal or break a page. Those of ASCII have pictures (U+2400...), which show that
# they were there; the others (C1, and those that turn the direction of writing) become replacement characters.
_VISIBLE = (
    {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
    | {127: 0x2421}
    | dict.fromkeys([*range(0x80, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
)


def number(value: float | None) -> str:
    """Three significant digits, exponents without padding: 3.10e-7, 0.340, 812; fewer where they are exact: 0.1."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e5):
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
        # 0.1 and not 0.100 where that is the value, 0.100 where it is 0.10004.
        return text.rstrip("0").rstrip(".") if "." in text and float(text.replace(",", "")) == value else text
    mantissa, exponent = f"{value:.2e}".split("e")
    if float(f"{mantissa}e{exponent}") == value:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def ratio(value: float | None) -> str:
    """A figure over its gate: 0.34 x, 34.1 x."""
    if value is None:
        return DASH
    # Rounding may not lift a passing ratio to the gate, nor lower a failing one to it.
    if 0.995 <= value < 1.005 and value != 1:
        return f"{value:.6g}{TIMES}"
    return f"{number(value)}{TIMES}"


def percent(value: float | None) -> str:
    """A share in percent, to one decimal."""
    if value is None:
        return DASH
    # Rounding may not lift a share to 100 %, nor lower one to 0 %.
    return f"{100 * value:.1f} %" if value in (0, 1) or 0.0005 <= value < 0.9995 else f"{100 * value:.6g} %"


def shape(value: Sequence[int] | None) -> str:
    """1x215x64 with real times signs; a shape of no axes is a scalar."""
    if value is None:
        return DASH
    return TIMES.join(map(str, value)) if value else "scalar"


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None:
        return DASH
    if value >= 120:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("\u00b5s", 1e-6)):
        if value >= size:
            # Division leaves 30.000000000000004, which would show a digit too many.
            return f"{number(float(f'{value / size:.12g}'))} {unit}"
    return f"{number(value)} s"


def measure(value: float | None, unit: str) -> str:
    """A number with its unit; seconds get the unit that suits them."""
    if value is None or unit == "s":
        return seconds(value)
    return f"{number(value)} {unit}".rstrip()


def size(value: int | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return DASH
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{number(round(amount, 1) if unit != 'B' else int(amount))} {unit}"
        amount /= 1024
    return f"{value} B"


def visible(text: str | None) -> str:
    """Text with its control characters made visible; tabs and newlines stay."""
    return DASH if text is None else text.translate(_VISIBLE)


def words(status: str) -> str:
    """shape_mismatch as people say it: shape mismatch."""
    return status.replace("_", " ")


def plural(count: int, noun: str, several: str | None = None) -> str:
    """1 row, 2 rows; 1 pass, 2 passes."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {several or noun + 's'}"
