"""Filling the patch cache ahead of training."""

import pytest
import torch
from rich.console import Console

from cacsnet.data import patches as patches_module
from cacsnet.data.fill import fill, main, stages_of
from cacsnet.data.memory import keep_memory
from cacsnet.data.patches import PatchSettings, PhantomPatches
from cacsnet.errors import ConfigError

TINY = [
    "experiment=smoke", "stages.coarse.data.patches.patch=16", "stages.coarse.model.patch=16",
    "stages.coarse.data.patches.step_mm=6.0", "stages.coarse.data.patches.native_mvox=0.05", "~stages.fine",
]  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """Which patches were made; they are empty."""
    out = []

    def stand_in(settings, index):
        out.append(index)
        return {"hu": torch.full((1,), index)}

    monkeypatch.setattr(patches_module, "make_patch", stand_in)
    return out


def test_only_what_is_missing_is_made(tmp_path, made):
    patches = PhantomPatches(PatchSettings(images_per_patient=4), 10, tmp_path)
    told = []
    assert fill(patches, 0, told.append) == 10
    assert made == list(range(10))
    assert sum(told) == 10
    for index in (2, 9):
        patches.cached(index).unlink()
    told.clear()
    assert fill(patches, 0, told.append) == 2
    assert made[10:] == [2, 9]
    assert told == [8, 1, 1]


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def broken(settings, index):
        if index == 1:
            raise KeyboardInterrupt
        return {"hu": torch.zeros(1)}

    monkeypatch.setattr(patches_module, "make_patch", broken)
    with pytest.raises(KeyboardInterrupt):
        fill(PhantomPatches(PatchSettings(images_per_patient=4), 4, tmp_path), 0)
    assert [p.name for p in tmp_path.iterdir()] == ["000000.npz"]


def test_without_a_cache_there_is_nothing_to_fill():
    with pytest.raises(ConfigError, match="cache_dir"):
        fill(PhantomPatches(PatchSettings(), 4), 0)


def test_the_command_fills_an_experiment_in_two_processes(tmp_path):
    text = Console(record=True, width=200, force_terminal=False)
    arguments = [*TINY, f"stages.coarse.data.cache_dir={tmp_path}", "stages.coarse.data.patches.images_per_patient=1"]
    assert main([*arguments, "length=2", "workers=2"], text) == 0
    assert "coarse: 2 made, 2 in" in text.export_text()
    (folder,) = tmp_path.iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["000000.npz", "000001.npz"]
    before = [p.stat().st_mtime_ns for p in sorted(folder.iterdir())]
    assert main([*arguments, "length=2", "workers=0"], text) == 0
    assert "coarse: 0 made, 2 in" in text.export_text()
    assert before == [p.stat().st_mtime_ns for p in sorted(folder.iterdir())]


def test_stages_without_a_cache_are_named(tmp_path):
    text = Console(record=True, width=200)
    assert main(["experiment=smoke"], text) == 0
    assert text.export_text().count("no cache_dir") == 2


@pytest.mark.parametrize("argument", ["workers=two", "length=0", "experiment=nothing", "stages.coarse.data.no_such_key=1"])
def test_a_bad_argument_is_named(argument):
    text = Console(record=True, width=200)
    assert main(["experiment=smoke", argument], text) == 2
    assert "error" in text.export_text()


@pytest.mark.parametrize("experiment", ["phantom", "phantom_fine", "smoke"])
def test_every_experiment_has_patches(experiment):
    stages = stages_of([f"experiment={experiment}"])
    assert list(stages) == {"phantom": ["coarse"], "phantom_fine": ["fine"], "smoke": ["coarse", "fine"]}[experiment]
    for values in stages.values():
        patches_module.settings_from(values["patches"])


def test_memory_is_kept_where_the_allocator_can():
    assert keep_memory() in (True, False)
    assert keep_memory() is keep_memory()
