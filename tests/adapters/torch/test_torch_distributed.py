"""Truncation in DistributedDataParallel and fully_shard: two real processes against one, on the same global batches.

In float64, in which losses of the two agree to far below what any mistake in a gradient would change.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import balred
from balred.intraining import EventLog

torch = pytest.importorskip("torch")
from distributed_runs import (  # noqa: E402
    OPTIONS,
    SHARDED_OPTIONS,
    SHARDINGS,
    WRAPPINGS,
    Net,
    Run,
    averaged,
    mlstm,
    mlstm_both,
    on_data,
    refused,
    replica,
    replicas,
    resumed,
    run_with,
    selective,
    selective_shards,
    sharded,
    sharded_on_data,
    shards,
    shared_out,
    trained,
    with_options,
)
from processes import in_processes  # noqa: E402


@pytest.fixture(scope="module")
def alone() -> Run:
    net = Net()
    run = trained(net, net, slice(None))
    assert run["ranks"] != [16, 8]
    assert len([1 for _, cuts, _ in run["reports"] if cuts]) == 2
    return run


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Run]]:
    return in_processes(replicas, tmp_path_factory.mktemp("replicas"))


def agree(runs: list[Run], alone: Run) -> None:
    """The replicas are bitwise one, and what one process computes on the whole batch."""
    first, second = runs
    assert first["ranks"] == second["ranks"] == alone["ranks"]
    assert first["reports"] == second["reports"]
    assert [(s, [(c.layer, c.before, c.after) for c in cuts], r) for s, cuts, r in first["reports"]] == [
        (s, [(c.layer, c.before, c.after) for c in cuts], r) for s, cuts, r in alone["reports"]
    ]
    for a, b in zip(first["weights"].values(), second["weights"].values(), strict=True):
        assert torch.equal(a, b)
    means = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert means == pytest.approx(alone["losses"], rel=1e-9)
    torch.testing.assert_close(first["outputs"], alone["outputs"], rtol=1e-8, atol=1e-9)


@pytest.mark.full
@pytest.mark.parametrize("name", WRAPPINGS)
def test_replicas_train_on_as_one_process_does(name: str, replicated: list[dict[str, Run]], alone: Run) -> None:
    if name == "a part":
        alone = alone | {"reports": [(s, [rename(c) for c in cuts], r) for s, cuts, r in alone["reports"]]}
    agree([runs[name] for runs in replicated], alone)


def rename(cut: Any) -> Any:
    from dataclasses import replace

    return replace(cut, layer=f"{cut.layer}.inner.module")


# ------------------------------------------------------------------- accumulation, budgets, moments, averages, guards


@pytest.fixture(scope="module")
def optional(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Run]]:
    return in_processes(with_options, tmp_path_factory.mktemp("options"))


@pytest.mark.full  # one training in several processes is above
@pytest.mark.parametrize("name", OPTIONS)
def test_options_do_in_replicas_what_they_do_in_one_process(name: str, optional: list[dict[str, Run]]) -> None:
    net = Net()
    kw = {key: value for key, value in OPTIONS[name].items() if key != "accumulate"}
    run = run_with(net, net, slice(None), 0.5, **kw)
    assert any(cuts or restored for _, cuts, restored in run["reports"])
    assert (run["ranks"] == [16, 8]) == name.startswith("rolled back")
    agree([runs[name] for runs in optional], run)


@pytest.mark.full  # one training in several processes is above
def test_all_processes_get_the_tensors_of_the_first(optional: list[dict[str, Run]], alone: Run) -> None:
    agree([runs["other rounding"] for runs in optional], alone)


@pytest.mark.full  # one training in several processes is above
@pytest.mark.parametrize("name", ["averaged", "wrapper averaged"])
def test_averages_follow_in_replicas(name: str, optional: list[dict[str, Run]]) -> None:
    net = Net()
    agree([runs[name] for runs in optional], averaged(net, net, slice(None)))


# --------------------------------------------------------------------------------- layers whose states data must tell


@pytest.mark.full  # one training in several processes is above
def test_states_are_selected_on_the_data_of_all_processes(tmp_path: Path) -> None:
    """Two processes with unequally many data each decide what one process does that has them all."""
    pytest.importorskip("mambapy")
    rules = [balred.Energy(0.9), balred.Budget(states=14)]
    runs = in_processes(selective, tmp_path, rules)
    for rule, first, second in zip(rules, *runs, strict=True):
        one = on_data(None, rule)
        assert first["reports"] == second["reports"] == one["reports"]
        assert {layer for _, cuts, _ in one["reports"] for layer, *_ in cuts} == {"first", "second", "third"}
        assert not any(skipped for *_, skipped in one["reports"])
        assert first["energies"] == pytest.approx(one["energies"], rel=1e-6)
        for name, value in first["weights"].items():
            assert torch.equal(value, second["weights"][name]), name
        torch.testing.assert_close(first["outputs"], one["outputs"], rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------------------------- shared work, failures, checkpoints


@pytest.mark.full  # one training in several processes is above
def test_the_analysis_is_shared_out_and_its_failure_told(tmp_path: Path) -> None:
    first, second = in_processes(shared_out, tmp_path / "run", tmp_path)
    assert first["seen"] == ["first"]
    assert second["seen"] == ["second"]
    assert first["said"] == (
        "RuntimeError: the analysis must succeed in every process, got in process 1: KeyError: 'injected'"
    )
    assert second["said"] == "KeyError: 'injected'"
    events = EventLog(tmp_path / "cuts.jsonl").read()
    assert [(e["layer"], e["from"], e["to"]) for e in events] == [  # each once: the first process alone writes
        (c.layer, c.before, c.after) for _, cuts, _ in first["cuts"] for c in cuts
    ]


@pytest.mark.full  # test_torch_training.py resumes one process, the tests above train several
def test_replicas_resume_to_the_same_weights(tmp_path: Path, replicated: list[dict[str, Run]]) -> None:
    same([runs["plain"] for runs in replicated], in_processes(resumed, tmp_path, replica))


def same(runs: list[Run], others: list[Run]) -> None:
    for run, other in zip(runs, others, strict=True):
        assert run["ranks"] == other["ranks"]
        for a, b in zip(run["weights"].values(), other["weights"].values(), strict=True):
            assert torch.equal(a, b)


# ------------------------------------------------------------------------------------------------------------- FSDP2


@pytest.fixture(scope="module")
def fully_sharded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Run]]:
    return in_processes(shards, tmp_path_factory.mktemp("shards"))


@pytest.mark.full  # one training in several processes is above
@pytest.mark.parametrize("name", [*SHARDINGS, "compiled"])
def test_shards_train_on_as_one_process_does(name: str, fully_sharded: list[dict[str, Run]], alone: Run) -> None:
    agree([runs[name] for runs in fully_sharded], alone)


@pytest.mark.full  # one training in several processes is above
@pytest.mark.parametrize("name", SHARDED_OPTIONS)
def test_options_do_in_shards_what_they_do_in_one_process(name: str, fully_sharded: list[dict[str, Run]]) -> None:
    net = Net()
    agree([runs[name] for runs in fully_sharded], run_with(net, net, slice(None), 0.5, **OPTIONS[name]))


@pytest.mark.full  # test_torch_training.py resumes one process, the tests above train several
def test_shards_resume_to_the_same_weights(tmp_path: Path, fully_sharded: list[dict[str, Run]]) -> None:
    same([runs["each layer"] for runs in fully_sharded], in_processes(resumed, tmp_path, sharded))


@pytest.mark.full  # one training in several processes is above
def test_shards_are_cut_along_the_data_of_all_processes(tmp_path: Path) -> None:
    """Two processes with unequally many batches each decide what one process does that has them all; a user's hook runs too."""
    pytest.importorskip("mambapy")
    rules = [balred.Energy(0.9), balred.Budget(states=14)]
    runs = in_processes(selective_shards, tmp_path, rules)
    for rule, first, second in zip(rules, *runs, strict=True):
        one = sharded_on_data(None, rule)
        assert first["reports"] == second["reports"] == one["reports"]
        assert {layer for _, cuts, _ in one["reports"] for layer, *_ in cuts} == {"first", "second", "third"}
        assert not any(skipped for *_, skipped in one["reports"])
        assert first["energies"] == pytest.approx(one["energies"], rel=1e-6)
        assert first["sizes"] == one["sizes"]
        for name, value in first["weights"].items():
            assert torch.equal(value, second["weights"][name]), name
        torch.testing.assert_close(first["outputs"], one["outputs"], rtol=1e-6, atol=1e-7)


