"""Cupping, padding, clipping, metal streaks."""

from dataclasses import replace

import pytest
import torch

from cacsnet.scanner import Protocol, finish, metal_streaks
from cacsnet.scanner.streaks import REACH_MM

PROTOCOL = Protocol((2.5, 1.5, 1.5), (2, 201, 201), (0.0, 0.0, 0.0), 2.5, noise_hu=0.0)
"""A field of 300 mm: its centre is voxel 100, 149 mm from the middle of each edge."""


def water(value=0.0):
    return torch.full(PROTOCOL.shape, float(value))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_artefacts_the_image_stays_as_it_is_but_for_rounding():
    hu = 100 * torch.randn(PROTOCOL.shape, generator=generator(5))
    out = finish(hu, PROTOCOL, generator())
    assert torch.equal(out, out.round())
    assert float((out - hu).abs().max()) <= 0.5


def test_values_are_clipped_to_twelve_bits():
    hu = water(-1200.0)
    hu[1] = 5000.0
    out = finish(hu, replace(PROTOCOL, noise_hu=20.0, ray_noise=0.0), generator(), metal_hu=water())
    assert float(out[0].min()) == -1024.0
    assert float(out[1].max()) == 3071.0


def test_cupping_darkens_the_centre_of_tissue_and_spares_air():
    protocol = replace(PROTOCOL, cupping_hu=20.0)
    out = finish(water(), protocol, generator())
    assert float(out[0, 100, 100]) == -20.0
    assert float(out[0, 100, 50]) == pytest.approx(-20 * (1 - (75 / 150) ** 2), abs=0.6)
    assert float(out[0, 100, 0]) == pytest.approx(0.0, abs=0.6)
    assert torch.equal(finish(water(-1000.0), protocol, generator()), water(-1000.0))


def test_outside_the_reconstruction_circle_lies_the_padding():
    out = finish(water(), replace(PROTOCOL, circle_mm=280.0, padding_hu=-2048), generator())
    inside = out[0] == 0
    y = (torch.arange(201) - 100) * 1.5
    assert torch.equal(inside, torch.hypot(y[:, None], y[None]) <= 140.0)
    assert bool((out[0][~inside] == -2048).all())
    assert float(finish(water(), replace(PROTOCOL, padding_hu=-2048), generator()).min()) == 0.0


def test_the_seed_decides_everything():
    protocol = replace(PROTOCOL, noise_hu=15.0)
    hu = water()
    hu[:, 90:93, 90:93] = 8000.0
    assert torch.equal(finish(hu, protocol, generator(1)), finish(hu, protocol, generator(1)))
    assert not torch.equal(finish(hu, protocol, generator(1)), finish(hu, protocol, generator(2)))


# -- metal ------------------------------------------------------------------------------------------------------------
def metal(*places, hu=9000.0):
    out = torch.zeros(PROTOCOL.shape)
    for y, x in places:
        out[0, y - 1 : y + 2, x - 1 : x + 2] = hu
    return out


def streaks(given, seed=0, **changes):
    return metal_streaks(water() + given, replace(PROTOCOL, **changes), generator(seed), given)[0]


def test_no_metal_no_streaks_and_no_random_numbers_used():
    random = generator(4)
    assert metal_streaks(water(1500.0), PROTOCOL, random) == {}
    assert torch.equal(random.get_state(), generator(4).get_state())


def test_streaks_are_bright_and_dark_near_the_metal_and_only_in_its_slice():
    given = metal((100, 100))
    assert set(metal_streaks(water() + given, PROTOCOL, generator(), given)) == {0}
    far = streaks(given)
    near = far[85:116, 85:116].clone()
    near[12:19, 12:19] = 0
    assert float(near.max()) > 15
    assert float(near.min()) < -15
    y = (torch.arange(201) - 100) * 1.5
    radius = torch.hypot(y[:, None], y[None])
    rings = [float(far[(radius > r) & (radius <= r + 8)].std()) for r in (8, 20, 40, 60)]
    assert rings == sorted(rings, reverse=True)
    assert float(far[radius > 100].abs().max()) == 0.0


