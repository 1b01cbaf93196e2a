"""Truncation in trainings by the Trainer of transformers: a callback."""

from __future__ import annotations

import base64
import gc
import io
from collections.abc import Mapping
from typing import Any

try:
    import torch
    from torch import nn
    from transformers import Trainer, TrainerCallback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "transformers and PyTorch are not installed: pip install 'balred[transformers]'"
    ) from error
from transformers.trainer_callback import ExportableState, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from balred.adapters.torch.loading import resize_on_load
from balred.adapters.torch.training.place import wrappers_of
from balred.adapters.torch.training.reducer import InTrainingReducer
from balred.adapters.torch.training.trainers import ReducerLater
from balred.files.sealing import sealed, unsealed
from balred.intraining.events import scalars_of
from balred.intraining.report import Report
from balred.intraining.settings import options_of
from balred.ranks.budget import Budget
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule
from balred.registry.reading import layers_of
from balred.registry.sizes import ranks_of


class InTrainingReduction(TrainerCallback, ExportableState):
    """Cut the layers of a model while a Trainer trains it; optimizer, averages and configuration follow.

    Steps are the Trainer's ``global_step``.  The reducer's state goes into ``trainer_state.json`` of every checkpoint, and
    ``train(resume_from_checkpoint=...)`` resumes from one that was saved after a cut; ``load_best_model_at_end`` loads one
    from before.  Ranks, energies and bounds are in ``trainer.state.log_history``.

    Parameters
    ----------
    rule, window, attempts, **options
        The arguments of :class:`balred.adapters.torch.InTrainingReducer`.  A guard also takes the scheduler
        back; the Trainer's own step count goes on.
    config : str, optional
        The attribute of ``model.config`` that holds the states of the layers: a list in their order, a dict by their names,
        or a number for a single layer.  It is kept up to date, so that ``save_pretrained`` and ``from_pretrained`` work.

    Attributes
    ----------
    reducer : InTrainingReducer, or None before the training

    Raises
    ------
    ValueError
        An argument breaks its rule.  When the training starts: it uses DeepSpeed, FSDP or another engine that keeps the
        shapes it has seen; an option of DistributedDataParallel cannot follow a cut; the entry `config` does not hold
        the states of the layers.

    Notes
    -----
    Pass it in ``callbacks=``, or call :meth:`add_to`, which also sends the numbers to the Trainer's reporting integrations
    (TensorBoard, W&B).  With ``model_init=``, call :func:`balred.adapters.torch.resize_on_load` in that function.

    Examples
    --------
    >>> import balred
    >>> from balred.adapters.hf_trainer import InTrainingReduction
    >>> reduction = InTrainingReduction(balred.Energy(0.99), window=(0, 4000), config="states")
    >>> # transformers.Trainer(model, arguments, train_dataset=data, callbacks=[reduction]).train()
    """

    @options_of(InTrainingReducer)
    def __init__(
        self,
        rule: Rule | Budget | Divergence,
        window: tuple[int, int],
        attempts: int | None = None,
        *,
        config: str | None = None,
        **options: Any,
    ) -> None:
        self._make = ReducerLater(rule, window, attempts, **options)
        self._config = config
        self._trainer: Trainer | None = None
        self.reducer: InTrainingReducer | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._make.outline(self.reducer)})"

    @property
    def reports(self) -> list[Report]:
        """The reports of the attempts so far."""
        return [] if self.reducer is None else self.reducer.reports

    def add_to(self, trainer: Trainer) -> InTrainingReduction:
        """Add this callback to a Trainer that exists, and log through it; returns the callback."""
        self._trainer = trainer
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        if isinstance(trainer.model, nn.Module):
            resize_on_load(trainer.model)
        return self

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Prepare the model to load a checkpoint of other sizes: a Trainer does that before any other event."""
        if given.get("model") is not None:
            resize_on_load(given["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Make the reducer, and go on where a checkpoint was."""
        if args.restore_callback_states_from_checkpoint:
            raise ValueError("restore_callback_states_from_checkpoint must be False: this callback resumes by itself")
        _check_engine(args)
        model = given["model"]
        outer = _wrapped(model) if self._trainer is None else self._trainer.model_wrapped
        self.reducer = self._make(outer, given["optimizer"], [], [given["lr_scheduler"]])
        self.reducer.steps = state.global_step
        saved: Any = state.stateful_callbacks  # by name, whatever its type says
        stored = saved.get(type(self).__name__) if saved and state.global_step else None
        if stored:
            attributes = stored["attributes"]
            self.reducer.load_state_dict({**attributes["reducer"], "held": _unpacked(attributes["held"])})
        elif self._config is not None and (told := _values(getattr(model.config, self._config, None))) != (
            have := list(ranks_of(layers_of(model)).values())
        ):
            raise ValueError(f"config.{self._config} must be the states of the layers, {have}, got {told}")
        self._note(model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Count a step, and log what happened."""
        if self.reducer is None or (report := self.reducer.step()) is None:
            return
        self._note(given["model"])
        if self._trainer is None:
            state.log_history.append({**scalars_of(report), "epoch": state.epoch, "step": state.global_step})
        else:
            due = control.should_log
            self._trainer.log(scalars_of(report))
            control.should_log = due  # to log takes it for done

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """The best model, if it was loaded, may be of another size."""
        self._note(given["model"])

    def state(self) -> dict[str, Any]:
        """The reducer's state, for ``trainer_state.json``."""
        state = {} if self.reducer is None else self.reducer.state_dict()
        return {"args": {}, "attributes": {"held": _packed(state.pop("held", None)), "reducer": state}}

    def _note(self, model: Any) -> None:
        """Write the ranks into the config, in the form that they have there."""
        if self._config is None:
            return
        ranks, old = ranks_of(layers_of(model)), getattr(model.config, self._config)
        new: Any = ranks if isinstance(old, Mapping) else list(ranks.values())
        setattr(model.config, self._config, new[0] if isinstance(old, int) else new)


def _check_engine(args: TrainingArguments) -> None:
    """Raise if what divides the training among processes keeps the shapes it has seen."""
    state = getattr(args, "distributed_state", None)
    kinds = {args.parallel_mode.name, getattr(getattr(state, "distributed_type", None), "name", "")}
    got = [name for name in ("deepspeed", "fsdp") if getattr(args, name)] or sorted(kinds & _ENGINES)
    if got:
        raise ValueError(
            f"the Trainer must train in one process or with DistributedDataParallel, got {got[0]}, which keeps the shapes it has "
            "seen: cut in a loop of your own, or train without it until the window ends"
        )


_ENGINES = {"DEEPSPEED", "FSDP", "MEGATRON_LM", "TPU", "XLA", "SAGEMAKER_MODEL_PARALLEL", "SAGEMAKER_DATA_PARALLEL"}
"""By transformers' and Accelerate's names."""


def _wrapped(model: nn.Module) -> nn.Module:
    """What the Trainer wrapped the model in, of which it does not tell its callbacks."""
    found = wrappers_of(model)
    if len(found) > 1:
        gc.collect()  # those of an earlier training
        found = wrappers_of(model)
    if len(found) > 1:
        raise ValueError(
            f"the model must be in one DistributedDataParallel, got {len(found)}: add the callback by add_to(trainer), which knows its own"
        )
    return found[0] if found else model


def _values(sizes: Any) -> list[Any]:
    return (
        list(sizes.values()) if isinstance(sizes, Mapping) else [sizes] if isinstance(sizes, int) else list(sizes or ())
    )


def _packed(held: Any) -> str | None:
    """The tensors that a guard holds back, as text."""
    if held is None:
        return None
    file = io.BytesIO()
    torch.save(held, file)
    return base64.b64encode(sealed(file.getvalue())).decode("ascii")


def _unpacked(text: str | None) -> Any:
    return None if text is None else torch.load(io.BytesIO(unsealed(base64.b64decode(text))), weights_only=True)