@pytest.mark.full  # one training in several processes is above
def test_layers_of_one_size_are_cut_in_replicas_and_shards_as_in_one_process(tmp_path: Path) -> None:
    """mLSTM layers, of which the configuration holds one size that must follow."""
    pytest.importorskip("transformers", minversion="5.0")
    one = mlstm(None)
    ((_, cuts, skipped),) = one["reports"]
    assert len(cuts) == 2
    assert not skipped
    assert all(after <= 16 < before for _, before, after in cuts)  # four heads, filled up to 64
    assert set(one["sizes"]) == {64}
    for kind in zip(*in_processes(mlstm_both, tmp_path), strict=True):
        for run in kind:
            assert run["reports"] == one["reports"]
            assert run["sizes"] == one["sizes"]
            torch.testing.assert_close(run["outputs"], one["outputs"], rtol=1e-4, atol=1e-4)
        for name, value in kind[0]["weights"].items():
            assert torch.equal(value, kind[1]["weights"][name]), name


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.full  # one training in several processes is above
def test_what_cannot_follow_a_cut_is_refused(tmp_path: Path) -> None:
    said = in_processes(refused, tmp_path)[0]
    assert said["inside"].endswith("buckets have to follow a cut, got the Net inside it")
    assert "got ZeroRedundancyOptimizer" in said["zero"]
    assert "without a communication hook with a state, got PowerSGDState" in said["state"]
    assert "without a built-in communication hook, got BuiltinCommHookType.FP16_COMPRESS" in said["built-in"]
    assert said["no_sync"].endswith("got one in no_sync()")
    assert "without delay_all_reduce_named_params, which keeps one flat buffer" in said["delayed"]
    rule = "first.B_re must be sharded along its first dimension only"
    assert said["columns"].startswith(f"{rule}, got dimension 1: ")
    assert "cut before fully_shard" in said["columns"]
    assert said["averages"].endswith("got 1: start them after the window")
    assert said["divergence"].startswith("a divergence is measured in one process, got ")
    assert said["unchanged"] == "True"
    assert said["accumulating"].endswith("got one with gradient synchronisation off")
    assert "got FullyShardedDataParallel" in said["flat"]
    assert said["otherwise"].startswith("tensors must be divided by fully_shard alone")


