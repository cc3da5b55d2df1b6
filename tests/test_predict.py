"""Images of any kind get the class that the model gives them; what is no image gets a sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from commands import predict as command
from stages.paths import model_path
from tests.models import both, random_images, random_model, small_spec
from tests.trained import dense, digits
from vtp.checkpoint import load, load_class_names, load_spec, save
from vtp.data.dataset import Resizing
from vtp.data.sources.imagefolder import pixels
from vtp.errors import UserError
from vtp.predict import predict, read_image

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@both
def test_probabilities_are_those_of_the_logits(family: str) -> None:
    model = random_model(small_spec(family), seed=0, dtype=torch.float32)
    images = random_images(model.spec, 251)
    expected = model(images).softmax(1)
    assert torch.allclose(predict(model, images), expected, atol=1e-6)
    assert torch.allclose(predict(model, images.float()), expected, atol=1e-6)
    assert predict(model, images[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.rand(2, 3, 8, 8), r"pixel values are from .* to .*, but must be from 0 to 255"),
        (torch.full((2, 3, 8, 8), torch.nan), "pixel values are from nan to nan, but must be from 0 to 255"),
        (torch.full((2, 3, 8, 8), 256), "pixel values are from 256 to 256, but must be from 0 to 255"),
        (torch.randn(2, 3, 8, 8), r"pixel values are from -"),
        (torch.zeros(2, 3, 9, 8), r"^the images are 2×3×9×8, but must be B×3×8×8 for this model$"),
        (torch.zeros(3, 8, 8), r"^the images are 3×8×8, but must be B×3×8×8"),
    ],
)
def test_pixels_of_another_range_or_shape_are_a_sentence(images: Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        predict(random_model(small_spec("vit"), seed=0, dtype=torch.float32), images)


def test_a_checkpoint_keeps_the_names_of_the_classes(tmp_path: Path) -> None:
    model = random_model(small_spec("vit"), seed=0, dtype=torch.float32)
    save(model, tmp_path / "named", ("cat", "dog", "Käfer", "newt"))
    save(model, tmp_path / "nameless")
    assert load_class_names(tmp_path / "named") == ("cat", "dog", "Käfer", "newt")
    assert load_class_names(tmp_path / "nameless") == ("0", "1", "2", "3")
    assert load_spec(tmp_path / "named") == load(tmp_path / "named").spec == model.spec


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a trained model of digits and pictures of two of them."""
    monkeypatch.chdir(tmp_path)
    save(dense(), model_path("finetune"), NAMES)
    picture(0, "digit.png")
    picture(1, "folder/below/digit.png")
    Path("folder/notes.txt").write_text("none of the images")
    return tmp_path


def picture(index: int, name: str, scale: int = 1) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(digits().test.images[index, 0].numpy(), np.ones((scale, scale), np.uint8))).save(name)


def answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> list[list[str]]:
    monkeypatch.setattr("sys.argv", ["predict", *arguments])
    command.main()
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in capsys.readouterr().out.splitlines()[2:]]


@pytest.mark.usefixtures("project")
def test_files_and_folders_are_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = dense()(digits().test.images[:2]).softmax(1).max(1)
    found = answers(monkeypatch, capsys, "digit.png", "folder")
    assert [row[0] for row in found] == ["digit.png", "folder/below/digit.png"]
    assert [row[1] for row in found] == [NAMES[index] for index in expected.indices]
    assert [float(row[2]) for row in found] == pytest.approx((100 * expected.values).tolist(), abs=0.006)


@pytest.mark.usefixtures("project")
def test_images_of_any_size_and_kind_are_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(0, "large.png", scale=4)
    with Image.open("large.png") as image:
        image.convert("RGBA").save("large.webp", lossless=True)
    small, large, other = answers(monkeypatch, capsys, "digit.png", "large.png", "large.webp")
    assert small[1] == large[1] == other[1]
    assert large[2] == other[2]


def test_what_is_no_image_in_a_folder_is_left_out_and_said(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (".hidden.png", "__MACOSX/digit.png", ".thumbnails/digit.png", "below/notes.pdf"):
        (project / "folder" / name).parent.mkdir(exist_ok=True)
        (project / "folder" / name).write_bytes(b"none")
    assert [row[0] for row in answers(monkeypatch, capsys, "folder")] == ["folder/below/digit.png"]
    (project / "folder" / "broken.png").write_bytes(b"none")
    monkeypatch.setattr("sys.argv", ["predict", "folder"])
    command.main()
    printed = capsys.readouterr()
    assert "folder/below/digit.png" in printed.out
    assert printed.err.startswith("left out: folder/broken.png is not an image that Pillow reads")


def test_an_image_of_the_models_size_is_read_as_it_is(project: Path) -> None:
    read = read_image(project / "digit.png", 1, Resizing(8))
    assert torch.equal(read, digits().test.images[0])


@pytest.mark.parametrize(
    "resizing", [Resizing(8, 11, False, "bicubic"), Resizing(8, 8, False), Resizing(8, interpolation="bicubic")]
)
def test_images_are_resized_as_those_of_the_checkpoints_data(
    resizing: Resizing, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (21, 40), dtype=np.uint8)).save("wide.png")
    save(dense(), project / "model", NAMES, resizing)
    (grey, _, _) = pixels(Path("wide.png").read_bytes(), resizing, "wide.png")
    expected = predict(dense(), torch.from_numpy(grey.copy())[None, None]).max(1)
    ((_, name, probability),) = answers(monkeypatch, capsys, "wide.png", "--model", "model")
    assert name == NAMES[int(expected.indices)]
    assert float(probability) == pytest.approx(100 * float(expected.values), abs=0.006)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], r"^predict: no image is named; name files or folders: make predict IMAGES="),
        (["broken"], r"^predict: no file that was found is an image$"),
        (["empty"], r"^predict: no image in empty; name files"),
        (["missing.png"], r"^predict: missing.png: no such file or folder$"),
        (["folder/notes.txt"], r"^folder/notes.txt is not an image that Pillow reads"),
        (["digit.png", "--model", "out/other"], r"^out/other: no such file; run the stage that writes it"),
        (["digit.png", "--model", "digit.png"], r"^digit.png: truncated, altered or no spec file"),
    ],
)
def test_a_mistake_is_a_sentence(
    arguments: list[str], sentence: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "empty").mkdir()
    (project / "broken").mkdir()
    (project / "broken" / "a.png").write_bytes(b"none")
    monkeypatch.setattr("sys.argv", ["predict", *arguments])
    with pytest.raises(UserError, match=sentence):
        command.main()
