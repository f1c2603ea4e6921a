"""Studies: many runs on equal terms, and the one table, picture and page that they make."""

from flowleap.runs.pace import StepCost
from flowleap.studies.budget import Budget, parse
from flowleap.studies.compare import Finished, Stopped, compare
from flowleap.studies.plan import TABLE, Plan, Request, Row, prepare
from flowleap.studies.table import aggregate

__all__ = [
    "TABLE",
    "Budget",
    "Finished",
    "Plan",
    "Request",
    "Row",
    "StepCost",
    "Stopped",
    "aggregate",
    "compare",
    "parse",
    "prepare",
]
