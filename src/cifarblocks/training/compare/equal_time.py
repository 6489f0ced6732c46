"""Equal training time for every network: the measured images/s of each gives its number of epochs."""

import tempfile
import time
from pathlib import Path
from reprlib import repr as shortened
from statistics import harmonic_mean
from typing import Any

import torch

from cifarblocks.training.compare.launch import Process, Settings, command_line, parse
from cifarblocks.training.data.datasets import load_data
from cifarblocks.training.errors import RunError, UserError
from cifarblocks.training.hardware import machine, versions
from cifarblocks.training.run_folder.folder import NUMBER, Shape, read_json, read_metrics, write_json

SLOWEST, FASTEST = 0.1, 1e9  # images/s that can be measured
IMAGES, SECONDS = 2000, 10.0  # images per measurement, and its seconds
SHAPE: Shape = {"machine": {}, "versions": {}, "speeds": {}}


def epochs_in_equal_time(speed: float, reference_speed: float, reference_epochs: int) -> int:
    """Return the number of epochs, at least 1, that take as long as those of the reference.

    >>> epochs_in_equal_time(500, 1000, 6), epochs_in_equal_time(100, 1000, 4)
    (3, 1)
    """
    return max(1, round(reference_epochs * speed / reference_speed))


def measured_speeds(folder: Path, all_settings: list[Settings]) -> dict[str, float]:
    """Return the images per second of runs by `speed_key`, measured if speeds.json lacks them."""
    path = folder / "speeds.json"
    here = {"machine": machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")), "versions": versions()}
    folder.mkdir(parents=True, exist_ok=True)
    record = read_speeds(path) if path.exists() else {}
    if {key: record.get(key) for key in here} != here:
        record = {**here, "speeds": {}}
    for settings in all_settings:
        key = speed_key(settings)
        if key not in record["speeds"]:
            record["speeds"][key] = measure_speed(folder, settings)
            print(f"{record['speeds'][key]:,.0f} images/s: {key}", flush=True)
            write_json(path, record)
    return record["speeds"]


def read_speeds(path: Path) -> dict[str, Any]:
    """Read speeds.json.

    Raises:
        UserError: If it cannot be read, or was not written by a sweep.
    """
    record = read_json(path, SHAPE, "read as the speeds of a sweep (move it, or give another --output)")
    for key, speed in record["speeds"].items():
        if type(speed) not in NUMBER or not SLOWEST <= speed <= FASTEST:
            found = f"must be a number from {SLOWEST} to {FASTEST:g}, got {shortened(speed)}"
            raise UserError(f"{path}: the speed of {key} {found}; remove the file")
    return record


def speed_key(settings: Settings) -> str:
    """Return the options that decide the speed of a run, as on the command line."""
    return " ".join(command_line({key: value for key, value in settings.items() if key not in ("seed", "epochs")}))


def measure_speed(folder: Path, settings: Settings) -> float:
    """Train on a few images until some seconds have passed since the first epoch, in a scratch folder inside `folder`.

    Raises:
        RunError: if it fails.
    """
    few = {**settings, "share": few_images(settings), "epochs": 10_000, "final": True, "no-test": True}
    with tempfile.TemporaryDirectory(prefix="speed-", dir=folder) as scratch:
        arguments = [*command_line(few), "--output", scratch, "--name", "speed"]
        run = Path(scratch) / parse(arguments, "[equal-time]: ").model / "speed"
        process = Process(arguments, Path(scratch) / "speed.log")
        try:
            while (status := process.status) is None:
                time.sleep(0.2)
                lines = read_metrics(run)[1:]  # the first epoch warms up
                if sum(line["seconds"] for line in lines) >= SECONDS:
                    return round(harmonic_mean(line["images_per_second"] for line in lines), 1)
            raise RunError(f"the speed of {settings['model']} could not be measured: {process.last_words()} ({status})")
        finally:
            process.stop()


def few_images(settings: Settings) -> float:
    """Return the share of the training images for a measurement: at least four batches, so that they stay as large."""
    options = parse(command_line(settings), "[equal-time]: ")
    images = len(load_data(options.data, options.data_dir, options.image_size).train)
    return min(1.0, max(IMAGES, 4 * options.batch_size) / images)
