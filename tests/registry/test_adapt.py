"""The registry: who is asked, what is loaded and when, and how models are walked."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from programs import fresh

import balred
from balred.registry import AdapterNotFound, layers_of, replace_layers
from balred.testing import random_system


class Lag:
    """A user's own layer: real poles, unit input and output gains."""

    def __init__(self, poles: list[float], gains: list[float] | None = None) -> None:
        self.poles = list(poles)
        self.gains = [1.0] * len(self.poles) if gains is None else list(gains)


class Slow(Lag):
    """A subclass that nobody registered."""


class ByName:
    """Registered by its qualified name only."""

    def __init__(self, system: Any) -> None:
        self.system = system


@balred.register(Lag)
def adapt_lag(lag: Lag) -> tuple[Any, Any]:
    system = balred.diagonal(np.array(lag.poles), B=np.ones((len(lag.poles), 1)), C=np.array([lag.gains]))

    def rebuild(reduced: Any) -> Lag:
        return type(lag)(list(reduced.poles.real), list((reduced.C[0] * reduced.B[:, 0]).real))

    return system, rebuild


balred.register(f"{ByName.__module__}.ByName", lambda obj: (obj.system, ByName))


class Pair(NamedTuple):
    """A named tuple is a container whose constructor takes its fields one by one."""

    first: Any
    second: Any


# ------------------------------------------------------------------------------------------------ who is asked


def test_a_registered_class_goes_through_every_public_function() -> None:
    lag = Lag([-1.0, -2.0, -3.0, -50.0])
    assert balred.hsv(lag).shape == (4,)
    small = balred.reduce(lag, 2)
    assert type(small) is Lag
    assert len(small.poles) == 2
    assert lag.poles == [-1.0, -2.0, -3.0, -50.0]
    # the H-infinity error obeys Glover's bound, twice the sum of the discarded values
    assert float(balred.error(lag, small)) <= 2 * float(np.sum(balred.hsv(lag)[2:])) * (1 + 1e-9)


def test_the_decorator_returns_the_function() -> None:
    assert adapt_lag.__name__ == "adapt_lag"


def test_a_subclass_is_known_by_its_base_and_keeps_its_type() -> None:
    small = balred.reduce(Slow([-1.0, -2.0, -3.0]), 2)
    assert type(small) is Slow


def test_a_more_specific_registration_wins() -> None:
    class Special(Lag):
        pass

    balred.register(Special, lambda obj: (random_system(7), lambda system: obj))
    assert balred.hsv(Special([-1.0])).shape == (7,)
    assert balred.hsv(Lag([-1.0])).shape == (1,)


def test_a_class_registered_by_name() -> None:
    small = balred.reduce(ByName(random_system(6)), 3)
    assert type(small) is ByName
    assert small.system.states == 3


class Copied:
    """Someone's copy of a layer, known by what it holds."""

    def __init__(self, system: Any) -> None:
        self.gramless = system


class CopiedAndKnown(Copied):
    """A copy that has an entry of its own."""


class Similar(Copied):
    """Holds something else under the same name."""


def test_a_layer_that_is_recognised_by_what_it_holds() -> None:
    @balred.register(object, recognises=lambda obj: isinstance(getattr(obj, "gramless", None), balred.DenseSystem))
    def adapt_copied(obj: Copied) -> tuple[Any, Any]:
        return obj.gramless, type(obj)

    assert adapt_copied.__name__ == "adapt_copied"
    small = balred.reduce([Copied(random_system(6)), "text"], 3)
    assert type(small[0]) is Copied
    assert small[0].gramless.states == 3
    with pytest.raises(AdapterNotFound):
        balred.adapt(Similar("no system"))
    # an entry for the class comes first, whichever was registered first
    balred.register(CopiedAndKnown, lambda obj: (random_system(7), type(obj)))
    assert balred.hsv(CopiedAndKnown(random_system(6))).shape == (7,)


def test_systems_are_their_own_adapters() -> None:
    system = random_system(5)
    same, rebuild = balred.adapt(system)
    assert same is system
    assert rebuild(system) is system


