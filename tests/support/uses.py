"""What people do with a model after a cut: one function a use, which fails where the smaller model is not as good for it as the whole one.

The families are those of the table of layers (:mod:`layers`) that are PyTorch's; each is built once, at its smallest, and cut once.
Where the whole model is of no use either, a use raises :class:`Lacking`, which the table of exceptions must expect: nothing is passed over.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import balred

torch = pytest.importorskip("torch")
from expected_uses import Lacking  # noqa: E402
from mamba_models import MODELS, build  # noqa: E402

from balred.adapters.torch import LRU, InTrainingReducer, resize_on_load  # noqa: E402

ROUNDING = 1e-5
HALF = 0.1  # of bfloat16, whose eps is 0.008, through two layers


@dataclasses.dataclass(frozen=True)
class Family:
    """A model, what it is called with, a smaller one, and the rank of that."""

    name: str
    model: Any
    data: Any
    small: Any
    rank: int

    @property
    def speaks(self) -> bool:
        """Whether it is a language model of transformers."""
        return hasattr(self.model, "generate")

    def fresh(self) -> Any:
        return copy.deepcopy(self.model)

    def cut(self, model: Any) -> Any:
        return reduced(model, self.rank, self.data)

    def through_files(self, folder: Path, **how: Any) -> Any:
        """The small model by ``save_pretrained`` and ``from_pretrained``; with adapters of peft, these and the model below them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            below = copy.deepcopy(self.small).unload() if hasattr(self.small, "unload") else self.small
            below.save_pretrained(folder / "model", **how)
            again = type(below).from_pretrained(folder / "model")
            if below is not self.small:
                self.small.save_pretrained(folder / "adapters")
                again = type(self.small).from_pretrained(again, folder / "adapters")
        return again.eval()


