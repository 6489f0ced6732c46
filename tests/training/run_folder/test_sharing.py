"""Options and commands as they are shared: no path outside the working folder, no user, host or password."""

import pytest

from cifarblocks.training.run_folder.sharing import shareable, without_folders


@pytest.mark.parametrize(
    "text",
    [
        "folder:/home/ann/",
        "folder:/Users/ann",
        "~ann",
        "../../home/ann",
        "../../home/ann/x",
        "x /home/ann/y",
        "'/home/ann'",
        '"/home/ann/x" y',
        "--storage=postgresql://ann:pass@word@machine:5432/studies",
        "redis://machine/0",
        "sqlite:////home/ann/study.db",
    ],
)
def test_what_names_a_person_or_a_machine_is_left_out(text):
    short = without_folders(text)
    for secret in ("ann", "home", "Users", "pass", "word", "machine"):
        assert secret not in short
    assert without_folders(short) == short


@pytest.mark.parametrize("text", ["runs/home/ann", "a/b c", "1/2", ".../flowers (9d2fca95)", "rand-2-9"])
def test_what_is_in_the_working_folder_stays(text):
    assert without_folders(text) == text
    assert shareable({"data": text, "lr": 1}) == {"data": text, "lr": 1}
