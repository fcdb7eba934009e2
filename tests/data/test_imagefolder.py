"""Image folders, and ImageNet's layout of them."""

import shutil
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms.v2 import functional as F

from lambdanets.data import ImageFolder, ImageNet
from lambdanets.data.imagefolder import cut_middle
from lambdanets.errors import UserError
from tests.images import encode_jpeg, make_image_folder


@pytest.fixture
def folder(tmp_path):
    """train/ and test/ with two classes that differ by their red channel; images of several sizes and formats."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(256, size=(rng.integers(20, 40), rng.integers(20, 40), 3), dtype=np.uint8)
                pixels[..., 0] = 200 * label
                suffix = ("png", "jpg", "webp")[index % 3]
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index:02}.{suffix}")
    return tmp_path


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_a_folder_in_memory_and_a_streamed_one_have_the_same_splits_and_labels(folder, memory_gib):
    data = ImageFolder(root=str(folder), image_size=16, batch_size=4, memory_gib=memory_gib, val_size=0.25)
    assert data.count_classes() == 2
    data.setup("fit")
    data.setup("test")
    assert data.classes == ["cat", "dog"]
    assert isinstance(data.train_set, TensorDataset) == (memory_gib > 0)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (30, 10, 8)
    assert torch.cat([labels for _, labels in data.test_dataloader()]).tolist() == [0] * 4 + [1] * 4
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal((images[:, 0].float().mean((1, 2)) > 100).long(), labels)
    normalized, _ = data.on_after_batch_transfer((images, labels), 0)
    expected = (images.double() / 255 - torch.tensor(data.MEAN)[:, None, None]) / torch.tensor(data.STD)[:, None, None]
    torch.testing.assert_close(normalized, expected.float())
    assert torch.equal(data.denormalize(normalized[0]), images[0])


class RunningTrainer:
    """A trainer's part for a data module; as a real one in a training, it can't be pickled."""

    global_rank, world_size = 0, 1

    def __init__(self):
        self.schedule = lambda step: 1.0


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_workers_that_are_not_forked_read_the_same_images(folder, memory_gib, monkeypatch):
    """As on macOS, and from Python 3.14 on."""
    batches = []
    for method in ("fork", "forkserver"):
        monkeypatch.setattr("multiprocessing.context._default_context._actual_context", get_context(method))
        data = ImageFolder(root=str(folder), image_size=16, batch_size=4, memory_gib=memory_gib, num_workers=1)
        data.trainer = RunningTrainer()
        data.setup("fit")
        batches.append(next(iter(data.val_dataloader())))
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])


def test_a_folder_with_val_uses_it_and_one_without_test_has_no_test_split(folder):
    (folder / "test").rename(folder / "val")
    data = ImageFolder(root=str(folder), image_size=16)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set), data.has_test) == (40, 8, False)


def test_imagenets_val_is_its_test_split(folder):
    (folder / "test").rename(folder / "val")
    data = ImageNet(root=str(folder), image_size=16, val_size=6)
    data.setup("fit")
    data.setup("test")
    assert data.has_test
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (34, 6, 8)


def test_evaluation_crops_the_middle_of_the_shorter_side(folder):
    data = ImageFolder(root=str(folder), image_size=16, crop_ratio=0.5)
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    image[:, 16:48, 32:64] = 255
    assert (data.preprocess(image)[:, 1:-1, 1:-1] == 255).all()
    wider = ImageFolder(root=str(folder), image_size=16, crop_ratio=1.0).preprocess(image)
    assert (wider > 127).float().mean() == 0.25


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_an_image_that_cannot_be_decoded_is_named(folder, memory_gib, damage):
    file = folder / "train" / "dog" / "01.jpg"
    file.write_bytes(file.read_bytes()[:300] if damage == "truncated" else b"not an image")
    data = ImageFolder(root=str(folder), image_size=16, batch_size=1, memory_gib=memory_gib, val_size=1, num_workers=1)

    def read_everything():
        data.setup("fit")
        return [*data.train_dataloader(), *data.val_dataloader()]

    with pytest.raises(UserError, match=r"^The image '.*dog/01\.jpg' can't be decoded .*remove it\.$"):
        read_everything()


@pytest.mark.parametrize("memory_gib", [0, 1])
def test_corrupt_images_are_skipped_counted_and_listed(tmp_path, memory_gib):
    root = make_image_folder(tmp_path / "images", train=12, val=4)
    damaged = root / "train" / "ant" / "1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    text = root / "val" / "bee" / "0.jpg"
    text.write_text("no image")
    options = {"root": str(root), "image_size": 16, "memory_gib": memory_gib, "batch_size": 4}

    data = ImageFolder(max_corrupt=0.3, **options)
    data.corrupt.file = tmp_path / "corrupt.txt"
    data.setup("fit")
    # In memory, 11 images are two whole batches; when streamed, another image takes the place of the damaged one.
    assert sum(len(labels) for _, labels in data.train_dataloader()) == (8 if memory_gib else 12)
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 3
    assert data.corrupt.file.read_text().splitlines() == [str(damaged), str(text)]

    strict = ImageFolder(max_corrupt=0.05, **options)

    def read_everything():
        strict.setup("fit")
        return list(strict.train_dataloader())

    with pytest.raises(UserError, match=r"1 of 12 images can't be decoded.*more than data.max_corrupt=0.05"):
        read_everything()


def test_errors_in_a_folder(folder, tmp_path_factory):
    (folder / "test" / "bird").mkdir()
    shutil.copy(folder / "test" / "cat" / "00.png", folder / "test" / "bird")
    data = ImageFolder(root=str(folder), image_size=16)
    data.setup("fit")
    with pytest.raises(UserError, match="class folder bird, which is missing in"):
        data.setup("test")
    with pytest.raises(UserError, match="There is no folder '/nowhere'"):
        ImageFolder(root="/nowhere").setup("fit")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="There is no folder .*train"):
        ImageFolder(root=str(empty)).setup("fit")
    (empty / "train" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="has no images"):
        ImageFolder(root=str(empty)).setup("fit")


@pytest.mark.parametrize("damage", ["flat", "unknown class"])
def test_the_test_split_is_checked_before_a_training_without_decoding_images(folder, damage):
    data = ImageFolder(root=str(folder), image_size=16)
    data.setup("fit")
    for image in (folder / "test").rglob("*.*"):
        image.write_text("not decoded")
    data.check_test_split()
    assert data.test_set is None
    if damage == "flat":  # as in Kaggle's competitions
        for image in [*(folder / "test").rglob("*.*")]:
            image.rename(folder / "test" / f"{image.parent.name}-{image.name}")
        message = r"The images in '.*/test' are in no class folders: .* or move a folder of unlabeled images away\.$"
    else:
        (folder / "test" / "cat").rename(folder / "test" / "bird")
        message = "class folder bird, which is missing in"
    again = ImageFolder(root=str(folder), image_size=16)
    again.setup("fit")
    with pytest.raises(UserError, match=message):
        again.check_test_split()


def test_a_folder_without_a_test_split_needs_no_check(folder):
    shutil.rmtree(folder / "test")
    data = ImageFolder(root=str(folder), image_size=16)
    data.setup("fit")
    data.check_test_split()
    assert data.test_samples is None


def test_samples_and_classes_of_an_ordinary_folder_are_torchvisions(folder):
    (folder / "train" / "cat" / "deeper").mkdir()
    shutil.copy(folder / "train" / "cat" / "00.png", folder / "train" / "cat" / "deeper")
    data, reference = ImageFolder(root=str(folder), image_size=16), TorchvisionFolder(folder / "train")
    data.read_classes()
    assert data.classes == reference.classes
    assert data.list_samples("train") == reference.samples


def test_hidden_and_empty_folders_are_no_classes_and_other_files_are_named_once(folder, caplog):
    image, train = encode_jpeg(20, 20), folder / "train"
    hidden = (
        ".ipynb_checkpoints/a.jpg",
        "@eaDir/a.jpg",
        "__MACOSX/a.jpg",
        "cat/.DS_Store",
        "cat/._00.jpg",
        "cat/.git/b.png",
    )
    other = ("cat/notes.txt", "loose.jpg", "cat/photo.heic", "cat/a[/b].cr2")
    read = ("cat/a.JFIF", "cat/a.jpe", "cat/A.Avif", "dog/x.jpg/inside.jpg")
    for name in (*hidden, *other, *read):
        (train / name).parent.mkdir(parents=True, exist_ok=True)
        (train / name).write_bytes(image)
    (train / "empty").mkdir()
    data = ImageFolder(root=str(folder), image_size=16)
    assert data.count_classes() == 2
    data.read_classes()
    samples = data.list_samples("train")
    assert data.classes == ["cat", "dog"]
    assert {str(train / name) for name in read} <= {path for path, _ in samples}
    assert len(samples) == 40 + len(read)
    (record,) = caplog.records
    assert record.getMessage().startswith("5 files or folders in ")
    for name in (*other, "empty"):
        assert f"'{name}'" in record.getMessage()


def test_linked_folders_are_read_and_links_that_lead_back_end(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "linked.jpg").write_bytes(encode_jpeg(20, 20))
    train = folder / "train"
    (train / "cat" / "more").symlink_to(elsewhere)
    (train / "bird").symlink_to(elsewhere)
    for link, target in (("cat/self", "."), ("cat/up", "../.."), ("all", "."), ("dog/loop", "loop"), ("loop", "loop")):
        (train / link).symlink_to(target)
    data = ImageFolder(root=str(folder), image_size=16)
    data.read_classes()
    samples = [path for path, _ in data.list_samples("train")]
    assert data.classes == ["bird", "cat", "dog"]
    assert len(samples) == 42
    assert {str(train / "cat/more/linked.jpg"), str(train / "bird/linked.jpg")} <= set(samples)


def test_a_broken_link_is_an_image_that_cannot_be_read(folder, tmp_path):
    link = folder / "train" / "cat" / "gone.jpg"
    link.symlink_to("nowhere")
    data = ImageFolder(root=str(folder), image_size=16, max_corrupt=0.1, batch_size=4)
    data.corrupt.file = tmp_path / "corrupt.txt"
    data.setup("fit")
    assert data.corrupt.file.read_text() == f"{link}\n"
    with pytest.raises(UserError, match=r"There is no image '.*gone\.jpg': it is a link to nothing"):
        ImageFolder(root=str(folder), image_size=16).setup("fit")


def test_the_classes_of_an_old_run_stay(folder):
    """Before, hidden and empty folders were classes; their labels are stored with the run's checkpoint."""
    for name in (".ipynb_checkpoints", "empty"):
        (folder / "train" / name).mkdir()
    data = ImageFolder(root=str(folder), image_size=16)
    data.restore_classes([".ipynb_checkpoints", "bird", "cat", "dog"])
    assert data.classes == ["cat", "dog"]  # a class that isn't there is a difference
    data.restore_classes([".ipynb_checkpoints", "cat", "dog", "empty"])
    assert data.classes == [".ipynb_checkpoints", "cat", "dog", "empty"]
    data.setup("fit")
    data.setup("test")
    assert torch.cat([labels for _, labels in data.test_dataloader()]).unique().tolist() == [1, 2]


def test_an_extreme_shape_is_cut_to_its_middle_and_any_other_left_as_it_is():
    photo = torch.randint(0, 256, (3, 4, 64), dtype=torch.uint8)
    assert cut_middle(photo) is photo or torch.equal(cut_middle(photo), photo)
    strip = torch.randint(0, 256, (3, 2, 8000), dtype=torch.uint8)
    assert cut_middle(strip).shape == (3, 2, 32)
    assert cut_middle(strip.transpose(1, 2)).shape == (3, 32, 2)
    data = ImageFolder(root="", image_size=16, crop_ratio=0.875)
    strip = strip[..., :200]
    whole = F.center_crop(F.resize(strip, [18], antialias=True), [16, 16])
    assert (data.preprocess(strip).int() - whole.int()).abs().max() <= 1
