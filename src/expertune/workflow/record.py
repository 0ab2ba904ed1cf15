"""Write the files of a finished run: the product, its record and its report."""

from __future__ import annotations

from .. import outputs
from ..config import as_dict
from ..engine.base_model import Base
from ..evaluate.judgement import experts_of
from ..evaluate.predictions import write_tables
from ..evaluate.tfidf_curve import tfidf_curve
from ..modelset.choose import MODEL_SET
from ..modelset.code_branch import untuned
from ..modelset.fit import ModelSet
from ..readout.build import Readout
from ..readout.record import write as write_readout
from ..record import VERSION, ApproachChoice, RunRecord
from ..record.sections import (
    AuditRecord,
    EvaluationRecord,
    FineTuningInfo,
    ProcessingInfo,
    Provenance,
    SplitCounts,
    UnlabelledRecords,
)
from ..register.preflight import with_checks
from ..report import write_report
from ..report_record import ReportRecord
from ..workspace import Workspace
from .evaluate import Evaluated
from .state import Basis, NotTuned, RunRequest, Tuned


def write_results(
    request: RunRequest,
    choice: ApproachChoice,
    tuned: Tuned | NotTuned,
    model_set: ModelSet | None,
    evaluated: Evaluated,
    basis: Basis,
    ws: Workspace,
    readout: Readout | None = None,
) -> RunRecord:
    """Write product, record and report to the output folder, and remove the checkpoints. Raises OutputError.

    A tuned file is kept where the readout rates better: Ollama can serve it.
    """
    kept = tuned if isinstance(tuned, Tuned) and choice.approach != MODEL_SET else None
    _place_product(kept, ws)
    if readout is None:
        outputs.retire(ws.folder, (outputs.READOUT,))
    else:
        write_readout(ws.folder / outputs.READOUT, readout.record)
    write_tables(ws.folder, evaluated.judgement, basis.dataset)
    first = with_checks(_record(request, choice, tuned, kept, model_set, evaluated, basis, ws, readout), choice)
    with ws.part("report"):
        write_report(ws.folder, ReportRecord.of_run(first, kept.history if kept else ()))
    record = first.model_copy(update={"plan": ws.with_actual(basis.job)})  # with the time of the report
    record.write(ws.folder)
    outputs.remove_checkpoints(ws.folder)
    return record


def _place_product(kept: Tuned | None, ws: Workspace) -> None:
    """Move the tuned file into place; for a model set retire the tuned files of an earlier run."""
    if kept is None:
        outputs.retire(ws.folder, (*outputs.TUNED_FILES, outputs.REGISTRATION_SAMPLE))
        return
    encoded = kept.encoded
    kept.file.replace(ws.folder / outputs.MODEL)
    outputs.retire(ws.folder, (outputs.MODEL_SET, outputs.REGISTRATION_SAMPLE))
    system = None if encoded.folds_system else encoded.dataset.system
    outputs.write_modelfile(ws.folder, encoded.plan.base.located, system=system)


def _record(
    request: RunRequest,
    choice: ApproachChoice,
    tuned: Tuned | NotTuned,
    kept: Tuned | None,
    model_set: ModelSet | None,
    evaluated: Evaluated,
    basis: Basis,
    ws: Workspace,
    readout: Readout | None,
) -> RunRecord:
    dataset, config, judgement, base = basis.dataset, basis.config, evaluated.judgement, basis.models.base
    scale, training = dataset.scale, kept.training if kept else None
    unjudged = f"The model set has not been evaluated: {evaluated.unjudged}."
    with ws.part("report"):
        by_words = tfidf_curve(dataset.split.train, scale, dataset.split.groups, config)
    curves = (curve for curve in (by_words, readout and readout.curve) if curve)
    evaluation = EvaluationRecord.of(judgement, unjudged, config.prevalence, *curves)
    about_model = (*kept.encoded.plan.base.located.notes, *kept.encoded.notes) if kept else ()
    return RunRecord(
        version=VERSION,
        processing_info=ProcessingInfo(
            model_name=request.model,
            dataset_size=len(dataset.ratings),
            target_topics=dataset.topics,
            processing_timestamp=outputs.now(),
        ),
        fine_tuning_info=training
        and FineTuningInfo(approach=training.approach, output_file=outputs.MODEL, adapter_file=outputs.ADAPTER),
        model_set_info=model_set.info(judged=judgement is not None) if model_set and not kept else None,
        code_branch=tuned.code_branch if isinstance(tuned, Tuned) else untuned(basis.branch, scale),
        readout_info=readout and readout.info,
        fallback_reason=tuned.reason if isinstance(tuned, NotTuned) else None,
        choice=choice,
        verdict=evaluation.verdict.line,
        evaluation=evaluation,
        training=training,
        export=kept.export if kept else None,
        rating=judgement.uncertainty if judgement else None,
        conformal=evaluation.conformal,
        data_audit=AuditRecord.of(dataset, *about_model, *evaluated.notes),
        split=SplitCounts.of(dataset),
        unlabelled=UnlabelledRecords.of(dataset.unlabelled, training.unlabelled if training else 0),
        experts=judgement.experts if judgement else experts_of(dataset, config),
        rating_mapping=dict(zip(scale.labels, scale.values, strict=True)),
        rating_codes=dict(scale.raw),
        prompt_template=dataset.template,
        provenance=Provenance.of(ws.folder, dataset, base if isinstance(base, Base) else None),
        settings=as_dict(config),
        seed=config.seed,
        timings=dict(ws.seconds),
        plan=ws.with_actual(basis.job),
    )
