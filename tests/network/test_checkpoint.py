"""Weights and card travel together, and whatever doesn't fit is refused by name."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cacsnet.errors import CheckpointError
from cacsnet.network.checkpoint import StageConfig, load_model, network_input, save_model

COARSE = StageConfig(3.0, patch=16, widths=(2, 4))
FINE = StageConfig(1.5, patch=16, hu_window=(-200.0, 600.0), in_channels=9, widths=(2, 4), branch_levels=0, norm="group")


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(1)
    networks = {"coarse": (COARSE, COARSE.build()), "fine": (FINE, FINE.build())}
    stages = {name: (config, network.state_dict()) for name, (config, network) in networks.items()}
    return save_model(tmp_path / "new" / "model.safetensors", stages, {"name": "tiny"}), networks


def rewrite(path, change, weights=None):
    """Change the card (and the weights, with a card that says so)."""
    card_path = path.with_suffix(".json")
    card = json.loads(card_path.read_text())
    if weights is not None:
        weights(path)
        card["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    change(card)
    card_path.write_text(json.dumps(card))


def test_round_trip(saved):
    path, networks = saved
    model = load_model(path)
    assert (model.coarse.config, model.fine.config) == (COARSE, FINE)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.card["name"] == "tiny"
    for stage, (config, network) in zip((model.coarse, model.fine), networks.values(), strict=True):
        assert not stage.network.training
        x = torch.randn(1, config.in_channels, 8, 8, 8)
        for a, b in zip(stage.network(x), network.eval()(x), strict=True):
            assert torch.equal(a, b)
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_the_window_comes_back_usable(saved):
    window = load_model(saved[0]).fine.config.hu_window
    assert network_input(torch.full((1, 1, 1, 1), 600.0), window).item() == 1.0


def test_a_coarse_model_alone(tmp_path):
    path = save_model(tmp_path / "model.safetensors", {"coarse": (COARSE, COARSE.build().state_dict())}, {})
    assert load_model(path).fine is None


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_missing_file(saved, suffix):
    missing = saved[0].with_suffix(suffix)
    missing.unlink()
    with pytest.raises(CheckpointError, match="no such checkpoint") as error:
        load_model(saved[0])
    assert error.value.path == str(missing)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="safetensors"):
        load_model(tmp_path / "model.pt")


def test_weights_of_another_card(saved):
    path, _ = saved
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="don't belong together"):
        load_model(path)


def test_other_label_tables(saved):
    rewrite(saved[0], lambda card: card["labels"]["vessels"].reverse())
    with pytest.raises(CheckpointError, match="label tables differ"):
        load_model(saved[0])


def drop_a_tensor(path):
    tensors = load_file(path)
    tensors.pop("coarse.stem.weight")
    save_file(tensors, path)


def test_weights_that_do_not_fit(saved):
    rewrite(saved[0], lambda card: None, drop_a_tensor)
    with pytest.raises(CheckpointError, match=r"(?s)'coarse' don't fit.*stem\.weight"):
        load_model(saved[0])


def test_weights_that_are_no_safetensors(saved):
    rewrite(saved[0], lambda card: None, lambda path: path.write_bytes(b"\x80\x04pickle"))
    with pytest.raises(CheckpointError, match="can't be read"):
        load_model(saved[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["stages"]["fine"].update(widths=[2, 8]),
        lambda card: card["stages"]["fine"].update(norm="batch"),
        lambda card: card["stages"]["fine"].update(depth=7),
        lambda card: card["stages"]["fine"].pop("spacing_mm"),
        lambda card: card["stages"].pop("coarse"),
        lambda card: card.pop("stages"),
    ],
)
def test_a_card_that_describes_no_network_of_ours(saved, change):
    rewrite(saved[0], change)
    with pytest.raises(CheckpointError):
        load_model(saved[0])


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff"])
def test_a_card_that_is_no_card(saved, text):
    saved[0].with_suffix(".json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match="card"):
        load_model(saved[0])
