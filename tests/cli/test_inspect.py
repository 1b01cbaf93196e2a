"""``balred inspect``: names, ranks and bounds are those that the modules themselves give."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import as_json, run

import balred
from balred.files.families import find_layers
from balred.files.inspecting import TAUS, inspect
from balred.files.opening import open_checkpoint
from balred.registry import layers_of

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from balred.adapters.torch import LRU  # noqa: E402

nn = torch.nn


def stack(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), LRU(3, 24, r_min=0.5, r_max=0.95), nn.GELU(), LRU(3, 10), nn.Linear(3, 1))


def agrees(found: Any, model: Any, rtol: float = 1e-5) -> None:
    """Ranks and bounds of a checkpoint's layers are those of the modules, layer by layer."""
    analyses = balred.analyze(model)
    analyses = analyses if isinstance(analyses, dict) else {"": analyses}
    assert [x.name for x in found] == list(analyses)
    for x in found:
        mine = analyses[x.name]
        assert x.states == mine.system.states
        assert list(x.ranks) == list(TAUS)
        for tau, rank in x.ranks.items():
            assert rank == mine.rank(balred.Energy(1 - tau))
            bound = float(np.max(mine.bound(rank)))
            assert x.bounds[tau] == pytest.approx(bound, rel=rtol, abs=1e-6 * float(mine.sigma.max()))


# ------------------------------------------------------------------------------------------------------- families


def lru_pytorch() -> Any:
    return pytest.importorskip("LRU_pytorch").LRU(3, 2, 16)


def s5() -> Any:
    return pytest.importorskip("s5").S5(3, 8)


def s5_both_ways() -> Any:
    return pytest.importorskip("s5").S5(3, 8, bidir=True)


def s4d() -> Any:
    from s4d_layers import Mixer

    return Mixer(3, 16)


@pytest.mark.parametrize("make", [lru_pytorch, s5, s5_both_ways, s4d])
def test_layers_of_other_packages(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), make())
    balred.save(model, tmp_path / "saved.safetensors")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for file in ("saved.safetensors", "model.pt"):
        found = inspect(tmp_path / file)
        agrees(found, model, rtol=1e-3)
    assert {"LRU": "LRU", "S5": "S5", "Mixer": "S4D"}[type(model[1]).__name__] == found[0].type


@pytest.mark.full
def test_parameter_trees_of_flax(tmp_path: Path) -> None:
    pytest.importorskip("flax")
    flax_file = pytest.importorskip("safetensors.flax")
    from linen_layers import bound_lru, bound_s5

    lru, s5 = bound_lru(16), bound_s5(8)
    tree = {"params": {"layers_2": {"lru": dict(lru.variables["params"])}, "layers_10": dict(s5.variables["params"])}}
    balred.save({"params": {"layers_2": tree["params"]["layers_2"]}}, tmp_path / "lru.safetensors")
    agrees(inspect(tmp_path / "lru.safetensors"), {"params": {"layers_2": {"lru": lru}}, "more": {}})
    flat = {f"layers_10/{k}": v for k, v in s5.variables["params"].items()}
    flat |= {f"layers_2/{k}": v for k, v in lru.variables["params"].items()}
    flax_file.save_file(flat, tmp_path / "both.safetensors")
    found = inspect(tmp_path / "both.safetensors")
    assert [(x.name, x.type) for x in found] == [("layers_2", "LRU"), ("layers_10", "S5")]
    mine = balred.analyze(s5)
    assert found[1].ranks == {tau: mine.rank(balred.Energy(1 - tau)) for tau in TAUS}
    assert "conjugate pairs" in found[1].note


