"""Test that what the pages say to type works.

Fences say how far a block is tested: `pycon` and `>>>` are doctests; `bash` runs, and so does `python` after it; of
`console`, which needs a network, a GPU, other files or more than a minute, the options must exist.
"""

import contextlib
import doctest
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pages
import pytest
from cards import write_weights
from PIL import Image
from safetensors.torch import load_file

import cifarblocks
from cifarblocks import registry
from cifarblocks.cli.main import COMMANDS, main
from cifarblocks.models import attentions
from cifarblocks.pretrained import FOLDER, TEST_VECTOR
from cifarblocks.training.options.parse import read_options

ROOT = Path(pages.ROOT)
PAGES = ["README.md", "examples/README.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
WITHOUT_A_RUN = ("OWNER", "timm", "ckpt.pth", "runs/acgan")  # they need a network or files of somebody else


def fences(page, language):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def lines(page, language):
    return [line for block in fences(page, language) for line in block.replace("\\\n", "").splitlines()]


def with_any(language, *words):
    """Return pages that have a fence of that language with one of the words."""
    return [page for page in PAGES if any(word in text for text in fences(page, language) for word in words)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Enter an empty folder with what the pages take for granted: a photo, a folder of photos, weights of a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))  # a page may register more
    monkeypatch.setattr(attentions, "_attentions", dict(attentions._attentions))
    pixels = load_file(FOLDER / "eca_resnet_20.digits" / TEST_VECTOR)["image"][0].permute(1, 2, 0)
    for name in ("photo.png", "photo.jpg"):
        Image.fromarray(pixels.numpy()).save(name)
    for folder in ("flowers", "imagenet"):
        (tmp_path / folder).mkdir()
    for folder in ("runs/resnet_56/teacher", "runs/eca_resnet_20/tuned"):
        (tmp_path / folder).mkdir(parents=True)
        write_weights(tmp_path / folder / "last.safetensors")


@pytest.mark.parametrize("page", sorted({*with_any("pycon", ">>>"), *with_any("python", ">>>")}))
def test_a_session_prints_what_the_page_says(page, files):
    sessions = [text for language in ("pycon", "python") for text in fences(page, language) if ">>>" in text]
    test = doctest.DocTestParser().get_doctest("\n".join(sessions), {}, page, page, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def arguments_of(line):
    """Return what follows `cifarblocks` in a line; nothing if it is another command."""
    found = re.match(r"(?:\$ )?(?:torchrun .* -m |srun )?cifarblocks (.*)", line.partition(" #")[0])
    return shlex.split(re.sub(r" [>|].*| &$", "", found[1])) if found else []


@cache
def options_of(command):
    """Return the options that the help of a command lists."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([command, "--help"])
    return set(re.findall(r"--[a-z][\w-]*", text.getvalue()))


@pytest.mark.parametrize("page", sorted({*with_any("bash", "cifarblocks "), *with_any("console", "cifarblocks ")}))
def test_commands_have_options_that_exist(page, files, monkeypatch):
    """Values of `train` are parsed too."""
    commands = [arguments_of(line) for language in ("bash", "console") for line in lines(page, language)]
    commands = [words for words in commands if words]
    assert commands
    for command, *rest in commands:
        assert command in COMMANDS, command
        known = options_of(command) | (options_of("train") if command in ("finetune", "search") else set())
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, (command, rest)
        if command == "train" and "$" not in "".join(rest):
            read_options(rest)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_any("bash", "cifarblocks "))
def test_commands_and_the_scripts_after_them_run(page, files, signals):
    """One after the other, as they stand on the page."""
    if page.endswith("slurm.md"):
        pytest.skip("test_slurm.py runs its scripts")
    for command in filter(None, map(arguments_of, lines(page, "bash"))):
        assert main(command) == 0, command
    for code in fences(page, "python"):
        if ">>>" not in code and not any(word in code for word in WITHOUT_A_RUN):
            exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_python_compiles(page):
    for code in fences(page, "python"):
        if ">>>" not in code:
            compile(code, page, "exec")


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_to_files_and_headings(page):
    """Links to pages that are generated, the gallery, are held by `mkdocs build --strict`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        if not re.match(r"https?:", target) and path.name not in ("gallery.md", *pages.COPIED.values()):
            assert path.exists(), target
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            named = {name for heading in headings for name in re.findall(r"\{ #(\w+) \}", heading)}
            assert not anchor or anchor in anchors | named, target


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_no_line_of_a_sentence_is_taken_for_a_list(page):
    """A line that begins with "6." makes a list of it; those of a list count from 1."""
    last = 0
    for number in map(int, re.findall(r"^\s*(\d+)\. ", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)):
        assert number in (1, last + 1), f"{number}."
        last = number


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_code_in_tables_fits_a_narrow_page(page):
    """A piece of code that cannot be broken is at most 40 characters wide."""
    for line in re.findall(r"^\|(.*)\|$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE):
        for cell in line.split("|"):
            for code in re.findall(r"`([^`]+)`", cell):
                shown = re.sub(r"</?span[^>]*>", "", pages.breakable(code))
                assert max(map(len, re.split(r"<wbr>|<wbr .*?>|\s", shown))) <= 40, code


def test_options_and_file_names_are_not_broken():
    assert pages.breakable("--policy rand-2-9") == '<span class="whole">--policy</span> rand-2-9'
    assert pages.breakable("model.safetensors") == "model.safetensors"
    assert pages.breakable("--nproc_per_node 2") == '<span class="whole">--nproc_per_node</span> 2'
    assert pages.breakable("load()") == "load()"


def test_long_names_break_after_underscores_on_narrow_pages_only():
    assert pages.breakable("list_models()") == 'list_<wbr class="narrow">models()'
    assert pages.breakable("resnet_18") == "resnet_18"


def test_the_readme_is_short_and_its_numbers_are_true():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    for kind, names in (("blocks", cifarblocks.blocks.__all__), ("classifiers", cifarblocks.list_models())):
        (promised,) = re.findall(rf"\*\*More than (\d+) {kind}", text)  # a new one needs no change of the page
        assert int(promised) < len(names)


def test_the_citation_has_the_version_of_the_package():
    assert f"\nversion: {cifarblocks.__version__}\n" in (ROOT / "CITATION.cff").read_text()
