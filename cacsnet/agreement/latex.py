"""A table of text cells as a LaTeX ``table`` with booktabs rules."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "κ": r"$\kappa$",
    "²": r"$^2$",
    "³": r"$^3$",
    "–": "--",
    "…": r"\ldots{}",
    '"': "''",
}
_MINUS = re.compile(r"(?<![\w)])-(?=[\d.])")


def escape(text: str) -> str:
    """Text as LaTeX: special characters escaped, the minus sign of a number set as one, line breaks to spaces."""
    parts = (
        "".join(_SPECIAL.get(character, character) for character in piece) for piece in _MINUS.split(" ".join(text.split()))
    )
    return "$-$".join(parts)


def latex_table(
    label: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    """A floating table; needs ``\\usepackage{booktabs}``. The first column is left-aligned, so are columns of words."""
    align = "".join("l" if i == 0 or _words(rows, i) else "r" for i in range(len(columns)))
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escape(caption)}}}",
        f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _line(columns),
        r"\midrule",
        *(_line(row) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"\\par\\footnotesize {escape(note)}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def _words(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether any cell is text rather than a number or a dash."""
    return any(re.match(r"\s*[A-Za-z]", row[column]) for row in rows)
