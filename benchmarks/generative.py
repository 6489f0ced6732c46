"""Collect a run of vae.py and one of acgan.py (examples/generative), their numbers and their pictures, in one page.

    python benchmarks/generative.py runs/vae/NAME runs/acgan/NAME

Copies each run's summary.json and last pictures into benchmarks/results/generative and writes generative.md from what
is there. Without arguments it writes the page anew. Takes a few seconds.
"""

import json
import sys
from pathlib import Path
from typing import Any

from measuring import RESULTS, read_result, typed

from cifarblocks.training.errors import UserError
from cifarblocks.training.stopping import exit_status

COLLECTED = RESULTS / "generative"
PICTURES = {"vae": ("reconstructions", "interpolations", "samples"), "acgan": ("samples",)}


def read(folder: Path) -> dict[str, bytes]:
    """Return what the page shows of a run, by the names of the files: its summary and its last pictures.

    Raises:
        UserError: if the folder lacks one of them, or the summary is of something else.
    """
    model = read_result(folder / "summary.json", lambda summary: SECTIONS[summary["model"]](summary))["model"]
    files = {f"{model}.json": folder / "summary.json"}
    for picture in PICTURES[model]:
        found = list(folder.glob(f"{picture}*.png"))
        if not found:
            raise UserError(f"RUN {folder} has no {picture}*.png")
        files[f"{model}_{picture}.png"] = max(found)
    return {name: path.read_bytes() for name, path in files.items()}


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

![test images, their reconstructions by the VAE and by PCA](generative/vae_reconstructions.png)
![interpolations](generative/vae_interpolations.png)
![samples](generative/vae_samples.png)
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

![samples, a class a row](generative/acgan_samples.png)
"""


SECTIONS = {"vae": vae, "acgan": acgan}
HEAD = """# Generative examples

Made by `python benchmarks/generative.py` from a run of each, the weights of the last epoch, one seed. The number of
epochs was chosen on a tenth of the training images held out, where half the width did worse for the VAE; learning rates
were not searched. Before that, runs of the VAE for 20 and for 100 epochs had been measured on the test images; both had
a worse ELBO than this one. Seconds are those of training alone, wall clock, with other work beside and pauses between.

"""


def page() -> str:
    """Return generative.md, made of the runs that are collected."""
    found = [(section, COLLECTED / f"{model}.json") for model, section in SECTIONS.items()]
    return HEAD + "\n".join(section(json.loads(path.read_text())) for section, path in found if path.exists())


def main(folders: list[str]) -> None:
    """Copy the runs and write the page."""
    files = {name: content for folder in folders for name, content in read(Path(folder)).items()}
    COLLECTED.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (COLLECTED / name).write_bytes(content)
    (RESULTS / "generative.md").write_text(page())


if __name__ == "__main__":
    runs = typed(__doc__, "RUN")
    sys.exit(exit_status("generative.py", lambda: main(runs), "the same command writes all"))
