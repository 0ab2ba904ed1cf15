"""Next-token log-probabilities from llama.cpp's /completion, for every token of the vocabulary.

llama.cpp lists no log-probability for a token that ends inside a UTF-8 character (b"\\xe7" of "符"): it holds the token
back until the character is whole (`process_token`, tools/server/server-context.cpp; llama.cpp as of xllamacpp 2026.10).
Such a token is never sampled here. A token that is listed, the anchor, is sampled in its place, and the two are
compared in one distribution; so are all tokens that are too unlikely to be listed, in one question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import EngineError
from .answers import ListedToken, NextTokensAnswer, SampledTokens

FREE_LOGPROBS = 40  # likeliest tokens that are listed in the same answer
FORCE = 1e6  # logit bias that makes the sampler take a token; log-probabilities are listed as before it
LIFT = 100.0  # nats by which tokens and their anchor are raised above all others
LEAD = 20.0  # nats from a token up to its anchor, at least: the chance of sampling the token is below 1e-8
SMALLEST = 1e-45  # probability; float32 holds none below

LogProbs = dict[int, float]  # token → natural-log probability
Complete = Callable[[Mapping[str, Any], type[Any]], Any]  # body of /completion, kind of Answer → the answer


class NextTokens:
    """Next-token log-probabilities from one slot of the server, after the tokens `start`.

    `stand_in` is a token of whole characters. `unlisted` collects the tokens that llama.cpp lists no log-probability
    for; shared by all rows, so that each is found out once.
    """

    def __init__(
        self, complete: Complete, start: Sequence[int], slot: int, *, stand_in: int, unlisted: set[int]
    ) -> None:
        self._complete, self._start, self._slot = complete, list(start), slot
        self._stand_in, self._unlisted = stand_in, unlisted
        self._anchors: dict[tuple[int, ...], tuple[int, LogProbs]] = {}  # by place: a listed token, and all listed

    def walk(self, path: Sequence[int], room: int) -> list[tuple[int, LogProbs]]:
        """The model's own next tokens after `path`, at most `room`, each with the log-probabilities in its place.

        Ends with the first token that is held back, without log-probabilities: later ones may be out of step. That
        token cannot be mistaken for the next one that is listed, which ends with a whole character.
        """
        said, listed = self._generated(path, n_predict=room)
        places: list[tuple[int, LogProbs]] = []
        for at, token in enumerate(said):
            if at >= len(listed) or listed[at].id != token:
                return [*places, (token, {})]
            places.append((token, _log_probs(listed[at])))
            self._anchors.setdefault((*path, *said[:at]), places[-1])
        return places

    def forced(self, path: Sequence[int], wanted: Sequence[int]) -> LogProbs:
        """Log-probabilities after `path`: of each of `wanted` and of the likeliest tokens. Raises EngineError."""
        here = tuple(path)
        if here not in self._anchors:
            self._anchors[here] = self._anchor(here, wanted[0])
        anchor, known = self._anchors[here]
        missing = [token for token in wanted if token not in known]
        return {**known, **self._compared(here, missing, anchor, known)} if missing else known

    def alike(self, wanted: Sequence[int]) -> LogProbs:
        """Log-probabilities of `wanted` at the start, up to what all share, by one question whatever they are.

        Exact to 1e-5 nats, the rounding of a raised logit. Empty where llama.cpp holds the sampled one back.
        """
        log_shares = self._raised((), dict.fromkeys(wanted, LIFT))
        return {token: log_shares[token] for token in wanted} if log_shares else {}

    def _anchor(self, path: tuple[int, ...], wanted: int) -> tuple[int, LogProbs]:
        """A token that llama.cpp lists, and the log-probabilities in its place: `wanted`, or else the stand-in."""
        if wanted not in self._unlisted:
            if found := self._sampled(path, wanted):
                return wanted, found
            self._unlisted.add(wanted)
        return self._stand_in, self._sampled(path, self._stand_in)

    def _sampled(self, path: Sequence[int], token: int) -> LogProbs:
        """Log-probabilities where `token` is sampled; empty where llama.cpp holds it back."""
        said, listed = self._generated(path, n_predict=1, logit_bias=[[token, FORCE]])
        if said != [token]:
            raise EngineError(f"llama.cpp did not take token {token}; this model cannot generate it")
        return _log_probs(listed[0]) if listed else {}

    def _compared(self, path: tuple[int, ...], wanted: Sequence[int], anchor: int, known: LogProbs) -> LogProbs:
        """Log-probabilities of `wanted`: that of the anchor, and their ratios to it after all were raised.

        Exact to 1e-5 nats, the rounding of a raised logit; `SMALLEST` bounds them 80 nats below the likeliest token.
        """
        lead = LEAD + max(known.values()) - known[anchor]
        log_shares = self._raised(path, {**dict.fromkeys(wanted, LIFT), anchor: LIFT + lead})
        offset = known[anchor] + lead - log_shares[anchor]
        return {token: offset + log_shares[token] for token in wanted}

    def _raised(self, path: tuple[int, ...], lifts: Mapping[int, float]) -> LogProbs:
        """Logarithms of these tokens' shares once their logits are raised; empty where llama.cpp holds the sampled one
        back."""
        answer: SampledTokens = self._ask(
            path,
            SampledTokens,
            n_predict=1,
            n_probs=max(FREE_LOGPROBS, len(lifts)),
            logit_bias=[[token, lift] for token, lift in lifts.items()],
            post_sampling_probs=True,
            samplers=[],
            temperature=1,
            seed=1,
        )
        if not answer.completion_probabilities:
            return {}
        (first,) = answer.completion_probabilities
        shares = {each.id: each.prob for each in first.top_probs}
        return {token: math.log(max(shares.get(token, 0.0), SMALLEST)) for token in lifts}

    def _generated(self, path: Sequence[int], **settings: Any) -> tuple[list[int], Sequence[ListedToken]]:
        """The tokens said, and the entries of those that were not held back."""
        answer: NextTokensAnswer = self._ask(path, NextTokensAnswer, **settings)
        return answer.tokens, answer.completion_probabilities or ()

    def _ask(self, path: Sequence[int], kind: type[Any], **settings: Any) -> Any:
        body = {
            "prompt": [*self._start, *path],
            "temperature": 0,
            "n_probs": FREE_LOGPROBS,
            "return_tokens": True,
            "cache_prompt": True,
            "id_slot": self._slot,
            **settings,
        }
        return self._complete(body, kind)


def _log_probs(listed: ListedToken) -> LogProbs:
    return {each.id: each.logprob for each in (*listed.top_logprobs, listed)}
