"""The page of trained weights: what the card knows, and the result of a run."""

import pytest
from cards import CARD
from refusals import refuses

import cifarblocks
from cifarblocks.checkpoints.cards import page, with_result
from cifarblocks.pretrained import FOLDER, list_weights

SUMMARY = {
    "test_top1": 97.5,
    "test_top5": None,
    "test_images": 1200,
    "seed": 3,
    "seconds": 5400.0,
    "configuration": {"machine": {"cpu": "a CPU", "cores": 2}, "options": {"lr": 0.1}, "command": "cifarblocks train"},
}


@pytest.mark.parametrize("name", list_weights())
def test_the_pages_of_the_package_are_what_would_be_written(name):
    text = (FOLDER / name / "README.md").read_text()
    example = f'>>> cifarblocks.load("{name}").predict("photo.jpg")'
    assert text == page(name, cifarblocks.load(name).card, example)


def test_a_page_says_what_is_known_and_leaves_out_the_rest():
    bare, full = page("a", CARD, ""), page("a", with_result(CARD, SUMMARY), "")
    assert "top-1 97.50 % on 1,200 test images; last epoch, 1 run, seed 3" in full
    assert "3 epochs in 1.5 hours on a CPU, 2 cores, in float32" in full
    assert "| training | 3 epochs, in float32 |" in bare
    assert "None" not in bare + full
    for key in ("accuracy", "command", "licence"):
        assert f"| {key} |" not in bare


def test_a_summary_of_something_else_is_refused():
    for wrong in ({}, SUMMARY | {"seconds": None}, SUMMARY | {"configuration": {}}):
        with pytest.raises((LookupError, TypeError)):
            with_result(CARD, wrong)
    with refuses(ValueError, "hours"):
        with_result(CARD, SUMMARY | {"seconds": -3600})
