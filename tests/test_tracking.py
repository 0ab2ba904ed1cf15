"""`--log-to`: the numbers of a run reach the libraries, are read back by them, and nothing else does."""

from __future__ import annotations

import math
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from expertune.cli.main import main
from expertune.errors import UsageError
from expertune.evaluate.judgement import Evaluation
from expertune.evaluate.verdict import Verdict
from expertune.record import EvaluationRecord
from expertune.stats.metrics import Estimate, Interval
from expertune.tracking import TRACKERS, Tracking, check_trackers, final_numbers, numbers_of
from expertune.train.events import DevEvent, StepEvent

STEP = StepEvent(3, 10, 0.3, 0.75, 1e-4, 2.5, 500, 2.0)
DEV = DevEvent(3, 10, 0.5, 0.4, None, 0.625, 0.7, True, 1.0)
