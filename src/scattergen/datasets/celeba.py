"""CelebA's aligned faces, cropped and split as in the papers that this project follows."""

from pathlib import Path

from scattergen.datasets.decoding import Header, read_header
from scattergen.datasets.folder import ImageFolder, list_images
from scattergen.datasets.source import Dataset, Subset
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress

CROPS = {(178, 218): 128, (89, 109): 64}
"""(width, height) of the files to the side of the square that is cut from their centre."""

N_TRAIN, N_TEST = 65_536, 8_192
_TEST_SHARE = 8  # one in so many, of fewer images than these


def celeba(
    folder: str | Path, *, size: int | None = None, strict: bool = True, workers: int = 0, progress: Progress = SILENT
) -> Dataset:
    """Faces of CelebA: the central 128×128 pixels of aligned images, or 64×64 of halved ones.

    The files are those of `img_align_celeba`, 178×218 pixels, or the same at half resolution, 89×109; the folder may be
    that one or hold it. Of at least 73,728 images, sorted by name, the first 65,536 are the training set and the last
    8,192 the test set, the sizes of Angles and Mallat; with all of CelebA both lie within the official training and
    test partitions. Of fewer images the last eighth is the test set.

    Args:
        folder: where the images are.
        size: resize the cropped squares to this many pixels; not at all by default.
        strict: whether an unreadable file is an error or left out.
        workers: processes that decode images; 0 for threads of this process.
        progress: where to report the reading of many headers.

    Returns:
        A `Dataset` named "celeba", in colour.

    Raises:
        InputError: if the folder holds no images, images of another size or in grey, or fewer than 8.

    References:
        Liu, Luo, Wang, Tang, "Deep learning face attributes in the wild", 2015.
        Angles, Mallat, "Generative networks as inverse problems with scattering transforms", 2018.

    Example:
        >>> celeba("no/such/folder")
        Traceback (most recent call last):
        ...
        scattergen.errors.InputError: no/such/folder does not exist: give a folder of images.
    """
    root = Path(folder).expanduser()
    if (root / "img_align_celeba").is_dir():
        root = root / "img_align_celeba"
    first, header = _first_readable(list_images(root), strict)
    crop = CROPS.get((header.width, header.height))
    if crop is None:
        raise InputError(
            f"{first} has {header.width}×{header.height} pixels, but CelebA's aligned images have 178×218, or 89×109 "
            "at half resolution: give the folder img_align_celeba, or fit other images without --preset celeba."
        )
    if header.mode != "RGB":
        raise InputError(
            f"{first} is grey, but CelebA is in colour: give the folder img_align_celeba, or fit "
            "other images without --preset celeba."
        )
    size = None if size == crop else size
    images = ImageFolder(root, crop=crop, size=size, mode="RGB", strict=strict, workers=workers, progress=progress)
    if len(images.file_sizes) > 1:
        found = " and ".join(f"{width}×{height}" for width, height in sorted(images.file_sizes)[:2])
        raise InputError(
            f"{root} holds images of different sizes, such as {found} pixels: give CelebA's "
            "aligned images of one size alone."
        )
    n = len(images)
    if n < _TEST_SHARE:
        raise InputError(
            f"{root} holds {n} images, too few to hold out one in {_TEST_SHARE} for tests: give at least {_TEST_SHARE}."
        )
    enough = n >= N_TRAIN + N_TEST
    n_test = N_TEST if enough else n // _TEST_SHARE
    n_train = N_TRAIN if enough else n - n_test
    train, test = Subset(images, slice(n_train)), Subset(images, slice(n - n_test, None))
    return Dataset("celeba", train, test, images.skipped, crop)


def _first_readable(files: list[Path], strict: bool) -> tuple[Path, Header]:
    """The first file that is an image, with what it says of itself."""
    for file in files[:-1]:
        try:
            return file, read_header(file)
        except InputError:
            if strict:
                raise
    return files[-1], read_header(files[-1])