def reduced(model: Any, rank: int, data: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", balred.ranks.choosing.RankWarning)
        return balred.reduce(model, rank, calibration=data if selective(model) else None)


def selective(model: Any) -> bool:
    return any(getattr(m, "A_log", None) is not None for m in model.modules())


def answer(model: Any, data: Any) -> Any:
    with torch.no_grad():
        made = model(data)
    return getattr(made, "logits", made)


def apart(got: Any, want: Any) -> float:
    assert got.shape == want.shape
    return float((got.float() - want.float()).norm() / want.float().norm())


class Net(torch.nn.Module):
    """A layer and a head; with `swap` the layer wants its channels before the time."""

    def __init__(self, layer: Any, width: int, swap: bool = False) -> None:
        super().__init__()
        self.layer, self.head, self.swap = layer, torch.nn.Linear(width, width), swap

    def forward(self, u: Any) -> Any:
        made = self.layer(u.mT if self.swap else u)
        made = made[0] if isinstance(made, tuple) else made
        return self.head(made.mT if self.swap else made)


def _net(layer: Any, width: int, swap: bool = False) -> Any:
    return Net(layer, width, swap).eval()


def _lru() -> Any:
    return _net(LRU(3, 8, generator=torch.Generator().manual_seed(0)), 3)


def _s4d() -> Any:
    from s4d_layers import mixer

    return _net(mixer(torch.float32), 3, swap=True)


def _lru_pytorch() -> Any:
    package = pytest.importorskip("LRU_pytorch")
    return _net(package.LRU(3, 3, 8), 3)


def _s4(channels: int = 3, **kw: Any) -> Any:
    from s4_layers import conv

    return _net(conv(double=False, channels=channels, **kw), channels, swap=True)


def _s4_shared() -> Any:
    return _s4(channels=4, copies=2)


def _s4_low_rank() -> Any:
    from s4_layers import LowRank

    return _s4(kind=LowRank, l_max=9)


def _s5(**kw: Any) -> Any:
    from s5_pytorch_layers import layer

    return _net(layer(states=8, **kw), 3)


def _s5_both_ways() -> Any:
    return _s5(bidir=True)


def _mlstm() -> Any:
    from attention_layers import model

    return model()


def _mambapy(**kw: Any) -> Any:
    package = pytest.importorskip("mambapy.mamba")
    return package.Mamba(package.MambaConfig(d_model=16, n_layers=1, d_state=8, **kw)).eval()


def _mambapy_norms() -> Any:
    return _mambapy(inner_layernorms=True)


def _vim() -> Any:
    package = pytest.importorskip("mambapy.vim")
    return package.VMamba(package.MambaConfig(d_model=16, n_layers=1, d_state=8)).eval()


def _adapted(name: str) -> Any:
    from adapted_models import adapted

    return adapted(name)


OTHERS: dict[str, tuple[Callable[[], Any], int, tuple[int, ...]]] = {
    "LRU": (_lru, 4, (2, 9, 3)),
    "S4D": (_s4d, 4, (2, 9, 3)),
    "LRU_pytorch": (_lru_pytorch, 4, (2, 9, 3)),
    "S4": (_s4, 4, (2, 9, 3)),
    "S4, n_ssm": (_s4_shared, 4, (2, 9, 4)),
    "S4, low rank": (_s4_low_rank, 4, (2, 9, 3)),
    "S5": (_s5, 4, (2, 9, 3)),
    "S5, both ways": (_s5_both_ways, 4, (2, 9, 3)),
    "mLSTM": (_mlstm, 16, (2, 8)),
    "mambapy": (_mambapy, 4, (2, 9, 16)),
    "mambapy, norms": (_mambapy_norms, 4, (2, 9, 16)),
    "Vim": (_vim, 4, (2, 9, 16)),
    "LoRA, Mamba": (functools.partial(_adapted, "Mamba"), 4, (2, 8)),
    "LoRA, Mamba2": (functools.partial(_adapted, "Mamba2"), 4, (2, 8)),
}
FAMILIES = (*OTHERS, *MODELS)


@functools.cache
def family(name: str) -> Family:
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    if name in OTHERS:
        make, rank, shape = OTHERS[name]
        model = make()
        data = torch.randn(shape, generator=g) if len(shape) == 3 else torch.randint(3, 90, shape, generator=g)
    else:
        model, rank, data = build(name), 4, torch.randint(3, 90, (2, 8), generator=g)
    return Family(name, model, data, reduced(model, rank, data), rank)


# -------------------------------------------------------------------------------------------------- the uses


def plain(f: Family, _: Path) -> None:
    assert sum(p.numel() for p in f.small.parameters()) < sum(p.numel() for p in f.model.parameters())
    assert torch.isfinite(answer(f.small, f.data)).all()


def bf16(f: Family, _: Path) -> None:
    """Of weights in half precision the same states are cut as of equal ones in single precision."""
    half = f.fresh().bfloat16()
    data = f.data.bfloat16() if f.data.is_floating_point() else f.data
    small, want = reduced(half, f.rank, data), f.cut(copy.deepcopy(half).float())
    assert {p.dtype for p in small.parameters()} == {p.dtype for p in half.parameters()}
    assert apart(answer(copy.deepcopy(small).float(), f.data), answer(want, f.data)) < HALF
    try:
        answer(half, data)
    except RuntimeError as error:
        raise Lacking(f"arithmetic in half precision: {error}") from error
    assert apart(answer(small, data), answer(want, f.data)) < HALF


def checkpointing(f: Family, _: Path) -> None:
    """Gradients with activations computed anew are those without."""
    grads = []
    for anew in (False, True):
        model = copy.deepcopy(f.small).train()
        if anew and f.speaks:
            (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
        x = f.data if not f.data.is_floating_point() else f.data.clone().requires_grad_()
        torch.manual_seed(0)
        call = (
            functools.partial(torch.utils.checkpoint.checkpoint, model, use_reentrant=False)
            if anew and not f.speaks
            else model
        )
        made = call(x)
        getattr(made, "logits", made).square().mean().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, want in grads[0].items():
        got = grads[1][name]
        assert (got is None) == (want is None), name
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6 * float(want.abs().max() + 1))


def _generated(model: Any, data: Any, **how: Any) -> Any:
    return model.generate(data[:, :5], max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None, **how)


def generation(f: Family, _: Path) -> None:
    """Token by token through the cache is the whole sequence at every step."""
    want = f.data[:, :5]
    for _step in range(4):
        want = torch.cat([want, answer(f.small, want)[:, -1:].argmax(-1)], 1)
    assert torch.equal(_generated(f.small, f.data), want)


def beams(f: Family, _: Path) -> None:
    """Beams with a cache are those without, where they are so in the whole model."""

    def made(model: Any) -> list[Any]:
        return [_generated(model, f.data, num_beams=2, use_cache=use) for use in (True, False)]

    try:
        whole = made(f.model)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            made(f.small)
        raise Lacking(f"beams with a cache: {error}") from error
    if not torch.equal(*whole):
        raise Lacking("the same beams with a cache and without")
    assert torch.equal(*made(f.small))


def padding(f: Family, _: Path) -> None:
    """Tokens before the mask begins change nothing, where they change nothing in the whole model."""
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), f.data], 1)
    mask = torch.cat([torch.zeros(2, 3, dtype=torch.long), torch.ones_like(f.data)], 1)

    def moved(model: Any) -> float:
        with torch.no_grad():
            got = model(padded, attention_mask=mask).logits[:, 3:]
        return apart(got, answer(model, f.data))

    if moved(f.model) > ROUNDING:
        raise Lacking("padding that changes nothing")
    assert moved(f.small) < ROUNDING
    if selective(f.model):
        small = balred.reduce(f.model, f.rank, calibration={"input_ids": padded, "attention_mask": mask})
        assert apart(answer(small, f.data), answer(f.small, f.data)) < ROUNDING


