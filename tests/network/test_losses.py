"""Gradients flow only where the truth is known, and each question is asked only where it can be answered."""

import pytest
import torch

from cacsnet.labels import IGNORE
from cacsnet.network.losses import (
    LossWeights,
    decision_loss,
    log_probability_at_points,
    masked_ce_dice,
    sample_at_points,
    total_loss,
)  # fmt: skip
from cacsnet.network.unet import Prediction

SIZE = (6, 7, 8)


def logits(channels, seed=0):
    return torch.randn((2, channels, *SIZE), generator=torch.Generator().manual_seed(seed)).requires_grad_()


def labels(channels, seed=1):
    return torch.randint(0, channels, (2, *SIZE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def prediction():
    return Prediction(logits(5, 1), logits(8, 2), logits(5, 3))


def a_batch(**changes):
    generator = torch.Generator().manual_seed(9)
    points = torch.rand((2, 12, 3), generator=generator) * 5
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, IGNORE, IGNORE, IGNORE], dtype=torch.uint8).expand(2, 12).clone()
    label = torch.tensor([1, 2, 4] + [0] * 9, dtype=torch.uint8).expand(2, 12).clone()
    values = {
        "hu": torch.rand((2, *SIZE), generator=generator) * 100,
        "structures": labels(8, 4),
        "course": labels(5, 5),
        "points": points,
        "point_label": label,
        "point_group": group,
    }
    return values | changes


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_no_gradient_where_the_truth_is_unknown(dice):
    values, target = logits(8), labels(8)
    unknown = torch.rand((2, *SIZE), generator=torch.Generator().manual_seed(2)) < 0.4
    target[unknown] = IGNORE
    masked_ce_dice(values, target, dice).backward()
    gradient = values.grad.abs().sum(1)
    assert (gradient[unknown] == 0).all()
    assert (gradient[~unknown] > 0).all()


def test_the_unknown_part_does_not_change_the_loss():
    values, target = logits(8), labels(8)
    target[:, 3:] = IGNORE
    changed = values.detach().clone()
    changed[:, :, 3:] += 5 * torch.randn(changed[:, :, 3:].shape, generator=torch.Generator().manual_seed(3))
    for dice in (0.0, 1.0):
        expected = masked_ce_dice(values, target, dice).item()
        assert masked_ce_dice(changed, target, dice).item() == pytest.approx(expected, rel=1e-5)


def test_a_perfect_answer_costs_nothing_and_a_wrong_one_does():
    target = labels(5)
    right = 40 * torch.nn.functional.one_hot(target.long(), 5).movedim(-1, 1).float()
    assert float(masked_ce_dice(right, target, 1.0)) < 1e-3
    assert float(masked_ce_dice(right.roll(1, 1), target, 1.0)) > 10


def test_background_can_weigh_less():
    target = torch.zeros((2, *SIZE), dtype=torch.uint8)
    target[:, 0, 0, 0] = 1
    values = torch.zeros(2, 5, *SIZE)
    values[:, 0] = 3.0
    weight = torch.tensor([0.2, 1.0, 1.0, 1.0, 1.0])
    log_p = torch.log_softmax(values[0, :, 0, 0, 0], 0)
    ordinary = target[0].numel() - 1
    expected = -(0.2 * ordinary * log_p[0] + log_p[1]) / (0.2 * ordinary + 1)
    assert masked_ce_dice(values, target, 0.0, weight).item() == pytest.approx(float(expected), rel=1e-4)


def test_sampling_is_trilinear_at_voxel_coordinates():
    z, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in SIZE), indexing="ij")
    field = (2 * z - 3 * y + 0.5 * x)[None, None]
    points = torch.tensor([[[0.0, 0.0, 0.0], [5.0, 6.0, 7.0], [1.25, 3.5, 6.75]]])
    expected = 2 * points[..., 0] - 3 * points[..., 1] + 0.5 * points[..., 2]
    assert torch.allclose(sample_at_points(field, points)[0], expected, atol=1e-4)


def test_the_decision_reads_only_its_points():
    values = logits(5)
    points = torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, 4.5, 5.0]]])
    label, group = torch.tensor([[2], [0]], dtype=torch.uint8), torch.tensor([[0], [2]], dtype=torch.uint8)
    loss = decision_loss(values, points, label, group)
    loss.backward()
    touched = values.grad.abs().sum(1) > 1e-5
    expected = torch.zeros((2, *SIZE), dtype=torch.bool)
    expected[0, 1, 2, 3] = True
    expected[1, 4, 4:6, 5] = True
    assert torch.equal(touched, expected)
    other = values.detach().clone()
    other[:, :, ~expected.any(0)] += 7 * torch.randn(5, int((~expected.any(0)).sum()))
    assert torch.allclose(decision_loss(other, points, label, group), loss, atol=1e-6)


