"""LaTeX tables would compile: checked here by their structure, with no TeX installation."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from cacsnet.agreement.compare import compare, comparison_tables
from cacsnet.agreement.latex import WIDE, escape, latex_table
from cacsnet.agreement.study import agreement_study
from cacsnet.agreement.tables import study_tables

NASTY = (
    *("a_b & 50 % #1 $x {y}", r"C:\x\end{table}", "[2mm] first", "*star", "a~b^c`d|e", "<b>&amp;", "a--b---c"),
    *("Müller-Łódź", "患者 7", "zwölf µm² → 3 ± 1 °", "tab\there", "bell\x07", "emoji 🫀", "trailing \\"),
)
COMMANDS = {
    *("begin", "end", "centering", "caption", "label", "resizebox", "ifdim", "width", "linewidth", "else", "fi", "toprule"),
    *("midrule", "bottomrule", "multicolumn", "par", "medskip", "raggedright", "footnotesize", "parbox", "strut", "ldots"),
    *("textbackslash", "textasciitilde", "textasciicircum", "textasciigrave", "pm", "cdot", "times", "leq", "geq"),
    *("rightarrow", "kappa", "mu", "circ"),
}
"""Of LaTeX itself, booktabs and graphicx."""


def check(text: str, n_columns: int, n_rows: int) -> None:
    """Environments, braces and dollars are balanced, commands are known, every row has one cell a column."""
    first, _, text = text.partition("\n")
    assert first == "% needs \\usepackage{booktabs,graphicx}"
    bare = re.sub(r"\\[&%$#_{}\\]", "", text)  # escaped characters and row ends
    assert set(re.findall(r"\\([A-Za-z]+)", bare)) <= COMMANDS
    assert not re.search(r"\\[^A-Za-z]", bare)
    assert [line for line in bare.splitlines() if "%" in line] == [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    ]
    assert not re.search(r"[#\"~`]", bare)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert all(ord(c) < 0x180 for c in text)
    words, *pieces = bare.split("$")
    assert len(pieces) % 2 == 0
    for piece in [words, *pieces[1::2]]:
        assert not re.search(r"[\^_<>|]", re.sub(r"\\ifdim.*?\\fi|\\label{[^}]*}", "", piece)), piece
    balanced(bare)
    opened: list[str] = []
    for which, name in re.findall(r"\\(begin|end){(\w+)}", bare):
        if which == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    head, rest = text.split("\\toprule\n")
    body, _ = rest.split("\\bottomrule\n")
    columns = re.search(r"\\begin{tabular}{(\w+)}$", head.strip())
    assert columns is not None
    assert len(columns[1]) == n_columns
    lines = body.replace("\\midrule\n", "").splitlines()
    assert len(lines) == 1 + max(n_rows, 1)
    for line in lines:
        assert line.endswith(r" \\")
        balanced(re.sub(r"\\[{}]", "", line))
        assert not line.startswith(("[", "*"))  # would be an argument of the command before it
        cells = re.split(r"(?<!\\)&", line)
        spanned = re.match(r"\\multicolumn{(\d+)}", line)
        assert len(cells) == n_columns or (spanned is not None and (len(cells), int(spanned[1])) == (1, n_columns))
    assert "&" not in re.sub(r"\\&", "", head + text.split("\\bottomrule")[1])


def balanced(text: str) -> None:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize("nasty", NASTY)
def test_any_text_is_set(nasty: str) -> None:
    rows = [[nasty, "-1.5"], [f"{nasty} {'long ' * 10}", nasty]]
    check(latex_table("t", nasty, [nasty, "n"], rows, [nasty, nasty]), 2, 2)


def test_nothing_of_a_text_is_lost() -> None:
    assert escape("患") != escape("者")
    assert escape("患7") == "{[}U+60A3]7"
    assert escape("Müller") == "Müller"
    assert escape("a--b – c") == "a-{}-b -- c"
    assert escape("[x] *") == "{[}x] {*}"


def test_long_cells_are_broken_and_short_ones_are_not() -> None:
    text = latex_table("t", "c", ["Case", "Reason"], [["a", "x" * WIDE], ["b", "y" * (WIDE + 1)]])
    assert text.count("\\parbox") == 1
    assert f"{{\\raggedright {'y' * (WIDE + 1)}\\strut}}" in text


def test_a_table_without_rows_says_so() -> None:
    text = latex_table("t", "c", ["Case", "n", "p"], [])
    check(text, 3, 0)
    assert "\\multicolumn{3}{l}{none}" in text


def named(cohort: tuple[pd.DataFrame, pd.DataFrame]) -> list[pd.DataFrame]:
    """The cohort with case ids that TeX would choke on."""
    tables = []
    for table in cohort:
        ids = [f"{NASTY[i % len(NASTY)]} {i}" for i in range(len(table))]
        tables.append(table.assign(case_id=ids))
    return tables


def test_every_table_of_a_study_is_sound(cohort) -> None:
    reference, scores = named(cohort)
    scores["agatston_total"] *= 1.4
    tables = study_tables(agreement_study(reference, scores, resamples=10))
    other = scores.assign(agatston_total=scores["agatston_total"] * 0.5)
    tables += comparison_tables(compare(reference, scores, other, ("a_1", "b & c"), resamples=10))
    assert {"reclassified", "glm", "bland_altman", "comparison", "changed_cases"} <= {table.name for table in tables}
    assert any(table.rows for table in tables if table.name == "reclassified")
    for table in tables:
        text = latex_table(table.name, table.caption, table.columns, table.rows, table.notes)
        check(text, len(table.columns), len(table.rows))


def test_tables_of_a_degenerate_study_are_sound() -> None:
    one = pd.DataFrame({"case_id": ["x"], "agatston_total": [0.0]})
    for table in study_tables(agreement_study(one, one, resamples=10)):
        check(
            latex_table(table.name, table.caption, table.columns, table.rows, table.notes), len(table.columns), len(table.rows)
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"\end{tabular}}", r"\end{tabular}"),
        (r"\end{table}", ""),
        (r" & 2 \\", r" \\"),
        ("x", "50 % x"),
        ("x", "a_b"),
        ("x", "#"),
        ("x", r"\foo"),
        ("x", "$"),
        ("x", "\u0107\u4e2d"),
        ("x &", "[x] &"),
        ("x", "}{"),
    ],
)
def test_the_check_sees_what_is_unsound(old: str, new: str) -> None:
    text = latex_table("t", "c", ["Name", "n"], [["x", "2"]])
    check(text, 2, 1)
    assert old in text
    head, middle, rest = text.partition("\\midrule\n")
    broken = head + middle + rest.replace(old, new, 1)
    with pytest.raises((AssertionError, ValueError)):
        check(broken, 2, 1)
