"""Checkpoints: what is loaded into a fresh full-size skeleton gives, to the last bit, the outputs of what was saved."""

from __future__ import annotations

import copy
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import balred
from balred.files.tensors import Tensor, read_tensors, write_tensors
from balred.registry import layers_of

torch = pytest.importorskip("torch")

from mamba_models import transformer  # noqa: E402

from balred.adapters.torch import LRU  # noqa: E402

nn = torch.nn


def stack(seed: int = 0, width: int = 3, states: tuple[int, int] = (8, 6)) -> Any:
    torch.manual_seed(seed)
    model = nn.Sequential(LRU(width, states[0]), nn.BatchNorm1d(7), LRU(width, states[1]), nn.Linear(width, 2)).eval()
    model[1].running_mean += torch.rand(7)
    model.register_buffer("shift", torch.rand(2), persistent=False)
    return model


RANKS = {"0": 5, "2": 2}
U = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    small = balred.reduce(stack(), RANKS)
    balred.save(small, tmp_path / "small.safetensors")
    return small, tmp_path / "small.safetensors"


def same_state(model: Any, before: dict[str, Any]) -> bool:
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[k], before[k]) for k in before)


# ---------------------------------------------------------------------------------------------------------- torch


def test_a_torch_model_comes_back_exactly_and_the_skeleton_stays(saved: tuple[Any, Path]) -> None:
    small, path = saved
    skeleton = stack(seed=5)
    before = copy.deepcopy(skeleton.state_dict())
    with torch.no_grad():
        want = skeleton(U)
        again = balred.load(skeleton, path)
        assert torch.equal(again(U), small(U))
        assert torch.equal(skeleton(U), want)
    assert same_state(skeleton, before)
    assert (again[0].states, again[2].states) == (5, 2)
    assert torch.equal(again.shift, small.shift)
    assert again.training is False
    # a leaf to train, that shares nothing with the skeleton
    again(U).sum().backward()
    assert all(p.grad is not None for p in again.parameters())
    assert all(p.grad is None for p in skeleton.parameters())


def test_a_layer_on_its_own_and_lists_and_dicts_of_models(tmp_path: Path) -> None:
    path = tmp_path / "x"
    layer = balred.reduce(LRU(2, 8), 3)
    balred.save(layer, path)
    torch.testing.assert_close(balred.load(LRU(2, 8), path).C_re, layer.C_re, rtol=0, atol=0)

    models = {"encoder": stack(), "heads": [stack(1), 3, None]}
    small = balred.reduce(models, {"encoder.0": 4, "encoder.2": 3, "heads.0.0": 8, "heads.0.2": 1})
    balred.save(small, path)
    again = balred.load({"encoder": stack(7), "heads": [stack(8), 3, None]}, path)
    assert (again["encoder"][0].states, again["heads"][0][2].states, again["heads"][1:]) == (4, 1, [3, None])
    with torch.no_grad():
        assert torch.equal(again["heads"][0](U), small["heads"][0](U))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_precisions(dtype: str, tmp_path: Path) -> None:
    small = balred.reduce(stack(), RANKS).to(getattr(torch, dtype))
    balred.save(small, tmp_path / "x")
    again = balred.load(stack(3).to(getattr(torch, dtype)), tmp_path / "x")
    assert same_state(again, small.state_dict())
    with pytest.raises(ValueError, match=f"must have the skeleton's dtype: 0.nu_log float32, got {dtype}"):
        balred.load(stack(3), tmp_path / "x")


def test_tensors_without_numbers_and_of_one_number_come_back(tmp_path: Path) -> None:
    def made(seed: int) -> Any:
        model = stack(seed)
        model.register_buffer("none_yet", torch.zeros(0, 4))
        model.register_buffer("flag", torch.tensor(seed == 0))
        return model

    small = balred.reduce(made(0), RANKS)
    balred.save(small, tmp_path / "x")
    again = balred.load(made(3), tmp_path / "x")
    assert same_state(again, small.state_dict())
    assert (again.none_yet.shape, bool(again.flag)) == ((0, 4), True)


