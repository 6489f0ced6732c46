"""`load`: one image or many, as a file, a PIL image, an array or a tensor, gives the logits of training."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from cards import CARD
from PIL import Image
from refusals import refuses
from safetensors.torch import save_file

import cifarblocks
from cifarblocks.checkpoints.trained import Prediction
from cifarblocks.training.data.batches import Normalisation
from cifarblocks.training.run_folder.weights import save_weights

HEIGHT, WIDTH = CARD.image_size


@pytest.fixture
def trained(tmp_path):
    model = cifarblocks.create_model(CARD.model, **CARD.arguments).eval()
    save_weights(tmp_path / "last.safetensors", model.state_dict(), CARD)
    return cifarblocks.load(tmp_path / "last.safetensors")


def picture(height, width, seed=0):
    """A smooth RGB image, as photos are: (h, w, 3) uint8."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def test_has_the_model_in_eval_mode_with_card_and_classes(trained, tmp_path):
    assert (trained.card, trained.classes) == (CARD, CARD.classes)
    assert not trained.model.training
    assert cifarblocks.load(str(tmp_path)).card == CARD  # the run folder


def test_preprocess_normalises_as_training_does(trained):
    pixels = picture(HEIGHT, WIDTH)
    normalise = Normalisation(CARD.mean, CARD.std, torch.device("cpu"), torch.float32)
    expected = normalise(torch.tensor(pixels).unsqueeze(0))
    torch.testing.assert_close(trained.preprocess(pixels), expected)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (40, 33), (3, 5), (100, 200)])
def test_every_kind_of_image_gives_the_same(trained, tmp_path, monkeypatch, height, width):
    monkeypatch.setenv("HOME", str(tmp_path))
    pixels = picture(height, width)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.tensor(pixels).permute(2, 0, 1)
    std = torch.tensor(CARD.std).view(3, 1, 1)
    expected = trained.preprocess(tmp_path / "a.png")
    assert expected.shape == (1, 3, HEIGHT, WIDTH)
    kinds = {
        "text": str(tmp_path / "a.png"),
        "path in the home folder": "~/a.png",
        "PIL": Image.fromarray(pixels),
        "array": pixels,
        "float array": pixels / 255,
        "float32 array": (pixels / 255).astype(np.float32),
        "tensor": tensor,
        "float tensor": tensor / 255,
        "array batch": pixels[None],
        "tensor batch": tensor[None],
        "list": [tensor],
        "RGBA": Image.fromarray(pixels).convert("RGBA"),
        "mirrored array": pixels[:, ::-1][:, ::-1],
    }
    for kind, image in kinds.items():
        difference = (trained.preprocess(image) - expected).abs() * std
        assert difference.max() <= 2 / 255, kind


def test_grey_images_have_their_value_in_every_channel(trained):
    grey = picture(20, 20)[..., 0]
    three = np.stack([grey] * 3, -1)
    for image in (grey, grey[..., None], torch.tensor(grey), torch.tensor(grey)[None], Image.fromarray(grey)):
        torch.testing.assert_close(trained.preprocess(image), trained.preprocess(three), atol=0.02, rtol=0)


def test_photos_are_turned_upright(trained, tmp_path):
    image = Image.fromarray(picture(60, 30))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    expected = trained.preprocess(image.transpose(Image.Transpose.ROTATE_270))
    std = torch.tensor(CARD.std).view(3, 1, 1)
    for given in (tmp_path / "a.jpg", Image.open(tmp_path / "a.jpg")):
        assert ((trained.preprocess(given) - expected).abs() * std).mean() < 0.02


def test_predict_gives_the_softmax_of_the_best_classes(trained):
    images = torch.rand(5, 3, 20, 30)
    expected = trained.model(trained.preprocess(images)).softmax(1)
    several = trained.predict(images)
    assert [len(row) for row in several] == [2] * 5  # as many as there are classes
    for row, probabilities in zip(several, expected, strict=True):
        assert {label: pytest.approx(p) for label, p in row} == dict(
            zip(CARD.classes, probabilities.tolist(), strict=True)
        )
        assert row[0].probability >= row[1].probability
    single = trained.predict(images[0], top=1)
    assert single == [Prediction(several[0][0].label, pytest.approx(several[0][0].probability))]
    assert [row[0].label for row in trained.predict(list(images))] == [row[0].label for row in several]
    assert trained.predict([]) == trained.predict(images[:0]) == []


def test_predict_takes_more_images_than_it_runs_at_a_time(trained):
    assert len(trained.predict(torch.rand(600, 3, 6, 8))) == 600