def saved(f: Family, folder: Path) -> None:
    """By balred's own files, a state_dict, and ``save_pretrained``."""
    want = answer(f.small, f.data)
    balred.save(f.small, folder / "small.safetensors")
    assert torch.equal(answer(balred.load(f.fresh(), folder / "small.safetensors"), f.data), want)
    torch.save(f.small.state_dict(), folder / "small.pt")
    other = f.fresh()
    resize_on_load(other)
    other.load_state_dict(torch.load(folder / "small.pt", weights_only=True))
    assert torch.equal(answer(other, f.data), want)
    if f.speaks:
        assert apart(answer(f.through_files(folder), f.data), want) < ROUNDING


def sharded(f: Family, folder: Path) -> None:
    """In several files: those of ``save_pretrained``, and of PyTorch's distributed checkpoints."""
    want = answer(f.small, f.data)
    if f.speaks:
        assert apart(answer(f.through_files(folder, max_shard_size="20KB"), f.data), want) < ROUNDING
        assert len(list((folder / "model").glob("*.safetensors"))) > 1
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        dcp.save(f.small.state_dict(), checkpoint_id=folder / "dcp")
        state = copy.deepcopy(f.small).state_dict()
        for x in state.values():
            x.zero_()
        dcp.load(state, checkpoint_id=folder / "dcp")
    other = f.fresh()
    resize_on_load(other)
    other.load_state_dict(state)
    assert torch.equal(answer(other, f.data), want)


def resumed(f: Family, _: Path) -> None:
    """A training that goes on from a checkpoint after the cut ends in the weights of one that never stopped."""

    def started() -> tuple[Any, Any, Any]:
        model = f.fresh()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        data = f.data if selective(model) else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", balred.ranks.choosing.RankWarning)
            return (
                model,
                optimizer,
                InTrainingReducer(model, optimizer, balred.Order(f.rank), (0, 2), 1, calibration=data),
            )

    def steps(run: tuple[Any, Any, Any], count: int) -> None:
        model, optimizer, reducer = run
        for _step in range(count):
            optimizer.zero_grad()
            made = model(f.data)
            getattr(made, "logits", made).square().mean().backward()
            optimizer.step()
            reducer.step()

    whole = started()
    steps(whole, 3)
    kept = io.BytesIO()
    torch.save([x.state_dict() for x in whole], kept)
    again = started()
    kept.seek(0)
    for one, state in zip(reversed(again), reversed(torch.load(kept, weights_only=False)), strict=True):
        one.load_state_dict(state)
    assert len(list(again[0].parameters())) == len(list(whole[0].parameters()))
    for run in (whole, again):
        steps(run, 2)
    got, want = (run[0].state_dict() for run in (again, whole))
    assert {n: x.shape for n, x in want.items()} != {n: x.shape for n, x in f.model.state_dict().items()}
    assert got.keys() == want.keys()
    assert all(torch.equal(x, want[n]) for n, x in got.items())


def copied(f: Family, _: Path) -> None:
    want = answer(f.small, f.data)
    for other in (copy.deepcopy(f.small), pickle.loads(pickle.dumps(f.small))):
        assert torch.equal(answer(other, f.data), want)


def exported(f: Family, _: Path) -> None:
    """``torch.export`` takes the smaller model if it takes the whole one."""
    data = f.data[:, :4]  # loops over tokens are written out

    def program(model: Any) -> Any:
        return torch.export.export(_Plain(model) if f.speaks else model, (data,), strict=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = program(f.small)
        except Exception as error:
            with pytest.raises(type(error)):
                program(f.model)
            raise Lacking(f"programs: {type(error).__name__}: {error}") from error
        with torch.no_grad():
            assert apart(made.module()(data), answer(f.small, data)) < ROUNDING


class _Plain(torch.nn.Module):
    """A language model that takes tokens and returns logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Any) -> Any:
        return self.model(tokens, use_cache=False).logits


SPEAKING = (generation, beams, padding)
USES = {use.__name__: use for use in (plain, bf16, checkpointing, *SPEAKING, saved, sharded, resumed, copied, exported)}
