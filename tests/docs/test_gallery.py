"""Every public block has an entry with all its parts, and a picture that says what the block does and can be read."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import flow
import gallery
import pytest
from recording import layer as label_of
from recording import record
from refusals import refuses
from torch import nn

from cifarblocks import blocks

DOCS = Path(gallery.__file__).parent
LETTER = 7  # pixels, the mean width of one
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", params=blocks.__all__)
def block(request):
    return getattr(blocks, request.param)


def nodes(block, line):
    return [node for node in record(block) if line in node.lines]


def test_an_entry_has_all_its_parts(block):
    text = gallery.entry(block)
    assert text.startswith(f"### {block.__name__} {{ #{block.__name__.lower()} }}")
    for part in ("<svg", "https://", "```text\n", f"```python\n{block.__name__}(", "```pycon\n>>> "):
        assert part in text, part
    for label in ("Shape", "Cost", "Origin"):
        assert re.search(rf"^\*\*{label}:\*\* \S", text, flags=re.MULTILINE), label


def test_the_page_has_every_block_once_and_links_to_it():
    page = gallery.page()
    assert sorted(re.findall(r"^### (\w+)", page, flags=re.MULTILINE)) == sorted(blocks.__all__)
    assert sorted(re.findall(r"\[(\w+)\]\(#", page)) == sorted(blocks.__all__)


def test_what_a_docstring_lacks_is_told_with_the_name_of_the_block():
    class Bare(blocks.ECA):
        __doc__ = blocks.ECA.__doc__.replace("Formula:", "It is").replace("ECA", "Bare")

    with refuses(ValueError, "Bare", "Formula"):
        gallery.read(Bare)
    Bare.__doc__ = "Gate."
    with refuses(ValueError, "Bare"):
        record(Bare)


def test_a_file_of_no_group_stands_under_others():
    groups = gallery.by_group(gallery.GROUPS | {"Channel gates": ["se", "split_attention"]})
    assert blocks.ECA in groups["Others"]


def test_nothing_in_a_picture_overlaps_and_every_line_fits(block):
    root = ElementTree.fromstring(flow.picture(block))
    left, top, width, height = map(float, root.get("viewBox").split())
    boxes = []
    for rectangle in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rectangle.get(name)) for name in ("x", "y", "width", "height"))
        assert left <= x
        assert top <= y
        assert x + w <= left + width
        assert y + h <= top + height
        boxes.append((x, y, w, h))
    for (x, y, w, h), (u, v, r, s) in combinations(boxes, 2):
        assert x + w < u or u + r < x or y + h < v or v + s < y
    for text in root.iter(f"{SVG}text"):
        middle, foot, half = float(text.get("x")), float(text.get("y")), LETTER * len(text.text) / 2
        inside = [x <= middle - half and middle + half <= x + w and y + 10 <= foot <= y + h - 3 for x, y, w, h in boxes]
        assert any(inside), text.text


def test_no_edge_crosses_a_box(block):
    edges = flow.lay_out(record(block))
    boxes = [box for box in flow.unique(edges) if box.lines]
    for edge in edges:
        for bend in edge[1:-1]:
            for box in boxes:
                assert box.row != bend.row or abs(box.x - bend.x) > box.width / 2


def test_eca_gates_its_input_with_one_sigmoid():
    (gate,), (product,) = nodes(blocks.ECA, "σ"), nodes(blocks.ECA, "×")
    assert gate.lines == ["3-wide conv", "σ"]
    assert [source.lines for source in product.sources] == [["x"], ["3-wide conv", "σ"]]
    assert [source.lines for source in gate.sources] == [["mean over h, w"]]


def test_a_basic_block_adds_its_shortcut():
    (total,) = nodes(blocks.BasicBlock, "+")
    assert sorted(source.lines for source in total.sources) == [
        ["1×1 conv, 16 → 32, stride 2", "BatchNorm"],
        ["3×3 conv", "BatchNorm"],
    ]


def test_msca_sums_four_scales():
    (total,) = nodes(blocks.MSCA, "+")
    assert len(total.sources) == 4


def test_lsk_chooses_between_two_sizes_and_gates_the_input():
    *chosen, gated = nodes(blocks.LSKAttention, "×")
    assert len(chosen) == 2
    assert ["x"] in [source.lines for source in gated.sources]


def test_a_mixer_layer_mixes_tokens_between_two_transposes():
    assert len(nodes(blocks.MixerLayer, "transpose")) == 2
    assert not nodes(blocks.LSKMBConv, "transpose")  # its branches change places with the batch


def test_drop_path_is_random():
    (product,) = nodes(blocks.DropPath, "×")
    assert [source.lines for source in product.sources] == [["x"], ["random 0 or 2"]]


def test_a_shortcut_has_a_lane_of_its_own():
    edges = flow.lay_out(record(blocks.ConvNeXtBlock))
    (shortcut,) = [edge for edge in edges if len(edge) > 2]
    assert (shortcut[0].lines, shortcut[-1].lines) == (["x"], ["+"])
    assert {bend.column for bend in shortcut[1:-1]} == {1}


def test_each_heading_of_the_disagreements_is_a_file_of_blocks():
    files = {gallery.file_of(getattr(blocks, name)) for name in blocks.__all__}
    text = gallery.DISAGREEMENTS.read_text()
    anchors = re.findall(r"^## .* \{ #(\w+) \}$", text, flags=re.MULTILINE)
    assert set(anchors) - {"counts", "torch"} <= files
    assert anchors == re.findall(r"\]\(#(\w+)\)", text)
    assert not [line for line in text.split("\n") if line.startswith("##") and "{ #" not in line]


@pytest.mark.parametrize(
    ("layer", "label"),
    [
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), "7×7 depthwise"),
        (nn.Conv2d(8, 16, 3, stride=2, groups=8), "3×3 depthwise, 8 → 16, stride 2"),
        (nn.Conv2d(8, 16, (1, 7), dilation=2), "1×7 conv, 8 → 16, dilation 2"),
        (nn.Conv2d(8, 8, 3, stride=2, groups=2), "3×3 conv, 2 groups, stride 2"),
        (nn.MaxPool2d(3, 2), "3×3 max pool, stride 2"),
        (nn.Linear(8, 4), "linear, 8 → 4"),
        (nn.BatchNorm2d(8), "BatchNorm"),
        (blocks.LayerNorm2d(8), "LayerNorm2d"),
        (nn.Hardsigmoid(), "hard σ"),
        (nn.SiLU(), "SiLU"),
    ],
)
def test_what_people_call_a_layer(layer, label):
    assert label_of(layer) == label
