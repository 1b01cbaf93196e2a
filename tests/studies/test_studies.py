"""What the studies of in-training truncation are made of: their Mamba, and what they let the published code do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import balred

torch = pytest.importorskip("torch")
from balred.adapters.torch import LRU  # noqa: E402
from balred.studies.models.published import HalfLRU, by_halves, reducer_for  # noqa: E402


def lru(seed: int = 0) -> Any:
    return LRU(3, 10, 0.5, 0.95, generator=torch.Generator().manual_seed(seed)).double()


class TestHalf:
    def test_the_layer_computes_what_it_did(self) -> None:
        model, u = torch.nn.Sequential(lru()), torch.randn(2, 20, 3, dtype=torch.float64)
        before = model(u)
        assert by_halves(model) is model
        assert type(model[0]) is HalfLRU
        assert torch.equal(model(u), before)

    def test_at_full_rank_it_is_still_the_layer(self) -> None:
        model, u = by_halves(torch.nn.Sequential(lru())), torch.randn(2, 20, 3, dtype=torch.float64)
        same = balred.reduce(model[0], 10)
        assert isinstance(same, HalfLRU)
        assert torch.allclose(same(u), model(u), atol=1e-9)

    def test_it_is_the_balanced_truncation_of_the_complex_half(self) -> None:
        """Against the Gramians of the half by their closed form, a matrix root and an SVD, as the paper has it."""
        import scipy.linalg

        whole, rank = lru(), 4
        system, _ = balred.adapt(whole)
        lam, B, C = np.exp(system.log_poles.detach().numpy()), system.B.detach().numpy(), 2 * system.C.detach().numpy()
        gap = 1 - lam[:, None] * lam.conj()
        P, Q = B @ B.conj().T / gap, C.conj().T @ C / gap.conj()
        root = scipy.linalg.sqrtm(P)
        U, squared, _ = np.linalg.svd(root.conj().T @ Q @ root)
        half = by_halves(torch.nn.Sequential(whole))[0]
        assert np.allclose(balred.hsv(half).detach().numpy(), np.sqrt(squared), rtol=1e-8)
        T = root @ U * squared**-0.25
        A = (np.linalg.inv(T) * lam @ T)[:rank, :rank]
        b, c = (np.linalg.inv(T) @ B)[:rank], (C @ T)[:, :rank]
        small = balred.reduce(half, rank)
        u = np.random.default_rng(0).standard_normal((30, 3))
        x, y = np.zeros(rank, complex), []
        for now in u:
            x = A @ x + b @ now
            y.append((c @ x).real + whole.D.detach().numpy() * now)
        assert np.allclose(small(torch.from_numpy(u)).detach().numpy(), y, atol=1e-8)


@pytest.mark.parametrize("moments", ["reset", "carry", "slice"])
def test_what_becomes_of_moments(moments: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(LRU(2, 12), torch.nn.Linear(2, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = reducer_for(moments)(model, optimizer, balred.Order(5), (0, 3), 1)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 9, 2)).square().mean().backward()
        optimizer.step()
        before = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model[0].named_parameters()}
        if step < 2:
            reducer.step()
    reducer.step()
    assert model[0].states == 5
    after = {n: optimizer.state[p].get("exp_avg") for n, p in model[0].named_parameters()}
    sliced = {
        n: after[n] is not None and torch.equal(after[n], before[n][tuple(map(slice, after[n].shape))]) for n in after
    }
    if moments == "reset":
        assert all((value is None) == (n != "D") for n, value in after.items())
    else:
        assert all(after[n].shape == p.shape for n, p in model[0].named_parameters())
        assert all(sliced.values()) == (moments == "slice")
    optimizer.zero_grad()
    model(torch.randn(4, 9, 2)).square().mean().backward()
    optimizer.step()


class TestMamba:
    def test_the_scan_is_that_of_mambapy(self) -> None:
        """Output and all gradients, against the package's sequential scan, in double precision."""
        mambapy = pytest.importorskip("mambapy.mamba")
        from balred.studies.models.mamba_models import Mixer

        torch.manual_seed(0)
        mine = Mixer(mambapy.MambaConfig(d_model=6, n_layers=1, d_state=5)).double()
        theirs = mambapy.MambaBlock(mambapy.MambaConfig(d_model=6, n_layers=1, d_state=5, pscan=False)).double()
        theirs.load_state_dict(mine.state_dict())
        theirs.selective_scan_seq = lambda *a: _plain_scan(*a)
        x, weight = torch.randn(2, 3, 9, 6, dtype=torch.float64).unbind()
        found = []
        for layer in (mine, theirs):
            u = x.clone().requires_grad_()
            y = layer(u)
            found.append([y, *torch.autograd.grad((y * weight).sum(), [u, *layer.parameters()])])
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, atol=1e-12)

    def test_gradients_equal_finite_differences(self) -> None:
        pytest.importorskip("mambapy")
        from balred.studies.models.mamba_models import SelectiveScan

        g = torch.Generator().manual_seed(0)
        shapes = [(4, 2, 3), (4, 2, 3), (3, 2), (4, 2, 2), (4, 2, 2)]
        x, dt, A, B, C = (torch.randn(s, generator=g, dtype=torch.float64) for s in shapes)
        inputs = tuple(v.requires_grad_() for v in (x, dt.abs(), -A.abs(), B, C))
        assert torch.autograd.gradcheck(SelectiveScan.apply, inputs)

    def test_a_classifier_of_mamba_is_reduced_as_any(self) -> None:
        pytest.importorskip("mambapy")
        from functools import partial

        from balred.studies.models.mamba_models import MambaResidual
        from balred.studies.models.torch_models import Classifier

        model = Classifier(4, [6, 6], classes=3, block=partial(MambaResidual, 4))
        x = torch.randn(5, 12)
        same, small = (balred.reduce(model, rank, calibration=x) for rank in (6, 2))
        assert [block.mixer.A_log.shape[1] for block in small.blocks] == [2, 2]
        with torch.no_grad():
            assert torch.allclose(same(x), model(x), atol=1e-6)
            assert small(x).shape == (5, 3)


def _plain_scan(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
    """The recurrence as it is written down; mambapy's own makes its state in single precision."""
    h, out = torch.zeros(len(x), *A.shape, dtype=x.dtype), []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None, :]
        out.append((h * C[:, t, None, :]).sum(-1))
    return torch.stack(out, 1) + D * x