def test_complex_parameters_of_other_packages(tmp_path: Path) -> None:
    LRU_pytorch = pytest.importorskip("LRU_pytorch")
    S5 = pytest.importorskip("s5").S5

    def model(seed: int) -> Any:
        torch.manual_seed(seed)
        return nn.ModuleDict({"lru": LRU_pytorch.LRU(3, 3, 8), "s5": S5(3, 8)})

    small = balred.reduce(model(0), {"lru": 3, "s5": 4})
    balred.save(small, tmp_path / "x")
    again = balred.load(model(1), tmp_path / "x")
    with torch.no_grad():
        assert torch.equal(again["lru"](U), small["lru"](U))
        assert torch.equal(again["s5"](U), small["s5"](U))
    assert again["lru"].state.shape == (3,)


@pytest.mark.gpu
def test_the_device_is_the_skeletons(saved: tuple[Any, Path]) -> None:
    small, path = saved
    again = balred.load(stack(3).cuda(), path)
    assert {x.device.type for x in (*again.parameters(), *again.buffers())} == {"cuda"}
    assert same_state(again.cpu(), small.state_dict())
    balred.save(small.cuda(), path)
    assert same_state(balred.load(stack(3), path), small.cpu().state_dict())


class Tied(nn.Module):
    """A decoder that shares its matrix with the encoder."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.encoder, self.lru, self.decoder = nn.Linear(3, 3), LRU(3, 8), nn.Linear(3, 3)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, u: Any) -> Any:
        return self.decoder(self.lru(self.encoder(u)))


def test_tied_tensors_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    path = tmp_path / "x"
    small = balred.reduce(Tied(), {"lru": 4})
    small.encoder.weight._optim = {"lr": 0.5}
    balred.save(small, path)
    assert "decoder.weight" not in read_tensors(path).tensors
    skeleton = Tied()
    skeleton.encoder.weight._optim = {"lr": 0.5}
    again = balred.load(skeleton, path)
    assert again.encoder.weight is again.decoder.weight
    assert again.encoder.weight._optim == {"lr": 0.5}
    with torch.no_grad():
        assert torch.equal(again(U), small(U))
    # a skeleton without the tie gets both
    loose = balred.load(Tied(tied=False), path)
    assert loose.encoder.weight is not loose.decoder.weight
    assert torch.equal(loose.encoder.weight, loose.decoder.weight)
    # one with a tie cannot hold two values
    balred.save(balred.reduce(Tied(tied=False), {"lru": 4}), path)
    with pytest.raises(
        ValueError, match=r"that the skeleton shares must be equal in the file, got another value for decoder\.weight"
    ):
        balred.load(Tied(), path)


def test_a_layer_in_two_places_stays_one(tmp_path: Path) -> None:
    def model() -> Any:
        layer = LRU(3, 8)
        return nn.ModuleDict({"a": layer, "b": nn.Sequential(layer, LRU(3, 6))})

    small = balred.reduce(model(), {"a": 3, "b.1": 2})
    balred.save(small, tmp_path / "x")
    again = balred.load(model(), tmp_path / "x")
    assert again["a"] is again["b"][0]
    assert again["a"].nu_log is again["b"][0].nu_log
    with torch.no_grad():
        assert torch.equal(again["b"](U), small["b"](U))


def test_layers_that_change_more_than_their_size(tmp_path: Path) -> None:
    """A type whose reduction has other parameters, also at its full size: S4 with a low-rank term becomes diagonal."""

    class Layer(nn.Module):
        def __init__(self, n: int, full: bool = True) -> None:
            super().__init__()
            A = torch.diag(-torch.arange(1.0, n + 1)) + 0.1 * torch.ones(n, n)
            self.A = nn.Parameter(A if full else torch.diagonal(A).clone())
            self.B, self.C = nn.Parameter(torch.randn(n, 2)), nn.Parameter(torch.randn(2, n))

    def adapter(layer: Any) -> Any:
        A = layer.A.detach() if layer.A.ndim == 2 else torch.diag(layer.A.detach())

        def rebuild(system: Any) -> Any:
            new, (values, V) = Layer(system.states, full=False), torch.linalg.eig(torch.as_tensor(system.A))
            with torch.no_grad():
                new.A.copy_(values.real)
                new.B.copy_(torch.linalg.solve(V, system.B.to(V.dtype)).real)
                new.C.copy_((system.C.to(V.dtype) @ V).real)
            return new

        return balred.ss(A, layer.B.detach(), layer.C.detach()), rebuild

    balred.register(Layer, adapter)
    for rank in (6, 3):
        small = balred.reduce(nn.Sequential(Layer(6)), {"0": rank})
        balred.save(small, tmp_path / "x")
        again = balred.load(nn.Sequential(Layer(6)), tmp_path / "x")
        assert again[0].A.shape == (rank,)
        assert same_state(again, small.state_dict())
    whole = nn.Sequential(Layer(6))
    balred.save(whole, tmp_path / "x")
    assert same_state(balred.load(nn.Sequential(Layer(6)), tmp_path / "x"), whole.state_dict())


# ----------------------------------------------------------------------------------------------- transformers


@pytest.mark.parametrize("name", ["Mamba", "Mamba2", "Jamba", "FalconH1"])
def test_selective_models_of_transformers(name: str, tmp_path: Path) -> None:
    from mamba_models import MODELS, logits, tokens

    small = balred.reduce(transformer(name), 3, calibration=tokens())
    balred.save(small, tmp_path / "x.safetensors")
    skeleton = transformer(name, seed=4)
    again = balred.load(skeleton, tmp_path / "x.safetensors")
    assert getattr(again.config, MODELS[name][0]) == 3
    assert getattr(skeleton.config, MODELS[name][0]) == 8
    assert torch.equal(logits(again, tokens(1)), logits(small, tokens(1)))
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == (
        small.get_output_embeddings().weight is small.get_input_embeddings().weight
    )
    want = small.generate(tokens()[:1, :6], max_new_tokens=4, do_sample=False)
    assert torch.equal(again.generate(tokens()[:1, :6], max_new_tokens=4, do_sample=False), want)
    again.save_pretrained(tmp_path)
    other = type(again).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(other, tokens(1)), logits(small, tokens(1)), rtol=1e-6, atol=1e-7)


def test_mambapy(tmp_path: Path) -> None:
    mamba = pytest.importorskip("mambapy.mamba")

    def model(seed: int) -> Any:
        torch.manual_seed(seed)
        return mamba.Mamba(mamba.MambaConfig(d_model=16, n_layers=2, d_state=8, inner_layernorms=True))

    x = torch.randn(2, 12, 16)
    small = balred.reduce(model(0), 3, calibration=x)
    balred.save(small, tmp_path / "x")
    again = balred.load(model(1), tmp_path / "x")
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert again.config.d_state == 3


# ------------------------------------------------------------------------------------------------------------ JAX


@pytest.mark.full
def test_equinox(tmp_path: Path) -> None:
    jax, eqx = pytest.importorskip("jax"), pytest.importorskip("equinox")
    from lru_copies import Equinox, parameters

    from balred.adapters.equinox import LRU as EqxLRU

    class Model(eqx.Module):
        first: EqxLRU
        copies: list[Any]
        head: Any
        drop: Any
        key: Any

        def __init__(self, seed: int) -> None:
            k1, k2 = jax.random.split(jax.random.key(seed))
            self.first = EqxLRU(3, 8, key=k1)
            self.copies = [Equinox(**parameters(8, seed=seed), state_dim=8), np.full(2, float(seed))]
            self.head = eqx.nn.Linear(3, 2, key=k2)
            self.drop, self.key = eqx.nn.Dropout(0.5, inference=True), jax.random.key(seed)

        def __call__(self, u: Any) -> Any:
            return self.drop(jax.vmap(self.head)(self.copies[0](self.first(u))))

    u = np.asarray(U[0].numpy())
    small = balred.reduce(Model(0), {"first": 5, "copies.0": 3})
    balred.save(small, tmp_path / "x")
    skeleton = Model(1)
    before = [np.array(x) for x in jax.tree_util.tree_leaves(eqx.filter(skeleton, eqx.is_inexact_array))]
    again = balred.load(skeleton, tmp_path / "x")
    np.testing.assert_array_equal(again(u), small(u))
    assert (again.first.states, again.copies[0].state_dim) == (5, 3)
    np.testing.assert_array_equal(again.copies[1], np.zeros(2))
    assert isinstance(again.copies[1], np.ndarray)
    after = jax.tree_util.tree_leaves(eqx.filter(skeleton, eqx.is_inexact_array))
    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    with pytest.raises(ValueError, match=r"layer first must have at least 5 states, got 4"):
        balred.load(eqx.tree_at(lambda m: m.first, skeleton, EqxLRU(3, 4, key=jax.random.key(0))), tmp_path / "x")


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_jax_precisions(dtype: str, tmp_path: Path) -> None:
    jax, eqx = pytest.importorskip("jax"), pytest.importorskip("equinox")
    from balred.adapters.equinox import LRU as EqxLRU

    def model(seed: int) -> Any:
        layer = EqxLRU(3, 8, key=jax.random.key(seed))
        with jax.enable_x64(True):
            return [layer, jax.random.normal(jax.random.key(seed), (5,)).astype(dtype)]

    small = balred.reduce(model(0), {"0": 4})
    balred.save(small, tmp_path / "x")
    again = balred.load(model(1), tmp_path / "x")
    assert again[1].dtype == dtype
    for a, b in zip(*(jax.tree_util.tree_leaves(eqx.filter(m, eqx.is_array)) for m in (again, small)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.full
def test_linen_parameters_and_bound_modules(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    pytest.importorskip("flax")
    import jax.numpy as jnp
    from flax.core import freeze
    from linen_layers import apply, bound_lru, bound_s5

    def tree(seed: int) -> Any:
        layers = {f"lru_{i}": dict(bound_lru().variables["params"]) for i in range(2)}
        return {"params": {**layers, "scale": jnp.full(3, float(seed))}, "step": seed}

    small = balred.reduce(tree(0), {"params.lru_0": 5, "params.lru_1": 2})
    balred.save(small, tmp_path / "x")
    again = balred.load(freeze(tree(1)), tmp_path / "x")
    assert type(again) is type(freeze({}))
    assert (again["step"], again["params"]["lru_0"]["B_re"].shape) == (1, (5, 3))
    same = jax.tree_util.tree_map(np.array_equal, again["params"].unfreeze(), small["params"])
    assert all(jax.tree_util.tree_leaves(same))

    u = np.asarray(U[0].numpy())
    for make in (bound_lru, bound_s5):
        reduced = balred.reduce(make(), 3)
        balred.save(reduced, tmp_path / "x")
        loaded = balred.load(make(), tmp_path / "x")
        np.testing.assert_array_equal(apply(loaded, u), apply(reduced, u))


@pytest.mark.full
def test_nnx(tmp_path: Path) -> None:
    nnx = pytest.importorskip("flax.nnx")
    from lru_copies import Model

    class Whole(nnx.Module):
        def __init__(self, seed: int) -> None:
            self.body, self.norm = Model(), nnx.BatchNorm(3, rngs=nnx.Rngs(seed))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(seed))
            self.norm.mean[...] += seed

        def __call__(self, u: Any) -> Any:
            return self.norm(self.body(u), use_running_average=True)

    u = np.asarray(U[0].numpy())
    full = Whole(3)
    first, second = sorted(layers_of(full))
    small = balred.reduce(full, {first: 5, second: 2})
    balred.save(small, tmp_path / "x")
    skeleton = Whole(0)
    before = np.asarray(skeleton(u))
    again = balred.load(skeleton, tmp_path / "x")
    assert again.body.first is again.body.again
    assert (again.body.first.d_hidden, again.body.rest[0].d_hidden) == (5, 2)
    np.testing.assert_array_equal(again(u), small(u))
    np.testing.assert_array_equal(skeleton(u), before)


# --------------------------------------------------------------------------------------------------- what is no good


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path, bad = tmp_path / "x", tmp_path / "bad"
    balred.save(balred.reduce(LRU(1, 3), 2), path)
    data = path.read_bytes()
    skeleton = LRU(1, 3)
    before = copy.deepcopy(skeleton.state_dict())
    rng = np.random.default_rng(0)
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        bad.write_bytes(flipped)
        with pytest.raises(ValueError, match=f"^{bad}: "):
            balred.load(skeleton, bad)
    for length in range(len(data)):
        if length % 7 == 0 or length > len(data) - 9:
            bad.write_bytes(data[:length])
            with pytest.raises(ValueError, match=f"^{bad}: "):
                balred.load(skeleton, bad)
    bad.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="file not fully covered"):
        balred.load(skeleton, bad)
    assert same_state(skeleton, before)


def resealed(path: Path, change: Any) -> None:
    """The file with changed notes or tensors, its seal made right again."""
    file = read_tensors(path)
    notes, tensors = json.loads(file.metadata["balred"]), dict(file.tensors)
    change(notes, tensors)
    write_tensors(path, tensors, {"balred": json.dumps(notes)})


def dropped(notes: Any, tensors: Any) -> None:
    del tensors["2.B_im"]


def added(notes: Any, tensors: Any) -> None:
    tensors["4.bias"] = tensors["3.bias"]


def more_states(notes: Any, tensors: Any) -> None:
    notes["layers"]["0"]["states"] = 80


def other_states(notes: Any, tensors: Any) -> None:
    notes["layers"]["0"]["states"] = 4


def other_type(notes: Any, tensors: Any) -> None:
    notes["layers"]["0"]["type"] = "GRU"


def newer(notes: Any, tensors: Any) -> None:
    notes["format"] = 9


def without_layers(notes: Any, tensors: Any) -> None:
    del notes["layers"]


def without_states(notes: Any, tensors: Any) -> None:
    notes["layers"]["0"]["states"] = "5"


def shared_with_nothing(notes: Any, tensors: Any) -> None:
    notes["shared"]["0.B_re"] = "nowhere"


def complex_without_parts(notes: Any, tensors: Any) -> None:
    notes["complex"]["0.B_re"] = "complex64"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dropped, r"must hold the skeleton's tensors, got one without 2\.B_im$"),
        (added, r"must hold the skeleton's tensors, got one with 4\.bias$"),
        (more_states, r"layer 0 must have at least 80 states, got 8$"),
        (other_states, r"must have the skeleton's shape: 0\.nu_log \(4,\), got \(5,\); .*2 more$"),
        (other_type, r"layer 0 must be a GRU, got a LRU$"),
        (newer, r"must be of format 1 or older, got 9, written by balred "),
        *(
            (change, r"notes of balred\.save must be whole, got")
            for change in (without_layers, without_states, shared_with_nothing, complex_without_parts)
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change: Any, message: str, saved: tuple[Any, Path]) -> None:
    _, path = saved
    skeleton = stack(3)
    before = copy.deepcopy(skeleton.state_dict())
    resealed(path, lambda *_: None)
    balred.load(skeleton, path)
    resealed(path, change)
    with pytest.raises(ValueError, match=message):
        balred.load(skeleton, path)
    assert same_state(skeleton, before)


def test_a_skeleton_that_does_not_fit_is_refused(saved: tuple[Any, Path]) -> None:
    _, path = saved
    with pytest.raises(ValueError, match=r"skeleton's shape: 0\.B_re \(5, 4\), got \(5, 3\); 0\.B_im"):
        balred.load(stack(width=4), path)
    with pytest.raises(ValueError, match=r"skeleton must have the layers 0, 2, got 0$"):
        balred.load(stack()[:2], path)
    model = stack()
    model[2] = type("Other", (LRU,), {})(3, 6)
    with pytest.raises(ValueError, match=r"layer 2 must be a LRU, got a Other$"):
        balred.load(model, path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError):
        balred.load(stack(), path)
    for data in (b"", b"\x80\x04pickle", b"\2\0\0\0\0\0\0\0[]", b"\xff" * 40):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="safetensors file must"):
            balred.load(stack(), path)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(dict(stack().state_dict()), path)
    with pytest.raises(ValueError, match=r"must be one that balred\.save wrote, got one without its notes"):
        balred.load(stack(), path)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("older")
    with pytest.raises(TypeError, match="no adapter knows"):
        balred.save(nn.Linear(2, 2), path)
    with pytest.raises(TypeError, match="got object at 1"):
        balred.save([LRU(2, 4), object()], path)
    with pytest.raises(TypeError, match="got DenseSystem"):
        balred.save(balred.testing.random_system(3), path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


# ----------------------------------------------------------------------------------------------------- the format


def test_the_file_is_read_by_safetensors_and_the_other_way_round(saved: tuple[Any, Path], tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    small, path = saved
    theirs = safetensors.load_file(path)
    assert theirs.keys() == {*small.state_dict(), "shift"}
    assert all(torch.equal(theirs[k], v) for k, v in small.state_dict().items())

    values = {
        "bf16": torch.randn(3, 5).bfloat16(), "f8": torch.randn(4).to(torch.float8_e4m3fn), "f64": torch.randn(2).double(),
        "flag": torch.tensor([True, False]), "i": torch.arange(3), "scalar": torch.tensor(2.5), "none": torch.zeros(0, 3),
    }  # fmt: skip
    safetensors.save_file(values, tmp_path / "theirs", {"format": "pt"})
    file = read_tensors(tmp_path / "theirs")
    assert file.metadata == {"format": "pt"}
    for name in ("bf16", "f64", "flag", "i", "scalar", "none"):
        want = values[name].float().numpy() if name == "bf16" else values[name].numpy()
        got = file.tensors[name].values()
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="NumPy has no float8_e4m3fn"):
        file.tensors["f8"].values()


def test_dtypes_that_numpy_lacks_keep_their_bytes(tmp_path: Path) -> None:
    """Also where a tensor of half bytes lies among them: what a library calls a dtype is what it is called here."""
    safetensors = pytest.importorskip("safetensors.torch")
    names = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
    values = {x: torch.tensor([[0.5, 2.0], [1.0, 4.0]]).to(getattr(torch, x)) for x in names}
    half = {"half": torch.arange(6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    safetensors.save_file(values | half, tmp_path / "theirs")
    found = read_tensors(tmp_path / "theirs").tensors
    assert found["half"].read().tolist() == [*range(6)]
    del found["half"]  # the format has the two numbers of a byte one by one, PyTorch does not
    assert {name: (x.dtype, x.shape) for name, x in found.items()} == {x: (x, (2, 2)) for x in names}
    write_tensors(tmp_path / "mine", found, {})
    theirs = safetensors.load_file(tmp_path / "mine")
    for name, x in values.items():
        assert theirs[name].dtype == x.dtype
        assert torch.equal(theirs[name].view(torch.uint8), x.view(torch.uint8))


def test_a_file_is_as_readable_as_any_new_one(saved: tuple[Any, Path], tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    assert saved[1].stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_that_cannot_be_written(saved: tuple[Any, Path], tmp_path: Path) -> None:
    small, path = saved
    with pytest.raises(FileNotFoundError):
        balred.save(small, tmp_path / "nowhere" / "x")
    before = path.read_bytes()
    resource = pytest.importorskip("resource")  # the next write ends as on a full disk
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            balred.save(small, path)
        assert caught.value.filename == str(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": [1]},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"x": 1}},
        [],
    ],
)
def test_headers_that_lie_are_refused(header: Any, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(ValueError, match="must"):
        read_tensors(tmp_path / "x")


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("older")
    short = Tensor("float32", (2,), lambda: np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match="one must have 8 bytes, got 4"):
        write_tensors(path, {"one": short}, {})
    with pytest.raises(ValueError, match=r"dtype of a tensor in a file must be one of .*, got qint8"):
        write_tensors(path, {"one": Tensor("qint8", (2,), short.read)}, {})
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]
