"""Build the model set of a run: how to prompt the models, chosen on validation records."""

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
    """The model set, None where only a tuned file was asked for, or where none could be made beside one.

    Raises ModelSetConfigError and OutputError where there is no tuned file to keep.
    """
    if isinstance(tuned, Tuned) and basis.config.approach == TUNE:
        return None
    try:
        with ws.stage("model set"):
            return fit(ws.folder, basis.dataset, basis.config, ws.progress, basis.models.candidates)
    except ModelSetConfigError as error:
        if isinstance(tuned, NotTuned):
            raise
        log.warning("no model set: %s", error)  # nothing that goes wrong with it takes the tuned file away
        return None
