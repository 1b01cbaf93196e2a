"""Train a model in several processes, and truncate it meanwhile.

Started again, it goes on from its last checkpoint:

torchrun --nproc-per-node 2 distributed_example.py RUN_DIR
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import balred
from balred.adapters.torch import LRU, InTrainingReducer

STEPS = 40


def batch(step, rank, size):
    """This process's share of a batch of 16."""
    u = torch.randn(16, 32, 1, generator=torch.Generator().manual_seed(step))
    return u[rank::size]


def save(path, state):
    """A file that is whole or not there, whenever the process dies."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def main(folder):
    # on GPUs "nccl", after torch.cuda.set_device(LOCAL_RANK)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        LRU(1, 64),
        torch.nn.Tanh(),
        LRU(1, 64),
        torch.nn.Linear(1, 1),
    )
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(
        model,
        optimizer,
        rule=balred.Energy(0.95),
        window=(0, 20),
        attempts=2,
        log=folder / "cuts.jsonl",
    )
    checkpoint, done = folder / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        # first the reducer: it shrinks the layers to the sizes saved
        reducer.load_state_dict(saved["reducer"])
        net.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["step"]
        print(f"process {rank} goes on after step {done}")

    for step in range(done + 1, STEPS + 1):
        u = batch(step, rank, size)
        loss = (model(u) - u.roll(3, dims=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report = reducer.step()  # in every process
        if rank == 0:
            if report:
                print(report)
            if step % 5 == 0:
                save(
                    checkpoint,
                    {
                        "model": net.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "reducer": reducer.state_dict(),
                        "step": step,
                    },
                )
    # nobody leaves while threads of torch still finish the last exchange:
    # Python's end would abort them
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