@pytest.mark.parametrize("function", [balred.adapt, balred.hsv, balred.analyze, lambda x: balred.reduce(x, 1)])
def test_an_unknown_type_is_named_with_the_way_to_register_it(function: Any) -> None:
    class Stranger:
        pass

    with pytest.raises(AdapterNotFound, match=r"Stranger.*register"):
        function(Stranger())


def test_an_unknown_type_is_a_type_error() -> None:
    assert issubclass(AdapterNotFound, TypeError)


@pytest.mark.parametrize("empty", [[], {}, (), [1, "text", None], np.ones(3)])
def test_a_container_without_a_layer_is_an_error(empty: Any) -> None:
    with pytest.raises(AdapterNotFound, match="register"):
        balred.reduce(empty, 1)


# ------------------------------------------------------------------------------------------------ containers


def test_lists_tuples_and_dicts_are_walked_and_keep_their_types() -> None:
    model = {
        "list": [random_system(6, seed=1), "a name", 3],
        "tuple": (random_system(7, seed=2), {"deep": [Lag([-1.0, -2.0, -3.0])]}),
        "pair": Pair(random_system(8, seed=3), None),
        "other": np.arange(3),
    }
    names = ["list.0", "tuple.0", "tuple.1.deep.0", "pair.first", "pair.0"]
    found = list(layers_of(model))
    assert found[:3] == names[:3]
    assert found[3] in names[3:]
    small = balred.reduce(model, 2)
    assert type(small) is dict
    assert [type(v) for v in small.values()] == [list, tuple, Pair, np.ndarray]
    assert [layer.states if hasattr(layer, "states") else len(layer.poles) for layer in layers_of(small).values()] == [
        2
    ] * 4
    assert small["list"][1:] == ["a name", 3]
    assert small["other"] is model["other"]
    assert small["pair"].second is None
    assert [x.states for x in (model["list"][0], model["tuple"][0], model["pair"].first)] == [6, 7, 8]


def test_ordered_and_default_dicts_are_walked() -> None:
    ordered = collections.OrderedDict(a=random_system(4), b=random_system(5))
    small = balred.reduce(ordered, 2)
    assert type(small) is collections.OrderedDict
    assert [s.states for s in small.values()] == [2, 2]
    default: Any = collections.defaultdict(list, a=random_system(4))
    small = balred.reduce(default, 2)
    assert type(small) is collections.defaultdict
    assert small["a"].states == 2


def test_a_key_with_a_dot_is_a_key_like_any_other() -> None:
    small = balred.reduce({"block.0": random_system(4), "block": [1, random_system(5)]}, 2)
    assert [small["block.0"].states, small["block"][1].states] == [2, 2]


def test_layers_that_would_share_a_name_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"names must differ, got block\.0 twice"):
        balred.reduce({"block.0": random_system(4), "block": [random_system(5)]}, 2)


def test_keys_that_are_not_strings() -> None:
    small = balred.reduce({0: random_system(4), ("a", 1): random_system(5)}, 2)
    assert [s.states for s in small.values()] == [2, 2]


def test_replacing_nothing_returns_the_model_itself() -> None:
    model = [random_system(4)]
    assert replace_layers(model, {}) is model


def test_hsv_and_analyze_of_a_model_are_dicts_by_layer_name() -> None:
    model = {"a": random_system(4, seed=1), "b": [random_system(6, seed=2)]}
    values, analyses = balred.hsv(model), balred.analyze(model)
    assert {k: v.shape for k, v in values.items()} == {"a": (4,), "b.0": (6,)}
    assert list(analyses) == ["a", "b.0"]
    for name, analysis in analyses.items():
        np.testing.assert_allclose(analysis.hsv, values[name], rtol=1e-12)


def test_what_needs_one_system_refuses_a_model_with_two_and_names_them() -> None:
    model = {"a": random_system(4), "b": random_system(4)}
    with pytest.raises(ValueError, match=r"2 layers: a, b"):
        balred.norm(model)
    assert float(balred.norm([model["a"]])) == pytest.approx(float(balred.norm(model["a"])))


