"""The picture of what the network sees."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from cacsnet.data.look import main, picture, training_patches
from cacsnet.data.patches import DISTRACTOR, OTHER, PLAQUE
from cacsnet.labels import IGNORE


def patch(**changes):
    size = 16
    out = {
        "hu": torch.full((size,) * 3, 40.0),
        "structures": torch.zeros((size,) * 3, dtype=torch.uint8),
        "course": torch.zeros((size,) * 3, dtype=torch.uint8),
        "points": torch.full((3, 3), size / 2),
        "point_label": torch.tensor([2, 0, 0], dtype=torch.uint8),
        "point_group": torch.full((3,), IGNORE, dtype=torch.uint8),
    }
    for name, value in changes.items():
        out[name] = value
    return out


def pixels(patches):
    figure = picture(patches, 3.0)
    figure.set_dpi(40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


@pytest.mark.parametrize(
    "changes",
    [
        {"structures": "box"}, {"course": "box"}, {"structures": "unknown"},
        *({"point_group": torch.tensor([group, IGNORE, IGNORE], dtype=torch.uint8)} for group in (PLAQUE, DISTRACTOR, OTHER)),
    ],
)  # fmt: skip
def test_everything_that_is_taught_shows(changes):
    plain = patch()
    box = plain["structures"].clone()
    box[6:10, 4:12, 4:12] = 1
    made = {"box": box, "unknown": torch.full_like(box, IGNORE)}
    changed = patch(**{k: made[v] if isinstance(v, str) else v for k, v in changes.items()})
    assert (pixels([plain]) != pixels([changed])).any()


def test_points_far_from_the_slice_do_not_show():
    group = torch.tensor([PLAQUE, IGNORE, IGNORE], dtype=torch.uint8)
    far = pixels([patch(points=torch.tensor([[2.0, 8.0, 8.0]] * 3), point_group=group)])
    near = pixels([patch(points=torch.full((3, 3), 8.0), point_group=group)])
    assert (far != near).any()
    columns = far.shape[1] // 4  # the third panel is the axial slice, far from the point; the fourth cuts through it
    assert (far[:, 2 * columns : 3 * columns] != near[:, 2 * columns : 3 * columns]).any()


def test_a_picture_of_a_manifests_patches(files, tmp_path, capsys):
    keys = [
        "experiment=finetune", f"data.root={files.root}", f"data.manifest={files.everything()}", "data.known=everything",
        "data.labels={0: background, 1: RCA, 2: LCX, 3: LAD, 4: LM}", f"data.cache_dir={tmp_path}", "data.phantom_share=0",
        "data.heart_checkpoint=null", "rows=2", f"output={tmp_path}/look.png",
    ]  # fmt: skip
    assert main(keys) == 0
    assert "2 patches" in capsys.readouterr().out
    image = imread(tmp_path / "look.png")
    assert image.shape[0] > 300
    assert image[..., :3].std() > 0.1


@pytest.mark.parametrize(
    "keys",
    [["rows=many"], ["experiment=none"], ["stage=middle"], ["experiment=finetune"], ["experiment=finetune", "data.root=x"]],
)
def test_a_bad_command_says_so(keys, capsys):
    assert main(keys) == 2
    assert "error" in capsys.readouterr().err


def test_phantom_runs_show_phantom_patches():
    config = {
        "seed": 0,
        "stages": {"coarse": {"data": {"patches": {"spacing_mm": 4.0, "patch": 16}, "length": 3}}},
    }
    patches, spacing = training_patches(config, "coarse")
    assert len(patches) == 3
    assert spacing == 4.0
