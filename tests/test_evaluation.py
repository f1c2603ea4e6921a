"""Distances against closed forms and scipy, the judge against its stated score, evaluation against itself."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace

import numpy
import pytest
import torch
from scipy import linalg
from torch import nn

from flowleap import data, evaluation, memory, methods
from flowleap.evaluation import (
    distances,
    features,
    generation,
    label_accuracy,
    labels,
    numbers,
    statistics_file,
)
from flowleap.evaluation.distances import Statistics


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def evaluator(digits):
    return evaluation.evaluator_for(digits)


def positive(dims: int, seed: int) -> torch.Tensor:
    root = torch.randn(dims, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / dims


# Fréchet distance


def test_frechet_of_commuting_gaussians_is_the_closed_form():
    """|μ₁ − μ₂|² + Σ (√a − √b)² for diagonal covariances."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 20, generator=generator, dtype=torch.float64) + 0.1
    shift = torch.randn(20, generator=generator, dtype=torch.float64)
    found = distances.frechet(
        Statistics(torch.zeros(20, dtype=torch.float64), first.diag(), 100),
        Statistics(shift, second.diag(), 100),
    )
    expected = shift.square().sum() + (first.sqrt() - second.sqrt()).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_frechet_of_scaled_gaussians_is_the_closed_form():
    """Σ and c²Σ, not diagonal: (1 − c)² tr Σ."""
    mean, covariance = torch.ones(12, dtype=torch.float64), positive(12, 1)
    found = distances.frechet(Statistics(mean, covariance, 1), Statistics(mean, 2.25 * covariance, 1))
    assert found == pytest.approx(0.25 * float(covariance.trace()), rel=1e-10)


@pytest.mark.parametrize("dims", [2, 16, 64])
def test_frechet_equals_scipys_square_root(dims):
    first, second = positive(dims, 2), positive(dims, 3)
    mean = torch.linspace(-1, 1, dims, dtype=torch.float64)
    found = distances.frechet(Statistics(mean, first, 1), Statistics(2 * mean, second, 1))
    cross = linalg.sqrtm((first @ second).numpy())
    expected = float(mean.square().sum()) + numpy.trace(first.numpy() + second.numpy() - 2 * cross).real
    assert found == pytest.approx(expected, rel=1e-8)


def test_frechet_survives_singular_covariances(digits):
    """Pixels that never change make the covariance singular; the distance of the set to itself is still 0."""
    own = distances.statistics(features.PIXEL(digits.x))
    assert float(torch.linalg.eigvalsh(own.covariance)[0]) < 1e-12
    assert distances.frechet(own, own) == pytest.approx(0.0, abs=1e-6)


def test_statistics_equal_numpys_and_are_float64():
    rows = torch.randn(300, 7, generator=torch.Generator().manual_seed(4))
    found = distances.statistics(rows)
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    assert found.count == 300
    numpy.testing.assert_allclose(found.covariance.numpy(), numpy.cov(rows.double().numpy().T), rtol=1e-12)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match=r"more than 64 samples, got 64.*at least 65"):
        distances.statistics(torch.randn(64, 64))


def test_statistics_of_different_features_are_refused():
    few, many = distances.statistics(torch.randn(20, 3)), distances.statistics(torch.randn(20, 4))
    with pytest.raises(ValueError, match="3 features cannot be compared with 4"):
        distances.frechet(few, many)


def test_the_class_means_of_digits_lie_at_the_stated_distance(digits, evaluator):
    """One exact step of flow matching gives the class means; their distance to digits is 7.05."""
    means = torch.stack([digits.x[digits.label == label].mean(dim=0) for label in range(10)])
    found = distances.frechet(
        distances.statistics(evaluator.features(means[torch.arange(1000) % 10])), evaluator.statistics
    )
    assert found == pytest.approx(7.05, abs=0.02)


def test_the_floor_of_digits_is_about_a_third(evaluator):
    assert 0.2 < evaluator.floor < 0.4
    assert evaluator.floor == evaluation.evaluator_for(evaluator.dataset).floor


# Label accuracy


