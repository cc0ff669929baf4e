"""Make `fashion-mini.npz` from the four files of Fashion-MNIST.

    python sbtutor/assets/make_fashion_mini.py /usr/share/datasets/fashion-mnist

5,000 training and 1,000 validation images are drawn from the official 60,000
training images, 4,000 test images from the official 10,000 test images; each class
equally often.
"""

import gzip
import hashlib
import itertools
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def read(path: Path, header: int) -> np.ndarray:
    """The bytes of an idx file after its header."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def draw(labels: np.ndarray, per_class: list[int], seed: int) -> list[np.ndarray]:
    """Disjoint class-balanced index sets, each shuffled."""
    rng = np.random.default_rng(seed)
    pools = [rng.permutation(np.flatnonzero(labels == c)) for c in range(10)]
    ends = np.cumsum([0, *per_class])
    parts = [
        np.concatenate([pool[a:b] for pool in pools])
        for a, b in itertools.pairwise(ends)
    ]
    return [rng.permutation(part) for part in parts]


def main(folder: Path) -> None:
    """Write `fashion-mini.npz` and its sha256 beside this file."""
    arrays = {"classes": np.array(CLASSES)}
    for prefix, wanted in (
        ("train", {"train": 500, "val": 100}),
        ("t10k", {"test": 400}),
    ):
        images = read(folder / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = read(folder / f"{prefix}-labels-idx1-ubyte.gz", 8)
        drawn = draw(labels, list(wanted.values()), seed=2024)
        for part, index in zip(wanted, drawn, strict=True):
            arrays[f"{part}_images"] = images[index]
            arrays[f"{part}_labels"] = labels[index]
    target = HERE / "fashion-mini.npz"
    np.savez_compressed(target, **arrays)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    (HERE / "fashion-mini.sha256").write_text(f"{digest}  fashion-mini.npz\n")
    print(f"{target}: {target.stat().st_size:,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