def test_streaks_run_straight_through_the_metal():
    """In polar coordinates about the metal a streak stays at its angle."""
    out = streaks(metal((100, 100)))
    angle = torch.arange(0, 360, 2.0).deg2rad()

    def ring(radius_mm):
        y, x = 100 + radius_mm / 1.5 * torch.sin(angle), 100 + radius_mm / 1.5 * torch.cos(angle)
        return out[y.round().long(), x.round().long()].double()

    inner, outer = ring(15.0), ring(25.0)
    assert float(torch.corrcoef(torch.stack([inner, outer]))[0, 1]) > 0.6
    assert float(torch.corrcoef(torch.stack([inner, outer.roll(23)]))[0, 1]) < 0.4
    assert float(torch.corrcoef(torch.stack([inner, inner.roll(90)]))[0, 1]) > 0.6  # both sides of the metal


def test_the_beam_hardens_most_between_two_pieces(monkeypatch):
    monkeypatch.setattr("cacsnet.scanner.streaks.VIEW_ERROR", 0.0)
    both = streaks(metal((100, 85), (100, 115)))
    between, across = both[99:102, 95:106].mean(), both[85:90, 95:106].mean()
    assert float(between) < float(across) - 5


def test_streaks_do_not_depend_on_how_near_the_edge_of_the_field_the_metal_lies(monkeypatch):
    """Sternal wires lie at the edge of a gated field."""
    monkeypatch.setattr("cacsnet.scanner.streaks.VIEW_ERROR", 0.0)  # views differ with the crop's random numbers
    middle, edge = (streaks(metal((y, 100), (y + 10, 100)))[y - 4 : y + 19, 70:131] for y in (100, 8))
    assert float(middle.min()) < -20
    assert float(torch.corrcoef(torch.stack([edge.flatten(), middle.flatten()]))[0, 1]) > 0.95
    assert float(edge.std() / middle.std()) == pytest.approx(1.0, abs=0.1)


def test_streaks_fade_out_before_they_are_cut_off():
    out = streaks(metal((100, 100)))
    reach = round(REACH_MM / 1.5)
    rim = torch.cat([out[100 - reach - 2 : 100 - reach + 3].flatten(), out[:, 100 + reach - 2 : 100 + reach + 3].flatten()])
    assert float(rim.abs().max()) < 0.15 * float(out[60:90].abs().max())


def test_more_metal_streaks_more():
    weak, strong = (streaks(metal((100, 100), hu=hu))[100:140, 104:140].std() for hu in (4000.0, 12000.0))
    assert float(strong) > 2 * float(weak)


def test_the_beam_hardens_more_where_the_rays_through_the_metal_are_long(monkeypatch):
    """A wide body is no tall one: streaks turn with it."""
    monkeypatch.setattr("cacsnet.scanner.streaks.VIEW_ERROR", 0.0)
    wide = water(-1000.0)
    wide[:, 80:121] = 0.0
    given = metal((100, 100))
    of_wide, of_tall = (metal_streaks(b + given, PROTOCOL, generator(), given)[0] for b in (wide, wide.transpose(1, 2)))
    near = (slice(85, 116), slice(85, 116))
    assert of_tall[near].T.numpy() == pytest.approx(of_wide[near].numpy(), abs=0.5)
    assert float(of_wide[99:102, 85:95].mean()) < float(of_wide[85:95, 99:102].mean()) - 5
    thicker = metal_streaks(water() + given, PROTOCOL, generator(), given)[0]
    assert float(thicker[near].std()) > 1.2 * float(of_wide[near].std())


def test_metal_is_recognised_by_its_hu_where_none_is_given():
    given = metal((100, 100))
    assert metal_streaks(water() + given, PROTOCOL, generator())[0].any()
    assert metal_streaks(water() + 0.2 * given, PROTOCOL, generator()) == {}


def test_streaks_reach_the_finished_image():
    given = metal((100, 100))
    out = finish(water() + given, PROTOCOL, generator(), given)
    expected = (water() + given)[0] + metal_streaks(water() + given, PROTOCOL, generator(), given)[0]
    assert torch.equal(out[0], expected.round().clamp(-1024, 3071))
    assert not out[1].any()
