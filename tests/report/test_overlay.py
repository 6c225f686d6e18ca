from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSELS
from cacsnet.report.overlay import write_overlay
from cacsnet.scoring.reasons import REASON_INDEX

SPACING = (3.0, 0.7, 0.7)


def scan(shape: tuple[int, int, int] = (12, 128, 128)) -> tuple[np.ndarray, np.ndarray]:
    """A soft-tissue ball in fat, and an empty vessel map."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    ball = ((z - shape[0] / 2) / 6) ** 2 + ((y - shape[1] / 2) / 50) ** 2 + ((x - shape[2] / 2) / 50) ** 2 < 1
    hu = np.where(ball, 45, -100).astype(np.int16)
    return hu, np.zeros(shape, np.uint8)


def with_calcium() -> tuple[np.ndarray, np.ndarray]:
    hu, vessels = scan()
    for label in VESSELS[1:]:
        vessels[label.index + 2, 40 + 8 * label.index, 30 + 12 * label.index : 34 + 12 * label.index] = label.index
    hu[vessels > 0] = 400
    return hu, vessels


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def near(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 20) -> int:
    return int((np.abs(image - np.asarray(colour)).max(axis=-1) <= tolerance).sum())


def without_legend(image: np.ndarray) -> np.ndarray:
    return image[:-45]


def test_every_vessel_is_outlined_in_its_colour(tmp_path: Path) -> None:
    hu, vessels = with_calcium()
    path = write_overlay(tmp_path / "new" / "overlay.png", hu, vessels, None, SPACING, ["case", "Agatston 12"])
    assert path.stat().st_size > 0
    image = without_legend(picture(path))
    empty = without_legend(
        picture(write_overlay(tmp_path / "b.png", *scan(), None, SPACING, ["case", "Agatston 0"]))  # type: ignore[arg-type]
    )
    for label in VESSELS[1:]:
        assert near(image, label.colour) > 30, label.name
        assert near(empty, label.colour) == 0, label.name


def test_a_small_vessel_is_shown_beside_many_slices_of_another(tmp_path: Path) -> None:
    hu, vessels = scan()
    vessels[2:12, 60:70, 60:70] = 2
    vessels[0, 50:52, 50:52] = 1
    image = picture(write_overlay(tmp_path / "a.png", hu, vessels, None, SPACING, ["case"]))
    assert near(without_legend(image), VESSELS[1].colour) > 30


def test_patients_left_is_on_the_right_and_front_is_up(tmp_path: Path) -> None:
    hu, vessels = scan((1, 128, 128))
    vessels[0, 20:24, 100:104] = 2  # front, patient's left
    image = without_legend(picture(write_overlay(tmp_path / "a.png", hu, vessels, None, SPACING, ["case"])))
    y, x = np.nonzero(np.abs(image - np.asarray(VESSELS[2].colour)).max(axis=-1) <= 20)
    assert x.mean() > 0.55 * image.shape[1]
    assert y.mean() < 0.45 * image.shape[0]


def test_aspect_follows_the_spacing(tmp_path: Path) -> None:
    """A square lesion of 20 x 10 pixels at 0.5 x 1 mm is square in the picture."""
    hu, vessels = scan((1, 128, 64))
    vessels[0, 40:80, 20:40] = 4
    path = write_overlay(tmp_path / "a.png", hu, vessels, None, (3.0, 0.5, 1.0), ["case"])
    y, x = np.nonzero(np.abs(without_legend(picture(path)) - np.asarray(VESSELS[4].colour)).max(axis=-1) <= 20)
    assert np.ptp(y) / np.ptp(x) == pytest.approx(1, abs=0.08)


def test_calcium_outside_the_box_is_still_shown(tmp_path: Path) -> None:
    hu, vessels = with_calcium()
    box = (slice(0, 12), slice(60, 90), slice(70, 100))
    image = picture(write_overlay(tmp_path / "a.png", hu, vessels, None, SPACING, ["case"], box=box))
    assert all(near(without_legend(image), label.colour) > 30 for label in VESSELS[1:])


def test_rejected_candidates_and_reason_names(tmp_path: Path) -> None:
    hu, vessels = with_calcium()
    reasons = np.zeros_like(vessels)
    reasons[3:7, 90:96, 60:66] = REASON_INDEX["aortic_valve"]
    path = write_overlay(tmp_path / "a.png", hu, vessels, reasons, SPACING, ["case"])
    assert near(without_legend(picture(path)), (0xD0, 0x70, 0xE0), 40) > 30


def test_titles_of_any_kind(tmp_path: Path) -> None:
    """Mathematical signs, other scripts, control characters and long lines are text like any other."""
    lines = ["case $a_{$ \x00 病例", "flags: " + ", ".join(["noise"] * 80), ""]
    assert write_overlay(tmp_path / "a.png", *scan(), None, SPACING, lines).stat().st_size > 0  # type: ignore[arg-type]
    assert write_overlay(tmp_path / "a.png", *scan(), None, SPACING, []).stat().st_size > 0  # type: ignore[arg-type]


def test_same_input_gives_the_same_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    hu, vessels = with_calcium()
    before = hu.copy()
    one = write_overlay(tmp_path / "a.png", hu, vessels, None, SPACING, ["case"]).read_bytes()
    assert write_overlay(tmp_path / "a.png", hu, vessels, None, SPACING, ["case"]).read_bytes() == one
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (hu == before).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vessel_map": np.zeros((2, 2, 2), np.uint8)}, "vessel_map"),
        ({"vessel_map": np.full((12, 128, 128), 5, np.uint8)}, "vessel_map"),
        ({"vessel_map": np.zeros((12, 128, 128), np.float32)}, "vessel_map"),
        ({"spacing_mm": (3.0, 0.0, 0.7)}, "spacing_mm"),
        ({"centre": (20.0, 0.0, 0.0)}, "centre"),
        ({"box": (slice(5, 5), slice(0, 9), slice(0, 9))}, "box"),
    ],
)
def test_refuses_nonsense(tmp_path: Path, change: dict, field: str) -> None:
    hu, vessels = scan()
    arguments: dict = {
        "hu": hu,
        "vessel_map": vessels,
        "reason_map": None,
        "spacing_mm": SPACING,
        "title_lines": ["case"],
    }
    with pytest.raises(ArgumentError) as error:
        write_overlay(tmp_path / "a.png", **(arguments | change))
    assert error.value.field == field
    assert not list(tmp_path.iterdir())


def test_does_not_import_pyplot() -> None:
    code = "import sys, cacsnet.report.overlay; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
