"""Next-token log-probabilities from llama.cpp's /completion, for every token of the vocabulary.

llama.cpp lists no log-probability for a token that ends inside a UTF-8 character (b"\\xe7" of "符"): it holds the token
back until the character is whole (`process_token`, tools/server/server-context.cpp; llama.cpp as of xllamacpp 2026.10).
Such a token is never sampled here. A plain token, the stand-in, is sampled in its place, and the two are compared in
one distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import EngineError
from .answers import ListedToken, NextTokensAnswer, SampledTokens

FREE_LOGPROBS = 40  # likeliest tokens that are listed in the same answer
FORCE = 1e6  # logit bias that makes the sampler take a token; log-probabilities are listed as before it
LIFT = 100.0  # nats by which a token and its stand-in are raised above all others
LEAD = 20.0  # nats from the token up to its stand-in, at least: the chance of sampling the token is below 1e-8
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
        self._with_stand_in: dict[tuple[int, ...], LogProbs] = {}  # by place

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
        return places

    def forced(self, path: Sequence[int], wanted: int) -> LogProbs:
        """Log-probabilities after `path`: of `wanted` and of the likeliest tokens. Raises EngineError."""
        if wanted not in self._unlisted:
            if found := self._sampled(path, wanted):
                return found
            self._unlisted.add(wanted)
        here = tuple(path)
        if here not in self._with_stand_in:
            self._with_stand_in[here] = self._sampled(path, self._stand_in)
        found = self._with_stand_in[here]
        return found if wanted in found else {**found, wanted: self._compared(path, wanted, found)}

    def _sampled(self, path: Sequence[int], token: int) -> LogProbs:
        """Log-probabilities where `token` is sampled; empty where llama.cpp holds it back."""
        said, listed = self._generated(path, n_predict=1, logit_bias=[[token, FORCE]])
        if said != [token]:
            raise EngineError(f"llama.cpp did not take token {token}; this model cannot generate it")
        return _log_probs(listed[0]) if listed else {}

    def _compared(self, path: Sequence[int], wanted: int, known: LogProbs) -> float:
        """Log-probability of `wanted`: that of the stand-in, and the ratio of the two after both were raised.

        Exact to 1e-5 nats, the rounding of a raised logit; `SMALLEST` bounds it 80 nats below the likeliest token.
        """
        lead = LEAD + max(known.values()) - known[self._stand_in]
        answer: SampledTokens = self._ask(
            path,
            SampledTokens,
            n_predict=1,
            logit_bias=[[self._stand_in, LIFT + lead], [wanted, LIFT]],
            post_sampling_probs=True,
            samplers=[],
            temperature=1,
            seed=1,
        )
        (first,) = answer.completion_probabilities
        shares = {each.id: each.prob for each in first.top_probs}
        ratio = max(shares.get(wanted, 0.0), SMALLEST) / shares[self._stand_in]
        return known[self._stand_in] + math.log(ratio) + lead

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
