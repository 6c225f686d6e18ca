"""Speed of training: like is compared with like, and every figure follows from what was measured. No test is timed."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

SPEC = importlib.util.spec_from_file_location("benchmark_training", ROOT / "benchmarks" / "training.py")
benchmark = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)

import training_clock  # noqa: E402

from cacsnet.network.checkpoint import stage_config  # noqa: E402
from cacsnet.network.unet import summary  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers", "ignore:.*isinstance.treespec, LeafSpec"
)
PARTS = ["waiting for the batch", "forward", "loss", "backward", "optimizer", "rest"]
PAGE = "before\n<!-- training speed: start -->\nold\n<!-- training speed: end -->\nafter\n"


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A cache with all the patches of experiment=smoke, coarse."""
    folder = tmp_path_factory.mktemp("patches")
    data, made = benchmark.data_on_disk(benchmark.config_of("smoke", "cpu"), "coarse", str(folder))
    assert made == len(data.patches) == 4
    return folder


@pytest.fixture(scope="module")
def measured(patches, tmp_path_factory):
    """(result, page, what was printed) of one real run on the tiny stage."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "training.md").write_text(PAGE, encoding="utf-8")
    console = Console(record=True, width=140, file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "SIZES", {"cpu": (64, 128)})
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(training_clock, "WARM_UP", 1)
        patch.setattr(benchmark, "ROUNDS", 2)
        keys = ["experiment=smoke", "stages=coarse", "steps=4", f"cache_dir={patches}"]
        code = benchmark.main([*keys, f"output={folder / 'speed.json'}", f"docs={folder}"], console)
    assert code == 0
    return json.loads((folder / "speed.json").read_text()), (folder / "training.md").read_text(), console.export_text()


def step(seconds, **parts):
    return {"seconds": seconds, **dict.fromkeys(PARTS, 0.0), **parts}


def made_up_batch():
    """For the tiny networks of experiment=smoke."""
    side = torch.zeros(2, 32, 32, 32)
    points = {"points": torch.ones(2, 3, 3), "point_label": torch.zeros(2, 3).byte(), "point_group": torch.zeros(2, 3).byte()}
    return {"hu": side, "structures": side.byte(), "course": side.byte(), **points}


@pytest.mark.slow
def test_figures_of_a_real_run_belong_together(measured):
    result = measured[0]
    assert result["machine"]["gpu"] == result["stages"]["coarse"]["cuda"] == "not measured"
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert result["machine"]["torch"] == torch.__version__
    assert result["machine"]["cpu"]
    found = result["stages"]["coarse"]["cpu"]
    load = found["loading"]
    for kind in ("steps_s", "steps_s_in_memory"):  # four steps over two rounds, the warm-up not among them
        assert [len(steps) for steps in load[kind]] == [2, 2]
        assert all(s > 0 for steps in load[kind] for s in steps)
    assert load["patches_per_s"] == pytest.approx(found["batch_size"] / load["step_s"])
    assert load["ratio"] == pytest.approx(load["patches_per_s"] / load["patches_per_s_in_memory"])
    assert found["flop_per_s"] == pytest.approx(found["flops"]["step"] / load["step_s"])
    assert found["share_of_peak"] == pytest.approx(found["flop_per_s"] / found["peak_flop_per_s"])
    assert found["share_of_median_product"] >= found["share_of_peak"] > 0
    assert list(found["parts"]) == PARTS
    assert sum(found["parts"].values()) == pytest.approx(1)
    assert min(found["parts"].values()) > 0
    assert found["patches_on_disk"] == 4
    assert found["patches_made"] == 0


@pytest.mark.slow
def test_memory_is_that_of_a_process_that_trains(measured):
    used = measured[0]["stages"]["coarse"]["cpu"]["memory"]
    weights = 4 * 3 * summary(stage_config(smoke_model("coarse")).build(), 32)["parameters"]
    assert used["peak_bytes"] > used["before_bytes"] + weights
    assert used["before_bytes"] > 50e6  # torch is loaded by then
    assert "no workers" in used["what"]


@pytest.mark.slow
def test_page_and_table_show_what_was_measured(measured):
    result, page, printed = measured
    assert page.startswith("before\n<!-- training speed: start -->\n\n`python benchmarks/training.py stages=coarse steps=4 ")
    assert page.endswith("<!-- training speed: end -->\nafter\n")
    assert "old" not in page
    found = result["stages"]["coarse"]["cpu"]
    for text in (f"{found['loading']['ratio']:.3f}", f"{found['share_of_peak']:.1%}", f"{found['parts']['backward']:.1%}"):
        assert text in page
    assert page.count("not measured |") == page.count("\n| ") - 1  # each row but the header has a GPU column
    assert result["machine"]["cpu"] in page
    assert f"{found['loading']['ratio']:.3f}" in printed
    assert f"{found['memory']['peak_bytes'] / 1e9:.2f}" in printed


def smoke_model(name):
    return benchmark.config_of("smoke", "cpu")["stages"][name]["model"]


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_flops_are_those_of_the_network_forwards_and_twice_that_backwards(name):
    config = benchmark.config_of("smoke", "cpu")
    flops = benchmark.flops_of_step(config, name, made_up_batch())
    model = stage_config(smoke_model(name))
    known = summary(model.build(), 32)["gflop_per_patch"]
    assert flops["forward"] == pytest.approx(2 * known * 1e9)
    assert flops["step"] == flops["forward"] + flops["backward"]
    first = 2 * 2 * 27 * model.in_channels * model.widths[0] * 32**3  # of two patches; the input needs no gradient
    assert flops["step"] == 3 * flops["forward"] - first
    assert first < 0.25 * flops["forward"]


def test_parts_of_a_step_leave_nothing_out_and_count_nothing_twice():
    raw = {"train_dataloader_next": 1.0, "optimizer_step": 20.0, "training_step": 7.0, "forward": 5.0, "backward": 10.0}
    parts = training_clock.parts_of(25.0, raw)
    expected = {"waiting for the batch": 1, "forward": 5, "loss": 2, "backward": 10, "optimizer": 3, "rest": 4}
    assert parts == {"seconds": 25.0, **expected}
    assert list(parts)[1:] == PARTS


def test_shares_are_of_the_time_of_all_steps():
    steps = [step(1.0, forward=0.5, rest=0.5), step(3.0, forward=3.0)]
    shares = benchmark.shares(steps)
    assert shares["forward"] == 3.5 / 4
    assert shares["rest"] == 0.5 / 4


class FakeRuns:
    """Stands for ``fit``: a step takes 2 s from disk, 1 s from memory, 9 s where a GPU is waited for at each mark."""

    def __init__(self):
        self.calls = []

    def __call__(self, name, config, source, steps, device, each=False):
        disk = isinstance(source, benchmark.PhantomData)
        self.calls.append(("disk" if disk else "memory", source, steps, config["trainer"]["precision"], each))
        return [step(9.0 if each else 2.0 if disk else 1.0, forward=1.0)] * steps


@pytest.fixture
def fake(monkeypatch):
    runs = FakeRuns()
    monkeypatch.setattr(benchmark, "fit", runs)
    monkeypatch.setattr(benchmark, "memory_in_child", lambda keys, name: {"peak_bytes": 3, "before_bytes": 1, "what": "?"})
    speeds = {torch.float32: [4e9, 6e9, 5e9], torch.bfloat16: [80e9, 60e9, 70e9]}
    monkeypatch.setattr(benchmark, "product_rates", lambda device, dtype: speeds[dtype])
    return runs


def keys(patches, **changes):
    return {**benchmark.KEYS, "experiment": "smoke", "cache_dir": str(patches), **changes}


def test_rounds_of_both_kinds_alternate_and_are_compared(fake, patches):
    found = benchmark.measure("coarse", "cpu", keys(patches, steps="7"))
    assert [call[0] for call in fake.calls] == ["disk", "memory"] * 3
    assert {call[2] for call in fake.calls} == {3}  # seven steps in three rounds
    assert found["loading"]["ratio"] == 0.5
    assert found["loading"]["by_round"] == [0.5] * 3
    assert found["loading"]["patches_per_s"] == found["batch_size"] / 2.0
    assert found["flop_per_s"] == found["flops"]["step"] / 2.0
    assert (found["peak_flop_per_s"], found["median_product_flop_per_s"]) == (6e9, 5e9)
    assert found["share_of_peak"] == found["flop_per_s"] / 6e9
    assert found["parts"]["forward"] == 0.5


def test_one_kind_reads_the_cache_and_the_other_does_not(fake, patches):
    benchmark.measure("coarse", "cpu", keys(patches))
    disk, memory = fake.calls[0][1], fake.calls[1][1]
    assert disk.patches.cache_dir.parent == patches
    assert disk.workers == benchmark.config_of("smoke", "cpu")["stages"]["coarse"]["data"]["workers"]
    assert memory.batch_size == disk.batch_size
    first, again = memory.patches[1], memory.patches[1]
    assert first is again
    assert first.keys() == disk.patches[1].keys()
    assert all(first[key].shape == value.shape and first[key].dtype == value.dtype for key, value in disk.patches[1].items())


def test_overrides_change_what_is_trained(fake, patches):
    found = benchmark.measure("coarse", "cpu", keys(patches, overrides="trainer.precision=bf16-mixed"))
    assert {call[3] for call in fake.calls} == {"bf16-mixed"}
    assert (found["peak_precision"], found["peak_flop_per_s"]) == ("bfloat16", 80e9)


def test_on_a_gpu_the_precision_is_bf16_and_its_peak_counts(fake, patches, monkeypatch):
    """With a GPU's calls replaced: parts and memory are those of a run of their own, in which each mark waits."""
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: reset.append(len(fake.calls)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
    found = benchmark.measure("coarse", "cuda", keys(patches))
    assert {call[3] for call in fake.calls} == {"bf16-mixed"}
    assert found["peak_precision"] == "bfloat16"
    assert found["peak_flop_per_s"] == 80e9
    assert found["best_products_flop_per_s"] == {"float32": 6e9, "bfloat16": 80e9}
    assert [call[4] for call in fake.calls] == [False] * 6 + [True]
    assert reset == [6]
    assert found["parts"]["forward"] == pytest.approx(1 / 9)
    assert found["loading"]["step_s"] == 2.0
    assert found["memory"]["peak_bytes"] == 5


def test_the_clock_waits_for_a_gpu_where_a_step_begins_and_at_each_mark_if_told(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    for device, each, expected in (("cpu", True, 0), ("cuda", False, 1), ("cuda", True, 5)):
        waits.clear()
        clock = training_clock.Clock(device, each)
        with clock.profile("[_TrainingEpochLoop].train_dataloader_next"):
            pass
        with clock.profile("[Strategy]SingleDeviceStrategy.backward"):
            pass
        assert len(waits) == expected


def test_few_patches_are_made_and_none_where_there_are_enough(patches, tmp_path, monkeypatch):
    config = benchmark.config_of("smoke", "cpu")
    before = {path.name: path.stat().st_mtime_ns for path in patches.rglob("*.npz")}
    data, made = benchmark.data_on_disk(config, "coarse", str(patches))
    assert (made, len(data.patches)) == (0, 4)
    assert {path.name: path.stat().st_mtime_ns for path in patches.rglob("*.npz")} == before
    monkeypatch.setattr(benchmark, "FEW", 2)
    monkeypatch.setattr("cacsnet.data.patches.make_patch", lambda settings, index: {"hu": torch.zeros(1)})
    data, made = benchmark.data_on_disk(config, "coarse", str(tmp_path))
    assert (made, len(data.patches)) == (2, 2)


def test_a_product_of_matrices_is_counted_by_its_flops(monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", {"cpu": (16, 32)})
    clock = iter(range(100))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    rates = benchmark.product_rates("cpu", torch.float32)
    assert set(rates) == {2 * 16**3, 2 * 32**3}
    assert len(rates) == 2 * benchmark.PRODUCTS["cpu"]


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("speed=1", "speed"),
        ("steps=0", "steps"),
        ("steps=a", "steps"),
        ("stages=middle", "middle"),
        ("experiment=none", "none"),
        ("docs=nowhere", "docs"),
        ("overrides=no.such=1", "no.such"),
        ("experiment=smoke", "cache_dir"),  # which has no cache
    ],
)
def test_a_bad_command_ends_with_one_line_and_code_2(argument, named, capsys, tmp_path):
    assert benchmark.main([argument, f"output={tmp_path / 'speed.json'}"], Console(quiet=True)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "speed.json").exists()


def test_the_page_of_the_repository_has_the_marks():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert page.count("<!-- training speed: start -->") == page.count("<!-- training speed: end -->") == 1
