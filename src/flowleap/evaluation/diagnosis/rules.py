"""The rules of a diagnosis: findings on its numbers, with likely causes and what to do.

Each threshold is a constant with its reason. Healthy runs (8 × 8 digits, 800 steps of MeanFlow, ESC and flow matching)
keep a factor of two or more from those of probes, exact flows far more. Those of results are set by the runs of
benchmarks/digits.md (3,600 steps, 192 passes over the data): ESC, MeanFlow, shortcut and flow matching stay within them
at every number of steps that they are trained for.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from functools import partial

from flowleap.evaluation.diagnosis.measurements import ORDER, Diagnosis, Finding, RunFacts, Spread
from flowleap.evaluation.diagnosis.records import SPIKE
from flowleap.evaluation.quality_table import COPIED, MEMORIZED

problem, warning, note = partial(Finding, "problem"), partial(Finding, "warning"), partial(Finding, "note")

# what a network has learned
EXPLAINED = 0.05  # zero output explains nothing of the target, exact flows of Gaussian data 0.15 and more
BEHIND = 1.3  # the isotropic Gaussian fitted to the data has 1, healthy runs on images half of it
FAVORED = 1.5  # error on r = t over that on r < t: healthy ratios are 0.8 to 1
NEGLECTED = 3.0  # … where jumps agree with one another but not with the data
JOINED = 1.3  # u(t, t) and u(t, t − ε) are almost one function: healthy ratios are within 1 % of 1
RARE = 0.1  # a share of r = t below this; published ones are 0.25 to 0.875

# inputs and derivatives
IGNORED = 0.01  # relative change of the output; healthy outputs change by a quarter and more
ROUGH = 0.2  # the central difference of a smooth network is exact to 1 %
VERY_ROUGH = 0.5  # more than half of the derivative is at a scale below any sampling step
STEEP = 5.0  # ‖du/dt‖/‖u‖ at the noise: the output changes completely within a fifth of the range; healthy: 0.3 to 0.5
STEEPER = 5.0  # … relative to the middle; healthy outputs change less there
STEEP_AT_DATA = 60.0  # at the data an exact flow bends within the width of the data: 21 for width 0.02
STEEPER_AT_DATA = 10.0  # … relative to the middle; healthy: about four

# jumps and samples
MISSED = 0.3  # distance between two jumps and one; healthy: 0.1
WORSE = 5.0  # … relative to short jumps; healthy: 2.5
GAP = 0.5  # distance between samples of one step and of many; healthy: 0.2
FEW = 0.5  # share of the variance within classes; healthy one-step samples keep 0.7 and more, a class mean 0
COLLAPSED = 0.25  # … below which the blur is obvious
NARROW = 0.35  # directions of variation relative to the data; healthy: 1 and more
SCATTERED = 2.0  # variance relative to the data: noise left in, or an overshoot; 3 for an untrained map
SHIFTED = 0.5  # squared distance of class means in variances; healthy: 0.1

# training
UNSTEADY = (
    1.5  # std/mean of gradient norms over batches; healthy: 0.05 to 0.15, pure noise in one weight 0.76
)
FALLING = 0.2  # fall of the error from the third quarter to the last; 0.06 to 0.1 after a decay
SLOWLY = 0.03  # … that more steps would still turn into quality, though not worth a warning
RISING = 1.2  # error of the last quarter relative to the best one before; the noise is far below a fifth
OFTEN = 3  # spikes
HUGE = 10.0  # a single spike
GROWTH = 3.0  # of ‖du/dt‖ from the second quarter to the last; healthy: 1.0 to 1.1
SKIPPED = 0.01  # share of steps skipped as not finite: a few do no harm

# results
FAR = 3.0  # distance relative to that of real images: at most 2.2 in digits.md, for shortcut in one step
VERY_FAR = 5.0  # … 5.4 for flow matching in two steps, for which it is not trained: blurred digits
ACCURATE = 0.9  # label accuracy relative to that of real images: at least 0.98 in digits.md
GUESSED = 0.7  # … below which wrong labels are obvious
PRECISE = 0.3  # precision at best: 0.07 after 200 steps on digits, 0.47 and more for finished runs
VARIED = 0.1  # recall at best: 0.25 and more for finished runs
SHORT = 2000  # steps: digits.md has 3,600, the recipe of Fashion-MNIST 7,000
PASSES = 10.0  # over the data: digits.md has 192, the recipe of Fashion-MNIST 15


def judge(d: Diagnosis) -> tuple[Finding, ...]:
    """Return the findings, worst first; a single note where nothing is wrong."""
    found = [*_finite(d), *_untrained(d)]
    untrained = bool(found)  # which fails every other rule of the map as well
    found += [*_skipped(d), *judge_run(d.run)]
    if not untrained:
        for rule in (_ignored, _rough, _steep, _diagonal, _jumps, _samples, _scope):
            found += rule(d)
    found += [*_gradient(d), *_progress(d), *_stability(d)]
    if all(finding.severity == "note" for finding in found):
        found.insert(0, _healthy(d))
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.severity)))


def _healthy(d: Diagnosis) -> Finding:
    """The note where nothing is wrong; it says nothing of samples that were not measured."""
    if d.run is None:
        return note("Nothing wrong was found", "Every probe is where healthy runs have it.")
    if not d.run.rows:
        return note("The probes found nothing wrong", "They do not say how good the samples are.")
    text = (
        "Every probe, and the distance and label accuracy of the samples, are where healthy runs have them."
    )
    return note("Nothing wrong was found", text)


def _one_time(d: Diagnosis) -> bool:
    """Whether the network is conditioned on one time and no row has r = t: it has no velocity and no other jumps."""
    return d.settings.get("conditioning") == "t" and d.error.share == 0


def _finite(d: Diagnosis) -> Iterable[Finding]:
    if d.not_finite > 0:
        yield problem(
            "Output not finite",
            f"{d.not_finite:.0%} of the probed rows are NaN or infinite: the network diverged. Resume from an earlier "
            "checkpoint with a lower learning rate, and look for the first skipped steps in the metrics.",
        )


def _untrained(d: Diagnosis) -> Iterable[Finding]:
    explained, ratio = d.error.explained, d.error.ratio
    jumps_alone = ratio is not None and ratio > NEGLECTED  # the sign of too little r = t, not of no training
    if d.sensitivity.size == 0:
        yield problem(
            "The network outputs zero",
            "Its output is exactly zero everywhere: it was not trained at all, or these are the wrong weights.",
        )
    elif explained is not None and explained < EXPLAINED and not (jumps_alone or _one_time(d)):
        yield problem(
            "Nothing learned yet",
            f"On the rows r = t the network explains {max(0.0, explained):.0%} of the velocity it is to predict, as "
            "little as a network that outputs zero. It is untrained, these are the wrong weights (an EMA too slow for "
            "so few steps?), or the learning rate is far too low or too high.",
        )


def _ignored(d: Diagnosis) -> Iterable[Finding]:
    s = d.sensitivity
    if s.time is not None and s.time < IGNORED:
        yield problem(
            "Time t is ignored",
            f"With another t the output changes by {s.time:.2%}: the network hardly reacts to t. Check that t reaches "
            "the network, and that its embedding resolves the range of times: an embedding made for t up to 1000 is "
            "almost constant on [0, 1].",
        )
    if s.landing is not None and s.landing < IGNORED and d.settings.get("conditioning") != "t":
        spread = d.spread[0].spread
        yield Finding(
            "warning" if d.one_step and spread is not None and spread >= FEW else "problem",
            "Landing time r is ignored",
            f"Whether it lands at r = t or at the data, the output changes by {s.landing:.2%}: the network does not "
            "use r, so that all jumps are steps with the instantaneous velocity. Check that r (or t − r) reaches the "
            "network, and that rows r < t are trained. For flow lines that really are straight this is right.",
        )
    if s.label is not None and s.label < IGNORED:
        yield warning(
            "Label is ignored",
            f"With the label of another class the output changes by {s.label:.2%}: samples do not follow their label. "
            "Check that labels reach the network and that label_dropout is well below 1. For labels that say nothing "
            "about the data this is right.",
        )


def _rough(d: Diagnosis) -> Iterable[Finding]:
    gap, scale = d.tangent.gap, d.settings.get("time_scale")
    if gap is None or gap < ROUGH:
        return
    cause = (
        f"The network multiplies times by {scale:g} before it embeds them (time_scale): train with time_scale=1."
        if scale is not None and scale > 10
        else "Times that enter as t × 1000 or through high Fourier frequencies do this: let t enter in [0, 1] and take "
        "frequencies of a few turns. Times embedded in half precision do it as well: keep them in fp32."
    )
    yield Finding(
        "problem" if gap > VERY_ROUGH else "warning",
        "Time scale too large: the derivative is rough",
        f"The exact du/dt and a central difference over 1 % of the range disagree by {gap:.0%} (smooth networks: 1 %). "
        f"The output varies with t faster than any step of sampling, and targets with du/dt follow that. {cause}",
    )


def _steep(d: Diagnosis) -> Iterable[Finding]:
    values, edges = d.tangent.relative.value, d.tangent.relative.edges
    middle = [value for value in values[2:-2] if value is not None]
    if not middle:
        return
    usual = statistics.median(middle)
    # the second bin would do for the data, but half a bin of narrow data is steep by right
    ends = ((values[0], edges[0], "the data", STEEP_AT_DATA, STEEPER_AT_DATA),
            (values[-1], edges[-1], "the noise", STEEP, STEEPER))  # fmt: skip
    for value, where, side, steep, steeper in ends:
        if value is None or value < steep or value < steeper * usual:
            continue
        norm = "" if d.settings.get("qk_norm") is not False else " train with qk_norm=true,"
        yield Finding(
            "problem" if value > 5 * max(steep, steeper * usual) else "warning",
            f"Tangent blow-up near t = {where:g}",
            f"Toward {side} ‖du/dt‖ is {value:.3g} times ‖u‖, against {usual:.3g} in the middle of the range. "
            f"Targets made with this derivative are dominated by it. Lower the learning rate,{norm} normalize or clip "
            f"the tangent, or keep the times of training away from t = {where:g} (a narrower law).",
        )


def _diagonal(d: Diagnosis) -> Iterable[Finding]:
    e = d.error
    if not d.jumps or _one_time(d):
        return
    field = d.settings.get("diagonal")
    more = {
        None: "Train more rows with r = t.",
        "times.share": f"Lower times.share, the share of rows that jump (r = t has {e.share:.0%} now).",
    }.get(field, f"Raise {field} ({e.share:.2g} now; 0.5 to 0.75 are usual).")
    favored = e.ratio is not None and e.ratio > FAVORED
    if e.behind is not None and e.behind > BEHIND and favored:
        assert e.ratio is not None
        yield Finding(
            "problem" if e.ratio > NEGLECTED or e.share < RARE else "warning",
            "Too little r = t",
            f"On the diagonal the error of the velocity is {e.behind:.2g} times that of a Gaussian fitted to the "
            f"data, while rows r < t do {e.ratio:.2g} times better than rows r = t at the same times: jumps agree with "
            f"one another but not with the data. {more}",
        )
    elif e.joint is not None and e.joint > JOINED:
        yield warning(
            "Too little r = t: short jumps have another velocity",
            f"The velocity asked for at r = t is {e.joint:.2g} times as far from the data as that of the shortest "
            "jumps, which should be the same. Rows r = t are not trained, or the network is told of them in a way of "
            f"their own (a token that is another one in training). {more}",
        )
    elif e.share < RARE and d.settings.get("bootstraps"):
        yield warning(
            "Too little r = t",
            f"{e.share:.0%} of the rows have r = t, and only these tie self-consistent jumps to the data: without them "
            f"any flow is self-consistent, even one that does not move. {more}",
        )
    elif e.share < RARE and field is not None:
        yield note(
            "Few rows with r = t",
            f"{e.share:.0%} of the rows have r = t; published runs have a quarter and more, and learn faster. {more}",
        )


def _jumps(d: Diagnosis) -> Iterable[Finding]:
    g, last = d.semigroup, d.semigroup.to_data.value[-1]
    if not d.jumps or last is None or g.short is None or d.settings.get("conditioning") == "t":
        return
    if last > MISSED and last > WORSE * g.short:
        yield Finding(
            "problem" if last > 2 * MISSED else "warning",
            "Collapsed r = 0: jumps to the data contradict themselves",
            f"From noise to data one jump and two end {last:.0%} of its length apart; jumps over less than a fifth of "
            f"the range {g.short:.0%}. Long jumps are learned last: train longer, or let more rows land at the data "
            "(Gradual times), and check that r = 0 is not treated apart by the network.",
        )
    elif g.overall is not None and g.overall > MISSED:
        yield warning(
            "Jumps contradict themselves",
            f"One jump and two end {g.overall:.0%} of its length apart, short jumps {g.short:.0%}: the map is not "
            "that of any flow yet. Train longer, lower the learning rate, and check that r reaches the network.",
        )


def _samples(d: Diagnosis) -> Iterable[Finding]:
    one, many = d.spread[0], d.spread[-1]
    if d.one_step and one.steps == 1:
        within = "" if d.sensitivity.label is None else " within a class"
        yield from _variety(one, many if many is not one and not _one_time(d) else None, within, _one_time(d))
    measured = one if d.one_step else many
    if measured.offset is not None and measured.offset > SHIFTED:
        count = "one step" if measured.steps == 1 else f"{measured.steps} steps"
        yield warning(
            f"Samples of {count} are off center",
            f"Their means are {measured.offset:.2g} of the variance of the data away from where they belong: jumps "
            "are biased. Train longer, compare with samples of more steps, and check that data and training have the "
            "same range.",
        )


TOO_FEW_JUMPS = (
    "Jumps from noise to data are trained too little or not at all, or r does not reach the network: give rows r < t "
    "a larger share, train longer, and compare the error there."
)
TOO_FEW_STEPS = (
    "Every row jumps to the data, with a target from a point a little nearer to it: while those steps are long, the "
    "network learns the mean. Train longer, so that the steps become short, and draw more high times."
)


def _variety(one: Spread, many: Spread | None, within: str, one_time: bool) -> Iterable[Finding]:
    several = "" if many is None or many.spread is None else f" ({many.spread:.0%} in {many.steps} steps)"
    if one.spread is not None and one.spread < FEW:
        mean = "the mean of their class" if within else "the mean of the data"
        where = (
            f"they are not even near {mean}"
            if one.offset is None or one.offset > SHIFTED
            else f"they {'collapse' if one.spread < COLLAPSED else 'are drawn'} to {mean}, as those of steps with the "
            "instantaneous velocity are"
        )
        yield Finding(
            "problem" if one.spread < COLLAPSED else "warning",
            "Collapsed r = 0: one-step samples lack variety",
            f"One-step samples have {one.spread:.0%} of the variance of the data{within}{several}: {where}. "
            f"{TOO_FEW_STEPS if one_time else TOO_FEW_JUMPS}",
        )
    elif one.diversity is not None and one.diversity < NARROW:
        yield warning(
            "Collapsed r = 0: one-step samples vary in few ways",
            f"They vary{within} in {one.diversity:.0%} of the directions in which the data do: most of "
            "their variety is one pattern, stronger or weaker.",
        )
    if one.spread is not None and one.spread > SCATTERED:
        yield warning(
            "One-step samples are scattered",
            f"They have {one.spread:.0%} of the variance of the data{within}{several}: noise is left in them. "
            "Train longer; if the metrics show spikes, lower the learning rate.",
        )
    if (
        one.gap is not None
        and one.gap > GAP
        and (one.spread is None or one.spread >= FEW)
        and many is not None
    ):
        yield warning(
            "One step and many steps disagree",
            f"From the same noise they end {one.gap:.0%} of the way apart. Long jumps are learned last: train longer, "
            "or give rows r < t a larger share.",
        )


def _scope(d: Diagnosis) -> Iterable[Finding]:
    if not d.jumps:
        yield note(
            "Trained on r = t only",
            f"{d.method} learns the instantaneous velocity, r = t, and no jumps: the semigroup residual and one-step "
            "samples are shown, but were never trained and do not count. Sample it in "
            f"{max(2, d.settings.get('least_steps', 1))} steps or more.",
        )
    elif _one_time(d):
        yield note(
            "Conditioned on t only",
            f"{d.method} predicts the data from (x_t, t) and is not conditioned on r: two jumps against one, chains "
            "of them and the velocity at r = t are shown, but were never trained and do not count.",
        )
    if d.jumps and not d.one_step:
        yield note("Not meant for one step", f"{d.method} is not trained to be sampled in one step.")
    if d.tangent.strategy != "exact JVP":
        yield note(
            "No exact derivative",
            "The network has no forward-mode derivative (fused attention, group norms after a transpose, in-place "
            "operations): du/dt was taken by a central difference, as target.derivative=auto does in training.",
        )


def _gradient(d: Diagnosis) -> Iterable[Finding]:
    g = d.gradient
    if g is None or d.not_finite > 0:
        return
    if g.mean is None:
        yield problem(
            "Gradient not finite",
            "The loss has a gradient that is NaN or infinite although the output is finite: look at the derivative and "
            "the loss, and lower the learning rate.",
        )
    elif g.mean == 0:
        yield problem(
            "No gradient",
            "The gradient of the loss is zero: the output does not depend on the weights, or everything is detached "
            "(a target without its own prediction, a network under no_grad). Nothing can be learned.",
        )
    elif g.spread is not None and g.spread > UNSTEADY:
        yield warning(
            "Gradient norms differ from batch to batch",
            f"Their standard deviation is {g.spread:.2g} times their mean ({g.mean:.3g}, at most {g.largest:.3g}): few "
            "rows dominate. Use a larger batch, clip gradients, or an adaptive loss weight.",
        )


def _progress(d: Diagnosis) -> Iterable[Finding]:
    t = d.trends
    if t is None or t.fall is None:
        return
    ended = t.rate is not None and t.rate < 0.05
    more = "start a longer run, for its learning rate has decayed" if ended else "train on"
    if t.fall > FALLING:
        yield warning(
            "Under-trained: the error is still falling",
            f"Over the last quarter of {t.steps} steps the unweighted error fell by {t.fall:.0%} against the quarter "
            f"before: {more}.",
        )
    elif t.fall > SLOWLY:
        yield note(
            "The error is still falling a little",
            f"Over the last quarter of {t.steps} steps the unweighted error fell by {t.fall:.1%}; to get more out of "
            f"it, {more}.",
        )
    elif t.rise is not None and t.rise > RISING:
        yield warning(
            "The error rises",
            f"In the last quarter of {t.steps} steps the unweighted error is {t.rise:.2g} times that of the best "
            "quarter before: training became unstable. Lower the learning rate, or go back to an earlier checkpoint.",
        )


def _skipped(d: Diagnosis) -> Iterable[Finding]:
    t = d.trends
    if t is not None and t.skipped:
        yield Finding(
            "problem" if t.lost > SKIPPED else "warning",
            "Steps were skipped",
            f"{t.skipped} of {t.steps} steps had a loss or a gradient that was not finite and were left out. Lower the "
            "learning rate; keep fp32 or bf16, not fp16.",
        )


def _stability(d: Diagnosis) -> Iterable[Finding]:
    t = d.trends
    if t is None:
        return
    if t.spikes and t.worst is not None:
        yield Finding(
            "warning" if t.spikes >= OFTEN or t.worst > HUGE else "note",
            "Gradient spikes",
            f"{t.spikes} of {t.rows} rows of the metrics have a gradient norm more than {SPIKE:g} times that of the "
            f"rows before, up to {t.worst:.3g} times at step {t.worst_step}. They often come before NaN: lower the "
            "learning rate, clip gradients (clip=1), train with qk_norm=true.",
        )
    if t.growth is not None and t.growth > GROWTH and math.isfinite(t.growth):
        yield warning(
            "Tangent blow-up: ‖du/dt‖ grows in training",
            f"It is {t.growth:.2g} times what it was in the second quarter of the run, and feeds on itself in targets "
            "made with it. Lower the learning rate, train with qk_norm=true, normalize or clip the tangent, or narrow "
            "the range of times.",
        )


# ---------------------------------------------------------------- results of a run


def judge_run(run: RunFacts | None) -> list[Finding]:
    """Return what is wrong with the results of a run, most important first; notes where nothing is known."""
    if run is None:
        return []
    found = [*_not_finite(run), *_distance(run), *_labels(run), *_precision(run), *_memorized(run)]
    poor = any(finding.severity != "note" for finding in found)
    return [*found, *_length(run, poor), *_unmeasured(run)]


def _not_finite(run: RunFacts) -> Iterable[Finding]:
    broken = [row for row in run.rows if row.distance is None]
    if broken:
        yield problem(
            "Samples are not finite",
            f"In {_listed([row.called for row in broken])} some samples are NaN or infinite, so that nothing was "
            "measured. Train with a lower learning rate, or go back to an earlier checkpoint.",
        )


def _distance(run: RunFacts) -> Iterable[Finding]:
    rows = run.intended
    far = [row for row in rows if run.ratio(row) >= FAR]
    if not far:
        return
    best = min(rows, key=lambda row: row.distance or 0.0)
    first = far[0]
    told = f"In {first.called} {run.metric} is {first.distance:.3g}, {run.ratio(first):.2g} times {_compared(run)}"
    thing = "Images" if run.variance is None else "Points"
    if best in far:
        at_best = "" if best is first else f"; at best, in {best.called}, it is {best.distance:.3g}"
        recognized = run.real_accuracy is not None and (best.accuracy or 0.0) >= ACCURATE * run.real_accuracy
        severe = run.ratio(best) >= VERY_FAR and not recognized
        yield Finding(
            "problem" if severe else "warning",
            f"{thing} are far from the data",
            f"{told}{at_best}. Train longer; where that does not help, try another learning rate or a larger network.",
        )
        return
    fewer, called = first.steps < best.steps, first.called
    cause = (
        "Long jumps are learned last: train longer"
        if fewer
        else "The errors of many steps add up: train longer"
    )
    yield warning(
        f"{thing} of {called} are far from the data",
        f"{told}; in {best.called} it is {best.distance:.3g}. {cause}, or sample in {best.called}.",
    )


def _compared(run: RunFacts) -> str:
    """The distance that others are compared with, as text."""
    assert run.real is not None and run.floor is not None
    thing = "images" if run.variance is None else "points"
    if math.isclose(run.real, run.floor):
        return f"the {run.floor:.3g} between two halves of the data"
    return f"the {run.real:.3g} that {run.num:,} real {thing} would have"


def _labels(run: RunFacts) -> Iterable[Finding]:
    rows = [row for row in run.intended if row.accuracy is not None]
    if not rows or not run.real_accuracy:
        return
    wrong = [row for row in rows if (row.accuracy or 0.0) < ACCURATE * run.real_accuracy]
    if not wrong:
        return
    best = max(rows, key=lambda row: row.accuracy or 0.0)
    guessing = "" if not run.classes else f", and guessing {1 / run.classes:.2f}"
    at_best = "" if best is wrong[0] else f" and {best.accuracy:.2f} in {best.called}"
    yield Finding(
        "problem" if (best.accuracy or 0.0) < GUESSED * run.real_accuracy else "warning",
        "Low label accuracy",
        f"A classifier finds the label that was asked for in {wrong[0].accuracy:.2f} of the samples of "
        f"{wrong[0].called}{at_best}, where real images reach {run.real_accuracy:.2f}{guessing}. Train longer; check "
        "that the labels of the data are right.",
    )


def _precision(run: RunFacts) -> Iterable[Finding]:
    precision = max((row.precision for row in run.intended if row.precision is not None), default=1.0)
    recall = max((row.recall for row in run.intended if row.recall is not None), default=1.0)
    if precision < PRECISE:
        yield warning(
            "Low precision",
            f"At best {precision:.2f} of the samples lie among real data: most do not look like any of them.",
        )
    if recall < VARIED:
        yield warning(
            "Low recall",
            f"At best {recall:.2f} of the real data lie among the samples: these lack variety. Weaker guidance or "
            "longer training gives more.",
        )


def _memorized(run: RunFacts) -> Iterable[Finding]:
    ratios = [row.nearest_ratio for row in run.intended if row.nearest_ratio is not None]
    copies = max((row.copies or 0.0 for row in run.intended), default=0.0)
    if (ratios and min(ratios) < MEMORIZED) or copies > COPIED:
        ratio = f"memorization ratio {min(ratios):.2f}, 1 for real data" if ratios else ""
        share = f"{copies:.0%} of the samples of a row are almost training images" if copies > COPIED else ""
        yield warning(
            "Samples are close to training images",
            f"{'; '.join(filter(None, (ratio, share)))}: the network may have memorized them. Use more data, a smaller "
            "network, dropout, or an earlier checkpoint.",
        )


def _length(run: RunFacts, poor: bool) -> Iterable[Finding]:
    if run.steps is None or run.passes is None:
        return
    if run.planned is not None and run.steps < run.planned:
        yield note(
            "Training is not finished",
            f"These are the weights of step {run.steps} of {run.planned}.",
        )
    if run.steps >= SHORT and run.passes >= PASSES:
        return
    if poor or not run.rows:
        thing = "images" if run.variance is None else "points"
        yield Finding(
            "warning" if poor else "note",
            "Short training",
            f"{run.steps:,} steps of {run.batch:,} are {run.passes:.2g} passes over the {run.images:,} {thing} of the "
            f"data: train longer, at least {SHORT:,} steps and {PASSES:.0f} passes.",
        )


def _unmeasured(run: RunFacts) -> Iterable[Finding]:
    if run.rows:
        return
    why = (
        "There is no quality table (table.json)"
        if run.other is None
        else f"The quality table (table.json) is of the weights {run.other}, which are not those diagnosed here"
    )
    yield note(
        "The quality of samples is not known",
        f"{why}: measure with flowleap evaluate --save, then diagnose again.",
    )


def _listed(names: Sequence[str]) -> str:
    """Join names as in a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
