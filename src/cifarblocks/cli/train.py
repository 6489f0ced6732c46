"""Train a classifier on small images, with one process or many.

    cifarblocks train                                        # the digits: about 2 minutes on 2 CPU cores
    cifarblocks train --data cifar10 --epochs 30             # downloads CIFAR-10
    cifarblocks train --data PATH --model resnet_18          # PATH/CLASS/*, or train/CLASS/* and test/CLASS/* in it
    torchrun --nproc_per_node=4 -m cifarblocks train --data cifar100   # 4 GPUs, or 4 processes on CPU

It prints the recipe and one line per epoch. At the end it prints the test accuracy of the last weights, and the files
written. With --name and --resume the same command can be repeated until it is done.
"""

from cifarblocks.training.options.parse import read_options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for a run that failed, or 2 for a command that cannot work."""
    options = read_options(arguments, description=__doc__)
    # imported after the options are read: --help and errors need none of this
    from cifarblocks.training.loop import train
    from cifarblocks.training.stopping import run_command

    return run_command("cifarblocks train", lambda processes: train(options, processes), options.device)
