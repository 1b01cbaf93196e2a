"""Truncation in trainings by Lightning: a callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

try:
    import lightning.pytorch as pl
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Lightning is not installed: pip install 'balred[lightning]'") from error
import torch
from lightning.fabric.utilities.load import _METADATA_FILENAME
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import nn

from balred.adapters.torch.loading import resize_on_load
from balred.adapters.torch.training.followers import averaged
from balred.adapters.torch.training.reducer import InTrainingReducer
from balred.adapters.torch.training.trainers import ReducerLater, holder
from balred.intraining.events import scalars_of
from balred.intraining.report import Report
from balred.intraining.settings import options_of
from balred.ranks.budget import Budget
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule

_STRATEGIES = (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy)


class InTrainingReduction(pl.Callback):
    """Cut the layers of a LightningModule while a Trainer fits it; optimizer and averages follow.

    Steps are those of the optimizer, so accumulated batches count once.  Ranks, energies and bounds go to the trainer's
    loggers.  The reducer's state goes into the checkpoints.  ``fit(..., ckpt_path=...)`` resumes from a checkpoint that
    was saved after a cut, and ``validate``, ``test`` and ``predict`` load it.  An averaged model of Lightning's
    ``WeightAveraging`` is cut as well.

    Parameters
    ----------
    rule, window, attempts, **options
        The arguments of :class:`balred.adapters.torch.InTrainingReducer`.  A guard also takes the trainer's
        schedulers and its GradScaler back; the trainer's own step count goes on.
    loss : callable, optional
        ``loss(module, batch)`` returns the loss of the last batch.  It is called before and after a cut, for the report.

    Attributes
    ----------
    reducer : InTrainingReducer, or None before the training

    Raises
    ------
    ValueError
        An argument breaks its rule.  When the training starts: no single optimizer holds all layers; the strategy is
        another than one device, DDP or ModelParallelStrategy (FSDP2); the wrapper of a distributed model cannot follow
        a cut.

    Notes
    -----
    ``LightningModule.load_from_checkpoint`` knows no callbacks: for it, call :func:`balred.adapters.torch.resize_on_load`
    at the end of the module's ``__init__``.

    Examples
    --------
    >>> import balred
    >>> from balred.adapters.lightning import InTrainingReduction
    >>> reduction = InTrainingReduction(balred.Energy(0.99), window=(0, 4000))
    >>> # lightning.Trainer(callbacks=[reduction]).fit(module, loader)
    """

    @options_of(InTrainingReducer)
    def __init__(
        self,
        rule: Rule | Budget | Divergence,
        window: tuple[int, int],
        attempts: int | None = None,
        *,
        loss: Callable[[Any, Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self._make = ReducerLater(rule, window, attempts, **options)
        self._loss = loss
        self.reducer: InTrainingReducer | None = None
        self._fitting = False
        self._loaded: Mapping[str, Any] | None = None
        self._seen = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._make.outline(self.reducer)})"

    @property
    def reports(self) -> list[Report]:
        """The reports of the attempts so far."""
        return [] if self.reducer is None else self.reducer.reports

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Prepare the module to load a checkpoint of other sizes: Lightning does that before any other hook of a callback."""
        self._fitting = stage == "fit"
        for module in (pl_module, *(averaged(one, pl_module) for one in _averages(trainer))):
            resize_on_load(module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the reducer; the optimizers exist by now, and load their state later."""
        strategy = trainer.strategy
        if not isinstance(strategy, _STRATEGIES) or isinstance(strategy, DeepSpeedStrategy):
            raise ValueError(
                f"the strategy must be {', '.join(one.__name__ for one in _STRATEGIES)}, got {type(strategy).__name__}, which keeps "
                "the shapes it has seen: cut in a loop of your own, or train with one of them until the window ends"
            )
        model = pl_module if strategy.model is None else strategy.model
        state = self._loaded
        if state is None and self.reducer is not None and trainer.global_step:  # fit is called once more, to go on
            state = self.reducer.state_dict()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        restore = [
            *(config.scheduler for config in trainer.lr_scheduler_configs),
            *([] if scaler is None else [scaler]),
        ]
        self.reducer = self._make(model, holder(trainer.optimizers, pl_module), _averages(trainer), restore)
        self._loaded = None
        if state is not None:
            self.reducer.load_state_dict(state)
        if strategy.restore_checkpoint_after_setup:
            self._sized_first(strategy)

    def _sized_first(self, strategy: Any) -> None:
        """Have a strategy that loads shards only now, weights before callbacks, load what is of the recorded sizes."""
        load = strategy.load_checkpoint

        def load_checkpoint(checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
            del strategy.load_checkpoint  # the class has its own
            path = Path(checkpoint_path)
            file = path / _METADATA_FILENAME if path.is_dir() else path
            saved = torch.load(
                file, map_location="cpu", mmap=True, weights_only=kwargs.get("weights_only") is not False
            )
            state = saved.get("callbacks", {}).get(self.state_key)
            if self.reducer is not None and state:
                self.reducer.load_state_dict(state)
            return load(checkpoint_path, *args, **kwargs)

        strategy.load_checkpoint = load_checkpoint

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from where the trainer is."""
        self._loaded = None  # a strategy of shards has loaded it before
        vars(trainer.strategy).pop("load_checkpoint", None)
        self._seen = trainer.global_step
        if self.reducer is not None and self.reducer.steps == 0:  # a checkpoint from before this callback was used
            self.reducer.steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step, if this batch was the last of one, and log what happened."""
        if self.reducer is None or trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        report = self.reducer.step(None if self._loss is None else partial(self._loss, pl_module, batch))
        if report is not None:
            for logger in trainer.loggers:
                logger.log_metrics(scalars_of(report), step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The reducer's state, for a checkpoint."""
        return {} if self.reducer is None else self.reducer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the reducer exists; only a training goes on from it."""
        self._loaded = state_dict if self._fitting and state_dict else None


def _averages(trainer: pl.Trainer) -> list[nn.Module]:
    """What Lightning's own averaging keeps, once it has been set up."""
    found = (getattr(c, "_average_model", None) for c in trainer.callbacks if isinstance(c, WeightAveraging))  # type: ignore[attr-defined]
    return [model for model in found if isinstance(model, nn.Module)]