def test_the_judge_of_digits_scores_as_stated(evaluator):
    """0.99 on the rows it has not seen, with pixels in [−1, 1]."""
    assert (evaluator.classifier.fitted, evaluator.classifier.held_out) == (1000, 797)
    assert evaluator.classifier.score == pytest.approx(0.992, abs=0.003)
    assert (evaluator.classifier.classifier.gamma, evaluator.classifier.classifier.C) == (0.02, 10.0)


def test_label_accuracy_sees_the_label(digits, evaluator):
    assert evaluator.classifier.hits(digits.x, digits.label) > 0.99 * len(digits)
    assert evaluator.classifier.hits(digits.x, (digits.label + 1) % 10) < 0.01 * len(digits)


def test_a_classifier_that_makes_the_features_is_the_judge(digits):
    def extract(x):
        rows = x.flatten(1)
        return rows, torch.nn.functional.one_hot((rows[:, 0] < 0).long() + (rows.sum(1) > -20).long(), 10)

    evaluator = evaluation.evaluator_for(digits, features.Features("odd", extract))
    verdict = extract(digits.x)[1].argmax(1)
    assert evaluator.classifier.name == "odd classifier"
    assert evaluator.classifier.score == pytest.approx(float((verdict == digits.label).double().mean()))
    assert evaluation.measure(digits.x[:200], verdict[:200], evaluator)["agreement"] == 1.0


def test_the_judge_is_deterministic(digits, evaluator):
    again = label_accuracy.fit(digits)
    assert again.score == evaluator.classifier.score
    assert numpy.array_equal(again.classifier.dual_coef_, evaluator.classifier.classifier.dual_coef_)


def test_no_judge_without_labels_or_with_one_class(digits):
    moons = data.load("two-moons")
    assert label_accuracy.fit(moons) is None
    assert label_accuracy.fit(replace(digits, label=torch.zeros_like(digits.label))) is None


def test_other_labeled_sets_get_a_judge_too():
    moons = data.load("two-moons")
    labeled = replace(moons, label=(moons.x[:, 1] > 0).long(), num_classes=2)
    assert label_accuracy.fit(labeled).score > 0.99


# Nearest training sample


def test_nearest_ratio_of_copies_is_nil_and_of_fresh_data_about_one():
    generator = torch.Generator().manual_seed(5)
    train, fresh = torch.randn(2, 1500, 3, generator=generator, dtype=torch.float64)
    evaluator = evaluation.evaluator_for(data.Dataset("cloud", train.float(), kind="points"))
    copied = numbers.memorized(train[:200].float().double(), evaluator)
    assert (copied["nearest_ratio"], copied["copies"]) == (pytest.approx(0.0, abs=1e-5), 1.0)
    found = numbers.memorized(fresh, evaluator)
    assert found["nearest_ratio"] == pytest.approx(1.0, abs=0.06)
    assert found["copies"] == pytest.approx(0.01, abs=0.01)
    some = numbers.memorized(torch.cat([fresh[:1200], train[:300].float().double()]), evaluator)
    assert some["copies"] == pytest.approx(0.2, abs=0.02), "a share of copies shows where a mean hides it"


def test_mirror_images_of_training_images_are_copies_where_training_mirrored():
    generator = torch.Generator().manual_seed(6)
    train, fresh = (torch.rand(2, 400, 3, 4, 4, generator=generator) * 2 - 1).unbind()
    plain = data.Dataset("photos", train)
    asked = [evaluation.evaluator_for(plain.turned(flip)) for flip in (False, True)]
    copies, new = train[:100].flip(-1).flatten(1).double(), fresh.flatten(1).double()
    without, mirrored = (numbers.memorized(copies, evaluator) for evaluator in asked)
    assert without["nearest_ratio"] > 0.9 and without["copies"] < 0.1
    assert (mirrored["nearest_ratio"], mirrored["copies"]) == (pytest.approx(0.0, abs=1e-5), 1.0)
    assert numbers.memorized(copies.view(-1, 3, 4, 4).flip(-1).flatten(1), asked[1])["copies"] == 1.0
    found = numbers.memorized(
        new, asked[1]
    )  # of new images, against the spacing of images and mirror images alike
    assert found["nearest_ratio"] == pytest.approx(1.0, abs=0.01)
    assert [evaluator.mirrored for evaluator in asked] == [False, True]


