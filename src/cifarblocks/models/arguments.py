"""Arguments of the named classifiers: dataclasses with one field per argument, and functions made from them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

from cifarblocks.blocks.checks import Size, height_and_width, require_int, require_number, require_rate
from cifarblocks.models.classifier import Classifier
from cifarblocks.registry import check_arguments, register_model

Keywords = ParamSpec("Keywords")
Given = TypeVar("Given", bound="Arguments")
Model = TypeVar("Model", bound=Classifier)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments that every classifier takes, each with type, meaning and default.

    A family with further arguments, or with other meanings of these, has a subclass in its own file.
    """

    num_classes: Annotated[int, "Number of classes; 0 leaves out the last layer."] = 100
    in_channels: Annotated[int, "Number of channels of the images."] = 3
    image_size: Annotated[Size, "Height and width of the images it is made for, or one number for both."] = 32
    drop_path: Annotated[float, "Drop path rate of the last block; it grows linearly from 0 at the first."] = 0.0
    dropout: Annotated[float, "Dropout rate before the last layer."] = 0.0

    def __post_init__(self) -> None:
        """Refuse values that no classifier can have."""
        require_int(0, num_classes=self.num_classes)
        require_int(1, in_channels=self.in_channels)
        height_and_width(self.image_size, "image_size")
        require_rate(drop_path=self.drop_path)
        require_number(0, 1, dropout=self.dropout)


def registered_with(
    arguments: Callable[Keywords, Given], /, *_: Keywords.args, **defaults: Keywords.kwargs
) -> Callable[[Callable[[Given], Model]], Callable[Keywords, Model]]:
    """Turn a builder, build(given), into a registered function of keywords; use it as a decorator.

    Args:
        arguments: Dataclass of the arguments that the model takes, a subclass of `Arguments`.
        defaults: Defaults of this model that differ from those of the dataclass.
    """
    own: Any = arguments(*_, **defaults)

    def decorate(build: Callable[[Given], Model]) -> Callable[Keywords, Model]:
        @wraps(build)
        def function(*args: Keywords.args, **keywords: Keywords.kwargs) -> Model:
            if args:
                raise TypeError(f"{build.__name__} takes only keyword arguments, got {', '.join(map(repr, args))}")
            check_arguments(function, keywords)
            model = build(replace(own, **keywords))
            model.name = build.__name__
            return model

        show_arguments(function, own)
        return register_model(function)

    return decorate


def show_arguments(function: Any, own: Arguments) -> None:
    """Let `inspect.signature` and `help` show the arguments of a function, with these values as defaults.

    The annotations keep the meanings: `Annotated[type, meaning]`. The docstring gets a section "Args:" of them.
    """
    hints = get_type_hints(type(own), include_extras=True)
    taken = {field.name: hints[field.name] for field in fields(own) if field.init}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(own, name), annotation=hint.__origin__)
        for name, hint in taken.items()
    ]
    returned = function.__annotations__["return"]
    function.__signature__ = inspect.Signature(parameters, return_annotation=returned)
    function.__annotations__ = {**taken, "return": returned}
    meanings = "".join(f"    {name}: {hint.__metadata__[0]}\n" for name, hint in taken.items())
    function.__doc__ = f"{inspect.cleandoc(function.__doc__)}\n\nArgs:\n{meanings}"
