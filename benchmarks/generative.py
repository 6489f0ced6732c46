"""Collect a run of vae.py and one of acgan.py (examples/generative), their numbers and their pictures, in one page.

    python benchmarks/generative.py runs/vae/NAME runs/acgan/NAME

Adds each run's summary.json to benchmarks/results/generative.json, writes generative.md from that, and copies the run's
last pictures into docs. Takes a few seconds.
"""

import sys
from pathlib import Path
from typing import Any

from measuring import PAGES, collect, read_record, read_result, write

from cifarblocks.training.errors import UserError

PICTURES = {"vae": ("reconstructions", "interpolations", "samples"), "acgan": ("samples",)}


def pictures_of(model: str, folder: Path) -> dict[str, bytes]:
    """Return the last pictures of a run, by the names of the files in docs.

    Raises:
        UserError: if the folder lacks one of them.
    """
    files = {}
    for picture in PICTURES[model]:
        found = list(folder.glob(f"{picture}*.png"))
        if not found:
            raise UserError(f"RUN {folder} has no {picture}*.png")
        files[f"{model}_{picture}.png"] = max(found).read_bytes()
    return files


def run(summary: dict[str, Any]) -> str:
    """Return the command of a run, its data and its machine."""
    configuration = summary["configuration"]
    machine = configuration["machine"]
    where = machine.get("gpu", f"{machine['threads']} thread(s) of {machine['cpu']}")
    return (
        f"`{configuration['command']}`: {summary['data']}, {summary['training_images']:,} images to train, "
        f"{summary['test_images']:,} to test, {summary['epochs']} epochs, seed {summary['seed']}; "
        f"{summary['seconds']:.0f} s on {where}; torch {summary['versions']['torch']}."
    )


def vae(summary: dict[str, Any]) -> str:
    """The section on the autoencoder."""
    latent = summary["configuration"]["options"]["latent"]
    return f"""## Variational autoencoder

{run(summary)}

| on the test images | VAE | to compare with |
|---|---|---|
| negative ELBO, nats an image | {summary["negative_elbo_nats_per_image"]:.2f} | \
{summary["independent_pixels_nats_per_image"]:.2f}, each pixel by its shares in training |
| bits per dimension | {summary["bits_per_dimension"]:.3f} | |
| of it the KL term, nats an image | {summary["kl_nats_per_image"]:.2f} | |
| mean squared error of reconstructions, pixels from 0 to 1 | {summary["reconstruction_mean_squared_error"]:.5f} | \
{summary["pca_mean_squared_error"]:.5f}, PCA with {latent} components |

The likelihood is a {summary["likelihood"]}.

![test images, their reconstructions by the VAE and by PCA](../../docs/vae_reconstructions.png)
![interpolations](../../docs/vae_interpolations.png)
![samples](../../docs/vae_samples.png)
"""


def acgan(summary: dict[str, Any]) -> str:
    """The section on the GAN."""
    classifier = summary["classifier"]
    return f"""## AC-GAN

{run(summary)}

| | |
|---|---|
| of {summary["samples"]:,} samples, a {classifier} trained on real images names as asked | \
{summary["samples_named_as_asked"]:.2f} % |
| of {summary["test_images"]:,} test images, a {classifier} trained on those samples alone names | \
{summary["test_top1_trained_on_samples"]:.2f} % |
| of {summary["test_images"]:,} test images, a {classifier} trained on real images names | \
{summary["test_top1_trained_on_images"]:.2f} % |

![samples, a class a row](../../docs/acgan_samples.png)
"""


SECTIONS = {"vae": vae, "acgan": acgan}
HEAD = """# Generative examples

Made by `python benchmarks/generative.py` from a run of each, the weights of the last epoch, one seed. The number of
epochs was chosen on a tenth of the training images held out, where half the width did worse for the VAE; learning rates
were not searched. Before that, runs of the VAE for 20 and for 100 epochs had been measured on the test images; both had
a worse ELBO than this one. Seconds are those of training alone, wall clock, with other work beside and pauses between.

"""


def section(summary: dict[str, Any]) -> str:
    """The section on a run."""
    return SECTIONS[summary["model"]](summary)


def table(record: dict[str, Any]) -> str:
    """Return generative.md, made of the runs that are collected."""
    return HEAD + "\n".join(section(record[model]) for model in SECTIONS if model in record)


def main(folders: list[Path]) -> None:
    """Add the runs to the record, write the page and copy the pictures."""
    summaries = [read_result(folder / "summary.json", section) for folder in folders]
    record = read_record("generative") | {summary["model"]: summary for summary in summaries}
    found = [pictures_of(summary["model"], folder) for summary, folder in zip(summaries, folders, strict=True)]
    write("generative", record, table(record))
    for pictures in found:
        for name, content in pictures.items():
            (PAGES / name).write_bytes(content)


if __name__ == "__main__":
    sys.exit(collect(__doc__, "RUN", main))
