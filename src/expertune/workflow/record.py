"""Write the files of a finished run: the product, its record and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .. import outputs
from ..config import as_dict
from ..evaluate.judgement import experts_of
from ..evaluate.predictions import label_error_rows, prediction_rows
from ..evaluate.tfidf_curve import tfidf_curve
from ..modelset.choose import ENSEMBLE, MODEL_SET, READOUT, TUNE
from ..modelset.fit import ModelSet
from ..ratings.dataset import Dataset
from ..ratings.leaks import spoiled
from ..ratings.unlabelled import Unlabelled
from ..readout.ensemble import Ensemble
from ..readout.record import ReadoutRecord
from ..readout.record import write as write_readout
from ..record import (
    VERSION,
    ApproachChoice,
    AuditRecord,
    BaseFile,
    EnsembleInfo,
    EvaluationRecord,
    FineTuningInfo,
    ModelSetInfo,
    ProcessingInfo,
    Provenance,
    ReadoutInfo,
    RunRecord,
    SplitCounts,
    UnlabelledRecords,
)
from ..register.preflight import failed_checks, gate_failures
from ..report import write_report
from ..report_record import ReportRecord
from ..stats.learning_curve import LearningCurve
from .code_branch import untuned
from .evaluate import Evaluated
from .plan_time import with_actual
from .readout import Readout
from .state import Basis, NotTuned, RunRequest, Tuned
from .workspace import Workspace

SCORED = {  # end of the verdict
    "words": "",
    "code": " Its labels are scored by their codes, which rate better than the words on the validation records.",
    "both": " Its labels are scored by words and codes, which rate better together on the validation records.",
}


def write_results(
    request: RunRequest,
    choice: ApproachChoice,
    tuned: Tuned | NotTuned,
    model_set: ModelSet | None,
    evaluated: Evaluated,
    basis: Basis,
    ws: Workspace,
    readout: Readout | None = None,
    ensemble: Ensemble | None = None,
) -> RunRecord:
    """Write product, record and report to the output folder, and remove the checkpoints. Raises OutputError.

    A tuned file is kept where the readout rates better: Ollama can serve it.
    """
    kept = tuned if isinstance(tuned, Tuned) and choice.approach != MODEL_SET else None
    place_product(kept, basis, ws)
    if readout is None:
        outputs.retire(ws.folder, (outputs.READOUT,))
    else:
        write_readout(ws.folder / outputs.READOUT, readout.record)
    write_tables(evaluated, basis, ws)
    record = _record(request, choice, tuned, kept, model_set, evaluated, basis, ws, readout, ensemble)
    with ws.part("report"):
        write_report(ws.folder, ReportRecord.of_run(record, kept.history if kept else ()))
    record = record.model_copy(update={"plan": with_actual(basis.job, ws)})  # with the time of the report
    record.write(ws.folder)
    outputs.remove_checkpoints(ws.folder)
    return record


def write_tables(evaluated: Evaluated, basis: Basis, ws: Workspace) -> None:
    """Write the predictions of the test records and the likely label errors; of a run without them, neither."""
    outputs.retire(ws.folder, outputs.TABLES)
    judgement, dataset = evaluated.judgement, basis.dataset
    if judgement is None:
        return
    conformal = evaluated.uncertainty.conformal if evaluated.uncertainty else None
    split = dataset.split
    rows = prediction_rows(split.test, judgement.raters, conformal, dataset.scale, split.groups)
    outputs.write_table(ws.folder / outputs.TEST_PREDICTIONS, rows)
    if judgement.label_errors and judgement.label_errors.listed:
        outputs.write_table(ws.folder / outputs.LABEL_ERRORS, label_error_rows(judgement.label_errors))


def place_product(kept: Tuned | None, basis: Basis, ws: Workspace) -> None:
    """Move the tuned file into place; for a model set retire the tuned files of an earlier run."""
    if kept is None:
        outputs.retire(ws.folder, (*outputs.TUNED_FILES, outputs.REGISTRATION_SAMPLE))
        return
    encoded = kept.encoded
    kept.file.replace(ws.folder / outputs.MODEL)
    outputs.retire(ws.folder, (outputs.MODEL_SET, outputs.REGISTRATION_SAMPLE))
    system = None if encoded.folds_system else basis.dataset.system
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
    ensemble: Ensemble | None,
) -> RunRecord:
    dataset, config = basis.dataset, basis.config
    why_not = tuned.reason if isinstance(tuned, NotTuned) else None
    judgement = evaluated.judgement
    verdict = judgement.verdict.line if judgement else f"The model set has not been evaluated: {evaluated.unjudged}."
    evaluation = EvaluationRecord.of(verdict, judgement, config.prevalence, _learning_curves(basis, readout, ws))
    record = RunRecord(
        version=VERSION,
        processing_info=ProcessingInfo(
            model_name=request.model,
            dataset_size=len(dataset.ratings),
            target_topics=dataset.topics,
            processing_timestamp=outputs.now(),
        ),
        fine_tuning_info=_fine_tuning_info(kept) if kept else None,
        model_set_info=_model_set_info(model_set, evaluated) if model_set and not kept else None,
        code_branch=tuned.code_branch if isinstance(tuned, Tuned) else untuned(basis.branch, dataset.scale),
        readout_info=_readout_info(readout.record) if readout else None,
        ensemble_info=_ensemble_info(ensemble) if ensemble and kept else None,
        fallback_reason=why_not,
        choice=choice,
        verdict=evaluation.verdict.line,
        evaluation=evaluation,
        training=kept.training if kept else None,
        export=kept.export if kept else None,
        rating=evaluated.uncertainty,
        conformal=evaluation.conformal,
        data_audit=_audit(dataset, kept, evaluated),
        split=SplitCounts(**dataset.counts, groups=len(set(dataset.split.groups.values()))),
        unlabelled=_unlabelled(dataset.unlabelled, kept) if dataset.unlabelled else None,
        experts=judgement.experts if judgement else experts_of(dataset, config),
        rating_mapping=dict(zip(dataset.scale.labels, dataset.scale.values, strict=True)),
        rating_codes=dict(dataset.scale.raw),
        prompt_template=dataset.template,
        provenance=_provenance(basis, ws),
        settings=as_dict(config),
        seed=config.seed,
        timings=dict(ws.seconds),
        plan=with_actual(basis.job, ws),
    )
    return with_checks(record, choice)


def with_checks(record: RunRecord, choice: ApproachChoice) -> RunRecord:
    """Add the outcome of the checks: the failed ones, whether each product is a success, and the first line."""
    failed, by_gate = failed_checks(record), gate_failures(record) if record.fine_tuning_info else []
    line = _line(record, choice, failed, by_gate)
    changes: dict[str, object] = {
        "failed_checks": tuple(failed),
        "verdict": line,
        "evaluation": record.evaluation.model_copy(update={"verdict": replace(record.evaluation.verdict, line=line)}),
    }
    if (tuned := record.fine_tuning_info) is not None:
        changes["fine_tuning_info"] = tuned.model_copy(update={"success": not by_gate})
    if (model_set := record.model_set_info) is not None:
        passed = model_set.judged and not (failed and choice.approach == MODEL_SET)
        changes["model_set_info"] = model_set.model_copy(update={"success": passed})
    return record.model_copy(update=changes)


def _line(record: RunRecord, choice: ApproachChoice, failed: Sequence[str], by_gate: Sequence[str]) -> str:
    """The verdict, preceded by a leak of the ratings, by failed checks, and by the reason if there is no tuned model or
    it is not recommended."""
    verdict, why_not = record.evaluation.verdict.line, record.fallback_reason
    judged = spoiled(record.data_audit.findings, record.data_audit.rows)
    judged += f"Failed check: {'; '.join(failed)}. " if failed and record.evaluation.evaluations else ""
    if choice.approach == TUNE:
        return f"{judged}{verdict}" + (SCORED[record.code_branch.scored_by] if record.code_branch else "")
    if choice.approach in (READOUT, ENSEMBLE):
        served = f"; no tuned model: {why_not}" if why_not else ""
        if record.fine_tuning_info:
            served = "; the tuned file is for Ollama" + (f", but {'; '.join(by_gate)}" if by_gate else "")
        return f"{judged}Recommended for rating: the {choice.approach} ({choice.reason}){served}. {verdict}"
    return f"{judged}{f'No tuned model: {why_not}' if why_not else f'Model set ({choice.reason})'}. {verdict}"


def _fine_tuning_info(kept: Tuned) -> FineTuningInfo:
    return FineTuningInfo(approach=kept.training.approach, output_file=outputs.MODEL, adapter_file=outputs.ADAPTER)


def _readout_info(record: ReadoutRecord) -> ReadoutInfo:
    return ReadoutInfo(
        output_file=outputs.READOUT,
        depth=record.states.depth,
        features=record.states.features,
        states_weight=record.states_weight,
        tfidf_weight=record.tfidf_weight,
        out_of_fold={
            name: {"macro_f1": each.macro_f1, "log_loss": each.log_loss} for name, each in record.out_of_fold.items()
        },
    )


def _ensemble_info(ensemble: Ensemble) -> EnsembleInfo:
    losses = {str(weight): loss for weight, loss in ensemble.losses.items()}
    return EnsembleInfo(tuned_weight=ensemble.tuned_weight, log_loss=losses)


def _learning_curves(basis: Basis, readout: Readout | None, ws: Workspace) -> tuple[LearningCurve, ...]:
    """Curves of the raters that are cheap to fit many times, on the training records."""
    split = basis.dataset.split
    with ws.part("report"):
        found = tfidf_curve(split.train, basis.dataset.scale, split.groups, basis.config)
    return tuple(curve for curve in (found, readout and readout.curve) if curve)


def _model_set_info(model_set: ModelSet, evaluated: Evaluated) -> ModelSetInfo:
    return ModelSetInfo(
        approach="meta_prompting",
        output_file=outputs.MODEL_SET,
        examples=len(model_set.config.few_shot_examples),
        rule=model_set.config.rule.model_dump(mode="json"),
        judged=evaluated.judgement is not None and model_set.dev is not None,
    )


def _audit(dataset: Dataset, kept: Tuned | None, evaluated: Evaluated) -> AuditRecord:
    about_model = (*kept.encoded.plan.base.located.notes, *kept.encoded.notes) if kept else ()
    audit, notes = dataset.audit, (*dataset.notes, *about_model, *evaluated.notes)
    return AuditRecord(rows=audit.rows, by_label=dict(audit.by_label), findings=audit.findings, notes=notes)


def _unlabelled(found: Unlabelled, kept: Tuned | None) -> UnlabelledRecords:
    used = kept.training.unlabelled if kept else 0
    unused = {"no tuned model learned them": len(found.records) - used} if used < len(found.records) else {}
    return UnlabelledRecords(file=found.source, read=found.read, used=used, left_out={**found.left_out, **unused})


def _provenance(basis: Basis, ws: Workspace) -> Provenance:
    base = basis.base
    known = {"input_rows": basis.dataset.input_sha256, **({"base": base.sha256} if base else {})}
    return Provenance(
        hashes={**known, **outputs.hashes(ws.folder, outputs.PRODUCTS)},
        versions=outputs.versions(),
        base=BaseFile(path=str(base.path), source=base.located.source, prompts_by=base.prompts_by) if base else None,
    )
