"""Recipes: whole settings of a training as frozen values, with what was published for them and where.

A recipe is a method with its hyper-parameters, a network, and the kind of data that both are for; the data itself is
the user's. Everything in it can be changed, and `configure` says what was.

>>> from flowleap.runs import recipes
>>> recipe = recipes.get("esc-b2")
>>> recipe.network, recipe.steps, recipe.batch, recipe.numbers[0].value
('dit-base-2', 600000, 512, 5.78)
>>> config, changed = recipes.configure("esc-b2", batch=256)
>>> config.data.batch, changed
(256, ['recipe esc-b2: data.batch is 256 instead of 512'])
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from flowleap import data as data_sets
from flowleap import serialize
from flowleap.data import Dataset, Preprocessing, latent_cache, opening
from flowleap.data.huggingface import is_address
from flowleap.networks import options as network_options
from flowleap.objectives import Objective
from flowleap.runs.configuring import change, method_name, preprocessing_of, settle, solved
from flowleap.runs.published import ALL, PIXELS, Kind, Published, Recipe
from flowleap.suggest import suggest
from flowleap.training.config import TrainConfig, dotted, from_fields

__all__ = ["PIXELS", "Kind", "Published", "Recipe", "blank", "configure", "data_for", "get", "names"]

SET = (
    "steps", "batch", "lr", "betas", "weight_decay", "warmup", "decay", "clip", "ema", "precision", "eval_num",
    "pair_guidance",
)  # fmt: skip
"""The fields of a config that a recipe sets."""


def names() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(ALL)


def get(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises: ValueError for an unknown name, naming its neighbors.
    """
    key = name.strip().lower().replace("_", "-")
    if key not in ALL:
        raise ValueError(f"unknown recipe {name!r}{suggest(key, ALL)}; all of them: flowleap recipes")
    return ALL[key]


def blank(recipe: Recipe) -> Dataset:
    """Return data without rows, of the shape, kind and classes that a recipe is for, to plan with."""
    x = torch.empty(0, *recipe.shape)
    label = None if recipe.classes is None else torch.empty(0, dtype=torch.int64)
    kind: Any = recipe.kind
    return Dataset(f"the data of {recipe.name}", x, label, recipe.classes, kind=kind, source=recipe.data)


def configure(
    name: str,
    data: str | Dataset | None = None,
    *,
    method: str | None = None,
    network: str | None = None,
    settings: Iterable[tuple[str, Any]] = (),
    **options: Any,
) -> tuple[TrainConfig, list[str]]:
    """Return the config of a run by a recipe, changed by `options` and `settings`, and what that changed, in words.

    Args:
        name: of the recipe. data: a data set or its name; None plans without one, on the shapes of the recipe.
        method: the one of the recipe or None. network, options, settings: as of `training.config.configure`.

    Raises: ValueError for an unknown recipe, another method, data of another kind, or settings that do not fit.
    """
    recipe = get(name)
    if method is not None and method_name(method) != recipe.method:
        raise ValueError(
            f"the recipe {recipe.name} trains {recipe.method}, not {method}: leave the method out, or the recipe"
        )
    settings = list(settings)
    dataset = data if isinstance(data, Dataset) else data_for(name, data, settings=settings, **options)
    if dataset.kind != recipe.kind:
        raise ValueError(_unfit(recipe, dataset.name, dataset.kind, dataset.path or "PATH"))
    objective, told = _labeled(recipe, dataset)
    stated: dict[str, Any] = {
        "recipe": recipe.name,
        "method": recipe.method,
        "objective": objective,
        "data.name": "" if data is None else dataset.address,
        "data.square": dataset.preprocessing.square,
        "data.size": dataset.preprocessing.size,
        **{dotted(field): getattr(recipe, field) for field in SET},
        **({"teacher.pair_guidance": None} if dataset.num_classes is None else {}),
    }
    own = network_options.named(recipe.network) | dict(recipe.options)
    asked = network_options.named(network) if network else own
    given = {dotted(f): str(v) if isinstance(v, Path) else v for f, v in options.items() if v is not None}
    plain, other = (
        solved(from_fields({**stated, **changes, "network": _behind(recipe, wanted)}))
        for changes, wanted in (({}, own), (given, asked))
    )
    config = settle(change(other, settings), dataset)
    return config, [*_fit(recipe, dataset), *told, *_changed(recipe, settle(plain, dataset), config)]


def data_for(
    name: str, data: str | None = None, *, settings: Iterable[tuple[str, Any]] = (), **options: Any
) -> Dataset:
    """Load the data of a run by a recipe, given what `configure` takes: images at a path as the settings say, or else
    shrunk to the size that the recipe is for; None stands for data without rows, to plan with.

    Raises: ValueError for data of another kind than the recipe is for, saying how latents are made.
    """
    recipe = get(name)
    if data is None:
        return blank(recipe)
    if recipe.kind == "latents" and _holds_images(data):
        raise ValueError(
            _unfit(recipe, data, "image", data)
        )  # said before they are fetched and looked through
    return _loaded(recipe, data, dict([*options.items(), *settings]))


