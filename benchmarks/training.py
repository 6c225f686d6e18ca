"""How fast training is: loading beside no loading, share of the machine's peak, memory, and where a step's time goes.

``python benchmarks/training.py [stages=coarse,fine] [steps=12] [cache_dir=…] [experiment=…] [overrides=…]
[output=training.json] [docs=docs]``

What is timed is :func:`cacsnet.training.run.train_stage` itself, as ``train.py`` calls it, through Lightning's profiler hooks;
only validation and the progress bar are off. Rounds with patches that the loader's workers read from the cache on disk
alternate with rounds of the same loop on patches that lie ready in memory, and large matrix products are timed before each, so
that other work on the machine falls on all alike: read the ratios. ``steps``: how many are counted of each kind, over all
rounds; the first ones of a round are not. Where ``cache_dir`` (default: the stage's own) lacks patches, a few are made first.
On the CPU and, where there is one, on the GPU (``conf/trainer/gpu.yaml``).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from pages import write_between
from process_memory import status_bytes
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode
from training_clock import Steps, fit

from cacsnet.data.fill import fill
from cacsnet.data.memory import keep_memory
from cacsnet.data.module import PhantomData
from cacsnet.errors import ConfigError
from cacsnet.keys import read_keys, whole_number
from cacsnet.training.module import StageModule
from cacsnet.training.sweep import composed

KEYS = {
    "stages": "coarse,fine", "steps": "12", "cache_dir": "", "experiment": "", "output": "training.json",
    "overrides": "", "docs": "",
}  # fmt: skip
EXPERIMENTS = {"coarse": "phantom", "fine": "phantom_fine"}
"""Each stage's own, where no experiment is asked for."""

MARK = "training speed"
TARGET_RATIO = 0.95
FEW = 24
"""Patches that are made where the cache has fewer, and patches that lie ready in memory."""

ROUNDS, MEMORY_STEPS = 3, 2
SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
"""Sides of the square matrices whose product is the peak."""

PRODUCTS = {"cpu": 2, "cuda": 10}
TRAINER = {"cpu": ("trainer=auto", "trainer.accelerator=cpu"), "cuda": ("trainer=gpu",)}
TITLES = {"cpu": "CPU", "cuda": "GPU"}
NOT_MEASURED = "not measured"


class Ready:
    """Patches in memory; the epoch changes nothing."""

    epoch = 0

    def __init__(self, patches: Sequence[dict[str, Tensor]]) -> None:
        self.patches = patches

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.patches[index]


def data_on_disk(config: Mapping[str, Any], name: str, cache_dir: str) -> tuple[PhantomData, int]:
    """The stage's own data on as many patches as the cache has (``FEW`` at least), and how many had to be made."""
    values = config["stages"][name]["data"]
    values = {**values, "cache_dir": cache_dir or values["cache_dir"]}
    if values["cache_dir"] is None:
        raise ConfigError("patches are loaded from a cache: name its folder", field="cache_dir", value=None)
    seed = int(config["seed"])
    patches = PhantomData(**values, seed=seed).patches
    there = next((n for n in range(len(patches)) if not patches.cached(n).exists()), len(patches))
    length = max(there, min(FEW, len(patches)))
    data = PhantomData(**{**values, "length": length}, seed=seed)
    return data, fill(data.patches, workers=0)


def in_memory(data: PhantomData) -> SimpleNamespace:
    """A few of its patches, loaded and jittered once."""
    ready = Ready([data.patches[n] for n in range(min(FEW, len(data.patches)))])
    return SimpleNamespace(patches=ready, batch_size=data.batch_size, workers=0)


def flops_of_step(config: Mapping[str, Any], name: str, batch: dict[str, Tensor]) -> dict[str, int]:
    """FLOPs of convolutions and matrix products (multiply and add are two) in the stage's own training step, forward and
    backward. What else there is (norms, upsampling, losses) is not counted."""
    module = StageModule(config["stages"][name]["model"], config["loss"], config["optimizer"], bool(config["channels_last"]))
    with warnings.catch_warnings(), FlopCounterMode(display=False) as forward:
        warnings.filterwarnings("ignore", message=".*self.log")  # there is no trainer
        loss = module.training_step(batch, 0)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    counted = {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}
    return {**counted, "step": sum(counted.values())}


def product_rates(device: str, dtype: torch.dtype) -> list[float]:
    """FLOP/s of large matrix products, one by one, after one that doesn't count."""
    rates = []
    for size in SIZES[device]:
        a, b = torch.randn(2, size, size, device=device, dtype=dtype)
        for repeat in range(1 + PRODUCTS[device]):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            torch.mm(a, b)
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                rates.append(2 * size**3 / (time.perf_counter() - start))
    return rates


