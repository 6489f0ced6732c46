"""Train a classifier of small images: the whole loop in plain PyTorch, to read, to copy and to change.

    python examples/train.py                                      # the digits: about 99 % in 40 s on 2 CPU cores
    python examples/train.py --data cifar10 --model resnet_18     # downloads CIFAR-10; takes minutes on a GPU
    torchrun --nproc_per_node=4 examples/train.py --data cifar10  # one process for each GPU, or on CPUs

It prints a line per epoch with top-1 on validation images, a part of the training images. At the end it prints top-1 on
the test images. After each epoch it replaces OUTPUT/checkpoint.pt, and the same command continues from it. With one CPU
process the result is the same as without interruption, bit for bit.
"""

import math
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

import cifarblocks
from cifarblocks.training.data.datasets import Images, hold_out, load_data
from cifarblocks.training.errors import UserError
from cifarblocks.training.options.command_line import Parser, integer

parser = Parser("train.py", __doc__)
add = parser.add_argument
add("--model", default="eca_resnet_20", help="a name of cifarblocks.list_models() (default: %(default)s)")
add("--data", default="digits", help="digits, cifar10 ... or the path of a folder (default: %(default)s)")
add("--data-dir", type=Path, default=Path("data"), help="folder for the download of CIFAR (default: %(default)s)")
add("--epochs", type=integer(1), default=15, help="passes over the training images (default: %(default)s)")
add("--batch-size", type=int, default=64, help="images per step, over all processes (default: %(default)s)")
add("--learning-rate", type=float, default=0.1, help="peak, after the warm-up (default: %(default)s)")
add("--seed", type=int, default=0, help="seed of weights, order and augmentation (default: %(default)s)")
add("--output", type=Path, default=Path("runs/train"), help="folder of the checkpoint (default: %(default)s)")
options = parser.parse_args()

# One process, or one of several that torchrun started.
rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
world_size = int(os.environ.get("WORLD_SIZE", 1))
device, cpu = torch.device("cpu"), Path("/proc/cpuinfo")
has_bfloat16 = cpu.exists() and "avx512_bf16" in cpu.read_text()
if torch.cuda.is_available():
    device, has_bfloat16 = torch.device("cuda", local_rank), torch.cuda.is_bf16_supported(including_emulation=False)
    torch.cuda.set_device(device)
autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16)  # weights and optimizer stay in float32
if world_size > 1:
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

# Data: all images as uint8 tensors (n, h, w, 3) on the device, and their labels.
try:
    if local_rank > 0:
        dist.barrier()  # the first process of a machine downloads, then the others find the files
    data = load_data(options.data, options.data_dir)
    if local_rank == 0 and world_size > 1:
        dist.barrier()
    torch.manual_seed(options.seed)
    model = cifarblocks.create_model(options.model, num_classes=len(data.classes), image_size=data.image_size)
    model = model.to(device).to(memory_format=torch.channels_last)
    options.output.mkdir(parents=True, exist_ok=True)
except (UserError, ValueError, OSError) as error:
    parser.exit(2, f"train.py: error: {error}\n")
training, validation = (part.to(device) for part in hold_out(data.train, torch.Generator().manual_seed(0)))
n, (h, w) = len(training), data.image_size
mean, std = torch.tensor(data.mean_and_std, device=device)
if not world_size <= options.batch_size <= n:
    parser.exit(2, f"train.py: error: --batch-size must be from {world_size} to {n}, got {options.batch_size}\n")


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Return (b, 3, h, w) of mean 0 and standard deviation 1; channels stay last in memory."""
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)


def crop_and_mirror(indices: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Return training images shifted by up to an eighth of their size and mirrored, by draws from 0 to 1, (b, 3)."""
    down, right = ((draws[:, i : i + 1] * (size // 8 * 2 + 1)).long() - size // 8 for i, size in enumerate((h, w)))
    rows = (torch.arange(h, device=device) + down).clamp(0, h - 1)  # (b, h): source row of each row, edges repeated
    columns = (torch.arange(w, device=device) + right).clamp(0, w - 1)
    if data.mirror:  # not for digits
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    return training.pixels[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up over the first tenth of all steps, then a cosine to 0."""
    cosine = (1 + math.cos(math.pi * max(0, step / steps - 0.1) / 0.9)) / 2
    return options.learning_rate * min((step + 1) / (0.1 * steps), cosine)


@torch.inference_mode()
def evaluate(images: Images) -> list[int]:
    """Return the number of correct predictions and of images over all processes; each image is scored once."""
    model.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    for indices in torch.arange(len(images), device=device)[rank::world_size].split(500):
        with autocast:
            right = model(normalise(images.pixels[indices])).argmax(1) == images.labels[indices]
        counts += torch.stack([right, torch.ones_like(right)]).sum(1)
    if world_size > 1:
        dist.all_reduce(counts)
    return counts.tolist()


# Model and optimizer: new, or from the checkpoint.
network = torch.nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=5e-4, nesterov=True)
path, saved = options.output / "checkpoint.pt", {"epoch": 0}
chosen = {**vars(options), "data_dir": None, "output": None}  # files may move between two runs
if path.exists():
    saved = torch.load(path, map_location=device, weights_only=True)
    if others := [f"--{name.replace('_', '-')} {was}" for name, was in saved["options"].items() if was != chosen[name]]:
        parser.exit(2, f"train.py: error: {path} was written with {' '.join(others)}; choose another --output\n")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])

steps = n // options.batch_size
for epoch in range(saved["epoch"], options.epochs):
    began, losses = time.perf_counter(), torch.zeros((), device=device)
    torch.manual_seed(10_000 * options.seed + epoch + 1)  # a resumed run draws what an uninterrupted one does
    order, draws = torch.randperm(n).to(device), torch.rand(n, 3).to(device)
    network.train()
    for step in range(steps):
        rate = learning_rate(epoch * steps + step, options.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        indices = order[step * options.batch_size : (step + 1) * options.batch_size][rank::world_size]
        with autocast:
            logits = network(normalise(crop_and_mirror(indices, draws[indices])))
        loss = F.cross_entropy(logits.float(), training.labels[indices], reduction="sum") / options.batch_size
        (loss * world_size).backward()  # DistributedDataParallel divides the sum of gradients by the processes
        optimizer.step()
        optimizer.zero_grad()
        losses += loss.detach()
    if world_size > 1:
        dist.all_reduce(losses)
        for buffer in model.buffers():  # running statistics differ, as each process saw other images
            dist.broadcast(buffer, src=0)
    right, scored = evaluate(validation)
    if rank == 0:
        print(f"epoch {epoch + 1}/{options.epochs}  loss {losses.item() / steps:.4f}  validation {right / scored:.2%}  "
              f"learning rate {rate:.6f}  {time.perf_counter() - began:.1f} s", flush=True)  # fmt: skip
        checkpoint = {"options": chosen, "epoch": epoch + 1, "model": model.state_dict()}
        torch.save({**checkpoint, "optimizer": optimizer.state_dict()}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)  # atomic: a kill at any moment leaves a whole checkpoint
right, scored = evaluate(data.test.to(device))
if rank == 0:
    print(f"test top-1 {right / scored:.2%}: {right} of {scored} images")
if world_size > 1:
    dist.destroy_process_group()
