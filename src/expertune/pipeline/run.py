"""One run: the tuned way, and the other one. torch is loaded only when the tuned way is taken."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import Config, as_dict, make_config
from ..engine.base import Engine
from ..engine.llama_cpp import LlamaCppEngine
from ..engine.locate import Located, locate
from ..engine.ollama import OllamaEngine
from ..engine.ollama_render import OllamaRenderer
from ..engine.ollama_server import OllamaServer, running_server
from ..errors import FineTuningNotSupportedError, TrainingFailedError, UsageError
from ..files import sha256, write_text
from ..gguf.read import GGUFFile
from ..progress import Progress
from ..rate.score import Pass
from ..ratings.examples import training_lines
from . import outputs
from .fall_back import LARGEST_CONTEXT, fall_back
from .finish import Told, finish
from .interrupt import stop_after_step
from .judge import dev_macro_f1, judge, rate_shown
from .memory import Memory
from .prepare import Prepared
from .records import ANSWER_ROOM, Base, Clock, Job, Read, Tuned, run_identity
from .trust import learn_trust, shown_coverage

log = logging.getLogger("expertune")


class Run:
    """Holds what a fallback can use again: the base and its ratings."""

    def __init__(
        self,
        prepared: Prepared,
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
        self._read: Read | None = None

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def find_base(self) -> None:
        """Locate and check the model's file.

        Raises UsageError for a path that leads nowhere and ModelFileError for a damaged file, whatever comes next;
        FineTuningNotSupportedError for a name that no local file belongs to: a model set can be made for it.
        """
        if not Path(self.model_name).expanduser().exists():
            self._server = running_server(allow_remote=self._allow_remote)
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
        from ..model.arch import read_spec
        from ..model.load import resolve
        from .tune import read_base, tune

        base = self._base
        if base is None:
            raise FineTuningNotSupportedError(f"{self.model_name}: its file is not on this machine")
        with GGUFFile(base.path) as file:
            read_spec(file)
            self.config = self._first_settings() or resolve(file, self.config)
        identity = run_identity(base, self.prepared, self.config)
        self._write_inputs()
        memory = Memory(self.folder / outputs.CHECKPOINTS, identity, resume=self.resume)
        job = Job(base, self.config, self.folder, self.progress, self.clock, memory, identity, self.resume)
        read = read_base(job, self.prepared)
        self._read, self.prepared = read, read.prepared
        with stop_after_step() as should_stop:
            made = tune(job, read, should_stop)
        self._hold_to_base(read, made)
        return self._judge(job, read, made)

    def _first_settings(self) -> Config | None:
        """The settings of the run that is resumed, where they differ from ours only in what it had to choose."""
        path = self.folder / outputs.TRAINING_CONFIG
        if not self.resume or not path.exists():
            return None
        first = outputs.read_config(path)["settings"]
        chosen = {name: first.get(name) for name in ("device", "precision", "threads")}
        ours = {name: value for name, value in as_dict(self.config).items() if name not in chosen}
        return make_config(first) if ours.items() <= first.items() else None

    def _write_inputs(self) -> None:
        lines = training_lines(self.prepared.examples["train"])
        write_text(self.folder / outputs.TRAINING_DATA, "".join(f"{line}\n" for line in lines))
        outputs.write_config(
            self.folder / outputs.TRAINING_CONFIG,
            self.config,
            {"input": self.prepared.source, "model": self.model_name, "topics": self.prepared.topics},
        )

    def _hold_to_base(self, read: Read, made: Tuned) -> None:
        """The finished file must beat its base on the dev rows; the test rows play no part in any choice."""
        tuned, base = (dev_macro_f1(each, self.prepared, self.config) for each in (made.dev, read.dev))
        log.info("dev macro-F1: file %.4f, base %.4f", tuned, base)
        if tuned <= base:
            raise TrainingFailedError(
                f"the finished file is not better than its base on the {len(made.dev.rated)} dev rows "
                f"(macro-F1 {tuned:.3f} against {base:.3f}); check the ratings, or raise --epochs or --learning-rate"
            )

    def _judge(self, job: Job, read: Read, made: Tuned) -> dict[str, Any]:
        def rate_test() -> Pass:
            with job.serve(made.file, context=read.context) as engine:
                rows, scale = self.prepared.examples["test"], self.prepared.scale
                return rate_shown(self.progress, engine, rows, scale, "Finished file, test rows", generate=True)

        with self.clock.stage("judge"):
            test = job.memory.passed("tuned-test", rate_test)
            judgement = judge("tuned", test, read.test, self.prepared, self.config)
            trust = learn_trust(made.dev, self.prepared, self.config)
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
                notes=(*job.base.located.notes, *read.notes),
                rating=trust.to_dict(),
                conformal=shown_coverage(trust, test, self.prepared, self.config),
            )
        )
        outputs.remove_checkpoints(self.folder)
        return metadata

    def _serve_base(self) -> Callable[[], Engine] | None:
        """How the model set can be judged: by the base's file, else by the server that has the model."""
        base, server = self._base, self._server
        if base is not None:
            return lambda: LlamaCppEngine(
                base.path, context=LARGEST_CONTEXT, threads=self.config.threads, renderer=base.renderer
            )
        if server is not None and server.holds(self.model_name):
            return lambda: OllamaEngine(server, self.model_name, context=LARGEST_CONTEXT)
        return None

    def model_set(self, reason: str) -> dict[str, Any]:
        """The other way; returns the metadata. Raises ModelSetConfigError and OutputError."""
        read = self._read
        with self.clock.stage("model set"):
            made = fall_back(
                self.folder,
                self.prepared,
                self.config,
                self.progress,
                model_name=self.model_name,
                serve=self._serve_base(),
                base_test=read.test if read else None,
            )
        outputs.retire(self.folder, outputs.TUNED_FILES)
        told = made.judgement.verdict.line if made.judgement else f"The model set has not been judged: {made.unjudged}."
        facts = {
            "approach": "meta_prompting",
            "success": True,
            "output_file": outputs.MODEL_SET,
            "examples": len(made.content["few_shot_examples"]),
            "judged": made.judgement is not None,
        }
        line = f"No tuned model: {reason}. {told}"
        return self._finish(Told(line, {"model_set_info": facts}, made.judgement, fallback_reason=reason))

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
