"""Images and their labels, from a folder with one subfolder per class or from a CSV file."""

import csv
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from lossselect.exceptions import DataError, FileMissingError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def find_images(folder):
    """Return the paths of the images in a folder and its subfolders, sorted."""
    if not Path(folder).is_dir():
        raise FileMissingError(f"Folder not found: {folder}. Check the path.")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"The folder {folder} contains no images. Supported suffixes: {', '.join(SUFFIXES)}.")
    return paths


def read_labels(source, several):
    """Return the paths of all images, and the label of each.

    Args:
        source: A folder with one subfolder per class, or a CSV file with the columns path and label. Paths
            are relative to the folder of the file. An empty label is missing (None).
        several: Whether an image has a list of labels, which the file separates by |, as in "cat|indoors". An
            empty list means none of the labels.
    """
    source = Path(source)
    if source.is_dir():
        folders = sorted(path for path in source.iterdir() if path.is_dir() and path.name[0] != ".")
        if several or not folders:
            problem = "a folder gives each image one label" if several else f"{source} has no subfolders"
            raise DataError(
                f"Expected a CSV file with the columns path and label, or a folder with one subfolder per "
                f"class (not for multilabel), but {problem}. Pass such a file or folder."
            )
        pairs = [(path, folder.name) for folder in folders for path in find_images(folder)]
        return [path for path, _ in pairs], [label for _, label in pairs]
    if not source.is_file():
        raise FileMissingError(f"File not found: {source}. Check the path.")
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            raise DataError(f"{source} must have the columns path and label, got {reader.fieldnames}.")
        rows = [(row["path"] or "", (row["label"] or "").strip()) for row in reader]
    if not rows:
        raise DataError(f"{source} contains no rows. Add one row per image.")
    paths = [source.parent / path for path, _ in rows]
    if several:
        return paths, [[name.strip() for name in cell.split("|") if name.strip()] for _, cell in rows]
    return paths, [cell or None for _, cell in rows]


def split(task, labels, fraction, seed):
    """Return the rows of two parts with the same class frequencies; the second is `fraction` of all rows."""
    if len(labels) * fraction < 1:
        raise DataError(f"{len(labels)} images are too few to split off {fraction:.0%}. Add images.")
    ones = task.to_one_hot(task.encode(labels)).nan_to_num().round().numpy()
    ones = np.hstack([ones, 1 - ones])  # the splitter requires two columns, and a binary task has one
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
    return [sorted(part.tolist()) for part in next(splitter.split(ones, ones))]


@contextmanager
def open_image(path):
    """Open an image, and name its path in all errors, also in those of reading it."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise FileMissingError(f"Image not found: {path}. Check the path, or remove its row.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}. Replace or remove it.") from None


def read_image(path, size):
    """Return an image as uint8 (3, size, size): upright, as RGB, cropped to a square and resized."""
    with open_image(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
            image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
        elif image.mode == "F":
            raise DataError(f"{path} contains float values. Convert it to 8 or 16 bits per channel.")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = ImageOps.fit(image.convert("RGB"), (size, size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class Images(Dataset):
    """Rows {"image": uint8 (3, size, size), "target": ...}; without "target" to predict.

    Args:
        paths: Paths of the images. Their headers are checked; the images are read when they are needed.
        size: Height and width of the images.
        target: One entry per image, as `task.encode` returns it.
    """

    def __init__(self, paths, size, target=None):
        self.paths, self.size, self.target = paths, size, target
        for path in paths:
            with open_image(path):
                pass

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        image = {"image": read_image(self.paths[row], self.size)}
        return image if self.target is None else {**image, "target": self.target[row]}
