import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cifarblocks.training.pictures.curves import draw_curves


@pytest.mark.parametrize(("last", "log"), [(0.186, True), (0.5, False)])
def test_the_losses_are_labelled_by_plain_numbers(tmp_path, last, log):
    accuracies = {"train_top1": 50.0, "validation_top1": 60.0}
    history = [
        {"epoch": i, "train_loss": 2.3, "validation_loss": loss, **accuracies} for i, loss in ((1, 2.1), (2, last))
    ]
    figure = draw_curves(tmp_path / "curves.png", "mlp on digits", history, 95.56)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    assert (axes.get_yscale() == "log") == log
    low, high = axes.get_ylim()
    shown = {tick: label.get_text() for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    assert all(float(text) == pytest.approx(tick) for tick, text in shown.items())
    assert len([tick for tick in shown if low <= tick <= high]) >= 3
    assert not any(label.get_text() for label in axes.get_yticklabels(minor=True))