def memory_in_child(keys: Mapping[str, str], name: str) -> dict[str, Any]:
    """Peak resident memory of a process that only trains."""
    experiment = keys["experiment"] or EXPERIMENTS[name]
    command = [sys.executable, "-W", "ignore", __file__, "--memory", experiment, name, keys["cache_dir"], keys["overrides"]]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    what = "resident memory of the training process: Python, torch, weights, average, optimizer, activations, batch; no workers"
    return {**json.loads(done.stdout.splitlines()[-1]), "what": what}


def memory_of_training(experiment: str, name: str, cache_dir: str, overrides: str) -> dict[str, int]:
    """For the child: peak resident bytes so far after a few steps on the CPU, and the bytes before the data and the first step.

    VmHWM, not ru_maxrss: the latter keeps the peak of the process that started this one.
    """
    before = status_bytes("VmRSS")
    config = config_of(experiment, "cpu", overrides)
    fit(name, config, data_on_disk(config, name, cache_dir)[0], MEMORY_STEPS, "cpu")
    return {"peak_bytes": status_bytes("VmHWM"), "before_bytes": before}


def config_of(experiment: str, device: str, overrides: str = "") -> dict[str, Any]:
    """``train.py``'s configuration without what is not a training step. ``overrides``: further ones, separated by commas."""
    extra = [one for one in overrides.split(",") if one]
    return composed([f"experiment={experiment}", *TRAINER[device], "validation.size=0", "progress=false", *extra])


def measure(name: str, device: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """All figures of one stage on one device, in patches, seconds, FLOPs and bytes."""
    config = config_of(keys["experiment"] or EXPERIMENTS[name], device, keys["overrides"])
    data, made = data_on_disk(config, name, keys["cache_dir"])
    ready = in_memory(data)
    batch = default_collate([ready.patches[n % len(ready.patches)] for n in range(data.batch_size)])
    flops = flops_of_step(config, name, batch)
    trained = torch.bfloat16 if "bf16" in str(config["trainer"]["precision"]) else torch.float32
    products: dict[torch.dtype, list[float]] = {dtype: [] for dtype in (torch.float32, trained)}
    disk: list[Steps] = []
    memory: list[Steps] = []
    each = -(-int(keys["steps"]) // ROUNDS)
    for _ in range(ROUNDS):
        for rounds, source in ((disk, data), (memory, ready)):
            for dtype, rates in products.items():
                rates += product_rates(device, dtype)
            rounds.append(fit(name, config, source, each, device))
    if device == "cuda":  # a run of its own: waiting at every mark makes it slower
        torch.cuda.reset_peak_memory_stats()
        parted = fit(name, config, data, each, device, each=True)
        what = "torch.cuda.max_memory_allocated: weights, average, optimizer, activations, batch; not the CUDA context"
        used: dict[str, Any] = {"peak_bytes": torch.cuda.max_memory_allocated(), "what": what}
    else:
        parted, used = flat(disk), memory_in_child(keys, name)
    return {
        "precision": str(config["trainer"]["precision"]),
        "batch_size": data.batch_size,
        "workers": data.workers,
        "patches_on_disk": len(data.patches),
        "patches_made": made,
        "loading": loading(disk, memory, data.batch_size),
        "flops": flops,
        **share_of_peak(flops["step"], middle(flat(disk)), {str(k)[6:]: v for k, v in products.items()}, str(trained)[6:]),
        "memory": used,
        "parts": shares(parted),
    }


def flat(rounds: Sequence[Steps]) -> Steps:
    return [step for steps in rounds for step in steps]


def middle(steps: Steps) -> float:
    return median(step["seconds"] for step in steps)


def loading(disk: Sequence[Steps], memory: Sequence[Steps], batch_size: int) -> dict[str, Any]:
    """Patches a second by the median step of each kind, and their quotient; ``by_round``: that of neighbouring rounds."""
    rate, without = batch_size / middle(flat(disk)), batch_size / middle(flat(memory))
    return {
        "patches_per_s": rate,
        "patches_per_s_in_memory": without,
        "ratio": rate / without,
        "target": TARGET_RATIO,
        "by_round": [middle(b) / middle(a) for a, b in zip(disk, memory, strict=True)],
        "step_s": middle(flat(disk)),
        "step_s_in_memory": middle(flat(memory)),
        "steps_s": [[step["seconds"] for step in steps] for steps in disk],
        "steps_s_in_memory": [[step["seconds"] for step in steps] for steps in memory],
    }


def share_of_peak(flops: int, step_s: float, products: Mapping[str, Sequence[float]], trained: str) -> dict[str, Any]:
    """FLOP/s of the median step beside the best product, and beside the median one, which had the same load of other work."""
    rate = flops / step_s
    best, typical = max(products[trained]), median(products[trained])
    return {
        "flop_per_s": rate,
        "peak_precision": trained,
        "peak_flop_per_s": best,
        "share_of_peak": rate / best,
        "median_product_flop_per_s": typical,
        "share_of_median_product": rate / typical,
        "best_products_flop_per_s": {name: max(rates) for name, rates in products.items()},
    }


def shares(steps: Steps) -> dict[str, float]:
    """Shares of the steps' time; they add up to one."""
    total = sum(step["seconds"] for step in steps)
    return {part: sum(step[part] for step in steps) / total for part in steps[0] if part != "seconds"}


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else NOT_MEASURED,
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0],
    }