def test_groups_are_averaged_apart():
    """A thousand easy bone points don't drown one missed plaque."""
    values = torch.zeros(1, 5, *SIZE)
    values[:, 0] = 6.0  # background everywhere
    points = torch.full((1, 1001, 3), 2.0)
    label = torch.tensor([[1] + [0] * 1000], dtype=torch.uint8)
    group = torch.tensor([[0] + [2] * 1000], dtype=torch.uint8)
    log_p = torch.log_softmax(values[0, :, 0, 0, 0], 0)
    expected = 0.5 * (-log_p[1] - log_p[0])
    assert float(decision_loss(values, points, label, group)) == pytest.approx(float(expected), rel=1e-4)


def test_padding_points_do_not_count():
    batch = a_batch()
    values = logits(5)
    full = decision_loss(values, batch["points"], batch["point_label"], batch["point_group"])
    batch["points"][:, 9:] += 1.0
    batch["point_label"][:, 9:] = 3
    assert torch.equal(full, decision_loss(values, batch["points"], batch["point_label"], batch["point_group"]))


def test_bright_voxels_are_left_out_of_the_course():
    guess, batch = prediction(), a_batch()
    batch["hu"][0, 2, 3, 4] = 130.0
    batch["hu"][1, 0, 0, 0] = 129.9
    total_loss(guess, batch, LossWeights())["course"].backward()
    gradient = guess.course.grad.abs().sum(1)
    assert gradient[0, 2, 3, 4] == 0
    assert gradient[1, 0, 0, 0] > 0
    assert guess.coronary.grad is None


def test_the_total_is_the_weighted_sum():
    guess, weights = prediction(), LossWeights(structures=2.0, course=0.25, decision=3.0)
    parts = total_loss(guess, a_batch(), weights)
    expected = 2 * parts["structures"] + 0.25 * parts["course"] + 3 * parts["decision"]
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert all(value.item() > 0 for value in parts.values())


def test_a_batch_without_any_truth_gives_zero_with_a_graph():
    nothing = torch.full((2, *SIZE), IGNORE, dtype=torch.uint8)
    batch = a_batch(structures=nothing, course=nothing.clone())
    batch["point_group"][:] = IGNORE
    guess = prediction()
    parts = total_loss(guess, batch, LossWeights())
    assert parts["loss"].item() == 0.0
    parts["loss"].backward()
    assert all(torch.equal(value.grad, torch.zeros_like(value)) for value in guess)


# ---- partial labels: a head learns nothing from a scan that doesn't know its answer ------------------------------------


def unknown(*parts):
    """A batch in which these parts of the truth are IGNORE."""
    batch = a_batch()
    for part in parts:
        batch["point_group" if part == "decision" else part][:] = IGNORE
    return batch


def gradients(batch):
    guess = prediction()
    total_loss(guess, batch, LossWeights())["loss"].backward()
    heads = {"structures": guess.structures, "course": guess.course, "decision": guess.coronary}
    return {name: float(value.grad.abs().sum()) for name, value in heads.items()}


@pytest.mark.parametrize("part", ["structures", "course", "decision"])
def test_an_unknown_part_moves_only_its_own_head(part):
    found, all_known = gradients(unknown(part)), gradients(a_batch())
    assert found.pop(part) == 0
    assert all_known.pop(part) > 0
    assert found == pytest.approx(all_known)


def test_calcium_labels_teach_only_the_decision():
    """COCA, orCaScore: candidates are labelled, nothing else is."""
    found = gradients(unknown("structures", "course"))
    assert found["structures"] == found["course"] == 0
    assert found["decision"] > 0


def test_structure_labels_teach_only_the_structures():
    """MM-WHS, TotalSegmentator."""
    found = gradients(unknown("course", "decision"))
    assert found["course"] == found["decision"] == 0
    assert found["structures"] > 0


def test_scans_that_know_different_parts_share_a_batch():
    """The first scan knows only structures, the second only calcium: each teaches its head, on its own voxels."""
    batch = a_batch()
    batch["structures"][1] = IGNORE
    batch["course"][:] = IGNORE
    batch["point_group"][0] = IGNORE
    guess = prediction()
    total_loss(guess, batch, LossWeights())["loss"].backward()
    assert guess.structures.grad[0].abs().sum() > 0 == guess.structures.grad[1].abs().sum()
    assert guess.coronary.grad[1].abs().sum() > 0 == guess.coronary.grad[0].abs().sum()


