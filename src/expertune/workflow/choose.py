"""Fit the model set, and choose between it, the tuned model and the readout, on validation records only."""

from __future__ import annotations

import logging

from ..config import with_changes
from ..errors import ModelSetConfigError
from ..estimate.job import COMPARED_BUDGET
from ..estimate.run_time import within_time
from ..modelset.choose import MODEL_SET, TUNE, by_validation, with_readout
from ..modelset.fit import ModelSet
from ..modelset.fit import fit_model_set as fit
from ..readout.build import Readout
from ..record import ApproachChoice
from ..workspace import Workspace
from .state import Basis, NotTuned, Tuned

log = logging.getLogger("expertune")


def fit_model_set(
    tuned: Tuned | NotTuned, basis: Basis, ws: Workspace, readout: Readout | None = None
) -> ModelSet | None:
    """Fit the model set; None if only a tuned model was requested, or if none could be made in addition to one.

    The raters by word counts are those of the readout where there is one.

    Raises ModelSetConfigError if there is no tuned model either, and OutputError.
    """
    if isinstance(tuned, Tuned) and basis.config.approach == TUNE:
        return None
    ws.retire_earlier_run()
    try:
        with ws.stage("model set"):
            config = basis.config
            if "model_set_budget_seconds" not in basis.given:
                if isinstance(tuned, Tuned):
                    budget = min(config.model_set_budget_seconds, COMPARED_BUDGET)
                    config = with_changes(config, model_set_budget_seconds=budget)
                config = within_time(config, basis.job, ws.elapsed)
            members = basis.models.compared if isinstance(tuned, Tuned) else basis.models.candidates
            words = readout.words if readout else None
            return fit(ws.folder, basis.dataset, config, ws.progress, members, words=words)
    except ModelSetConfigError as error:
        if isinstance(tuned, NotTuned):
            raise
        log.warning("no model set: %s", error)  # the tuned model is kept
        return None


def choose(
    tuned: Tuned | NotTuned, model_set: ModelSet | None, basis: Basis, readout: Readout | None = None
) -> ApproachChoice:
    """Prefer the tuned model unless the model set is significantly better on the validation records that both rated.

    A tuned model needs no examples in every prompt, and its file is what the user asked for. The readout takes the
    place of either where its log-loss is lower, unless only tuning was requested (--approach tune).
    """
    choice = _choose(tuned, model_set, basis)
    if readout is not None and not (isinstance(tuned, Tuned) and basis.config.approach == TUNE):
        rival = model_set.dev if model_set else None
        if isinstance(tuned, Tuned) and choice.approach == TUNE:
            rival = tuned.dev.rated
        choice = with_readout(choice, rival, readout.dev, basis.dataset, basis.config)
    log.info("choice: %s, %s", choice.approach, choice.reason)
    return choice


def _choose(tuned: Tuned | NotTuned, model_set: ModelSet | None, basis: Basis) -> ApproachChoice:
    if isinstance(tuned, NotTuned):
        why = "--approach model-set" if tuned.reason is None else f"no tuned model: {tuned.reason}"
        return ApproachChoice(approach=MODEL_SET, reason=why)
    if basis.config.approach == TUNE:
        return ApproachChoice(approach=TUNE, reason="--approach tune")
    return by_validation(tuned.dev, model_set, basis.dataset, basis.config)
