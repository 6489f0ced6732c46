"""Describe trained weights: the card with the result of the run, and the page for README.md."""

from dataclasses import replace
from typing import Any

from cifarblocks.checkpoints.own import Card


def with_result(card: Card, summary: dict[str, Any]) -> Card:
    """Return the card of a run's last weights with the facts of the run's summary.json.

    Raises:
        LookupError, TypeError: If it is not the summary of a run.
        ValueError: If a value of it is wrong.
    """
    configuration = summary["configuration"]
    machine = configuration["machine"]
    return replace(
        card,
        accuracy={
            "top1": summary["test_top1"],
            "top5": summary["test_top5"],
            "images": summary["test_images"],
            "runs": 1,
            "seeds": [summary["seed"]],
        },
        recipe=configuration["options"],
        command=configuration["command"],
        machine=machine.get("gpu", f"{machine['cpu']}, {machine['cores']} cores"),
        hours=round(summary["seconds"] / 3600, 2),
    )


def page(name: str, card: Card, example: str) -> str:
    """Return a card as a Markdown page.

    Args:
        name: Title of the page.
        card: Description of the weights; fields that are None are left out.
        example: Lines of Python that use them, each with its prompt.
    """
    mean, std = ([round(value, 4) for value in values] for values in (card.mean, card.std))
    hours = "" if card.hours is None else f" in {card.hours} hours"
    machine = "" if card.machine is None else f" on {card.machine}"
    colours = "RGB" if card.channels == 3 else "grey"
    facts = {
        "accuracy": card.accuracy and accuracy_of(card.accuracy),
        "data": card.data,
        "classes": ", ".join(card.classes),
        "images": f"{card.image_size[0]}×{card.image_size[1]}, {colours} from 0 to 1, minus {mean}, divided by {std}",
        "training": f"{card.epoch} epochs{hours}{machine}, in {card.precision}",
        "command": card.command and f"`{card.command}`",
        "licence": card.licence,
        "limits": card.limits,
    }
    rows = [("", ""), ("---", "---"), *((key, cell(value)) for key, value in facts.items() if value)]
    table = "".join(f"| {key} | {value} |\n" for key, value in rows)
    return f"# {name}\n\n```python\n{example}\n```\n\n{table}"


def accuracy_of(accuracy: dict[str, Any]) -> str:
    """Return the accuracy of a card in words."""
    top5 = "" if accuracy["top5"] is None else f", top-5 {accuracy['top5']:.2f} %"
    runs = f"last epoch, {accuracy['runs']} run, seed {', '.join(map(str, accuracy['seeds']))}"
    return f"top-1 {accuracy['top1']:.2f} %{top5} on {accuracy['images']:,} test images; {runs}"


def cell(text: str) -> str:
    r"""Escape a text for a cell of a Markdown table.

    >>> cell("a|b\nc")
    'a\\|b c'
    """
    return " ".join(text.split()).replace("|", "\\|")
