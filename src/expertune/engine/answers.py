"""JSON of llama.cpp (xllamacpp 2026.10) and Ollama (0.33.0-rc2) as records of the fields that are read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Raises ValueError for another form, without what was answered: it may repeat a record."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


# --- llama.cpp ---


class TemplateAbilities(Answer):
    supports_system_role: bool


class Properties(Answer):  # of /props
    bos_token: str
    eos_token: str
    chat_template_caps: TemplateAbilities


class Completion(Answer):  # of /completion, as all that follow
    content: str
    tokens_predicted: int
    stop_type: str


class TokenLogProb(Answer):
    id: int
    logprob: float


class ListedToken(TokenLogProb):
    top_logprobs: tuple[TokenLogProb, ...]


class NextTokensAnswer(Answer):  # the entries are those of tokens that were not held back
    tokens: list[int]
    completion_probabilities: tuple[ListedToken, ...] | None = None


class TokenShare(Answer):
    id: int
    prob: float


class SampledToken(Answer):
    top_probs: tuple[TokenShare, ...]


class SampledTokens(Answer):  # with `post_sampling_probs`
    completion_probabilities: tuple[SampledToken, ...] | None = None


# --- Ollama ---


class TokenText(Answer):
    token: str
    logprob: float
    octets: list[int] | None = Field(default=None, alias="bytes")  # where the text does not say which they are

    @property
    def piece(self) -> bytes:
        return bytes(self.octets) if self.octets else self.token.encode()


class ListedText(TokenText):
    top_logprobs: tuple[TokenText, ...]


class Finished(Answer):  # the server leaves a field out that is 0 or ""
    done: bool = False
    done_reason: str = ""
    eval_count: int = 0
    prompt_eval_count: int = 0


class GenerateAnswer(Finished):  # of /api/generate
    response: str
    logprobs: tuple[ListedText, ...] | None = None


class ChatMessage(Answer):
    content: str


class ChatAnswer(Finished):  # of /api/chat
    message: ChatMessage


class DebugInfo(Answer):
    rendered_template: str


class RenderAnswer(Answer):  # of /api/chat with `_debug_render_only`
    debug_info: DebugInfo = Field(alias="_debug_info")


class ListedModel(Answer):
    name: str
    size: int | None = None
    details: dict[str, object] | None = None


class ModelList(Answer):  # of /api/tags and /api/ps
    models: tuple[ListedModel, ...]


class Blob(Answer):
    digest: str
    size: int = 0


class Layer(Blob):
    kind: str = Field(alias="mediaType")


class Manifest(Answer):  # in the models folder
    config: Blob
    layers: tuple[Layer, ...]
