"""Recipes: named values for the options of cifarblocks train, in recipes.toml."""

from collections.abc import Collection
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from cifarblocks.training.errors import UserError
from cifarblocks.training.options.toml_files import read_toml

RECIPES = Path(__file__).with_name("recipes.toml")


def load_recipes(path: Path = RECIPES) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Load the recipes by their names, and the name of a recipe for each pattern of models' names.

    Raises:
        UserError: if the file cannot be read or has other tables, or a pattern names an unknown recipe.
    """
    content = read_toml(path)
    recipes, families = content.pop("recipes", {}), content.pop("families", {})
    if content:
        raise UserError(f"{path} has the tables [families] and [recipes.NAME], got {next(iter(content))!r}")
    for name, table, kind in (("recipes", recipes, dict), ("families", families, str)):
        if not isinstance(table, dict) or not all(isinstance(value, kind) for value in table.values()):
            raise UserError(f"{path}: [{name}] must be a table of {kind.__name__}, got {shortened(table)}")
    for name in families.values():
        find_recipe(name, recipes)
    return recipes, families


def find_recipe(name: str, recipes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the values of a recipe.

    >>> find_recipe("short", {"shorter": {}})
    Traceback (most recent call last):
    cifarblocks.training.errors.UserError: --recipe 'short' is not in recipes.toml; did you mean 'shorter'?
    """
    if name not in recipes:
        raise UserError(f"--recipe {name!r} is not in {RECIPES.name}; {_near(name, recipes)}")
    return recipes[name]


def recipe_of_family(model: str, families: dict[str, str]) -> str:
    """Return the recipe of the first pattern that fits the name of a model.

    >>> recipe_of_family("resnet_20", {"vit_*": "attention", "resnet_*": "residual", "*": "any"})
    'residual'
    """
    for pattern, name in families.items():
        if fnmatchcase(model, pattern):
            return name
    raise UserError(f"--model {model}: no pattern of [families] in {RECIPES.name} matches it; give a --recipe")


def as_arguments(name: str, recipe: dict[str, Any], options: Collection[str]) -> list[str]:
    """Return the values of a recipe as arguments of a command line.

    Args:
        name: name of the recipe.
        recipe: its values.
        options: names of the options that a recipe may set.

    Raises:
        UserError: if a key is not one of them, or a value is neither a number, a string, nor true or false.

    >>> as_arguments("small", {"lr": 0.1, "mirror": False}, ["lr", "mirror"])
    ['--lr=0.1', '--no-mirror']
    """
    arguments = []
    for key, value in recipe.items():
        if key not in options:
            raise UserError(f"recipe {name}: {key!r} is not an option that a recipe sets; {_near(key, options)}")
        if not isinstance(value, bool | int | float | str):
            raise UserError(f"recipe {name}: {key} must be a number, a string, true or false, got {value!r}")
        if isinstance(value, bool):
            arguments.append(f"--{key}" if value else f"--no-{key}")
        else:
            arguments.append(f"--{key}={value}")
    return arguments


def _near(name: str, names: Collection[str]) -> str:
    near = get_close_matches(name, names, n=3) or sorted(names)
    return f"did you mean {' or '.join(map(repr, near))}?" if len(near) <= 3 else f"known are {', '.join(near)}"