# ----------------------------------------------------------------------------------------- torchrun, and death in a cut


EXAMPLE = Path(__file__).parents[3] / "docs" / "distributed_example.py"

DYING = """
import os, runpy, signal, sys
from balred.adapters.torch.training import reducer as torch_training

real = torch_training.InTrainingReducer._cut

def dying(self, name, *rest):
    if os.environ["RANK"] == "1" and self.steps == 20 and name == "2":  # the first layer is cut, the second not
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, name, *rest)

torch_training.InTrainingReducer._cut = dying
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def torchrun(folder: Path, *script: str) -> Any:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [*command, *script, str(folder)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=240,
        check=False,
        text=True,
    )


@pytest.mark.full  # test_kill.py kills a training in a cut
def test_the_example_resumes_after_a_process_died_during_a_cut(tmp_path: Path) -> None:
    whole_run = torchrun(tmp_path / "whole", str(EXAMPLE))
    assert whole_run.returncode == 0, whole_run.stderr
    assert "step 20: 2 " in whole_run.stdout
    (tmp_path / "dying.py").write_text(DYING)
    dead = torchrun(tmp_path / "parts", str(tmp_path / "dying.py"), str(EXAMPLE))
    assert dead.returncode != 0
    assert "Signal 9 (SIGKILL)" in dead.stderr
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 15
    again = torchrun(tmp_path / "parts", str(EXAMPLE))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("goes on after step 15") == 2
    ends = [torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "parts")]
    assert ends[0]["step"] == ends[1]["step"] == 40
    assert ends[0]["reducer"]["ranks"] == ends[1]["reducer"]["ranks"]
    assert all(ends[0]["reducer"]["ranks"][name] < 16 for name in ("0", "2"))
    for name, value in ends[0]["model"].items():
        assert torch.equal(value, ends[1]["model"][name])
    logs = [[e | {"seconds": 0} for e in EventLog(tmp_path / r / "cuts.jsonl").read()] for r in ("whole", "parts")]
    assert logs[0] == logs[1]