def test_what_is_no_image_is_refused(trained, tmp_path):
    for wrong in (3, None, b"a.png", {"a": 1}, object()):
        with refuses(TypeError, "image", repr(wrong)):
            trained.predict(wrong)
    for kind in ("int64", "uint16", "bool", "complex64", "float8_e4m3fn"):
        with refuses(TypeError, "image", kind):
            trained.predict(torch.zeros(3, 8, 8, dtype=getattr(torch, kind)))
    for kind in ("object", "<U1", "bool", "complex128", "datetime64[s]", ">f4"):
        with refuses(TypeError, "image", kind.strip("<>")):
            trained.predict(np.zeros((8, 8, 3), kind))
    for tensor, named in ((torch.zeros(3, 8, 8, device="meta"), "meta"), (torch.zeros(3, 8, 8).to_sparse(), "tensor")):
        with refuses(TypeError, "image", "dense", named):
            trained.predict(tensor)
    for wrong in (
        torch.zeros(8, 8, 3),
        torch.zeros(2, 8, 8),
        torch.zeros(1, 1, 3, 8, 8),
        torch.zeros(8),
        torch.zeros(()),
        torch.zeros(3, 0, 8),
    ):
        with refuses(ValueError, "image", tuple(wrong.shape)):
            trained.predict(wrong)
    for wrong, order in ((torch.zeros(8, 9, 3), (2, 0, 1)), (torch.zeros(2, 8, 9, 3), (0, 3, 1, 2))):
        with refuses(ValueError, f"image.permute{order}"):
            trained.predict(wrong)
        assert trained.predict(wrong.permute(order))
    for wrong, order in ((np.zeros((3, 8, 9)), (1, 2, 0)), (np.zeros((2, 3, 8, 9)), (0, 2, 3, 1))):
        with refuses(ValueError, wrong.shape, f"image.transpose{order}"):
            trained.predict(wrong)
        assert trained.predict(wrong.transpose(order))
    for wrong in (255.0, -0.5, float("nan")):
        with refuses(ValueError, "image", f"{wrong:g}"):
            trained.predict(torch.full((3, 8, 8), wrong))
    with refuses(ValueError, "top", 0):
        trained.predict(torch.zeros(3, 8, 8), top=0)
    (tmp_path / "a.png").write_bytes(b"no image")
    with refuses(ValueError, tmp_path / "a.png"):
        trained.predict(tmp_path / "a.png")
    Image.fromarray(picture(64, 64)).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    with refuses(ValueError, "image", "truncated"), Image.open(tmp_path / "b.png") as truncated:
        trained.predict(truncated)
    with refuses(ValueError, "mode", "I;16"):
        trained.predict(Image.new("I;16", (8, 8)))
    with refuses(ValueError, "image", "0x8"):
        trained.predict(Image.new("RGB", (0, 8)))


def test_rounding_may_leave_the_range(trained):
    image = torch.rand(3, 8, 8)
    image[0, 0, 0], image[0, 0, 1] = 1 + 1e-6, -1e-6
    assert torch.equal(trained.preprocess(image), trained.preprocess(image.clamp(0, 1)))


def test_its_repr_is_a_line(trained):
    assert repr(trained) == "Trained(eca_resnet_20, shades, 2 classes)"
    shipped = repr(cifarblocks.load("eca_resnet_20.digits"))
    assert shipped == "Trained(eca_resnet_20, digits (UCI, 8x8), 10 classes, top-1 99.44 %)"


def test_weights_that_give_no_numbers_are_told(trained):
    for parameter in trained.model.parameters():
        parameter.data.fill_(3e38)
    with refuses(FloatingPointError, "finite"):
        trained.predict(torch.rand(3, 8, 8))


class OnMps(torch.Tensor):
    """Stand in for a tensor on Apple's GPU, which has no float64."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_suffices(trained):
    images = torch.rand(2, 3, 8, 8)
    expected = trained.predict(images)
    trained.model.register_forward_hook(lambda model, inputs, logits: logits.as_subclass(OnMps))
    assert trained.predict(images) == expected


def test_the_models_type_and_device_are_kept(trained):
    trained.model.double()
    assert trained.preprocess(torch.rand(3, 8, 8)).dtype == torch.float64
    assert trained.predict(torch.rand(3, 8, 8))


@pytest.fixture
def elsewhere():
    """Another default device, as torch.set_default_device("cuda") makes one."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def test_another_default_device_changes_nothing(trained, tmp_path, elsewhere):
    pixels = picture(20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for image in (tmp_path / "a.png", Image.fromarray(pixels), pixels, tensor, []):
        assert trained.preprocess(image).device.type == "cpu"
        trained.predict(image)
    loaded = cifarblocks.load(tmp_path)
    assert {value.device.type for value in loaded.model.state_dict().values()} == {"cpu"}
    assert loaded.predict(tensor) == trained.predict(tensor)


def test_another_default_type_changes_nothing(trained):
    image = Image.fromarray(picture(HEIGHT, WIDTH))
    expected = trained.preprocess(image)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(trained.preprocess(image), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_files_of_another_kind_are_refused_in_a_sentence(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"")
    torch.save({"a": torch.zeros(1)}, tmp_path / "c.pth")
    for name in ("a.safetensors", "b.safetensors", "c.pth"):
        with refuses(ValueError, tmp_path / name):
            cifarblocks.load(tmp_path / name)


def test_mixed_types_load_as_the_type_that_holds_them_all(tmp_path):
    model = cifarblocks.create_model(CARD.model, **CARD.arguments)
    halved = {name: value.half() if value.ndim == 4 else value for name, value in model.state_dict().items()}
    save_weights(tmp_path / "a.safetensors", halved, CARD)
    assert {value.dtype for value in cifarblocks.load(tmp_path / "a.safetensors").model.parameters()} == {torch.float32}


WITHOUT_PILLOW = """
import sys, torch
sys.modules.update(dict.fromkeys("torchvision numpy matplotlib PIL tqdm".split()))
import cifarblocks
trained = cifarblocks.load("eca_resnet_20.digits")
print(trained.predict(torch.zeros(3, 32, 32))[0].label)
assert "torch._dynamo" not in sys.modules  # it takes half as long to import as torch
try:
    trained.predict("photo.jpg")
except ModuleNotFoundError as error:
    print(error)
"""


def test_tensors_need_no_package_but_the_cores():
    finished = subprocess.run([sys.executable, "-c", WITHOUT_PILLOW], capture_output=True, text=True, check=True)
    label, sentence = finished.stdout.splitlines()
    assert label in list("0123456789")
    assert "pip install pillow" in sentence
