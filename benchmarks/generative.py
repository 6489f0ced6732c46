"""Collect the numbers and pictures of a run of vae.py and one of acgan.py (examples/generative) in one page.

    python benchmarks/generative.py runs/vae/NAME runs/acgan/NAME

Adds each run's summary.json to benchmarks/results/generative.json and writes generative.md from it. Copies the last
pictures of each run to docs. Takes a few seconds.
"""

import sys
from pathlib import Path
from typing import Any

from measuring import PAGES, collect, read_record, read_result, write

from cifarblocks.training.errors import UserError

PICTURES = {"vae": ("reconstructions", "interpolations", "samples"), "acgan": ("samples",)}


def pictures_of(model: str, folder: Path) -> dict[str, bytes]:
    """Return the last pictures of a run by their file names in docs.

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
        f"`{configuration['command']}`: {summary['data']}, {summary['training_images']:,} training images, "
        f"{summary['test_images']:,} test images, {summary['epochs']} epochs, seed {summary['seed']}; "
        f"{summary['seconds']:.0f} s on {where}; torch {summary['versions']['torch']}."
    )


def vae(summary: dict[str, Any]) -> str:
    """Return the section on the autoencoder."""
    latent = summary["configuration"]["options"]["latent"]
    return f"""## Variational autoencoder

{run(summary)}

| on the test images | VAE | baseline |
|---|---|---|
| negative ELBO, nats per image | {summary["negative_elbo_nats_per_image"]:.2f} | \
{summary["independent_pixels_nats_per_image"]:.2f}, independent pixels with the frequencies of the training images |
| bits per dimension | {summary["bits_per_dimension"]:.3f} | |
| KL term of the ELBO, nats per image | {summary["kl_nats_per_image"]:.2f} | |
| mean squared error of reconstructions, pixels in [0, 1] | {summary["reconstruction_mean_squared_error"]:.5f} | \
{summary["pca_mean_squared_error"]:.5f}, PCA with {latent} components |

The likelihood is a {summary["likelihood"]}.

![Test images, their reconstructions by the VAE and by PCA](../../docs/vae_reconstructions.png)
![Interpolations](../../docs/vae_interpolations.png)
![Samples](../../docs/vae_samples.png)
"""


def acgan(summary: dict[str, Any]) -> str:
    """Return the section on the GAN."""
    classifier = summary["classifier"]
    return f"""## AC-GAN

{run(summary)}

| {classifier} trained on | scored on | accuracy |
|---|---|---|
| real images | {summary["samples"]:,} samples, against their requested classes | \
{summary["samples_named_as_asked"]:.2f} % |
| only those samples | {summary["test_images"]:,} test images | {summary["test_top1_trained_on_samples"]:.2f} % |
| real images | {summary["test_images"]:,} test images | {summary["test_top1_trained_on_images"]:.2f} % |

![Samples, one row per class](../../docs/acgan_samples.png)
"""


SECTIONS = {"vae": vae, "acgan": acgan}
HEAD = """# Generative examples

Made by `python benchmarks/generative.py` from one run of each example, with the weights of the last epoch (one seed).

- The number of epochs was chosen on validation images, a tenth of the training images. There, half the width was worse
  for the VAE. Learning rates were not searched.
- Earlier runs of the VAE, with 20 and with 100 epochs, were measured on the test images. Both had a worse ELBO.
- Seconds are wall clock time of training alone, on a machine with other work.

"""


def section(summary: dict[str, Any]) -> str:
    """Return the section on a run."""
    return SECTIONS[summary["model"]](summary)


def table(record: dict[str, Any]) -> str:
    """Return the page of the collected runs."""
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
