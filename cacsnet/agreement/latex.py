"""A table of text cells as a LaTeX ``table`` that compiles as it is, whatever the ids of the cases are.

Needs the packages booktabs and graphicx; made for pdfLaTeX with its default encoding, so good for the others too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    # at the start of a row, \\ or \midrule would take these as their own
    "[": "{[}",
    "*": "{*}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "κ": r"$\kappa$",
    "µ": r"$\mu$",
    "°": r"$^\circ$",
    "²": r"$^2$",
    "³": r"$^3$",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
    "’": "'",
    '"': "''",
}
_MINUS = re.compile(r"(?<![\w)])-(?=[\d.])")
_ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
_LETTERS = "ßæøåœłÆØÅŒŁ"
WIDE = 40
"""A cell with more characters is broken into lines."""


def escape(text: str) -> str:
    """Text as LaTeX: special characters escaped, the minus sign of a number set as one, line breaks to spaces.

    A character that the default fonts can't set stands as its code, ``[U+4E2D]``: an id stays an id.
    """
    return "$-$".join(_piece(piece) for piece in _MINUS.split(" ".join(text.split())))


def _piece(text: str) -> str:
    # two hyphens in a row would be set as a dash
    return "".join("-{}" if text[i : i + 2] == "--" else _character(c) for i, c in enumerate(text))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if " " <= character <= "~" or character in _LETTERS:
        return character
    parts = unicodedata.normalize("NFD", character)
    letter, accents = parts[0], parts[1:]
    if len(accents) == 1 and accents in _ACCENTS and letter.isascii() and letter.isalpha() and ord(character) < 0x180:
        return character
    return f"{{[}}U+{ord(character):04X}]"


def latex_table(
    label: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    """A floating table. The first column is left-aligned, so are columns of words; one wider than the text is made smaller."""
    align = "".join("l" if i == 0 or _words(rows, i) else "r" for i in range(len(columns)))
    body = [_line(row) for row in rows] or [f"\\multicolumn{{{len(columns)}}}{{l}}{{none}} \\\\"]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escape(caption)}}}",
        f"\\label{{tab:{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"\\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _line(columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\medskip\raggedright\footnotesize"] if notes else []),
        *(f"{escape(note)}\\par" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(_cell(cell) for cell in cells) + r" \\"


def _cell(cell: str) -> str:
    text = escape(cell)
    return text if len(cell) <= WIDE else f"\\parbox[t]{{0.45\\linewidth}}{{\\raggedright {text}\\strut}}"


def _words(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether any cell is text rather than a number or a dash."""
    return any(re.match(r"\s*[A-Za-z]", row[column]) for row in rows)
