"""The page on the generative examples is what the script makes of the runs that are committed."""

import re

import generative


def test_the_page_is_that_of_the_committed_runs_and_its_pictures_are_there():
    text = (generative.RESULTS / "generative.md").read_text()
    assert text == generative.page()
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert len(pictures) == 4
    for picture in pictures:
        assert (generative.RESULTS / picture).stat().st_size < 200_000
