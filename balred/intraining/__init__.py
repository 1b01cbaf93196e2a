"""Cuts while a model trains: when to look, what to cut, when to take it back; of no framework."""

from balred.intraining.events import EventLog, sinks_of
from balred.intraining.exchange import Exchange
from balred.intraining.policy import Guard, Policy, PolicyState
from balred.intraining.report import Cut, Report
from balred.intraining.settings import TrainingSettings
from balred.intraining.state import ReducerState

__all__ = [
    "Cut",
    "EventLog",
    "Exchange",
    "Guard",
    "Policy",
    "PolicyState",
    "ReducerState",
    "Report",
    "TrainingSettings",
    "sinks_of",
]