def columns(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``stage, device`` to its figures; what was not measured keeps its column."""
    return {f"{name}, {TITLES[device]}": found for name, each in stages.items() for device, found in each.items()}


def rows_of(found: Mapping[str, Any]) -> dict[str, str]:
    """What the tables show of one column."""
    load, memory, flops = found["loading"], found["memory"], found["flops"]
    before = f" (before the data: {memory['before_bytes'] / 1e9:.2f})" if "before_bytes" in memory else ""
    rounds = load["by_round"]
    return {
        "precision; patches a step": f"{found['precision']}; {found['batch_size']}",
        "patches/s, loaded from disk": f"{load['patches_per_s']:.3g}",
        "patches/s, ready in memory": f"{load['patches_per_s_in_memory']:.3g}",
        f"ratio (target {load['target']:g}); by round": f"**{load['ratio']:.3f}**; {min(rounds):.2f} to {max(rounds):.2f}",
        "GFLOP of a step, forward + backward": f"{flops['forward'] / 1e9:.1f} + {flops['backward'] / 1e9:.1f}",
        "GFLOP/s of the median step": f"{found['flop_per_s'] / 1e9:.3g}",
        "GFLOP/s of the best matrix product": f"{found['peak_flop_per_s'] / 1e9:.3g} ({found['peak_precision']})",
        "share of that peak": f"**{found['share_of_peak']:.1%}**",
        "share of the median product": f"{found['share_of_median_product']:.1%}",
        "peak memory, GB": f"{memory['peak_bytes'] / 1e9:.2f}{before}",
        **{f"of a step: {part}": f"{share:.1%}" for part, share in found["parts"].items()},
    }


def rows(stages: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The table: a header, then one row per figure."""
    texts = {title: None if found == NOT_MEASURED else rows_of(found) for title, found in columns(stages).items()}
    names = next(list(text) for text in texts.values() if text is not None)
    return [["", *texts], *([name, *(NOT_MEASURED if t is None else t[name] for t in texts.values())] for name in names)]


def page(result: Mapping[str, Any]) -> str:
    """The measured part of docs/training.md."""
    of = result["machine"]
    head, *body = rows(result["stages"])
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    which = f"{of['cpu']}, {of['threads']} of {of['cores']} threads; GPU: {of['gpu']}; torch {of['torch']}"
    return f"`{result['command']}` on {which}.\n\n" + "\n".join(lines)


def _checked(keys: Mapping[str, str]) -> list[str]:
    """The stages asked for."""
    whole_number(keys, "steps", 1)
    if keys["docs"] and not (Path(keys["docs"]) / "training.md").is_file():
        raise ConfigError("the folder has no training.md", field="docs", value=keys["docs"])
    known = config_of(keys["experiment"], "cpu")["stages"] if keys["experiment"] else EXPERIMENTS
    names = keys["stages"].split(",")
    for name in names:
        if name not in known:
            raise ConfigError(f"choose from {', '.join(known)}", field="stages", value=name)
    return names


def main(arguments: Sequence[str], console: Console | None = None) -> int:
    """Exit code 0, or 2 for a bad command."""
    console = console or Console(width=140)
    try:
        keys = read_keys(arguments, KEYS)
        names = _checked(keys)
        command = f"python benchmarks/training.py stages={keys['stages']} steps={keys['steps']}"
        command += "".join(f" {key}={keys[key]}" for key in ("experiment", "overrides") if keys[key])
        result: dict[str, Any] = {"command": command, "machine": machine(), "stages": {}}
        for name in names:
            gpu = measure(name, "cuda", keys) if torch.cuda.is_available() else NOT_MEASURED
            result["stages"][name] = {"cpu": measure(name, "cpu", keys), "cuda": gpu}
        Path(keys["output"]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        head, *body = rows(result["stages"])
        table = Table(*head, title=f"training, {result['machine']['threads']} threads")
        for row in body:
            table.add_row(*(cell.replace("*", "") for cell in row))
        console.print(table)
        if keys["docs"]:
            write_between(Path(keys["docs"]) / "training.md", MARK, page(result))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    keep_memory()  # as train.py and cacsnet.training.run.main do
    torch.set_float32_matmul_precision("high")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    if sys.argv[1:2] == ["--memory"]:
        print(json.dumps(memory_of_training(*sys.argv[2:6])))
    else:
        sys.exit(main(sys.argv[1:]))