# ------------------------------------------------------------------------------------------------ what is loaded


def test_importing_balred_loads_no_framework() -> None:
    out = fresh("import balred, sys; print(sorted({m.partition('.')[0] for m in sys.modules}))")
    loaded = set(eval(out))
    assert not loaded & {"torch", "jax", "equinox", "optax", "slycot", "control", "LRU_pytorch", "matplotlib", "rich"}


def test_a_torch_layer_loads_the_torch_adapter_only() -> None:
    pytest.importorskip("torch")
    out = fresh(
        """
        import sys, balred, torch
        before = [m for m in sys.modules if m.startswith("balred.adapters.")]
        class Model(torch.nn.Module):
            pass
        try:
            balred.reduce(Model(), 1)
        except TypeError as error:
            print(type(error).__name__)
        print((before, sorted(m for m in sys.modules if m.startswith("balred.adapters."))))
        print(sorted({"jax", "equinox", "optax", "control", "LRU_pytorch"} & set(sys.modules)))
        """
    )
    name, adapters, frameworks = out.splitlines()
    assert name == "AdapterNotFound"
    before, loaded = eval(adapters)
    assert before == []
    assert "balred.adapters.torch" in loaded
    mine = (
        "balred.adapters.torch",
        "balred.adapters.torch.layers.s4",
        "balred.adapters.parameters",
        "balred.registry.reaching",
        "balred.adapters.stacks",
    )
    assert [m for m in loaded if not m.startswith(mine)] == []
    assert frameworks == "[]"


def test_an_equinox_layer_loads_no_torch() -> None:
    pytest.importorskip("equinox")
    out = fresh(
        """
        import sys, balred, equinox
        class Model(equinox.Module):
            pass
        try:
            balred.reduce(Model(), 1)
        except TypeError as error:
            print(type(error).__name__)
        print("balred.adapters.equinox" in sys.modules, "torch" in sys.modules)
        """
    )
    assert out.split() == ["AdapterNotFound", "True", "False"]


# ------------------------------------------------------------------------------------------------ entry points

PLUGIN = """
import balred
balred.register("robots.Arm", lambda arm: (arm.system, lambda small: type(arm)(small)))
"""
ROBOTS = """
class Arm:
    def __init__(self, system):
        self.system = system
"""
METADATA = "Metadata-Version: 2.1\nName: balred-robots\nVersion: 1.0\n"


def install(folder: Path, plugin: str, point: str) -> None:
    """A distribution as pip leaves it: two modules, and the metadata that announces the entry point."""
    (folder / "robots.py").write_text(ROBOTS)
    (folder / "balred_robots.py").write_text(plugin)
    info = folder / "balred_robots-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(f"[balred.adapters]\n{point}\n")


USE = """
import sys, balred, robots
print("balred_robots" in sys.modules)
small = balred.reduce(robots.Arm(balred.testing.random_system(6)), 3)
print(type(small).__name__, small.system.states, "balred_robots" in sys.modules)
"""


def test_an_installed_entry_point_is_found_when_its_class_arrives(tmp_path: Path) -> None:
    install(tmp_path, PLUGIN, "robots = balred_robots")
    assert fresh(USE, tmp_path).split() == ["False", "Arm", "3", "True"]


def test_an_entry_point_of_another_package_is_not_loaded(tmp_path: Path) -> None:
    install(tmp_path, "raise RuntimeError('loaded without need')", "trains = balred_robots")
    out = fresh("import balred\nprint(balred.reduce([balred.testing.random_system(4)], 2)[0].states)", tmp_path)
    assert out.split() == ["2"]


def test_an_entry_point_that_fails_is_not_silent_and_not_remembered(tmp_path: Path) -> None:
    install(tmp_path, "raise ImportError('a broken plugin')", "robots = balred_robots")
    out = fresh(
        """
        import balred, robots
        for _ in range(2):
            try:
                balred.hsv(robots.Arm(None))
            except ImportError as error:
                print(error)
        """,
        tmp_path,
    )
    assert out.splitlines() == ["a broken plugin"] * 2