def test_labels_of_unknown_points_may_be_anything():
    batch = unknown("decision")
    batch["point_label"][:] = IGNORE
    assert total_loss(prediction(), batch, LossWeights())["decision"].item() == 0


@pytest.mark.parametrize("weight", ["structures", "course", "decision"])
def test_a_weight_of_zero_switches_a_head_off(weight):
    guess = prediction()
    total_loss(guess, a_batch(), LossWeights(**{weight: 0.0}))["loss"].backward()
    head = guess.coronary if weight == "decision" else getattr(guess, weight)
    assert head.grad.abs().sum() == 0


def test_it_is_the_cross_entropy_and_dice_of_the_libraries():
    from monai.losses import DiceLoss

    values, target = logits(8), labels(8)
    target[target == 3] = 2  # a class that isn't there
    onehot = torch.nn.functional.one_hot(target.long(), 8).movedim(-1, 1).float()
    ce = torch.nn.functional.cross_entropy(values, target.long())
    dice = DiceLoss(include_background=False, batch=True, softmax=True)(values, onehot)
    assert masked_ce_dice(values, target, 0.7).item() == pytest.approx((ce + 0.7 * dice).item(), rel=1e-5)


def test_low_precision_logits_are_summed_in_full():
    values, target = logits(8).detach(), labels(8)
    low = masked_ce_dice(values.bfloat16(), target, 1.0)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(masked_ce_dice(values.bfloat16().float(), target, 1.0).item(), rel=1e-6)


def test_the_sums_of_two_processes_give_the_loss_of_their_common_batch():
    """Each half alone, with the other's sums added: the loss of the whole, though the halves know different amounts."""
    batch = a_batch()
    batch["structures"][1, 2:] = IGNORE
    batch["point_group"][0, :3] = IGNORE
    values = prediction()

    def halves(loss, *arguments):
        sums = []
        for half in (slice(0, 1), slice(1, 2)):
            loss(*(a[half] for a in arguments), total=lambda s: (sums.append(s), s)[1])
        return loss(*(a[:1] for a in arguments), total=lambda _: sums[0] + sums[1])

    def ce_dice(a, b, total=None):
        return masked_ce_dice(a, b, 1.0, total=total) if total else masked_ce_dice(a, b, 1.0)

    points = batch["points"], batch["point_label"], batch["point_group"]
    structures = values.structures, batch["structures"]
    assert halves(ce_dice, *structures).item() == pytest.approx(ce_dice(*structures).item(), rel=1e-5)
    whole = decision_loss(values.coronary, *points).item()
    assert halves(decision_loss, values.coronary, *points).item() == pytest.approx(whole, rel=1e-5)
    alone = 0.5 * sum(decision_loss(values.coronary[h], *(p[h] for p in points)).item() for h in (slice(0, 1), slice(1, 2)))
    assert abs(alone - whole) > 1e-3  # the mean of both would be something else


def test_log_probability_at_points_is_that_of_the_trilinear_probability():
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, 5, 6, 7, 8, generator=generator)
    points = torch.rand(2, 40, 3, generator=generator) * torch.tensor([5.0, 6.0, 7.0])
    points[0, 0], points[0, 1] = torch.tensor([5.0, 6.0, 7.0]), torch.zeros(3)  # the outermost voxels
    label = torch.randint(0, 5, (2, 40), generator=generator)
    direct = sample_at_points(logits.softmax(1), points).gather(1, label[:, None])[:, 0].log()
    assert torch.allclose(log_probability_at_points(logits, points, label), direct, atol=1e-4)


def test_a_sure_and_wrong_candidate_has_a_gradient():
    logits = torch.zeros(1, 5, 4, 4, 4)
    logits[:, 2] = 60.0  # LAD everywhere, beyond what float32 probabilities can say
    logits.requires_grad_(True)
    one = torch.zeros(1, 1, dtype=torch.uint8)
    loss = decision_loss(logits, torch.full((1, 1, 3), 1.5), one, one + 1)
    loss.backward()
    assert loss.item() == pytest.approx(60.0, abs=0.1)
    assert logits.grad[0, 2].sum() > 0.9
    assert logits.grad[0, 0].sum() < -0.9
