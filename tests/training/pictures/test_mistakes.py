import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from sklearn.metrics import confusion_matrix

from cifarblocks.training.data.datasets import Images
from cifarblocks.training.pictures.mistakes import confusion, draw_mistakes, worst_mistakes


def test_the_confusion_matrix_is_that_of_scikit_learn():
    labels, found = torch.randint(7, (500,)), torch.randint(7, (500,))
    assert confusion(labels, found, 7).tolist() == confusion_matrix(labels, found, labels=range(7)).tolist()


def test_the_worst_mistakes_come_first_and_what_is_right_does_not_come():
    labels = torch.tensor([0, 1, 2, 0])
    outcomes = torch.tensor([[0, 0.4, 0.4], [0, 0.6, 0.3], [1, 0.9, 0.05], [2, 0.5, 0.1]])
    assert worst_mistakes(labels, outcomes) == [2, 3, 1]


@pytest.mark.parametrize("classes", [40, pytest.param(3, marks=pytest.mark.slow)])
def test_the_picture_has_the_asked_size_with_few_classes_and_many(tmp_path, classes):
    images = Images(torch.randint(0, 256, (50, 8, 6, 3), dtype=torch.uint8), torch.randint(classes, (50,)))
    outcomes = torch.stack([torch.randint(classes, (50,)).double(), torch.rand(50), torch.rand(50)], 1)
    path = tmp_path / "mistakes.png"
    draw_mistakes(path, "noise", images, outcomes, [f"class number {i}" for i in range(classes)])
    with Image.open(path) as picture:
        assert picture.size == (1820, 910)


def test_long_names_lie_on_each_other_nowhere(tmp_path):
    images = Images(torch.zeros(20, 8, 8, 3, dtype=torch.uint8), torch.zeros(20, dtype=torch.long))
    outcomes = torch.tensor([[1, 1.0, 0.0]]).expand(20, 3)
    classes = ["passenger aeroplanes", "amphibious tractors"]
    figure = draw_mistakes(tmp_path / "mistakes.png", "", images, outcomes, classes)
    FigureCanvasAgg(figure).draw()
    texts = {axes.get_title() for axes in figure.subfigs[1].axes}
    assert texts == {"passeng…planes, 0 % →\namphibi…actors, 100 %"}  # of the true class, of the predicted one
    titles = [axes.title.get_window_extent() for axes in figure.subfigs[1].axes]
    assert len(titles) == 20
    for number, title in enumerate(titles):
        assert not any(title.overlaps(other) for other in titles[:number])