def test_the_nearest_other_image_is_not_the_mirror_image_of_the_same():
    rows = torch.tensor([[0.0, 0.1], [1.0, 1.0], [0.2, 0.0]])
    dataset = data.Dataset("few", rows.view(3, 1, 1, 2)).turned(True)
    evaluator = evaluation.Evaluator("few", evaluation.named("pixel"), dataset=dataset)
    found = sorted(evaluator.spacing.tolist())  # the first and the mirrored last; (1, 1) to the mirrored last
    assert found == pytest.approx([0.1, 0.1, 1.64**0.5])


def test_nearest_leaves_the_row_itself_out():
    line = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    assert distances.nearest(line, line).tolist() == [0.0, 0.0, 0.0]
    assert distances.nearest(line, line, own=torch.arange(3)).tolist() == [1.0, 1.0, 2.0]


def test_nearest_does_not_depend_on_the_blocks(monkeypatch):
    rows, reference = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    whole = distances.nearest(rows, reference)
    monkeypatch.setattr(distances, "CHUNK", 7)
    torch.testing.assert_close(distances.nearest(rows, reference), whole, rtol=1e-10, atol=1e-10)


# Protocol


class Still(nn.Module):
    """A network that says the velocity x / t: one step from noise lands at 0, and the label shifts it."""

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.01))
        self.dropout = nn.Dropout(0.5)
        self.batches = []

    def forward(self, x, t, r, label=None):
        self.batches.append((len(x), self.training))
        shift = self.shift * label.to(x.dtype).reshape(-1, 1, 1, 1)
        return self.dropout(x - shift)


@pytest.fixture
def still():
    objective = methods.flow_matching()
    return objective, objective.flow_map(Still())


