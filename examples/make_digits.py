"""Make digits.safetensors from scikit-learn's copy of the UCI digits.

    python examples/make_digits.py

Takes a second; writes the same 116 kB file each time. Needs the `dev` extra.
"""

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cifarblocks.training.data.datasets import DIGITS

ATTRIBUTION = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C50P49, CC BY 4.0; the 1,797 images of its test part, as in scikit-learn's load_digits"
)


def main() -> None:
    """Split the images, stratified by digit, into 1,437 for training and 360 for the test, and write both."""
    digits = load_digits()
    images = digits.images.astype("uint8")  # 8×8, 0 to 16
    labels = digits.target.astype("int64")
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=360, stratify=labels, random_state=0
    )
    arrays = {
        "train_images": train_images,
        "train_labels": train_labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_file(tensors, DIGITS, metadata={"attribution": ATTRIBUTION})


if __name__ == "__main__":
    main()
