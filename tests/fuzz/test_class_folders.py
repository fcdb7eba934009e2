"""Any tree of files, folders and links below a class folder is listed by one rule."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdanets.data import ImageFolder
from lambdanets.errors import UserError

NAMES = ("a.jpg", "b.JPEG", "c.jfif", "d.avif", "x[b].png", "e\n.gif", "notes.txt", "Thumbs.db", "none", ".hidden.jpg")
FOLDERS = ("cat", "dog.jpg", ".ipynb_checkpoints", "@eaDir", "red [bold]", "\udcff", "new\nline")
IMAGES = (".jpg", ".jpeg", ".jfif", ".avif", ".png", ".gif")

files = st.dictionaries(st.sampled_from(NAMES), st.just(None), max_size=3)
trees = st.recursive(
    files,
    lambda inner: st.tuples(files, st.dictionaries(st.sampled_from(FOLDERS), inner, max_size=3)).map(
        lambda parts: {**parts[0], **parts[1]}
    ),
    max_leaves=8,
)


def write_tree(folder, tree):
    folder.mkdir(parents=True)
    for name, inner in tree.items():
        if inner is None:
            (folder / name).touch()
        else:
            write_tree(folder / name, inner)


def expected_images(folder, tree):
    """Return the images of a tree without links."""
    images = []
    for name, inner in tree.items():
        if name.startswith(".") or name == "@eaDir":
            continue
        if inner is not None:
            images += expected_images(folder / name, inner)
        elif name.lower().endswith(IMAGES):
            images.append(str(folder / name))
    return images


def list_split(root):
    """Return the samples and classes of a folder's training split; none if it is refused for having none."""
    data = ImageFolder(root=str(root), image_size=8)
    try:
        data.read_classes()
    except UserError:
        assert data.count_classes() == 0
        return [], []
    assert data.count_classes() == len(data.classes)
    return data.list_samples("train"), data.classes


@given(tree=trees)
def test_the_images_of_a_tree_are_listed_under_their_class(tree):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root / "train", tree)
        samples, classes = list_split(root)
        folders = {name: inner for name, inner in tree.items() if inner is not None}
        expected = expected_images(root / "train", folders)
        assert sorted(path for path, _ in samples) == sorted(expected)
        for path, label in samples:
            name = Path(path).relative_to(root / "train").parts[0]
            assert classes[label] in (name, name.replace("\n", "\\n"), name.replace("\udcff", "\\udcff"))
        assert {label for _, label in samples} == set(range(len(classes)))


@given(tree=trees, data=st.data())
def test_links_between_folders_end(tree, data):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root / "train" / "ant", tree)
        (root / "train" / "ant" / "z.png").touch()
        places = sorted(path for path in root.rglob("*") if path.is_dir())
        for index in range(data.draw(st.integers(1, 4))):
            target = data.draw(st.sampled_from([*places, root / "nowhere"]))
            link = data.draw(st.sampled_from(places)) / f"link{index}.png"
            os.symlink(target, link)
        samples, _ = list_split(root)
        assert str(root / "train" / "ant" / "z.png") in [path for path, _ in samples]
        assert len(samples) == len(set(samples))
        for path, _ in samples:
            assert os.path.isfile(path) or os.path.islink(path)


def test_a_folder_of_hidden_files_alone_is_refused(tmp_path):
    write_tree(tmp_path / "train", {".ipynb_checkpoints": {"a.jpg": None}, "cat": {"._a.jpg": None}})
    with pytest.raises(UserError, match="has no images"):
        ImageFolder(root=str(tmp_path)).read_classes()