def run(still, digits, evaluator, **changes):
    objective, flow = still
    settings = {"steps": (1, 2), "num": 70, "batch": 32, "evaluator": evaluator} | changes
    return evaluation.evaluate(flow, objective, digits, **settings)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rows_hold_exact_counts_and_every_promised_key(still, digits, evaluator):
    rows = run(still, digits, evaluator)
    keys = {
        "nfe",
        "steps",
        "features",
        "protocol",
        "distance",
        "agreement",
        "nearest_ratio",
        "seconds",
        "num",
        *numbers.NUMBERS,
        *("metric", "kernel_metric", "reference", "reference_split", "reference_size", "reference_seen"),
        "reference_mirrored",
        *("checksum", "features_checksum", "weights", "labels", "guidance", "seed", "commit", "version"),
    }
    assert all(keys <= row.keys() for row in rows)
    assert [row["nfe"] for row in rows] == [1, 2]
    assert all(row["num"] == 70 and row["features"] == "pixel" for row in rows)
    counts = still[1].network.batches
    assert [count for count, _ in counts] == [32, 32, 32, 6, 32, 32, 32, 32, 6, 6]  # the first warms up
    assert not any(training for _, training in counts) and still[1].network.training
    json.dumps(rows, allow_nan=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_same_evaluation_twice_gives_the_same_numbers(still, digits, evaluator):
    first, second = run(still, digits, evaluator), run(still, digits, evaluator)
    for row in (*first, *second):
        row.pop("seconds")
    assert first == second
    assert run(still, digits, evaluator, seed=1)[0]["distance"] != first[0]["distance"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_protocol_states_what_a_number_depends_on(still, digits, evaluator):
    (row,) = run(still, digits, evaluator, steps=(1,), weights="ema=0.999", seed=3)
    assert row["protocol"] == (
        f"flowleap/v2;FD-pixel;n=70;ref=digits/all:1797@{evaluator.checksum};labels=data;"
        "weights=ema=0.999;seed=3;guidance=none"
    )
    other = evaluation.evaluator_for(replace(digits, x=-digits.x))
    assert other.checksum != evaluator.checksum


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_given_times_make_one_row(still, digits, evaluator):
    (row,) = run(still, digits, evaluator, times=(1.0, 0.6, 0.0))
    assert (row["steps"], row["nfe"], row["times"]) == (2, 2, [1.0, 0.6, 0.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num": 64}, "num=64 samples are too few.*64 pixel features.*at least 65"),
        ({"steps": (1, 0)}, "steps=0: sampling takes at least 1 step"),
        ({"steps": ()}, "no number of steps"),
        ({"times": (1.0,)}, "times 1: falling times from 1"),
        ({"batch": 0}, "batches of 0"),
    ],
)
def test_bad_requests_say_what_to_do(still, digits, evaluator, changes, message):
    with pytest.raises(ValueError, match=message):
        run(still, digits, evaluator, **changes)


@pytest.mark.filterwarnings("ignore:.*trained")
def test_samples_that_are_not_finite_leave_gaps_and_a_warning(still, digits, evaluator):
    nn.init.constant_(still[1].network.shift, math.inf)
    with pytest.warns(UserWarning, match="70 of 70 samples are not finite"):
        rows = run(still, digits, evaluator, steps=(1,))
    assert all(row["distance"] is row["agreement"] is row["nearest_ratio"] is None for row in rows)
    json.dumps(rows, allow_nan=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_samples_depend_on_seed_and_index_only(still):
    objective, flow = still
    flow.network.eval()

    def make(num, batch, seed=0):
        label = generation.cycle(num, 10)
        return generation.generate(
            flow, objective, (1, 8, 8), num, seed=seed, label=label, steps=2, batch=batch
        )

    torch.testing.assert_close(make(40, 40)[:11], make(11, 3), rtol=0, atol=1e-5)
    assert not torch.allclose(make(11, 11), make(11, 11, seed=1))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_objective_samples_in_inference_mode_to_ordinary_tensors(still):
    """Without a graph, and such that what comes after may have one; samplers keep the gradient."""
    objective, flow = still
    flow.network.eval()
    noise, label, modes = torch.randn(3, 1, 8, 8), torch.arange(3), []
    handle = flow.network.register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    found = objective.sample(flow, noise, label=label)
    handle.remove()
    assert modes == [True] and not found.requires_grad and not found.is_inference()
    weight = torch.ones(3, 1, 8, 8, requires_grad=True)
    (found * weight).sum().backward()
    assert torch.equal(weight.grad, found)
    kept = objective.sampling.sample(flow, noise, label=label)
    assert kept.requires_grad and torch.equal(kept.detach(), found)


def test_overlapped_is_map_in_a_thread():
    """In order; the next item is made before the result is taken, and no more than that."""
    made, seen = [], []

    def items():
        for number in range(5):
            made.append(number)
            yield number

    def square(number):
        seen.append(threading.current_thread())
        return number * number

    results = generation.overlapped(square, items())
    assert next(results) == 0 and made == [0, 1]
    assert list(results) == [1, 4, 9, 16] and threading.main_thread() not in seen
    with pytest.raises(ZeroDivisionError):
        list(generation.overlapped(lambda number: 1 // number, items()))


def test_memory_decides_how_many_samples_are_made_at_a_time(still, monkeypatch):
    """Warnings are left to the samples themselves."""
    objective, flow = still
    request = generation.Request(flow, objective, (1, 8, 8), label=generation.cycle(40, 10))
    assert request.rows_at_once() == 250
    monkeypatch.setattr(memory, "free", lambda device: 1e5)
    few = request.rows_at_once()
    assert 1 <= few < 250
    made = [len(part) for part, _ in request.stream(range(20), few)]
    assert sum(made) == 20 and made[0] == min(20, few)


def test_labels_cycle():
    assert generation.cycle(5, 3).tolist() == [0, 1, 2, 0, 1]
    assert generation.cycle(5, None) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_points_are_judged_by_their_coordinates():
    moons = data.load("two-moons")
    objective = methods.flow_matching()
    flow = objective.flow_map(lambda x, t, r, label: x)
    (row,) = evaluation.evaluate(flow, objective, moons, steps=(1,), num=200)
    assert row["features"] == "point" and row["agreement"] is None
    scale = moons.x.double().square().sum(dim=1).mean()
    assert row["distance"] == pytest.approx(float(scale), rel=0.01)  # every sample lands at 0
    assert evaluation.evaluator_for(moons).features is features.POINT


# Protocols


def test_numbers_of_different_protocols_are_refused_in_one_table(still, digits, evaluator):
    first = run(still, digits, evaluator, steps=(1,))[0]
    assert evaluation.same([first, first | {"protocol": first["protocol"].replace("seed=0", "seed=1")}])
    for change in ("n=70", "digits/all", "FD-pixel", "labels=data", "flowleap/v2"):
        other = first | {"protocol": first["protocol"].replace(change, "another")}
        with pytest.raises(ValueError, match=r"different protocols.*another.* there.*flowleap evaluate"):
            evaluation.quality_table.table([first, other])
    with pytest.raises(ValueError, match="no measured rows"):
        evaluation.same([])


def test_a_checksum_of_features_belongs_to_the_protocol(still, digits):
    fitted = replace(features.PIXEL, name="mine", checksum="abc")
    (row,) = run(still, digits, evaluation.evaluator_for(digits, fitted), steps=(1,))
    assert row["protocol"].startswith("flowleap/v2;FD-mine@abc;n=70;")


def test_standards_are_named_with_their_versions():
    assert evaluation.standard("ADM-in256/v1").shape == (3, 256, 256)
    assert evaluation.standard("edm").num == 50_000
    with pytest.raises(ValueError, match=r"unknown protocol 'adm'; did you mean edm or adm-in256\?"):
        evaluation.standard("adm")
    with pytest.raises(ValueError, match=r"'flowleap/v1'.*measures by flowleap/v2"):
        evaluation.standard("flowleap/v1")


def test_a_standard_for_another_size_is_refused(still, digits, evaluator):
    with pytest.raises(ValueError, match=r"made for images of 3 × 256 × 256, and these are 1 × 8 × 8"):
        run(still, digits, evaluator, standard=evaluation.standard("adm-in256"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_uniform_labels_follow_the_standard(still, digits, evaluator):
    law = replace(evaluation.STANDARDS["flowleap"], labels="uniform")
    (row,) = run(still, digits, evaluator, steps=(1,), standard=law)
    assert row["labels"] == "uniform" and ";labels=uniform;" in row["protocol"]
    first, second = (
        labels.asked("uniform", 5000, digits.class_names, evaluator, seed).label for seed in (0, 1)
    )
    assert first.bincount(minlength=10).min() > 400 and not torch.equal(first, second)


class Classwise(torch.nn.Module):
    """The exact flow, in one step, to a Gaussian of width 0.1 around the mean of each class."""

    means = torch.tensor([[-1.5, 0.0], [1.5, 0.0], [0.0, 9.0]])

    def __init__(self, classes=2):
        super().__init__()
        self.num_classes = classes

    def forward(self, x, t, r, label=None):
        return 0.9 * x - self.means[label]


def uneven(names=("many", "few"), swapped=False):
    """2,000 points, nine in ten of them of the class many."""
    few = torch.arange(2000) % 10 == 0
    label = (few ^ swapped).long()
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(3))
    return data.Dataset(
        "uneven", Classwise.means[few.long()] + 0.1 * noise, label, 2, kind="points", classes=names
    )


def of_classes(dataset, evaluator=None, law="data", classes=2):
    objective = methods.flow_matching()
    standard = replace(evaluation.STANDARDS["flowleap"], labels=law)
    flow = objective.flow_map(Classwise(classes))
    options = {"steps": (1,), "num": 1000, "standard": standard, "evaluator": evaluator}
    return evaluation.evaluate(flow, objective, dataset, **options)[0]


@pytest.mark.slow
def test_a_perfect_generator_of_uneven_classes_measures_as_real_data_does():
    row, cycled = of_classes(uneven()), of_classes(uneven(), law="cycle")
    assert row["distance"] < 0.01 < 1.0 < cycled["distance"]
    assert (row["labels"], cycled["labels"]) == ("data", "cycle") and ";labels=data;" in row["protocol"]
    assert row["agreement"] == cycled["agreement"] == 1.0
    with pytest.raises(ValueError, match="'labels=data' here, 'labels=cycle' there"):
        evaluation.same([row, cycled])


@pytest.mark.slow
def test_classes_of_the_reference_are_those_of_the_same_name(tmp_path):
    """Whatever their order there; a class that is not there is not sampled, and known counts of a file are enough."""
    swapped = evaluation.evaluator_for(uneven(("few", "many"), swapped=True))
    row = of_classes(uneven(), swapped)
    assert row["distance"] < 0.01 and row["agreement"] == 1.0 and row["labels"] == "data"
    third = replace(uneven(("many", "few", "none")), num_classes=3)
    assert of_classes(third, classes=3)["distance"] < 0.01
    other = evaluation.evaluator_for(uneven(("cats", "dogs")))
    row = of_classes(uneven(), other)
    assert row["labels"] == "cycle" and row["agreement"] is None
    about = statistics_file.about_features(features.POINT)
    for known, law in (({"few": 200, "many": 1800}, "data"), (None, "cycle")):
        statistics_file.write(
            tmp_path / "s.npz", swapped.statistics, about | ({"classes": known} if known else {})
        )
        row = of_classes(uneven(), evaluation.stored_evaluator(tmp_path / "s.npz", features.POINT))
        assert row["labels"] == law and (row["distance"] < 0.01) == (law == "data")


def test_shares_are_whole_exact_and_spread():
    counts = [900, 60, 39, 1]
    for num in (1, 7, 50, 1000, 1234):
        label = generation.proportional(num, counts)
        found = label.bincount(minlength=4)
        assert len(label) == num
        assert all(abs(int(n) - num * c / 1000) < 1 for n, c in zip(found, counts, strict=True))
    seen = (generation.proportional(1000, counts) == 0).cumsum(0) - 0.9 * torch.arange(1, 1001)
    assert seen.abs().max() <= 2
    for num, classes in ((10, 10), (1000, 10), (1000, 7), (100, 3), (5, 8)):
        assert torch.equal(generation.proportional(num, [6000] * classes), generation.cycle(num, classes))


def test_labels_of_samples_that_are_there_are_counted_whatever_their_order():
    evaluator, names = evaluation.evaluator_for(uneven()), ("many", "few")
    equal = evaluation.evaluator_for(replace(uneven(), label=torch.arange(2000) % 2))
    for label, judge, law in (
        ([0] * 9 + [1], evaluator, "data"),
        ([0, 0, 1, 1], evaluator, "cycle"),
        ([0, 0, 1, 1], equal, "cycle"),
        ([0, 0, 0, 1], equal, "given"),
        ([0] * 5 + [1] * 5 + [0] * 4, evaluator, "given"),
    ):
        found = labels.given(torch.tensor(label), names, judge)
        assert found.law == law and found.there(found.label).tolist() == label
    found = labels.given(torch.tensor([1, 0]), ("few", "many"), evaluator)
    assert found.there(found.label).tolist() == [0, 1]
    assert labels.given(None, (), evaluator).law == "none"
    with pytest.raises(
        ValueError,
        match="one of these samples has the class 'hat', which uneven does not have; it has many, few",
    ):
        labels.given(torch.tensor([0]), ("hat",), evaluator)


def test_many_values_are_shrunk_before_they_are_compared():
    large = data.Dataset("large", torch.rand(900, 3, 32, 32) * 2 - 1)
    assert features.default(large) is features.PIXEL16
    assert features.PIXEL16(large.x).shape == (900, 768)
    flat = torch.full((2, 3, 64, 48), 0.25)
    torch.testing.assert_close(features.PIXEL16(flat), torch.full((2, 768), 0.25, dtype=torch.float64))


@pytest.mark.parametrize(
    ("shape", "bounds", "samples", "message"),
    [
        ((3, None, None), None, torch.zeros(2, 1, 8, 8), r"1 × 8 × 8 do not fit .*made for 3 × any × any"),
        (None, (-1.0, 1.0), torch.full((2, 3), 255.0), r"between 255 and 255.*\[-1, 1\].*x / 127.5"),
        (None, None, torch.zeros(0, 3), "no samples were given"),
    ],
)
def test_samples_that_do_not_fit_are_refused(shape, bounds, samples, message):
    with pytest.raises(ValueError, match=message):
        features.Features("odd", features.flat, shape=shape, bounds=bounds)(samples)


def test_a_set_of_samples_is_measured_as_one(digits, evaluator):
    """In batches of any size, the numbers of the whole; samples that are not finite are refused."""

    def batches(size):
        return zip(digits.x[:200].split(size), digits.label[:200].split(size), strict=True)

    rows = [evaluation.evaluate_set(batches(size), 200, evaluator, source="half") for size in (200, 33)]
    assert rows[0] == rows[1]
    assert rows[0]["nfe"] is None and ";weights=half;" in rows[0]["protocol"]
    assert rows[0]["agreement"] > 0.98
    broken = [(torch.full_like(digits.x[:200], math.nan), None)]
    with pytest.raises(ValueError, match="200 of 200 samples of half are not finite"):
        evaluation.evaluate_set(broken, 200, evaluator, source="half")


# What order and size must not change


@pytest.mark.slow
def test_the_order_of_many_samples_changes_nothing_much(digits, monkeypatch):
    """Samples sorted by class score as shuffled ones: bounded parts of them are random parts."""
    evaluator = evaluation.evaluator_for(digits, evaluation.named("digits"))
    assert len(evaluator.paired) == len(digits)
    monkeypatch.setattr("flowleap.evaluation.evaluator.PAIRS", 400)  # of the samples only
    by_class = digits.label.argsort(stable=True)
    shuffled, ordered = (
        evaluation.measure(digits.x[rows], digits.label[rows], evaluator) for rows in (..., by_class)
    )
    assert ordered["distance"] == pytest.approx(shuffled["distance"], abs=1e-8)
    assert ordered["score"] == pytest.approx(shuffled["score"], rel=0.05)
    assert ordered["coverage"] == pytest.approx(shuffled["coverage"], abs=0.1)
    assert ordered["kernel_distance"] == pytest.approx(shuffled["kernel_distance"], abs=0.02)


def test_samples_of_another_shape_are_refused_before_any_is_made(still, digits, evaluator):
    wide = replace(digits, x=digits.x.view(-1, 1, 4, 16))
    with pytest.raises(
        ValueError, match=r"samples of 1 × 4 × 16 cannot be compared with digits, whose are 1 × 8 × 8"
    ):
        run(still, wide, evaluator)
    with pytest.raises(ValueError, match="samples of 1 × 4 × 16"):
        evaluation.evaluate_set([(wide.x[:100], None)], 100, evaluator)


def test_a_standard_is_measured_by_its_own_features_and_statistics(digits, evaluator):
    law = replace(evaluation.standard("adm-in256"), shape=None)
    with pytest.raises(ValueError, match="defined with inception:adm features, not pixel"):
        evaluation.evaluate_set([(digits.x[:100], None)], 100, evaluator, standard=law)
    with pytest.raises(ValueError, match=r"compares with ADM's statistics of ImageNet.*not with digits"):
        evaluation.evaluate_set(
            [(digits.x[:100], None)], 100, evaluator, standard=replace(law, features=None)
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_reference_is_known_by_its_rows_not_by_its_name(still, digits, evaluator):
    (row,) = run(still, replace(digits, name="copy"), evaluator, steps=(1,))
    assert row["reference_seen"] is True
    (row,) = run(still, replace(digits, x=-digits.x), evaluator, steps=(1,))
    assert row["reference_seen"] is False


def test_labels_that_the_reference_lacks_are_refused(digits, evaluator):
    with pytest.raises(ValueError, match="label 77, and digits has the classes 0 to 9"):
        evaluation.measure(digits.x[:100], torch.full((100,), 77), evaluator)


def test_a_row_without_a_protocol_stands_in_no_table():
    with pytest.raises(ValueError, match="does not say by which protocol"):
        evaluation.same([{"distance": 1.0}, {"distance": 2.0}])
