"""Score a cohort: every case is scored, or recorded with the reason why not, and the others go on."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cacsnet.agreement.label_maps import label_paths
from cacsnet.agreement.study import agreement_study
from cacsnet.agreement.tables import study_summary
from cacsnet.agreement.write import write_study
from cacsnet.errors import CacsError, CheckpointError, ConfigError
from cacsnet.inference import results
from cacsnet.inference.pipeline import score_scan
from cacsnet.inference.settings import InferenceSettings, settings_from
from cacsnet.io.cases import Case, apply_overrides, find_cases
from cacsnet.io.read import read_scan
from cacsnet.labels import VESSEL_NAMES
from cacsnet.network.checkpoint import Model, load_model
from cacsnet.scoring import ScoringProfile, load_profile, profile_from_mapping

ALL_SCORED, BAD_COMMAND, SOME_FAILED = 0, 2, 3
KEYS = (
    *("input", "output", "reference", "checkpoint", "device", "engine", "scoring", "slab_mm", "overwrite"),
    *("save_structures", "patient_salt", "inference"),
)


@dataclass(frozen=True)
class Command:
    """A checked command.

    Attributes:
        cases: what to score.
        output: results folder.
        reference: table with ``case_id, agatston_total, ...`` or None.
        reference_folder: where paths in that table start.
        checkpoint: weights file.
        model: loaded, on the device.
        device: "cpu" or "cuda".
        overwrite: score finished cases again.
        save_structures: also write the structure map of each case.
        patient_salt: for hashes of DICOM patient ids.
        settings: of the pipeline.
    """

    cases: list[Case]
    output: Path
    reference: pd.DataFrame | None
    reference_folder: Path | None
    checkpoint: Path
    model: Model
    device: str
    overwrite: bool
    save_structures: bool
    patient_salt: str
    settings: InferenceSettings


def main(config: Mapping[str, Any], root: Path | None = None, console: Console | None = None) -> int:
    """Run a command and say on the console how it went.

    Args:
        config: the keys of ``conf/infer.yaml`` as plain values.
        root: where the shipped checkpoint is looked for if it isn't below the working directory.
        console: where to print.

    Returns:
        Exit code: 0 all scored, 3 some failed, 2 a bad command.
    """
    console = console or Console()
    try:
        command = check(config, root or Path.cwd(), console)
        return run(command, console)
    except (ConfigError, CheckpointError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        return BAD_COMMAND
    except OSError as error:
        console.print(f"[red]error:[/] can't write the results: {escape(str(error))}", soft_wrap=True)
        return BAD_COMMAND


def check(config: Mapping[str, Any], root: Path, console: Console) -> Command:
    """Find every mistake in a command before the first scan is read.

    Raises:
        ConfigError: a key, path, device, engine, profile or reference table that can't be used.
        CheckpointError: the weights can't be loaded.
    """
    unknown = sorted(set(config) - set(KEYS))
    if unknown:
        raise ConfigError(f"unknown key; known are {', '.join(KEYS)}", field="key", value=unknown[0])
    if config.get("engine", "auto") not in ("auto", "torch"):
        message = "not available yet" if config["engine"] == "openvino" else "must be auto or torch"
        raise ConfigError(message, field="engine", value=config["engine"])
    for key in ("overwrite", "save_structures"):
        if not isinstance(config.get(key, False), bool):
            raise ConfigError("must be true or false", field=key, value=config[key])
    device = pick_device(str(config.get("device", "auto")))
    inference = dict(config.get("inference") or {})
    for key in ("scoring", "slab_mm"):
        if key in inference:
            raise ConfigError(f"is a key of its own: {key}=...", field=f"inference.{key}", value=inference[key])
    inference |= {"scoring": pick_profile(config.get("scoring")), "slab_mm": config.get("slab_mm")}
    settings = settings_from(inference)

    given = config.get("input")
    if given is not None and not Path(str(given)).exists():
        raise ConfigError("no such file or folder", field="input", value=str(given))
    checkpoint = Path(str(config.get("checkpoint") or "checkpoints/cacsnet.safetensors"))
    if not checkpoint.exists() and not checkpoint.is_absolute() and (root / checkpoint).exists():
        checkpoint = root / checkpoint
    model = load_model(checkpoint, device)

    name = "examples" if given is None else (Path(str(given)).resolve().name.split(".")[0] or "results")
    output = Path(str(config.get("output") or Path("outputs") / name))
    if output.exists() and not output.is_dir():
        raise ConfigError("is a file, not a folder", field="output", value=str(output))
    reference_path = config.get("reference")
    if given is None:
        given, default_reference = example_cohort(Path("outputs") / ".examples", console)
        reference_path = reference_path or default_reference
        if not config.get("output"):  # a newer cohort has results of its own: finished cases of an older one aren't its
            output /= Path(given).parent.name
    reference = None if reference_path is None else read_reference(Path(str(reference_path)))
    output.mkdir(parents=True, exist_ok=True)
    salt = str(config["patient_salt"]) if config.get("patient_salt") else kept_salt(output)
    inside = output.resolve()
    # results of an earlier run are no scans
    cases = [case for case in find_cases(str(given), salt) if not case.path.resolve().is_relative_to(inside)]
    if not cases:
        raise ConfigError("no scans in this input", field="input", value=str(given))
    if reference is not None and not set(reference["case_id"]) & {case.case_id for case in cases}:
        raise ConfigError("has no case_id of this input", field="reference", value=str(reference_path))
    return Command(
        cases=cases,
        output=output,
        reference=reference,
        reference_folder=None if reference_path is None else Path(str(reference_path)).parent,
        checkpoint=checkpoint,
        model=model,
        device=device,
        overwrite=bool(config.get("overwrite", False)),
        save_structures=bool(config.get("save_structures", False)),
        patient_salt=salt,
        settings=settings,
    )


def run(command: Command, console: Console) -> int:
    """Score all cases of a checked command, write the results, print one table. Returns 0 or 3.

    Raises:
        ConfigError: the output folder holds cases that another model or other settings scored.
        OSError: the results can't be written.
    """
    output = command.output
    manifest = run_manifest(command)
    finished = {} if command.overwrite else check_finished(command, manifest)
    tables = results.Tables(output, [case.case_id for case in command.cases])
    for case_id, document in finished.items():
        tables.scores[case_id] = document["scores"]
    tables.write()
    to_do = [case for case in command.cases if case.case_id not in finished]
    if finished:
        console.print(f"{len(finished)} finished case(s) skipped (overwrite=true scores them again)")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(to_do))
        for number, case in enumerate(to_do, 1):
            if not console.is_terminal:  # a log has no bar
                console.print(f"{number} of {len(to_do)}: {escape(case.case_id)}", soft_wrap=True)

            def on_stage(name: str, case_id: str = case.case_id) -> None:
                progress.update(task, description=f"{escape(case_id)}: {name}")

            tables.add(*score_case(command, case, manifest, on_stage))
            progress.advance(task)

    shown = [tables.scores[case.case_id] or {} for case in command.cases]
    console.print(result_table(shown, command.reference))
    failures = [failed for case in command.cases if (failed := tables.failures[case.case_id])]
    for each in failures:
        console.print(f"[red]failed[/] {escape(each['case_id'])}: {escape(each['message'])}", soft_wrap=True)
    console.print(f"results: {escape(str(output / 'scores.csv'))}, one folder per case beside it", soft_wrap=True)
    if command.reference is not None:
        study_agreement(command, shown, console)
    return SOME_FAILED if failures else ALL_SCORED


def score_case(
    command: Command, case: Case, manifest: Mapping[str, Any], on_stage: Callable[[str], None]
) -> tuple[results.Row, results.Row | None]:
    """Read, score and write one case: its row, and its failure if it failed. Only an interrupt gets out."""
    start = time.perf_counter()
    scan = None
    try:
        on_stage("reading")
        scan = read_scan(case.path, case.series_uid, patient_salt=command.patient_salt)
        scan = apply_overrides(scan, case)
        result = score_scan(scan, command.model, command.settings, on_stage)
        scan = result.scan  # as it was scored
        on_stage("writing")
        row = results.score_row(case, scan, result, time.perf_counter() - start)
        results.write_case(command.output, case, scan, result, row, manifest, command.save_structures)
    except Exception as error:
        # whatever a scan does to us, the others go on and this one is on record
        results.remove_case(command.output, case.case_id)
        seconds = time.perf_counter() - start
        row = results.failed_row(case, scan, error, seconds, command.settings.quality)
        return row, results.failure(case, error)
    return row, None


def run_manifest(command: Command) -> dict[str, Any]:
    """What a score depends on beside the scan."""
    return {
        "versions": results.versions(),
        "checkpoint": command.checkpoint.name,
        "weights_sha256": command.model.sha256,
        "device": command.device,
        "settings": results.plain(asdict(command.settings)),
    }


def check_finished(command: Command, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Finished cases of earlier runs, by case id.

    Raises:
        ConfigError: one was scored by another model or with other settings: one table must not mix them.
    """
    finished = {}
    for case in command.cases:
        document = results.finished_case(command.output, case.case_id)
        if document is None:
            continue
        for key in ("weights_sha256", "settings"):
            if document["run"].get(key) != manifest[key]:
                raise ConfigError(
                    f"holds case {case.case_id} scored with other {key.replace('_sha256', '')}: "
                    "choose another output or overwrite=true",
                    field="output",
                    value=str(command.output),
                )
        finished[case.case_id] = document
    return finished


