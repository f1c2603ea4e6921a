"""Every distance against torch-fidelity, prdc, POT or a closed form; every error against the spread of its number."""

from __future__ import annotations

import contextlib
import io
import math
import subprocess
import sys

import numpy
import pytest
import torch

from flowleap import data
from flowleap.evaluation import distances, kernel, manifold, moments, score, transport
from flowleap.evaluation.distances import Statistics
from flowleap.evaluation.moments import Moments


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(dims: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(drawn(dims, dims, seed=seed)).Q


def gaussian(covariance: torch.Tensor, mean: torch.Tensor | None = None) -> Statistics:
    return Statistics(torch.zeros(len(covariance)).double() if mean is None else mean, covariance, 0)


# Moments


def batches(rows: torch.Tensor, *sizes: int) -> Moments:
    found = Moments()
    for part in rows.split(list(sizes)):
        found.add(part)
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_moments_equal_numpys(dtype, monkeypatch):
    monkeypatch.setattr(moments, "ROWS", 64)
    rows = (drawn(1000, 7) + 3.0).to(dtype)
    found = batches(rows, 1, 500, 0, 130, 369)
    assert found.count == 1000
    known = rows.double().numpy()
    numpy.testing.assert_allclose(found.statistics().mean, known.mean(0), rtol=1e-13)
    numpy.testing.assert_allclose(found.statistics().covariance, numpy.cov(known.T), rtol=1e-11, atol=1e-14)
    assert found.statistics().covariance.dtype == torch.float64 and found.statistics().count == 1000


def test_moments_keep_their_digits_far_from_zero(monkeypatch):
    """At an offset of 1e8 raw second moments, of 1e16, would leave nothing of a variance of 1."""
    monkeypatch.setattr(moments, "ROWS", 64)
    rows = drawn(2000, 5)
    near, far = distances.statistics(rows), distances.statistics(rows + 1e8)
    torch.testing.assert_close(far.covariance, near.covariance, rtol=1e-6, atol=1e-7)


def test_moments_do_not_depend_on_the_batches_to_the_last_digit(monkeypatch):
    monkeypatch.setattr(moments, "ROWS", 64)
    rows = drawn(500, 6, dtype=torch.float32)
    whole, parts = (batches(rows, *sizes).statistics() for sizes in ((500,), (7, 250, 1, 242)))
    assert torch.equal(whole.mean, parts.mean) and torch.equal(whole.covariance, parts.covariance)


def test_moments_go_on_after_statistics_were_asked_for():
    rows = drawn(100, 3)
    found = batches(rows[:40], 40)
    found.statistics()
    found.add(rows[40:])
    torch.testing.assert_close(found.statistics().covariance, distances.statistics(rows).covariance)


def test_merging_is_associative_and_leaves_its_parts_alone():
    rows = drawn(90, 4) * torch.tensor([1e-3, 1.0, 10.0, 1e3]).double() + 50.0
    one, two, three = (batches(part, len(part)) for part in rows.split([20, 69, 1]))
    left, right = one.merge(two).merge(three).statistics(), one.merge(two.merge(three)).statistics()
    known = distances.statistics(rows)
    for found in (left, right, Moments().merge(one).merge(three.merge(two)).statistics()):
        torch.testing.assert_close(found.mean, known.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(found.covariance, known.covariance, rtol=1e-11, atol=1e-12)
    assert (one.count, three.count, left.count) == (20, 1, 90)
    torch.testing.assert_close(one.statistics().mean, rows[:20].mean(0))


def test_moments_refuse_what_makes_no_covariance():
    with pytest.raises(ValueError, match=r"more than 4 samples, got 4.*at least 5"):
        batches(drawn(4, 4), 4).statistics()
    with pytest.raises(ValueError, match="no feature rows"):
        Moments().statistics()
    found = batches(drawn(9, 3), 9)
    with pytest.raises(ValueError, match="rows of 4 features cannot follow rows of 3"):
        found.add(drawn(5, 4))
    with pytest.raises(ValueError, match=r"\(5,\).*\(rows, features\)"):
        found.add(drawn(5))
    with pytest.raises(ValueError, match="4 features cannot be merged with those of 3"):
        found.merge(batches(drawn(5, 4), 5))
    rows = drawn(50, 3)
    rows[[3, 8], [0, 2]] = torch.tensor([math.nan, math.inf]).double()
    with pytest.raises(ValueError, match="2 of 50 feature rows are not finite"):
        distances.statistics(rows)


STREAM = """
import threading, torch
from flowleap.evaluation.moments import Moments
torch.set_num_threads(1)
def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
batch = torch.randn(250, 2048)
batch @ batch.T
before, seen, done = held(), [], threading.Event()
def watch():
    while not done.wait(0.002):
        seen.append(held())
thread = threading.Thread(target=watch)
thread.start()
found = Moments()
for _ in range({batches}):
    found.add(batch)
found.statistics()
done.set()
thread.join()
print(found.count, max(seen) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="the memory of a process is read from /proc, which is on Linux only"
)
def test_many_wide_rows_need_little_memory():
    """12,500 × 2,048 features; their covariance has 32 MiB, and in float64 the rows would have 195 MiB.

    The memory does not depend on the number of rows: 50,000 of them take four times as long.
    """
    done = subprocess.run(
        [sys.executable, "-c", STREAM.format(batches=50)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    count, mebibytes = done.stdout.split()
    assert int(count) == 12_500
    assert 32 < float(mebibytes) < 160, "less than the covariance would mean that nothing was seen"


# Fréchet distance


def fidelity(first: torch.Tensor, second: torch.Tensor) -> float:
    """The distance torch-fidelity finds between two sets of rows."""
    from torch_fidelity import metric_fid

    left, right = (metric_fid.fid_features_to_statistics(rows.double()) for rows in (first, second))
    return metric_fid.fid_statistics_to_metric(left, right, False)[metric_fid.KEY_METRIC_FID]


@pytest.mark.parametrize(("dims", "shift"), [(2, 1.0), (64, 0.0), (64, 0.3), (300, 0.1)])
def test_frechet_equals_torch_fidelitys(dims, shift):
    first = (drawn(900, dims, seed=1) @ drawn(dims, dims, seed=2) + shift).float()
    second = (drawn(700, dims, seed=3) @ drawn(dims, dims, seed=4)).float()
    found = distances.frechet(distances.statistics(first), distances.statistics(second))
    assert found == pytest.approx(fidelity(first, second), rel=1e-7)


def test_frechet_equals_torch_fidelitys_on_digits():
    """Pixels that never change: both covariances are singular."""
    rows = data.load("digits").x.flatten(1)
    first, second = rows[:900], rows[900:] * 0.9
    found = distances.frechet(distances.statistics(first), distances.statistics(second))
    assert found == pytest.approx(fidelity(first, second), rel=1e-5)


@pytest.mark.parametrize(
    "spectrum", ["full", "steep", "fewer directions", "other directions", "small rest", "one less", "tiny"]
)
def test_frechet_is_the_closed_form_for_any_spectrum(spectrum):
    """Σ (√a − √b)² in a rotated basis, with variances of 0 and of 1e-12 among them."""
    dims = 40
    first, second = torch.rand(2, dims, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.1
    if spectrum == "steep":
        first, second = (
            first * torch.logspace(0, -8, dims).double(),
            second * torch.logspace(0, -6, dims).double(),
        )
    if spectrum == "fewer directions":
        first[5:], second[8:] = 0.0, 0.0
    if spectrum == "other directions":
        first[5:], second[:5] = 0.0, 0.0
    if spectrum == "small rest":
        first[5:], second[:5], second[5:] = 0.0, first[:5], 1e-6 * second[5:]
    if spectrum == "one less":
        first[-1], second[:-1], second[-1] = 0.0, first[:-1], 1e-6
    if spectrum == "tiny":
        first, second = first * 1e-12, second * 1e-12
    expected = float((first.sqrt() - second.sqrt()).square().sum())
    for seed in range(8):
        basis = rotation(dims, seed)
        one, two = (gaussian((basis * values) @ basis.T) for values in (first, second))
        assert distances.frechet(one, two) == pytest.approx(expected, rel=1e-6, abs=0.0)


@pytest.mark.parametrize("change", [1e-3, 1e-5, 1e-7])
def test_small_distances_keep_their_digits(change):
    """(1 + c)² Σ: c² tr Σ, down to 1e-14 of the traces that are subtracted."""
    root = drawn(30, 30, seed=6)
    covariance = root @ root.T
    found = distances.frechet(gaussian(covariance), gaussian((1.0 + change) ** 2 * covariance))
    assert found == pytest.approx(change**2 * float(covariance.trace()), rel=1e-6, abs=0.0)


def test_frechet_is_symmetric_and_nil_between_equals():
    first, second = (distances.statistics(drawn(80, 20, seed=seed)) for seed in (7, 8))
    assert distances.frechet(first, second) == pytest.approx(distances.frechet(second, first), rel=1e-12)
    assert distances.frechet(first, first) < 1e-24


# Stored statistics


def test_sound_statistics_pass():
    rows = data.load("digits").x.flatten(1)
    known = distances.statistics(rows)
    found = distances.checked(Statistics(known.mean.float(), known.covariance.float(), 0))
    assert found.covariance.dtype == torch.float64 and torch.equal(found.covariance, found.covariance.T)
    assert distances.frechet(found, known) < 1e-5


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((0, 1, math.nan), "0 numbers of the mean and 1 of the covariance are not finite"),
        ((0, 1, 0.5), r"not symmetric, by 5.0e-01 of its largest entry"),
        ((2, 2, -0.1), r"eigenvalues from -0.1 to 1, and none may be below 0"),
    ],
)
def test_damaged_covariances_are_refused(entry, message):
    covariance = torch.eye(4).double()
    covariance[entry[0], entry[1]] = entry[2]
    with pytest.raises(ValueError, match=message):
        distances.checked(gaussian(covariance))


def test_other_damaged_statistics_are_refused():
    mean, covariance = torch.zeros(4), torch.eye(4)
    with pytest.raises(ValueError, match=r"\(3,\) and covariance of shape \(4, 4\)"):
        distances.checked(Statistics(mean[:3], covariance, 0))
    with pytest.raises(ValueError, match="made from 4 samples, and need at least 5"):
        distances.checked(Statistics(mean, covariance, 4))
    with pytest.raises(ValueError, match="1 numbers of the mean"):
        distances.checked(Statistics(mean / torch.tensor([1, 1, 1, 0.0]), covariance, 0))


# Interval


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "shift", "widest"), [(1.0, 0.0, 1.7), (1.1, 0.1, 1.4), (1.5, 0.5, 1.15)])
def test_intervals_cover_the_mean_of_repeated_draws(scale, shift, widest):
    """Of 95 % intervals of 150 sets, 91 % or more hold the mean of all; they are not much wider than they need be."""
    reference = gaussian(torch.diag(torch.linspace(0.2, 1.0, 8)).double())
    sets = drawn(150, 200, 8, seed=9) * reference.covariance.diagonal().sqrt() * scale + shift
    found = torch.tensor([distances.frechet(distances.statistics(rows), reference) for rows in sets])
    ends = torch.tensor([distances.interval(rows, reference, seed=each) for each, rows in enumerate(sets)])
    held = (ends[:, 0] <= found.mean()) & (found.mean() <= ends[:, 1])
    assert float(held.double().mean()) >= 0.91
    error = float((ends[:, 1] - found).mean()) / 1.96
    assert 0.9 < error / float(found.std()) < widest


@pytest.mark.slow
def test_intervals_are_those_of_drawn_sets_far_from_the_floor():
    """The distances of the drawn sets themselves spread as their first order does."""
    rows, reference = 1.5 * drawn(1000, 3, seed=10) + 1.0, gaussian(torch.eye(3).double())
    low, high = distances.interval(rows, reference, replicates=2000)
    order = torch.randint(1000, (1000, 1000), generator=torch.Generator().manual_seed(11))
    again = torch.tensor([distances.frechet(distances.statistics(rows[every]), reference) for every in order])
    assert (high - low) / 3.92 == pytest.approx(float(again.std()), rel=0.1)
    distance = distances.frechet(distances.statistics(rows), reference)
    assert (low + high) / 2 == pytest.approx(distance)


def test_intervals_are_deterministic_and_widen_with_the_level():
    rows, reference = drawn(100, 5, dtype=torch.float32), gaussian(torch.eye(5).double())
    assert distances.interval(rows, reference) == distances.interval(rows, reference)
    assert distances.interval(rows, reference) != distances.interval(rows, reference, seed=1)
    narrow, wide = (distances.interval(rows + 1.0, reference, level=level) for level in (0.5, 0.99))
    assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(2.5758 / 0.67449, rel=1e-4)


def test_intervals_of_singular_and_collapsed_samples_are_finite():
    digits = data.load("digits").x.flatten(1)
    reference = distances.statistics(digits)
    for rows in (digits[:500], digits[:1].expand(500, 64), digits[:1] + 1e-9 * drawn(500, 64)):
        low, high = distances.interval(rows, reference)
        assert 0.0 <= low <= high < math.inf


def test_intervals_refuse_bad_requests():
    reference = gaussian(torch.eye(5).double())
    with pytest.raises(ValueError, match="1 replicates at level"):
        distances.interval(drawn(100, 5), reference, replicates=1)
    with pytest.raises(ValueError, match="level 95"):
        distances.interval(drawn(100, 5), reference, level=95)


# Kernel distance


def test_kernel_distance_equals_torch_fidelitys_on_the_whole_set(monkeypatch):
    from torch_fidelity import metric_kid

    monkeypatch.setattr(kernel, "CHUNK", 37)
    rows, reference = drawn(200, 16, seed=1) + 0.2, 1.1 * drawn(200, 16, seed=2)
    settings = {"kid_subsets": 1, "kid_subset_size": 200, "rng_seed": 0, "verbose": False}
    known = metric_kid.kid_features_to_metric(rows, reference, **settings)[metric_kid.KEY_METRIC_KID_MEAN]
    assert kernel.kernel_distance(rows, reference)[0] == pytest.approx(known, rel=1e-10)


def test_kernel_distance_is_the_mean_of_torch_fidelitys_subsets():
    from torch_fidelity import metric_kid

    rows, reference = (drawn(500, 16, seed=3) + 0.2).float(), (1.1 * drawn(800, 16, seed=4)).float()
    settings = {"kid_subsets": 100, "kid_subset_size": 100, "rng_seed": 0, "verbose": False}
    found = metric_kid.kid_features_to_metric(rows, reference, **settings)
    mean, spread = found[metric_kid.KEY_METRIC_KID_MEAN], found[metric_kid.KEY_METRIC_KID_STD]
    distance, error = kernel.kernel_distance(rows, reference)
    assert abs(distance - mean) < 3 * spread / math.sqrt(100)
    assert error < spread


@pytest.mark.parametrize(
    ("scale", "shift", "count", "low", "high"),
    [
        (1.0, 0.0, 150, 1.1, 1.6),
        (1.0, 0.3, 150, 0.9, 1.3),
        (1.3, 0.5, 40, 0.9, 1.25),
        (1.3, 0.5, 400, 0.9, 1.25),
    ],
)
def test_the_error_of_the_kernel_distance_is_its_spread(scale, shift, count, low, high):
    """Over 250 draws of both sets; √2 too large where both laws are one. The mean is unbiased: 0 there."""
    generator = torch.Generator().manual_seed(12)
    draws = []
    for _ in range(250):
        rows = scale * torch.randn(count, 6, generator=generator) + shift
        draws.append(kernel.kernel_distance(rows, torch.randn(120, 6, generator=generator)))
    distance, error = torch.tensor(draws).T
    assert low < float(error.square().mean().sqrt() / distance.std()) < high
    if (scale, shift) == (1.0, 0.0):
        assert abs(float(distance.mean())) < 3 * float(distance.std()) / math.sqrt(250)


# Precision, recall, density, coverage


@pytest.mark.parametrize("blocks", [512, 33])
@pytest.mark.parametrize(("shift", "noise"), [(0.0, 1.0), (1.0, 0.7), (4.0, 1.0)])
def test_manifold_equals_torch_fidelity_and_prdc(shift, noise, blocks, monkeypatch):
    from prdc import compute_prdc
    from torch_fidelity import metric_prc

    monkeypatch.setattr(manifold, "CHUNK", blocks)
    rows, reference = noise * drawn(150, 4, seed=1) + shift, drawn(230, 4, seed=2)
    found = manifold.manifold(rows, reference, manifold.radii(reference))
    assert found == manifold.manifold(rows, reference)
    settings = {"prc_neighborhood": 3, "prc_batch_size": 100, "save_cpu_ram": False, "verbose": False}
    known = metric_prc.prc_features_to_metric(rows, reference, **settings)
    assert found.precision == pytest.approx(known["precision"], abs=1e-6)
    assert found.recall == pytest.approx(known["recall"], abs=1e-6)
    with contextlib.redirect_stdout(io.StringIO()):
        known = compute_prdc(reference.numpy(), rows.numpy(), nearest_k=5)
    assert found.density == pytest.approx(known["density"])
    assert found.coverage == pytest.approx(known["coverage"])


def test_copies_of_the_data_are_on_its_manifold():
    """Every distance that decides is a tie with a radius: closed balls hold it, open ones do not. Far from 0, too."""
    reference = drawn(300, 8, seed=3) + 1000.0
    found = manifold.manifold(reference[torch.randperm(300)], reference)
    assert (found.precision, found.recall, found.density, found.coverage) == (1.0, 1.0, 1.0, 1.0)


def test_the_fifth_neighbor_is_not_the_row_itself():
    line = torch.tensor([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0])[:, None]
    near, far = manifold.radii(line)
    assert near[0] == 6.0 and far[0] == 15.0 and far[-1] == 20.0


def test_many_equal_rows_have_balls_of_no_size():
    few = drawn(20, 50, seed=5)
    reference = torch.cat([drawn(50, 50, seed=4), few.repeat(7, 1)])
    assert manifold.radii(reference)[1, 50:].max() == 0.0
    assert manifold.manifold(few, reference).precision == 1.0


def test_no_more_rows_than_the_cap_are_used():
    rows, reference = drawn(90, 3, seed=6), drawn(100, 3, seed=7)
    found = manifold.manifold(rows, reference, manifold.radii(reference, cap=60), cap=60)
    assert found == manifold.manifold(rows[:60], reference[:60])
    with pytest.raises(ValueError, match=r"radii of shape \(2, 100\) for 60 reference rows"):
        manifold.manifold(rows, reference, manifold.radii(reference), cap=60)


# Transport


@pytest.mark.parametrize(("count", "other"), [(50, 50), (50, 80), (80, 31), (1, 7)])
def test_sliced_wasserstein_equals_pots(count, other, monkeypatch):
    import ot

    monkeypatch.setattr(transport, "CHUNK", 7)
    rows, reference = drawn(count, 5, seed=1), 2.0 * drawn(other, 5, seed=2) + 0.5
    lines = transport.directions(5, 40, seed=3)
    known = ot.sliced_wasserstein_distance(rows.numpy(), reference.numpy(), projections=lines.T.numpy(), p=2)
    found = transport.sliced_wasserstein(rows, reference, seed=3, projections=40)
    assert found == pytest.approx(float(known), rel=1e-10)


def test_sliced_wasserstein_of_a_shift():
    """(θ·δ)² on every line, |δ|²/d in the mean over all of them."""
    rows, shift = drawn(100, 6, seed=4), drawn(6, seed=5)
    lines = transport.directions(6, 256, 0)
    found = transport.sliced_wasserstein(rows, rows + shift)
    assert found == pytest.approx(float((lines @ shift).square().mean().sqrt()), rel=1e-10)
    many = transport.sliced_wasserstein(rows, rows + shift, projections=20_000)
    assert many == pytest.approx(float(shift.norm()) / math.sqrt(6), rel=0.02)


def test_on_a_line_every_transport_is_one():
    """Sorted differences, integrated over quantiles; points in two places in different shares."""
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0], [0.0]])
    for distance in (transport.sliced_wasserstein, transport.wasserstein2):
        assert distance(first, second) == pytest.approx(math.sqrt(1 / 6))


def test_exact_transport_of_a_shift_and_a_permutation():
    rows, shift = drawn(200, 2, seed=6), torch.tensor([3.0, -4.0])
    moved = rows[torch.randperm(200)] + shift
    assert transport.wasserstein2(rows, moved) == pytest.approx(5.0, rel=1e-9)
    assert transport.wasserstein2(rows, rows) == pytest.approx(0.0, abs=1e-6)


def test_exact_transport_equals_the_best_assignment():
    from scipy import optimize

    rows, reference = drawn(60, 2, seed=7), 2.0 * drawn(60, 2, seed=8)
    cost = torch.cdist(rows, reference).square().numpy()
    best = cost[optimize.linear_sum_assignment(cost)].mean()
    assert transport.wasserstein2(rows, reference) == pytest.approx(math.sqrt(best), rel=1e-9)
    twice = reference.repeat(2, 1)
    assert transport.wasserstein2(rows, twice) == pytest.approx(math.sqrt(best), rel=1e-9)


def test_exact_transport_uses_a_seeded_choice_of_many_points():
    rows, reference = drawn(300, 2, seed=9), drawn(200, 2, seed=10)
    found = [transport.wasserstein2(rows, reference, seed=seed, cap=100) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert found[0] != transport.wasserstein2(rows, reference)


# Classifier score


@pytest.mark.parametrize(("count", "splits"), [(1000, 10), (1003, 7), (20, 1)])
def test_the_score_equals_torch_fidelitys(count, splits):
    from torch_fidelity import metric_isc

    logits = 3.0 * drawn(count, 12, dtype=torch.float32)
    known = metric_isc.isc_features_to_metric(logits, splits, shuffle=False)
    mean, deviation = score.classifier_score(logits, splits)
    assert mean == pytest.approx(known[metric_isc.KEY_METRIC_ISC_MEAN], rel=1e-12)
    assert deviation == pytest.approx(known[metric_isc.KEY_METRIC_ISC_STD], rel=1e-9, abs=1e-15)


def test_the_score_lies_between_one_and_the_number_of_classes():
    sure = torch.nn.functional.one_hot(torch.arange(100) % 5, 7) * 2000.0  # two classes nobody has
    assert score.classifier_score(sure) == pytest.approx((5.0, 0.0))
    assert score.classifier_score(torch.zeros(100, 5)) == pytest.approx((1.0, 0.0))
    with pytest.raises(ValueError, match=r"\(9, 5\) in 10 parts.*at least one sample"):
        score.classifier_score(torch.zeros(9, 5))
    with pytest.raises(ValueError, match="100 of 100 rows of logits are not finite"):
        score.classifier_score(sure * math.inf)


# All of them


PAIRED = (
    kernel.kernel_distance,
    manifold.manifold,
    transport.sliced_wasserstein,
    transport.wasserstein2,
)


@pytest.mark.parametrize("distance", PAIRED)
def test_rows_that_cannot_be_compared_are_refused(distance):
    rows = drawn(20, 3)
    with pytest.raises(ValueError, match=r"\(20, 3\) and reference rows of shape \(20, 2\)"):
        distance(rows, rows[:, :2])
    broken = rows.clone()
    broken[4] = math.nan
    with pytest.raises(ValueError, match="1 of 20 rows are not finite"):
        distance(broken, rows)
    with pytest.raises(ValueError, match="1 of 20 reference rows are not finite"):
        distance(rows, broken)
    with pytest.raises(ValueError, match="0 rows are too few"):
        distance(rows[:0], rows)


@pytest.mark.parametrize("distance", PAIRED)
def test_the_same_rows_give_the_same_number_to_the_last_digit(distance):
    rows, reference = drawn(150, 3, seed=1, dtype=torch.float32), drawn(200, 3, seed=2, dtype=torch.float32)
    assert distance(rows, reference) == distance(rows.clone(), reference.clone())
