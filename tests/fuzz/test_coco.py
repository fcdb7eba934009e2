"""COCO files with anything in them: a sentence, or images with boxes and masks that fit."""

import contextlib
import copy
import json
import resource

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambdanets.data import Coco
from lambdanets.data.annotation_errors import ROUNDING
from lambdanets.data.masks import decode, find_segmentation_error, to_rle
from lambdanets.errors import UserError
from tests.coco import make_coco

HEIGHT, WIDTH = 24, 32
# More than this, in bytes, and reading fails: masks of 24×32 pixels need next to nothing.
MEMORY = 2**29
NUMBERS = st.one_of(
    st.integers(-3, 100),
    st.integers(),
    st.floats(),
    st.floats(-40, 80),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 10**400, 2**31, 2**63, HEIGHT * WIDTH]),
)
COORDINATES = st.floats(-WIDTH, 2 * WIDTH) | st.sampled_from([0, HEIGHT, WIDTH, float("nan"), 1e9])
COUNTS = st.text(st.characters(min_codepoint=ord("0"), max_codepoint=ord("o")), max_size=12)
SEGMENTATIONS = st.one_of(
    st.lists(st.lists(COORDINATES, min_size=6, max_size=12), min_size=1, max_size=3),
    st.builds(lambda counts: {"size": [HEIGHT, WIDTH], "counts": counts}, COUNTS | st.lists(st.integers(-1, 800))),
    st.builds(
        lambda start, length: {"size": [HEIGHT, WIDTH], "counts": [start, length, HEIGHT * WIDTH - start - length]},
        st.integers(0, HEIGHT * WIDTH),
        st.integers(0, HEIGHT * WIDTH),
    ),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(st.characters(), max_size=8),  # with surrogates, as JSON's escapes may have
    st.lists(NUMBERS, min_size=4, max_size=4),
    st.lists(NUMBERS | st.text(max_size=3), max_size=9),
    st.dictionaries(st.sampled_from(["id", "name", "size", "counts"]), NUMBERS, max_size=3),
    SEGMENTATIONS,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("coco"), train=0, val=4, size=(HEIGHT, WIDTH))


@contextlib.contextmanager
def limited_memory():
    """Fail to allocate more than MEMORY."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="utf-8") as status:
        used = int(status.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def list_places(value):
    """Return all places in a JSON document: its containers with each of their keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in items for place in ((value, key), *list_places(part))]


def change(document, data):
    """Change something in a document: remove it, repeat it, or put another value in its place."""
    places = list_places(document)
    rows = [
        place for place in places if isinstance(place[0], dict) and place[1] not in ("info", "images", "annotations")
    ]
    container, key = data.draw(st.sampled_from(rows) | st.sampled_from(places), label="place")
    match data.draw(st.sampled_from(["replace", "replace", "remove", "text", "negative", "repeat", "mask"])):
        case "remove":
            del container[key]
        case "text":
            container[key] = str(container[key])
        case "negative" if isinstance(container[key], int | float):
            container[key] = -container[key]
        case "repeat" if isinstance(container, list):
            container.insert(0, copy.deepcopy(container[key]))
        case "mask":
            data.draw(st.sampled_from(document["annotations"]))["segmentation"] = data.draw(SEGMENTATIONS)
        case _:
            container[key] = data.draw(VALUES, label="value")


@given(segmentation=SEGMENTATIONS)
def test_any_mask_that_is_accepted_decodes_to_the_size_of_its_image(segmentation):
    if find_segmentation_error(segmentation, (HEIGHT, WIDTH), (0, 0, WIDTH, HEIGHT)) is None:
        with limited_memory():
            mask = decode([to_rle(segmentation, (HEIGHT, WIDTH))], (HEIGHT, WIDTH))
        assert mask.shape == (1, HEIGHT, WIDTH)
        assert mask.max() <= 1


@given(data=st.data())
def test_any_annotation_file_is_refused_in_a_sentence_or_its_images_have_boxes_and_masks_that_fit(root, data):
    file = root / "annotations" / "instances_val2017.json"
    original = file.read_text()
    document = json.loads(original)
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        if isinstance(document.get("annotations"), list) and document["annotations"]:
            change(document, data)
    file.write_text(json.dumps(document))
    message = "As it should be."
    torch.manual_seed(0)
    try:
        with limited_memory():
            check_items(root)
    except UserError as error:
        message = str(error)
    finally:
        file.write_text(original)
    assert message.endswith(".")
    assert "\n" not in message


def check_items(root):
    options = {"val_size": 0, "image_size": 24, "scale_jitter": (0.5, 1.5), "max_corrupt": 1.0}
    corpus = Coco(root=str(root), train="val2017", **options)
    corpus.corrupt.file = root / "corrupt.txt"
    corpus.corrupt.file.unlink(missing_ok=True)
    corpus.setup("fit")
    for item in (corpus.val_set[index] for index in range(len(corpus.val_set))):
        if item is None:
            continue  # the photo has another size than annotated
        image, target = item
        height, width = target["size"]
        x, y, box_width, box_height = target["boxes"].unbind(1)
        across, down = max(1, ROUNDING * width), max(1, ROUNDING * height)
        assert target["boxes"].isfinite().all()
        assert (x >= -across).all()
        assert (y >= -down).all()
        assert (box_width > 0).all()
        assert (box_height > 0).all()
        assert (x + box_width <= width + across).all()
        assert (y + box_height <= height + down).all()
        assert (target["area"] >= 0).all()
        assert decode(target["masks"], target["size"]).shape == (len(x), height, width)
        assert image.shape[0] == 3
    for index in range(len(corpus.train_set)):
        image, target = corpus.train_set[index, 0]
        height, width = image.shape[1:]
        left, top, right, bottom = target["boxes"].unbind(1)
        assert ((left >= 0) & (left < right) & (right <= width)).all()
        assert ((top >= 0) & (top < bottom) & (bottom <= height)).all()
        assert target["masks"].shape == (len(left), height, width)
        assert target["masks"].flatten(1).any(1).all()
        assert ((target["labels"] >= 1) & (target["labels"] <= len(corpus.classes))).all()
