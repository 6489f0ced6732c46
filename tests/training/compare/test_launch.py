import pytest
import torch

from cifarblocks.training.compare.launch import shared_machine


@pytest.mark.parametrize(("jobs", "threads"), [(1, {}), (2, {"OMP_NUM_THREADS": "2"}), (9, {"OMP_NUM_THREADS": "1"})])
def test_jobs_share_the_cores_that_the_sweep_may_use(jobs, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 128)  # of the machine, of which a Slurm job has a part
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert shared_machine(0, jobs) == threads


def test_a_number_of_threads_in_the_environment_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert shared_machine(0, 2) == {}
