"""One run: the tuned way, and the other one. torch is loaded only when the tuned way is taken."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from .. import outputs
from ..config import AUTO, Config, as_dict, make_config
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.locate import Located, locate
from ..engine.ollama.engine import OllamaEngine
from ..engine.ollama.render import OllamaRenderer
from ..engine.ollama.server import OllamaServer, running_server
from ..errors import EngineError, FineTuningNotSupportedError, ModelSetConfigError, TrainingFailedError, UsageError
from ..evaluate.judgement import dev_macro_f1, judge, rate_shown
from ..files import sha256, write_text
from ..gguf.read import GGUFFile
from ..modelset.fit import ModelSet, fit_model_set, judge_model_set, predict_test
from ..modelset.members import LARGEST_CONTEXT, CandidateModel, further_members
from ..predict.score import Pass
from ..predict.uncertainty import learn_uncertainty
from ..progress import Progress
from ..rate.artifact import ANSWER_ROOM
from ..ratings.dataset import Dataset
from ..ratings.examples import training_lines
from .advice import advice
from .choose import MODEL_SET, TUNE, ApproachChoice, choose
from .interrupt import stop_after_step
from .pass_cache import PassCache
from .record import Told, finish
from .state import Base, Clock, EncodedDataset, Job, Tuned, run_identity

log = logging.getLogger("expertune")


class Run:
    """Holds what a fallback can use again: the base and its ratings."""

    def __init__(
        self,
        prepared: Dataset,
        config: Config,
        folder: Path,
        progress: Progress,
        model_name: str,
        *,
        resume: bool,
        allow_remote: bool = False,
    ) -> None:
        self.prepared, self.config, self.folder, self.progress = prepared, config, folder, progress
        self.model_name, self.resume, self.clock = model_name, resume, Clock()
        self._allow_remote = allow_remote
        self._server: OllamaServer | None = None
        self._base: Base | None = None
        self._read: EncodedDataset | None = None
        self._further: list[CandidateModel] = []

    @property
    def stopped_training(self) -> bool:
        """True where --resume finds a training to go on with."""
        return self.resume and any((self.folder / outputs.CHECKPOINTS).rglob("*.pt"))

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def find_base(self) -> None:
        """Locate and check the model's file.

        Raises UsageError for a path that leads nowhere and ModelFileError for a damaged file, whatever comes next;
        FineTuningNotSupportedError for a name that no local file belongs to: a model set can be made for it.
        """
        if self.config.models or not Path(self.model_name).expanduser().exists():
            self._server = running_server(allow_remote=self._allow_remote)
        self._further = further_members(self.config.models, self.model_name, self._server, self.config.threads)
        try:
            found = locate(self.model_name, self._server)
        except UsageError as error:
            if self.model_name.endswith(".gguf") or Path(self.model_name).exists() or os.sep in self.model_name:
                raise
            raise FineTuningNotSupportedError(str(error)) from None
        with GGUFFile(found.path):
            self._base = Base(self.model_name, found, sha256(found.path), self._renderer(found))
        log.info(
            "base %s (%s), sha256 %s, prompts by %s",
            found.path,
            found.source,
            self._base.sha256,
            self._base.prompts_by,
        )

    def _renderer(self, found: Located) -> OllamaRenderer | None:
        """The server that serves the model writes its prompts, so that the tuned file is asked as it was taught."""
        if self._server is None or found.server is None:
            return None
        return OllamaRenderer(self._server, self.model_name, context=self.config.max_tokens + ANSWER_ROOM)

    def tuned(self) -> dict[str, Any]:
        """Read, train, export, judge; returns the metadata. Raises TrainingFailedError where the file loses on dev."""
        from ..model.arch import read_config
        from ..model.load import resolve
        from ..train.checkpoint import check_owner
        from ..train.recipe import with_recipe
        from .tune import read_base, tune

        base = self._base
        if base is None:
            raise FineTuningNotSupportedError(f"{self.model_name}: its file is not on this machine")
        with GGUFFile(base.path) as file:
            read_config(file)
            self.config = self._first_settings() or with_recipe(file, resolve(file, self.config))
        identity = run_identity(base, self.prepared, self.config)
        if self.resume:
            check_owner(self.folder / outputs.CHECKPOINTS, identity)
        self._write_inputs()
        memory = PassCache(self.folder / outputs.CHECKPOINTS, identity, resume=self.resume)
        job = Job(base, self.config, self.folder, self.progress, self.clock, memory, identity, self.resume)
        read = read_base(job, self.prepared)
        self._read, self.prepared = read, read.prepared
        with stop_after_step() as should_stop:
            made = tune(job, read, should_stop)
        self._hold_to_base(read, made)
        if self.config.approach == TUNE:
            return self._judge(job, read, made, None, ApproachChoice(TUNE, "--approach tune", {}))
        beside = self._set_beside()
        choice = choose(made.dev, beside, self.prepared, self.config)
        log.info("choice: %s, %s", choice.approach, choice.reason)
        if choice.approach == MODEL_SET and beside is not None:
            return self._judge_set(beside, choice, "", job=job, tuned=made)
        return self._judge(job, read, made, beside, choice)

    def _set_beside(self) -> ModelSet | None:
        """A tuned file is there: what goes wrong with the set takes nothing away from it."""
        try:
            return self._make_set()
        except ModelSetConfigError as error:
            log.warning("no model set: %s", error)
            return None

    def _first_settings(self) -> Config | None:
        """The settings of the run that is resumed, where they differ from ours only in what it had to choose."""
        path = self.folder / outputs.TRAINING_CONFIG
        if not self.resume or not path.exists():
            return None
        first = outputs.read_config(path)["settings"]
        open_ = {"device": AUTO, "precision": AUTO, "threads": 0, "learning_rate": AUTO, "epochs": AUTO}
        ours = {name: value for name, value in as_dict(self.config).items() if open_.get(name) != value}
        return make_config(first) if ours.items() <= first.items() else None

    def _write_inputs(self) -> None:
        lines = training_lines(self.prepared.examples["train"])
        write_text(self.folder / outputs.TRAINING_DATA, "".join(f"{line}\n" for line in lines))
        outputs.write_config(
            self.folder / outputs.TRAINING_CONFIG,
            self.config,
            {"input": self.prepared.source, "model": self.model_name, "topics": self.prepared.topics},
        )

    def _hold_to_base(self, read: EncodedDataset, made: Tuned) -> None:
        """The finished file must beat its base on the dev rows; the test rows play no part in any choice."""
        tuned, base = (dev_macro_f1(each, self.prepared, self.config) for each in (made.dev, read.dev))
        log.info("dev macro-F1: file %.4f, base %.4f", tuned, base)
        if tuned <= base:
            raise TrainingFailedError(
                f"the finished file is not better than its base on the {len(made.dev.rated)} dev rows "
                f"(macro-F1 {tuned:.3f} against {base:.3f}); {advice(made.history)}"
            )

    def _rate_tuned(self, job: Job, file: Path, context: int) -> Pass:
        def rate_test() -> Pass:
            with job.serve(file, context=context) as engine:
                rows, scale = self.prepared.examples["test"], self.prepared.scale
                return rate_shown(self.progress, engine, rows, scale, "Finished file, test rows", generate=True)

        return job.memory.passed("tuned-test", rate_test)

    def _judge(
        self, job: Job, read: EncodedDataset, made: Tuned, beside: ModelSet | None, choice: ApproachChoice
    ) -> dict[str, Any]:
        with self.clock.stage("judge"):
            test = self._rate_tuned(job, made.file, read.context)
            others, notes = self._rate_beside(beside)
            trust = learn_uncertainty(made.dev.rated, self.prepared, self.config)
            judgement = judge(
                "tuned",
                test,
                read.test,
                self.prepared,
                self.config,
                beside=others,
                conformal=trust.conformal,
            )
        made.file.replace(self.folder / outputs.MODEL)
        outputs.retire(self.folder, (outputs.MODEL_SET,))
        outputs.write_modelfile(
            self.folder, job.base.located, system=None if read.engine["folds_system"] else self.prepared.system
        )
        facts = {
            "approach": made.training["approach"],
            "success": True,
            "output_file": outputs.MODEL,
            "adapter_file": outputs.ADAPTER,
        }
        metadata = self._finish(
            Told(
                judgement.verdict.line,
                {"fine_tuning_info": facts},
                judgement,
                training=made.training,
                export=made.export,
                history=made.history,
                notes=(*job.base.located.notes, *read.notes, *notes),
                choice=choice.to_dict(),
                rating=trust.to_dict(),
            )
        )
        outputs.remove_checkpoints(self.folder)
        return metadata

    def _rate_beside(self, made: ModelSet | None) -> tuple[dict[str, Pass], list[str]]:
        """The set that was not chosen, on the test rows; a row that it cannot take must not end the run."""
        if made is None or made.dev is None:
            return {}, []
        try:
            return predict_test(made, self.prepared, self.progress, self._members()), []
        except EngineError as error:
            return {}, [f"the model set was not judged on the test rows: {error}"]

    def _members(self) -> list[CandidateModel]:
        """The base first: by its file, else by the server that has the model."""
        base, server, name = self._base, self._server, self.model_name
        if base is not None:
            path, renderer, threads = base.path, base.renderer, self.config.threads
            first = CandidateModel(
                name,
                base.sha256,
                lambda: LlamaCppEngine(path, context=LARGEST_CONTEXT, threads=threads, renderer=renderer),
            )
        elif server is not None and server.holds(name):
            first = CandidateModel(name, None, lambda: OllamaEngine(server, name, context=LARGEST_CONTEXT))
        else:
            first = CandidateModel(name, None, None)
        return [first, *self._further]

    def _make_set(self) -> ModelSet:
        with self.clock.stage("model set"):
            return fit_model_set(self.folder, self.prepared, self.config, self.progress, self._members())

    def model_set(self, reason: str | None) -> dict[str, Any]:
        """The other way; `reason` says why it was not the tuned one, None where it was asked for.

        Returns the metadata. Raises ModelSetConfigError and OutputError.
        """
        made = self._make_set()
        choice = ApproachChoice(
            MODEL_SET, "--approach model-set" if reason is None else f"no tuned model: {reason}", {}
        )
        return self._judge_set(made, choice, reason or "")

    def _judge_set(
        self,
        made: ModelSet,
        choice: ApproachChoice,
        fallback_reason: str,
        *,
        job: Job | None = None,
        tuned: Tuned | None = None,
    ) -> dict[str, Any]:
        """Judge and tell of the chosen set; a tuned file that it was chosen over is judged beside it, and put aside."""
        read, found, unjudged = self._read, None, made.unjudged
        base_test = read.test if read else None
        try:
            with self.clock.stage("judge"):
                others = {"tuned": self._rate_tuned(job, tuned.file, read.context)} if job and tuned and read else {}
                if made.dev is not None:
                    facts = (made, self.prepared, self.config, self.progress, self._members())
                    found = judge_model_set(*facts, base_test=base_test, others=others)
        except EngineError as error:
            unjudged = str(error)
        outputs.retire(self.folder, outputs.TUNED_FILES)
        facts = {
            "approach": "meta_prompting",
            "success": True,
            "output_file": outputs.MODEL_SET,
            "examples": len(made.config.few_shot_examples),
            "rule": made.config.rule.model_dump(mode="json"),
            "judged": found is not None,
        }
        told = found.judgement.verdict.line if found else f"The model set has not been judged: {unjudged}."
        why = f"No tuned model: {fallback_reason}. " if fallback_reason else f"Model set ({choice.reason}). "
        metadata = self._finish(
            Told(
                why + told,
                {"model_set_info": facts},
                found.judgement if found else None,
                fallback_reason=fallback_reason or None,
                choice=choice.to_dict(),
                rating=found.trust.to_dict() if found else None,
            )
        )
        outputs.remove_checkpoints(self.folder)
        return metadata

    def _finish(self, told: Told) -> dict[str, Any]:
        return finish(
            self.folder,
            told,
            prepared=self.prepared,
            config=self.config,
            clock=self.clock,
            model_name=self.model_name,
            base=self._base,
        )
