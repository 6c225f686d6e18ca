"""``python -m cacsnet.agreement <scores.csv> <reference.csv> output=DIR``: the whole agreement study of finished scores.

Writes ``report.html``, figures, ``agreement.json`` and the tables into ``output``. Label maps and candidates are looked for in
the case folders beside the score table; paths in the reference table start at its folder.

Keys: ``output`` (a folder, required), ``compare`` (a second score table: adds the comparison of both with the reference,
``comparison.json``, tables, a figure; difference = second - first), ``manifest`` (a table with heart rate, BMI ... by
``case_id``), ``resamples`` and ``seed`` of the bootstrap.

Without a reference, ``python -m cacsnet.agreement <a.csv> compare=<b.csv> output=DIR`` studies how the two tables agree with
each other: ``a`` takes the place of the reference, so bias = a - b, and "reclassified" means other than a's.

Exit code: 0 written, 2 a bad command or nothing that can be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from cacsnet.agreement.compare import Comparison, compare
from cacsnet.agreement.label_maps import label_paths
from cacsnet.agreement.study import RESAMPLES, Study, agreement_study
from cacsnet.agreement.tables import interval, number, study_summary
from cacsnet.agreement.write import write_study
from cacsnet.errors import ArgumentError, CacsError, ConfigError
from cacsnet.keys import read_keys, whole_number

WRITTEN, BAD_COMMAND = 0, 2
DEFAULTS = {"output": "", "compare": "", "manifest": "", "resamples": str(RESAMPLES), "seed": "0"}
USAGE = f"python -m cacsnet.agreement <scores.csv> <reference.csv> [{'= '.join(DEFAULTS)}=]"


@dataclass(frozen=True)
class Command:
    """A checked command; ``reference`` is None where two score tables are compared with each other."""

    scores: Path
    reference: Path | None
    second: Path | None
    manifest: Path | None
    output: Path
    resamples: int
    seed: int


def main(arguments: Sequence[str], console: Console | None = None) -> int:
    """Run a command and print the short table. Returns the exit code."""
    console = console or Console()
    try:
        command = parse(arguments)
        scores = read_table(command.scores, "scores")
        second = None if command.second is None else read_table(command.second, "compare")
        manifest = None if command.manifest is None else read_table(command.manifest, "manifest")
        common = {"covariates": manifest, "resamples": command.resamples, "seed": command.seed}
        if command.reference is None:
            assert second is not None
            assert command.second is not None
            labels: dict[str, Path] = {}
            study = agreement_study(scores, second, results=command.second.parent, **common)  # type: ignore[arg-type]
            title = f"agreement of {command.second.name} (model) with {command.scores.name} (in place of a reference)"
            study = replace(study, notes=(title, *study.notes))
            show(study, console, title)
        else:
            reference = read_table(command.reference, "reference")
            folders = {"results": command.scores.parent, "reference_folder": command.reference.parent}
            labels = label_paths(reference, command.reference.parent)
            study = agreement_study(reference, scores, **folders, **common)  # type: ignore[arg-type]
            show(study, console)
        found, failed = None, None
        if command.reference is not None and second is not None and command.second is not None:
            try:
                names = _names(command.scores, command.second)
                found = compare(reference, scores, second, names, **common)  # type: ignore[arg-type]
                show_comparison(found, console)
            except CacsError as error:  # the study of the first table is made all the same
                failed = ArgumentError(f"no comparison with {command.second.name}: {error.message}")
                study = replace(study, missing={**study.missing, "comparison": error.message})
        write_study(study, command.output, labels, found)
        if failed is not None:
            raise failed
    except ConfigError as error:
        console.print(f"[red]error:[/] {escape(str(error))}\n{escape(USAGE)}", soft_wrap=True)
        return BAD_COMMAND
    except (CacsError, OSError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        return BAD_COMMAND
    console.print(f"written to {escape(str(command.output))}", soft_wrap=True)
    return WRITTEN


def parse(arguments: Sequence[str]) -> Command:
    """Check a command before anything is computed.

    Raises:
        ConfigError: missing tables, an unknown key, a value out of its domain.
    """
    paths = [a for a in arguments if "=" not in a or Path(a).exists()]
    keys = read_keys([a for a in arguments if a not in paths], DEFAULTS)
    if not paths or len(paths) > 2 or (len(paths) == 1 and not keys["compare"]):
        raise ConfigError(
            "needs a score table and a reference table, or a score table and compare=", field="tables", value=paths
        )
    if not keys["output"]:
        raise ConfigError("needs output=, a folder", field="output", value="")
    output = Path(keys["output"])
    if output.exists() and not output.is_dir():
        raise ConfigError("is a file, not a folder", field="output", value=str(output))
    numbers = {name: whole_number(keys, name, least) for name, least in (("resamples", 1), ("seed", 0))}
    scores, reference = Path(paths[0]), Path(paths[1]) if len(paths) == 2 else None
    second, manifest = (Path(keys[name]) if keys[name] else None for name in ("compare", "manifest"))
    return Command(scores, reference, second, manifest, output, **numbers)


def read_table(path: Path, name: str) -> pd.DataFrame:
    """A CSV with ids as text; an empty file is no table.

    Raises:
        ConfigError: no such file, or no CSV.
    """
    if not path.is_file():
        raise ConfigError("no such file", field=name, value=str(path))
    try:
        return pd.read_csv(path, dtype={"case_id": str, "patient_id": str, "scan": str})
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't be read as CSV ({error})", field=name, value=str(path)) from error


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Short names of two tables: the file's, or where these are alike the folder's, too."""
    if first.name != second.name:
        return first.stem, second.stem
    return tuple(f"{path.resolve().parent.name}/{path.stem}" for path in (first, second))  # type: ignore[return-value]


def show(study: Study, console: Console, title: str = "agreement with the reference (Agatston)") -> None:
    """Print the short table of a study and what has to be known about it."""
    console.print(f"\n{escape(title)}", style="bold", soft_wrap=True)
    console.print(escape(study_summary(study)), soft_wrap=True, highlight=False)


def show_comparison(found: Comparison, console: Console) -> None:
    """Print how two models differ in the total score."""
    console.print(f"\n{escape(found.names[1])} against {escape(found.names[0])}, {found.n} cases", style="bold", soft_wrap=True)
    for d in found.differences:
        if d.part == "total":
            ci = interval((d.interval.low, d.interval.high), 3)
            line = f"{d.measure}: {number(d.first, 3)} -> {number(d.second, 3)}, difference {number(d.difference, 3)} [{ci}]"
            console.print(escape(line), soft_wrap=True, highlight=False)
    verdicts = found.changed["verdict"].value_counts()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "none"
    console.print(f"cases in another category: {counts}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