def _holds_images(data: str) -> bool:
    """Whether something is there that is neither a data set by name nor a cache of latents."""
    return not data_sets.is_name(data) and data_sets.present(data) and not latent_cache.is_cache(Path(data))


def _unfit(recipe: Recipe, name: str, kind: str, path: str) -> str:
    """Say that data are of another kind than a recipe is for, and what to do where there is something."""
    wanted, found = ({"image": "images"}.get(one, one) for one in (recipe.kind, kind))
    hint = ""
    if recipe.kind == "latents" and kind == "image":
        command = (
            f"flowleap data encode {shlex.quote(path)} --vae ID --size {8 * recipe.shape[-1]} --out FOLDER"
        )
        hint = f": encode them first, {command}"
    elif kind == "latents":
        hint = ": another recipe is for those, see flowleap recipes"
    return f"the recipe {recipe.name} is for {wanted}, and {name} holds {found}{hint}"


def _loaded(recipe: Recipe, data: str, settings: Mapping[str, Any]) -> Dataset:
    """Load the data of a recipe; images that are larger than its own are resized to that size unless one is given."""
    asked = preprocessing_of(settings.items()) or Preprocessing()
    if asked.size is None and not data_sets.is_name(data):
        lazy = opening.is_folder(data) or is_address(data)  # headers tell the size; nothing is decoded
        found = data_sets.load(data, preprocessing=replace(asked, memory=0.0) if lazy else asked)
        side = recipe.shape[-1]
        if found.kind == recipe.kind == PIXELS and max(found.shape[1:]) > side:
            asked = replace(asked, size=side)
        elif not lazy:
            return found
    return data_sets.load(data, preprocessing=asked)


def _labeled(recipe: Recipe, dataset: Dataset) -> tuple[Objective, list[str]]:
    """Return the objective of a recipe as data with or without labels can train it, and what that changes, in words."""
    if dataset.num_classes is not None:
        return recipe.objective, []
    plain = replace(recipe.objective, label_dropout=0.0, guidance=None)
    if recipe.objective.guidance is None and recipe.pair_guidance is None:
        return plain, []
    published = "; what is published is of guided models" if recipe.numbers else ""
    return plain, [
        f"recipe {recipe.name}: without guidance, which needs labels, and {dataset.name} has none{published}"
    ]


def _behind(recipe: Recipe, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a network seen through the adapters of a recipe."""
    for adapter in recipe.adapters:
        options = {"kind": adapter, "network": options}
    return options


def _fit(recipe: Recipe, dataset: Dataset) -> list[str]:
    """Say, in sentences, where data are not what a recipe is for."""
    found = []
    if dataset.shape != recipe.shape:
        found.append(
            f"recipe {recipe.name}: made for {recipe.kind} of shape {recipe.shape}, here {dataset.shape}"
        )
    if dataset.num_classes != recipe.classes and not recipe.any_classes:
        found.append(
            f"recipe {recipe.name}: made for {recipe.classes or 'no'} classes, here {dataset.num_classes or 'none'}"
        )
    return found


def _changed(recipe: Recipe, plain: TrainConfig, config: TrainConfig) -> list[str]:
    """Say, in sentences, what differs between two configs of a recipe, as it is and as it was changed."""
    found = []
    before_all, after_all = plain.flat(), config.flat()
    for field in ("objective", "network", *map(dotted, SET)):
        before, after = before_all[field], after_all[field]
        if before == after:
            continue
        if field == "objective":
            for part, old, new in serialize.differences(serialize.to_dict(before), serialize.to_dict(after)):
                found.append(f"recipe {recipe.name}: {part} is {_brief(new)} instead of {_brief(old)}")
        elif field == "network":
            found.append(f"recipe {recipe.name}: the network is another, {_unlike(before, after)}")
        else:
            found.append(f"recipe {recipe.name}: {field} is {after} instead of {before}")
    if config.schedule.steps != plain.schedule.steps and config.objective.horizons():
        found.append(
            f"recipe {recipe.name}: its curriculum and warm-up are fractions of the run and scale with --steps"
        )
    return found


def _brief(value: Any) -> str:
    return str(value["type"]) if isinstance(value, dict) and "type" in value else str(value)


def _unlike(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Say which options of two networks differ."""
    if "network" in before and "network" in after and before["kind"] == after["kind"]:
        return _unlike(before["network"], after["network"])
    named = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    return ", ".join(f"{n} {after.get(n)} (there {before.get(n)})" for n in named)


def check(recipe: Recipe) -> None:
    """Refuse a recipe whose parts do not go together; every recipe of the package passes.

    Raises: ValueError.
    """
    if recipe.kind not in get_args(Kind):
        raise ValueError(f"recipe {recipe.name}: kind {recipe.kind!r} is none of {get_args(Kind)}")
    if not isinstance(recipe.objective, Objective):
        raise ValueError(
            f"recipe {recipe.name}: an objective is expected, got {type(recipe.objective).__name__}"
        )
    configure(recipe.name)