KINDS = {
    **dict.fromkeys(["Mamba", "FalconMamba"], "Mamba-1"),
    **dict.fromkeys(["Mamba2", "Bamba", "NemotronH", "FalconH1"], "Mamba-2"),
    **dict.fromkeys(["Qwen3Next", "Qwen3_5", "OlmoHybrid", "LaraMini"], "Gated DeltaNet"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shards", [False, True])
def test_folders_of_transformers(name: str, shards: bool, tmp_path: Path) -> None:
    from mamba_models import MODELS, transformer

    model = transformer(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path, **({"max_shard_size": "30KB"} if shards else {}))
    assert (tmp_path / "model.safetensors.index.json").is_file() == shards
    found = inspect(tmp_path)
    # the base model may be called otherwise in files (backbone) than in Python (model)
    assert [x.name.partition(".")[2] for x in found] == sorted(name.partition(".")[2] for name in layers_of(model))
    assert {x.states for x in found} == {MODELS[name][1][MODELS[name][0]]} == {8}
    assert {x.type for x in found} == {KINDS[name]}
    assert all("calibration" in x.note and not x.ranks for x in found)


def test_without_a_configuration_groups_are_a_guess(tmp_path: Path) -> None:
    from mamba_models import transformer

    transformer("Mamba2").save_pretrained(tmp_path)
    [first, _] = inspect(tmp_path / "model.safetensors")
    assert first.states == 2 * 8
    assert first.note.endswith("; one group assumed")


@pytest.mark.parametrize("name", ["Qwen3Next", "Qwen3_5", "OlmoHybrid", "LaraMini"])
def test_keys_of_a_cut_model(name: str, tmp_path: Path) -> None:
    from mamba_models import tokens, transformer

    balred.reduce(transformer(name), 3, calibration=tokens()).save_pretrained(tmp_path)
    assert {x.states for x in inspect(tmp_path)} == {3}
    config = json.loads((tmp_path / "config.json").read_text())
    heads = config["linear_num_key_heads"]
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}))
    assert {(x.states, x.note.count("assumed")) for x in inspect(tmp_path)} == {(3, 0)}
    config["linear_num_key_heads"] = 3  # of four heads of values
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="must hold all tensors of a layer"):
        inspect(tmp_path)
    [alone] = inspect(tmp_path / "model.safetensors")
    assumed = int(alone.note.removesuffix(" heads of keys assumed").rpartition(" ")[2])
    assert alone.states * assumed == 3 * heads


@pytest.mark.parametrize("name", ["conv1d.weight", "in_proj_qkv.weight", "in_proj_b.weight", "norm.weight", "dt_bias"])
def test_what_only_looks_like_delta_attention_is_none(name: str, tmp_path: Path) -> None:
    from mamba_models import transformer

    layer = next(m for m in transformer("Qwen3_5").modules() if hasattr(m, "A_log"))
    state = layer.state_dict()
    safetensors.save_file(state, tmp_path / "x.safetensors")
    assert [x.type for x in inspect(tmp_path / "x.safetensors")] == ["Gated DeltaNet"]
    longer = torch.cat([state[name], state[name][:1]])
    for wrong in (state | {name: longer}, {n: x for n, x in state.items() if n != name}):
        safetensors.save_file(wrong, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match="must hold all tensors of a layer"):
            inspect(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("tensors", "want"),
    [
        ({"m.A_imag": (4, 8), "m.B": (2, 8, 2), "m.C": (1, 4, 8, 2), "m.inv_dt": (4,), "m.A_real": (4, 8)}, ("S4", 8)),
        ({"m.A_diag": (6,), "m.steps": (6,), "m.B": (6, 3, 2), "m.C": (3, 6, 2)}, ("LinOSS", 6)),
        ({"m.A_log": (2, 16, 8), "m.x_proj_weight": (2, 20, 16)}, ("Mamba-1", 8)),
    ],
)
def test_families_that_are_only_named(tensors: Any, want: Any, tmp_path: Path) -> None:
    safetensors.save_file({k: torch.zeros(s) for k, s in tensors.items()}, tmp_path / "x.safetensors")
    [found] = inspect(tmp_path / "x.safetensors")
    assert ((found.type, found.states), found.name, found.ranks) == (want, "m", {})
    assert found.note


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("1.theta_log", (23,)), ("1.B_re", (24, 4)), ("1.B_re", (23, 3)), ("1.C_re", (3, 23)), ("1.nu_log", (2, 12)),
        ("1.C_im", (2, 24)), ("1.gamma_log", None), ("1.B_re", None),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_layer_is_none(name: str, shape: Any, tmp_path: Path) -> None:
    state = stack().state_dict()
    state |= {name: torch.zeros(shape)} if shape else {}
    if not shape:
        del state[name]
    safetensors.save_file(state, tmp_path / "x.safetensors")
    assert [x.name for x in inspect(tmp_path / "x.safetensors")] == ["3"]


# ---------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_precisions(dtype: str, tmp_path: Path) -> None:
    model = stack().to(getattr(torch, dtype))
    safetensors.save_file(model.state_dict(), tmp_path / "x.safetensors")
    agrees(inspect(tmp_path / "x.safetensors"), model.double())


def test_what_save_noted_is_used(tmp_path: Path) -> None:
    small = balred.reduce({"a": lru_pytorch(), "b": s5()}, {"a": 5, "b": 3})
    balred.save(small, tmp_path / "x.safetensors")
    assert [(x.name, x.states) for x in inspect(tmp_path / "x.safetensors")] == [("a", 5), ("b", 3)]
    alone = balred.reduce(LRU(2, 9), 4)
    balred.save(alone, tmp_path / "x.safetensors")
    assert [(x.name, x.states) for x in inspect(tmp_path / "x.safetensors")] == [("", 4)]


