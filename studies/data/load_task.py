"""The task that a configuration names, at the size it asks for."""

from __future__ import annotations

from pathlib import Path

from balred.studies.data import digits as data
from balred.studies.data import images, listops, texts
from balred.studies.data.tasks import Task
from balred.studies.settings.train_config import TrainConfig


def load_task(config: TrainConfig, seed: int) -> Task:
    """Read or make the data of ``config.task``; `seed` splits digits and draws subsets.

    Raises
    ------
    DataError
        The data cannot be had here.
    ValueError
        Sizes do not fit the data.
    """
    task = _whole(config, seed)
    task = task.subset(config.train, 0 if config.task == "digits" else config.test, seed)
    if config.validation >= len(task.train_y):
        raise ValueError(
            f"validation must be less than the {len(task.train_y)} training examples it is taken from, got {config.validation}"
        )
    return task


def _whole(config: TrainConfig, seed: int) -> Task:
    folder, length = Path(config.folder).expanduser(), config.length
    if config.task == "digits":
        d = data.digits(seed, config.test or 900)
        return Task(d.train_x, d.train_y, d.test_x, d.test_y, classes=10)
    if config.task == "mnist":
        return images.mnist(config.shrink)
    if config.task == "fashion":
        return images.fashion(config.shrink)
    if config.task in ("cifar", "cifar-colour"):
        return images.cifar(config.shrink, colour=config.task == "cifar-colour")
    if config.task == "pathfinder":
        return images.pathfinder(folder, config.shrink)
    if config.task == "listops":
        # short expressions are another, easier task, and cheap: at most `length` tokens, at least a quarter of that
        sizes = (length // 4, length) if length else (501, 1999)
        return listops.listops(config.train or 96_000, config.test or 2_000, sizes)
    if config.task == "text":
        return texts.bible(length or 256)
    if config.task == "imdb":
        return texts.imdb(folder, length or 4096)
    return texts.aan(folder, length or 4000)
