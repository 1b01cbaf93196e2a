"""Where truncation in training pays on the demo's data, and where it does not: its model, 16 wide, with one thing changed at a time.

    python benchmarks/variants.py [--seeds 3] [--framework torch] [--out benchmarks/results]

For every variant (a) the full model, (b) truncated in training and (c) a model of (b)'s final size from scratch, at
equal steps.  Test accuracies only: for times run the demo itself.  Variants that differ in the cuts share their (a).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks_common import describe_machine, markdown, write

from balred.studies.data.digits import digits
from balred.studies.demo import RUNS, one_thread, trainer_of
from balred.studies.settings.records import DemoConfig, Framework, RunRecord
from balred.studies.training.loop import train

BASE = DemoConfig(width=16, steps=2000, attempts=2)
VARIANTS = {
    "two cuts": BASE,
    "Energy(0.9)": replace(BASE, fraction=0.9),
    "one cut": replace(BASE, attempts=1),
    "four cuts": replace(BASE, attempts=4),
    "128 states": replace(BASE, states=(128,)),
    "initial poles in (0.9, 0.999)": replace(BASE, ring=(0.9, 0.999)),
}


def one(framework: Framework, config: DemoConfig, seed: int, full: dict[object, RunRecord]) -> dict[str, RunRecord]:
    records: dict[str, RunRecord] = {}
    data = digits(seed, config.test)
    known = (config.states, config.ring, seed)
    for run in RUNS:
        if run == "full" and known in full:
            records[run] = full[known]
            continue
        states = config.states if run != "small" else tuple(records["truncated"].ranks.values())
        records[run] = RunRecord(run, seed, config)
        start = seed + 10_000 if run == "small" else seed
        make = partial(trainer_of(framework), config, states, start, run == "truncated")
        with one_thread(framework):
            for _ in train(make, data, records[run]):
                pass
    full[known] = records["full"]
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    rows, table, full = [], [], {}
    for name in args.only:
        mine = [one(args.framework, VARIANTS[name], seed, full) for seed in range(args.seeds)]
        rows += [{"variant": name, **r.row()} for records in mine for r in records.values()]
        accuracy = {run: [100 * float(records[run].accuracy or 0) for records in mine] for run in RUNS}
        final = " ".join(str(sum(records["truncated"].ranks.values())) for records in mine)
        table.append([name, *(f"{np.mean(accuracy[run]):.1f} ± {np.std(accuracy[run]):.1f}" for run in RUNS), final])
        print(json.dumps(dict(zip(("variant", *RUNS, "states"), table[-1], strict=True))), flush=True)
    header = ["variant", "(a) full %", "(b) truncated %", "(c) small from scratch %", "final states"]
    text = markdown(header, table)
    print(text)
    write(args.out, "variants", {"machine": describe_machine(), "framework": args.framework, "rows": rows}, text)


if __name__ == "__main__":
    main()
