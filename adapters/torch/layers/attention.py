r"""Key-value memories of linear attention: mLSTM layers of transformers' xLSTM, and of packages with its parameters.

Such a layer adds up a memory :math:`M_t = f_tM_{t-1} + i_tk_tv_t^T` per head, with scalar gates, and reads
:math:`q_t^TM_t` from it, over :math:`q_t^Tn_t` of the memory of ones.  Queries and keys are linear in the layer's input
and nothing else sees them, so the layer depends on the products :math:`q_t^Tk_s/\sqrt d = x_t^TW_q^TW_kx_s/\sqrt d` only,
and on the head dimension d not at all.  The operator of a head is this product from one time to the next,

.. math:: z_{s+1} = W_kx_s,\qquad y_s = W_q^Tz_s/\sqrt d

a system without dynamics of its own: Hankel singular values are the singular values of :math:`W_q^TW_k/\sqrt d`,
truncation is the best approximation of that rank, exact if it has it, and the memory shrinks with it.
Inputs and outputs are taken in orthonormal bases of the rows of :math:`W_k` and :math:`W_q` (biases count as a
further column), which changes no norm.

A model's configuration holds one size for all layers, of which the package makes its cache.  So after ``reduce`` smaller layers are
filled up with zeros to the largest, and to what makes all heads together a multiple of 64, as the cache has it.  In training all
layers get the largest rank among them, or none is cut, and the configuration follows.

Where queries and keys pass something else than a projection (a convolution, a nonlinearity, a norm, rotations, gates
that read them, as in DeltaNet, Lightning Attention, RetNet, the first xLSTM package), this does not hold.

M. Beck et al., xLSTM: Extended long short-term memory (arXiv 2405.04517); xLSTM 7B (arXiv 2503.13427).
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import nn

from balred.adapters.torch.modules import blank_copy, set_layer
from balred.adapters.torch.wrapped import effective, is_plain, with_outputs
from balred.backends.torch import from_numpy
from balred.registry.entries import register_entry
from balred.registry.kinds import Entry, Rebuild
from balred.systems.arrays import to_numpy
from balred.systems.dense_system import DenseSystem, ss
from balred.systems.leaves import System

_MULTIPLE = 64
"""The configuration rounds the size of all heads together up to it, for the cache, and the layer does not."""


def is_mlstm(module: Any) -> bool:
    """Whether a module has the parameters of an mLSTM layer, whatever its class."""
    size, heads = getattr(module, "qk_dim", None), getattr(getattr(module, "config", None), "num_heads", None)
    inside = dict(module.named_children())
    if not isinstance(size, int) or not isinstance(heads, int) or "mlstm_backend" not in inside:
        return False
    fused, *both = (_outputs(inside.get(name)) for name in ("qkv_opreact", "q", "k"))
    return size % heads == 0 and (fused > 2 * size if fused else both == [size, size])


def _outputs(module: Any) -> int:
    """How many outputs a projection has; none if it is none."""
    weight = getattr(module, "weight", None)
    return len(weight) if isinstance(weight, torch.Tensor) and weight.ndim == 2 else 0


def adapt_mlstm(layer: Any) -> tuple[System, Rebuild]:
    """The products of queries and keys, a batch over heads; a rank is a head's dimension of these."""
    Wq, Wk = _projections(layer)
    size = Wq.shape[1]
    Rq, Rk = (torch.linalg.qr(W.mT, mode="reduced") for W in (Wq, Wk))  # W = R^T Q^T
    B, C = Rk[1].mT, Rq[1] / size**0.5
    zeros = torch.zeros((*B.shape[:2], size), dtype=B.dtype, device=B.device)
    system = ss(zeros, B, C, dt=True)

    def rebuild(reduced: Any) -> Any:
        if not isinstance(reduced, DenseSystem) or bool((reduced.A != 0).any()) or bool((reduced.D != 0).any()):
            raise ValueError(
                "products of queries and keys have neither dynamics nor a feedthrough, got a system with one of them: "
                "use method='truncate'"
            )
        queries = from_numpy(to_numpy(reduced.C), like=B).mT @ Rq[0].mT.detach()
        keys = from_numpy(to_numpy(reduced.B), like=B) @ Rk[0].mT.detach()
        step = _MULTIPLE // math.gcd(_MULTIPLE, len(B))
        rounded = -(-queries.shape[1] // step) * step
        return _with(layer, queries, keys, rounded if size % step == 0 else queries.shape[1])

    return system, rebuild


def _projections(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """W_q and W_k, (heads, d, inputs), the bias as a last column."""
    size, heads = layer.qk_dim, layer.config.num_heads
    if "qkv_opreact" in layer._modules:
        whole = _columns(layer.qkv_opreact)
        both = whole[:size], whole[size : 2 * size]
    else:
        both = _columns(layer.q), _columns(layer.k)
    Wq, Wk = (W.float() if W.dtype in (torch.bfloat16, torch.float16) else W for W in both)
    return Wq.reshape(heads, size // heads, -1), Wk.reshape(heads, size // heads, -1)


def _columns(linear: Any) -> torch.Tensor:
    weight, bias = effective(linear)
    return weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)


def _with(layer: Any, queries: torch.Tensor, keys: torch.Tensor, dim: int) -> Any:
    """A layer with these, (heads, r, inputs), whose products are the scores; zeros fill them up to `dim`."""
    heads = len(queries)
    W = [nn.functional.pad(x * dim**0.25, (0, 0, 0, dim - x.shape[1])).flatten(0, 1) for x in (queries, keys)]
    new: dict[str, Any] = {"qk_dim": heads * dim, "config": copy.deepcopy(layer.config)}
    _resize(new["config"], heads * dim)
    fused = "qkv_opreact" in layer._modules
    if fused:
        rest = _columns(layer.qkv_opreact)[2 * layer.qk_dim :].detach()
        parts = {"qkv_opreact": torch.cat([*W, rest.to(W[0].dtype)])}
    else:
        parts = {"q": W[0], "k": W[1]}
    for name, weight in parts.items():
        if not is_plain(getattr(layer, name)):
            own = [_mixing(a, b) for a, b in zip(_projections(layer), W, strict=True)]
            new |= with_outputs(layer, name, partial(_mixed, own if fused else own["qk".index(name) :][:1]))
            continue
        inputs = getattr(layer, name).in_features
        new |= {f"{name}.weight": weight[:, :inputs].contiguous(), f"{name}.out_features": len(weight)}
        if weight.shape[1] > inputs:
            new[f"{name}.bias"] = weight[:, inputs]
    return blank_copy(layer, new)


def _mixing(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """(heads, r, d) that makes the rows `new`, (heads r, inputs), of those in `old`, (heads, d, inputs), which span them."""
    inverse: torch.Tensor = torch.linalg.pinv(old.detach().double())
    return new.double().reshape(len(old), -1, old.shape[-1]) @ inverse


def _mixed(mixes: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`x` with its first rows mixed, head by head, by each of these in turn."""
    done, rest = [], x.double()
    for mix in mixes:
        heads, _, size = mix.shape
        mine, rest = rest[: heads * size], rest[heads * size :]
        by_head = mine.reshape(heads, size, -1)
        done.append((mix @ by_head).reshape(-1, *x.shape[1:]))
    return torch.cat([*done, rest]).to(x.dtype)


def _resize(config: Any, size: int) -> None:
    """Write the size of all heads together, of which the layer takes the integer part of a product."""
    width = getattr(config, "hidden_size", None) or config.embedding_dim
    factor = size / width
    config.qk_dim_factor = factor if int(width * factor) == size else math.nextafter(factor, math.inf)


def resize_model(model: nn.Module, layer: Any, before: int = 0) -> None:
    """Give all mLSTM layers of `model` the size of the largest, filled up with zeros, and write it into the configurations.

    The documentation (*What happens at a cut*) has an example.

    Parameters
    ----------
    model : torch.nn.Module
    layer : torch.nn.Module
        Any of its mLSTM layers.
    before : int, optional
        Not used; the signature is that of all such functions.
    """
    layers: list[Any] = [module for module in model.modules() if is_mlstm(module)]
    largest = max(module.qk_dim for module in layers)
    for module in layers:
        dim = largest // module.config.num_heads
        if module.qk_dim < largest:
            Wq, Wk = _projections(module)
            own = Wq.shape[1] ** -0.25  # of the scores each has half
            set_layer(module, _with(module, Wq.detach() * own, Wk.detach() * own, dim))
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if config is not None and hasattr(config, "qk_dim_factor"):
            _resize(config, largest)
            if type(layer.config) is type(config):
                layer.config = config


register_entry(
    "torch.nn.modules.module.Module", Entry(adapt_mlstm, resize_model=resize_model, one_size=True), recognises=is_mlstm
)
