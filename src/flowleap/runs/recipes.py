"""Recipes: whole settings of a training as frozen values, with what was published for them and where.

A recipe is a method with its hyper-parameters, a network, and the kind of data that both are for; the data itself is
the user's. Everything in it can be changed, and `configure` says what was.

>>> from flowleap.runs import recipes
>>> recipe = recipes.get("esc-b2")
>>> recipe.network, recipe.steps, recipe.batch, recipe.numbers[0].value
('dit-base-2', 600000, 512, 5.78)
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowleap import data as data_sets
from flowleap import methods, serialize
from flowleap.data import Dataset, Preprocessing, latent_cache, opening
from flowleap.data.huggingface import is_address
from flowleap.networks import options as network_options
from flowleap.runs.published import ALL, PIXELS, Recipe
from flowleap.suggest import suggest
from flowleap.training.config import TrainConfig, dotted
from flowleap.training.settings import preprocessing_of

SET = (
    "steps", "batch", "lr", "betas", "weight_decay", "muon", "warmup", "decay", "clip", "ema", "precision", "eval_num",
    "pair_guidance",
)  # fmt: skip
"""The fields of a config that a recipe sets."""


def names() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(ALL)


def get(name: str, method: str | None = None) -> Recipe:
    """Return a recipe by its name, and refuse one of another method than that which is named.

    Raises: ValueError for an unknown name, naming its neighbors.
    """
    key = name.strip().lower().replace("_", "-")
    if key not in ALL:
        raise ValueError(f"unknown recipe {name!r}{suggest(key, ALL)}; all of them: flowleap recipes")
    recipe = ALL[key]
    if method is not None and methods.key(method) != recipe.method:
        raise ValueError(
            f"the recipe {recipe.name} trains {recipe.method}, not {method}: leave the method out, or the recipe"
        )
    return recipe


def blank(recipe: Recipe) -> Dataset:
    """Return data without rows, of the shape, kind and classes that a recipe is for, to plan with."""
    x = torch.empty(0, *recipe.shape)
    label = None if recipe.classes is None else torch.empty(0, dtype=torch.int64)
    kind: Any = recipe.kind
    return Dataset(f"the data of {recipe.name}", x, label, recipe.classes, kind=kind, source=recipe.data)


def load(recipe: Recipe, data: str | None, settings: Mapping[str, Any]) -> Dataset:
    """Load the data of a run by a recipe, None for data without rows, to plan with.

    Images at a path are preprocessed by `settings`, by dotted paths; without a size, those larger than what the recipe
    is for are resized to that.

    Raises: ValueError for data of another kind than the recipe is for, saying how latents are made.
    """
    if data is None:
        return blank(recipe)
    if recipe.kind == "latents" and _holds_images(data):  # refused before they are fetched and read
        raise ValueError(_unfit(recipe, data, "image", data))
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


def fields_of(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Return the fields of the config of a run by a recipe, unguided on data without labels.

    Raises: ValueError for data of another kind than the recipe is for.
    """
    if dataset.kind != recipe.kind:
        raise ValueError(_unfit(recipe, dataset.name, dataset.kind, dataset.path or "PATH"))
    stated = {"recipe": recipe.name, "method": recipe.method, "objective": recipe.objective}
    stated |= {dotted(field): getattr(recipe, field) for field in SET}
    if dataset.num_classes is None:
        unguided = replace(recipe.objective, label_dropout=0.0, guidance=None)
        stated |= {"objective": unguided, "teacher.pair_guidance": None}
    return stated


def network_of(recipe: Recipe, network: str | None = None) -> dict[str, Any]:
    """Return the options of the network of a recipe, or of another by its name, inside the adapters of the recipe."""
    options = network_options.named(network or recipe.network)
    if network is None:
        options |= recipe.options
    for adapter in recipe.adapters:
        options = {"kind": adapter, "network": options}
    return options


def changes(recipe: Recipe, dataset: Dataset, plain: TrainConfig, config: TrainConfig) -> list[str]:
    """Say, in sentences, in what data and config are not what a recipe states; `plain` is its config unchanged."""
    found = []
    if dataset.shape != recipe.shape:
        found.append(f"made for {recipe.kind} of shape {recipe.shape}, here {dataset.shape}")
    if dataset.num_classes != recipe.classes and not recipe.any_classes:
        found.append(f"made for {recipe.classes or 'no'} classes, here {dataset.num_classes or 'none'}")
    if dataset.num_classes is None and (recipe.objective.guidance or recipe.pair_guidance) is not None:
        published = "; what is published is of guided models" if recipe.numbers else ""
        found.append(f"without guidance, which needs labels, and {dataset.name} has none{published}")
    parts = (serialize.to_dict(one.objective) for one in (plain, config))
    found += [
        f"{part} is {_brief(new)} instead of {_brief(old)}"
        for part, old, new in serialize.differences(*parts)
    ]
    if plain.network != config.network:
        found.append(f"the network is another, {_unlike(plain.network, config.network)}")
    before, after = plain.flat(), config.flat()
    found += [
        f"{path} is {after[path]} instead of {before[path]}"
        for path in map(dotted, SET)
        if before[path] != after[path]
    ]
    if config.schedule.steps != plain.schedule.steps and config.objective.horizons():
        found.append("its curriculum and warm-up are fractions of the run and scale with --steps")
    return [f"recipe {recipe.name}: {line}" for line in found]


def _brief(value: Any) -> str:
    return str(value["type"]) if isinstance(value, dict) and "type" in value else str(value)


def _unlike(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Say which options of two networks differ."""
    if "network" in before and "network" in after and before["kind"] == after["kind"]:
        return _unlike(before["network"], after["network"])
    named = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    return ", ".join(f"{n} {after.get(n)} (there {before.get(n)})" for n in named)