def pick_device(name: str) -> str:
    """ "cpu" or "cuda" for auto, cpu or cuda."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError("must be auto, cpu or cuda", field="device", value=name)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("no CUDA device is available here", field="device", value=name)
    return "cuda" if available and name != "cpu" else "cpu"


def pick_profile(given: Any) -> ScoringProfile:
    """A profile from its name or from the settings of its YAML file."""
    return profile_from_mapping(given) if isinstance(given, Mapping) else load_profile(str(given or "smartscore"))


def read_reference(path: Path) -> pd.DataFrame:
    """A reference table with text ``case_id`` and ``agatston_total``.

    Raises:
        ConfigError: no such file, no such columns, or a case twice.
    """
    if not path.is_file():
        raise ConfigError("no such file", field="reference", value=str(path))
    try:
        table = pd.read_csv(path, dtype={"case_id": str})
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't be read as CSV ({error})", field="reference", value=str(path)) from error
    for column in ("case_id", "agatston_total"):
        if column not in table.columns:
            raise ConfigError(f"has no column {column}", field="reference", value=str(path))
    repeated = table["case_id"][table["case_id"].duplicated()]
    if len(repeated):
        raise ConfigError(f"has case {repeated.iloc[0]!r} twice", field="reference", value=str(path))
    return table


def example_cohort(folder: Path, console: Console) -> tuple[Path, Path | None]:
    """The embedded example cohort, generated where it isn't there yet: manifest and reference table."""
    from cacsnet.phantom.examples import ensure_examples  # only who asks for examples needs the generator

    console.print("no input given: scoring the embedded example cohort (digital phantoms)")
    manifest = Path(ensure_examples(folder, on_case=lambda name: console.print(f"  making {name} …")))
    reference = manifest.parent / "reference.csv"
    return manifest, reference if reference.is_file() else None


