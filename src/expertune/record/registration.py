"""Record of a registration with Ollama, a section of the record of a run."""

from __future__ import annotations

from .section import Section


class ServedAgreement(Section):
    """Agreement of the registered model with the evaluated file, on `rows` test records.

    `exact` counts the records whose labels Ollama could score exactly; `probability_gap` is of those, None without any.
    `labels` is None too if Ollama cannot score the labels. `chat_labels` is the share with the same label from a plain
    /api/chat; `ties` counts records whose two most probable labels are nearly equal.
    """

    rows: int
    exact: int
    labels: float | None
    probability_gap: float | None
    chat_labels: float
    ties: int


class Registration(Section):
    """Outcome of the registration with Ollama.

    `reason` and `command` (to continue with) are set if it was refused, the other fields if it was registered: `digest`
    is the file's sha256, `served` that of the server's blob, `bytes` how the two compare, `prompts` the number of
    prompts compared, `decisions` a line on the decision answers of a decision model, `overridden` the gate failures
    that --force overrode.
    """

    name: str
    registered: bool
    reason: str | None = None
    command: str | None = None
    server: str | None = None
    ollama: str | None = None
    digest: str | None = None
    served: str | None = None
    bytes: str | None = None
    agreement: ServedAgreement | None = None
    prompts: int | None = None
    decisions: str | None = None
    overridden: tuple[str, ...] = ()
    replaced: bool = False
