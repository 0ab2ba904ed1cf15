"""Fit the model set of a run: how to prompt the models, chosen on validation records."""

from __future__ import annotations

import logging

from ..errors import ModelSetConfigError
from ..modelset.fit import ModelSet
from ..modelset.fit import fit_model_set as fit
from .choose import TUNE
from .state import Basis, NotTuned, Tuned
from .workspace import Workspace

log = logging.getLogger("expertune")


def fit_model_set(tuned: Tuned | NotTuned, basis: Basis, ws: Workspace) -> ModelSet | None:
    """Fit the model set; None if only a tuned model was requested, or if none could be made in addition to one.

    Raises ModelSetConfigError if there is no tuned model either, and OutputError.
    """
    if isinstance(tuned, Tuned) and basis.config.approach == TUNE:
        return None
    try:
        with ws.stage("model set"):
            return fit(ws.folder, basis.dataset, basis.config, ws.progress, basis.models.candidates)
    except ModelSetConfigError as error:
        if isinstance(tuned, NotTuned):
            raise
        log.warning("no model set: %s", error)  # the tuned model is kept
        return None