def kept_salt(output: Path) -> str:
    """The random salt of an output folder, so that a resumed run gives a patient the same id."""
    path = output / ".patient_salt"
    if not path.is_file():
        temporary = output / ".patient_salt.tmp"
        temporary.write_text(secrets.token_hex(16))
        temporary.chmod(0o600)
        os.replace(temporary, path)
    return path.read_text().strip()


def result_table(rows: Sequence[Mapping[str, Any]], reference: pd.DataFrame | None) -> Table:
    """The table shown after a run, one row a case."""
    table = Table(title="Agatston score", caption="Research use only, not a medical device.")
    table.add_column("case", overflow="fold")
    for name in (*VESSEL_NAMES, "total"):
        table.add_column(name, justify="right")
    table.add_column("category", justify="right")
    known: dict[str, float] = {}
    if reference is not None:
        table.add_column("reference", justify="right")
        known = dict(zip(reference["case_id"], reference["agatston_total"], strict=True))
    table.add_column("flags", overflow="fold")
    for row in rows:
        failed = row.get("status") == "failed"
        cells = ["" if failed else _one_decimal(row.get(f"agatston_{name}")) for name in (*VESSEL_NAMES, "total")]
        cells.append("failed" if failed else str(row.get("risk_category", "")))
        if reference is not None:
            cells.append(_one_decimal(known.get(str(row.get("case_id")))))
        flags = escape(str(row.get("flags") or "").replace(";", ", "))
        table.add_row(escape(str(row.get("case_id"))), *cells, flags, style="red" if failed else None)
    return table


def _one_decimal(value: Any) -> str:
    number = pd.to_numeric(value, errors="coerce") if value is not None else float("nan")
    return "" if pd.isna(number) else f"{float(number):.1f}"


def study_agreement(command: Command, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Agreement with the reference: printed in short, and written to ``<output>/agreement``; says so where nothing can be
    compared."""
    assert command.reference is not None
    console.print("\nagreement with the reference (Agatston)", style="bold")
    folder = command.output / "agreement"
    try:
        study = agreement_study(
            command.reference,
            pd.DataFrame(rows, columns=list(results.SCORE_COLUMNS)),
            covariates=pd.DataFrame([{**case.overrides, "case_id": case.case_id} for case in command.cases]),
            results=command.output,
            reference_folder=command.reference_folder,
        )
    except CacsError as error:
        for name in ("agreement.json", "report.html"):  # of an earlier run: not of these scores
            (folder / name).unlink(missing_ok=True)
        console.print(f"no agreement with the reference: {escape(error.message)}", soft_wrap=True)
        return
    console.print(escape(study_summary(study)), soft_wrap=True, highlight=False)
    write_study(study, folder, label_paths(command.reference, command.reference_folder))
    console.print(f"study: {escape(str(folder))}", soft_wrap=True)
