"""Share trained weights on the Hugging Face Hub; only this file needs huggingface_hub, `cifarblocks[hub]`.

The repository has two files: model.safetensors, whose metadata is the card of the weights, and README.md, the model
card with its YAML front matter. Nothing is unpickled.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cifarblocks.checkpoints.cards import page, with_result
from cifarblocks.checkpoints.files import reading
from cifarblocks.checkpoints.own import Card, as_file, read_weights
from cifarblocks.checkpoints.trained import Trained, load
from cifarblocks.pretrained import FILE, find_weights

try:
    from huggingface_hub import EvalResult, HfApi, ModelCardData, hf_hub_download
except ModuleNotFoundError as error:
    sentence = "the Hugging Face Hub needs huggingface_hub: pip install 'cifarblocks[hub]'"
    raise ModuleNotFoundError(sentence, name="huggingface_hub") from error

EXAMPLE = """\
>>> from cifarblocks.checkpoints.hub import load_from_hub
>>> load_from_hub("{repo_id}").predict("photo.jpg")"""


def push_to_hub(
    path_or_name: str | Path,
    repo_id: str,
    *,
    licence: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload trained weights and their model card, and return the address of the repository.

    The repository is made if there is none, and files of the same names are replaced. The files are those of
    `write_folder`.

    Args:
        path_or_name: A weights file, a run folder, or a name of `list_weights()`.
        repo_id: "OWNER/NAME", or "NAME" for your own.
        licence: Licence of the weights, such as "mit". Default: that of their card.
        private: Make a new repository private.
        token: Access token. Default: that of `hf auth login` or of the environment variable HF_TOKEN.

    Raises:
        ValueError: If there are no such weights, or `repo_id` is not of that form.
        Exception: One of huggingface_hub's own, if the Hub cannot be reached or refuses.
    """
    path = find_weights(path_or_name)
    _, card = read_weights(path)  # refuse bad arguments before a repository is made
    api = HfApi(token=token)
    repository = api.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        write_folder(folder, path, repository.repo_id, licence=licence)
        api.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message=f"Weights of {card.model}")
    return str(repository)


def load_from_hub(repo_id: str, *, revision: str | None = None) -> Trained:
    """Download weights that `push_to_hub` uploaded, once, and load them as `cifarblocks.load` does.

    Args:
        repo_id: "OWNER/NAME".
        revision: Branch, tag or commit. Default: the main branch.

    Raises:
        ValueError: If the file is damaged or of another kind, or `repo_id` is not of that form.
        Exception: One of huggingface_hub's own, if the Hub cannot be reached or has no such file.
    """
    return load(hf_hub_download(repo_id, FILE, revision=revision))


def write_folder(folder: str | Path, path_or_name: str | Path, repo_id: str, *, licence: str | None = None) -> None:
    """Write the files of a repository: model.safetensors and README.md.

    The card of a run's last weights gets the result from summary.json, if the same folder has that file.

    Args:
        folder: The folder, which is made if there is none.
        path_or_name: A weights file, a run folder, or a name of `list_weights()`.
        repo_id: "OWNER/NAME", for the example of the page.
        licence: Licence of the weights. Default: that of their card.

    Raises:
        ValueError: If there are no such weights, or they or the summary.json of the same folder cannot be read.
    """
    path = find_weights(path_or_name)
    tensors, card = read_weights(path)
    summary = path.with_name("summary.json")
    source = summary if path.name == "last.safetensors" and summary.exists() else path
    name = repo_id.rpartition("/")[2]
    with reading(source, "used for a model card"):
        if source is summary:
            card = with_result(card, json.loads(summary.read_text()))
        card = replace(card, licence=licence or card.licence)
        readme = f"---\n{front_matter(name, card)}\n---\n\n{page(name, card, EXAMPLE.format(repo_id=repo_id))}"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(as_file(tensors, card))
    (folder / "README.md").write_text(readme, encoding="utf-8")


def front_matter(name: str, card: Card) -> str:
    """Return the YAML front matter of a model card for the Hub."""
    results = []
    if card.accuracy is not None:
        slug = re.sub(r"\W+", "-", card.data.lower()).strip("-")
        accuracy = {"metric_type": "accuracy", "metric_value": round(card.accuracy["top1"] / 100, 6)}
        results.append(EvalResult("image-classification", slug, card.data, dataset_split="test", **accuracy))
    data = ModelCardData(
        library_name="cifarblocks",
        pipeline_tag="image-classification",
        tags=["cifarblocks", card.model],
        license=card.licence and card.licence.lower(),
        metrics=["accuracy"],
        model_name=name,
        eval_results=results or None,
    )
    return data.to_yaml()