def test_pt_files_in_all_their_forms(tmp_path: Path) -> None:
    model = stack()
    path = tmp_path / "model.pt"
    training = {"state_dict": model.state_dict(), "epoch": 3, "optimizer": [{"lr": 0.1}], "name": "run"}
    torch.save(training, path)
    agrees(inspect(path), model)
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    agrees(inspect(path), model)
    torch.save({"ema": model.state_dict()}, path)
    assert [x.name for x in inspect(path)] == ["ema.1", "ema.3"]
    torch.save(model, path)  # a pickle of classes, which is code
    with pytest.raises(ValueError, match="must hold tensors and nothing that is code"):
        inspect(path)
    for data in (b"", b"nonsense", b"PK\x03\x04" + bytes(60), path.read_bytes()[:500]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"^{path}: "):
            inspect(path)


def test_tensors_are_read_when_they_are_needed(tmp_path: Path) -> None:
    """A layer's values leave the other layers' and everything else in the file alone."""
    safetensors.save_file(stack().state_dict(), tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    read: list[str] = []
    for name, x in checkpoint.tensors.items():
        object.__setattr__(x, "read", lambda name=name, read_=x.read: (read.append(name), read_())[1])
    layers = find_layers(checkpoint)
    assert read == []
    assert layers[1].read is not None
    layers[1].read()
    assert {name.partition(".")[0] for name in read} == {"3"}
    assert isinstance(checkpoint.tensors["0.weight"].read().base, np.memmap)


def test_progress_is_told_layer_by_layer(tmp_path: Path) -> None:
    safetensors.save_file(stack().state_dict(), tmp_path / "x.safetensors")
    told: list[str] = []
    inspect(tmp_path / "x.safetensors", tell=told.append)
    assert told == ["layer 1 of 2, 1", "layer 2 of 2, 3"]


def test_layers_without_a_rank_say_why(tmp_path: Path) -> None:
    model = stack()
    with torch.no_grad():
        model[1].C_re.zero_()
        model[1].C_im.zero_()
        model[3].B_re[0, 0] = torch.nan
    safetensors.save_file(model.state_dict(), tmp_path / "x.safetensors")
    zero, nan = inspect(tmp_path / "x.safetensors")
    assert (zero.ranks, nan.ranks) == ({}, {})
    assert "every Hankel singular value is zero" in zero.note
    assert "finite" in nan.note


def index(folder: Path, **places: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"a folder must hold one of model\.safetensors\.index\.json"):
        inspect(tmp_path)
    (tmp_path / "x.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"safetensors file must be whole and in its format, got: .*header"):
        inspect(tmp_path)
    safetensors.save_file(nn.Linear(2, 2).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"one of them is called nu_log, .* got 2 tensors"):
        inspect(tmp_path)
    safetensors.save_file(nn.Linear(2, 2).state_dict(), tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=r"several files need an index .*, got x\.safetensors, y\.safetensors"):
        inspect(tmp_path)
    index(tmp_path, weight="../x.safetensors")
    with pytest.raises(ValueError, match="weight_map of files in its folder"):
        inspect(tmp_path)
    index(tmp_path, weight="x.safetensors", other="y.safetensors")
    with pytest.raises(ValueError, match=r"got other in y\.safetensors"):
        inspect(tmp_path)
    index(tmp_path, weight="z.safetensors")
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json: the file must hold a JSON object, got list"):
        inspect(tmp_path)


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command(tmp_path: Path) -> None:
    model = stack()
    balred.save(model, tmp_path / "x.safetensors")
    found = as_json("inspect", tmp_path / "x.safetensors")
    analyses = balred.analyze(model)
    for layer in found["layers"]:
        mine = analyses[layer["layer"]]
        assert [x["rank"] for x in layer["ranks"]] == [mine.rank(balred.Energy(1 - x["tau"])) for x in layer["ranks"]]
    table = run("inspect", tmp_path / "x.safetensors", "--plot", tmp_path / "x.png").stdout.splitlines()
    assert table[0].endswith("x.safetensors: 2 state-space layers")
    assert table[1].split() == ["layer", "type", "states", "1e-1", "1e-2", "1e-3", "1e-4"]
    first = found["layers"][0]["ranks"][0]
    assert table[3].split()[:5] == ["1", "LRU", "24", str(first["rank"]), f"({first['bound']:.2g})"]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = run("inspect", tmp_path / "none.safetensors", code=1)
    assert done.stderr == f"balred inspect: {tmp_path / 'none.safetensors'}: No such file or directory\n"
    path = tmp_path / "x.safetensors"
    safetensors.save_file({"m.A_log": torch.zeros(2, 16, 8), "m.x_proj_weight": torch.zeros(2, 20, 16)}, path)
    assert "m: selective: ranks need data" in run("inspect", path).stdout
    done = run("inspect", path, "--plot", tmp_path / "x.png", code=1)
    assert "a picture needs a layer with Hankel singular values, got none" in done.stderr
