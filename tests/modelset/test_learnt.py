"""What a model set learns from train rows: terms, boundary cases, the small classifier."""

from __future__ import annotations

import base64
import random
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest

from expertune.errors import ModelSetConfigError
from expertune.modelset.build import BuildInputs, Recipe, build, recipes
from expertune.modelset.config import parse
from expertune.modelset.records import TFIDF, ContextSummary, TfidfMember, TfidfTables, WordPool
from expertune.modelset.terms import FEWEST_ROWS, summarise, summary_text
from expertune.modelset.tfidf_classifier import TfidfClassifier, TfidfSettings, fit_tfidf, out_of_fold
from expertune.modelset.training_signals import NOTHING, gather
from expertune.modelset.word_pool import WORDS as RATERS
from expertune.modelset.word_pool import WordScorer, fit_words, pool_words, rate_by_words
from expertune.ratings.scale import make_scale
from expertune.ratings.schema import Rating, Split

SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})
DEFAULT = TfidfSettings()
ONE = {"one": DEFAULT}
WORDS = {1: "cough wheeze sputum croup", 0: "sprain bite burn rash", -1: "unwell referred waiting vague"}
FILLER = ["since", "yesterday", "morning", "with", "family", "at", "home", "today", "seen", "before", "night"]


def row(number: int, value: int, prompt: str, group: str | None = None) -> Rating:
    return Rating(f"r{number}", number + 2, prompt, value, SCALE.label_of(value), "", group)


def rows(count: int, seed: int = 0) -> list[Rating]:
    """Made-up visits: two words of the label's own, six that say nothing."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        value = (1, 0, -1)[number % 3]
        text = draw.sample(WORDS[value].split(), 2) + draw.sample(FILLER, 6)
        draw.shuffle(text)
        made.append(row(number, value, f"Task: rate it.\nNotes: {' '.join(text)}"))
    return made


def fitted(train: list[Rating], how: TfidfSettings = DEFAULT) -> TfidfTables | None:
    made = fit_tfidf(train, SCALE, {"one": how}, seed=3)
    return made and made["one"]


def groups(of: list[Rating]) -> dict[str, str]:
    return {each.id: each.group or each.id for each in of}


def terms(summary: ContextSummary, label: str) -> set[str]:
    (own,) = [each.terms for each in summary.labels if each.label == label]
    return {term.term for term in own}


def test_terms_are_those_of_the_label() -> None:
    summary = summarise(rows(150), SCALE, groups(rows(150)))
    for label, value in zip(SCALE.labels, SCALE.values, strict=True):
        assert terms(summary, label) and {each for each in terms(summary, label) if " " not in each} <= {
            *WORDS[value].split()
        } | {*FILLER}
        assert len(terms(summary, label) & {*WORDS[value].split()}) == 4
    text = summary_text(summary)
    assert '- "Match": ' in text and "cough" in text and "Task" not in text


def test_log_odds_are_those_of_the_paper() -> None:
    """Equations 15, 16 and 22 of Monroe et al. by hand for one term."""
    made = [row(at, 1, "alpha" if at < 8 else "gamma") for at in range(10)]
    made += [row(10 + at, 0, "gamma" if at < 29 else "alpha") for at in range(30)]
    summary = summarise(made, make_scale({"Yes": 1, "No": 0}), groups(made))
    (found,) = summary.labels[0].terms
    assert found.term == "alpha" and found.rows == 8
    here, there, all_here, all_there = 8, 1, 10, 30
    prior = 100 * (here + there) / (all_here + all_there)
    first, second = here + prior, there + prior
    odds = np.log(first / (all_here + 100 - first)) - np.log(second / (all_there + 100 - second))
    assert found.log_odds == pytest.approx(odds, abs=1e-3)
    assert found.z == pytest.approx(odds / np.sqrt(1 / first + 1 / second), abs=1e-2)


def test_a_name_of_one_patient_is_no_term() -> None:
    made = rows(150)
    visits = [row(900 + at, 1, f"Notes: Zaphod came again, visit {at}", group="one patient") for at in range(8)]
    alone = [*made, *visits]
    assert "zaphod" not in summary_text(summarise(alone, SCALE, groups(alone)))
    others = [*made, *visits, row(990, 1, "Notes: Zaphod", "two"), row(991, 1, "Notes: Zaphod", "three")]
    assert "zaphod" in summary_text(summarise(others, SCALE, groups(others)))  # the canary would be seen
    few = [*made, *(row(900 + at, 1, "Notes: quuxitis", f"p{at}") for at in range(FEWEST_ROWS - 1))]
    assert "quuxitis" not in str(summarise(few, SCALE, groups(few)))


@pytest.mark.parametrize("values", [(1, 0, -1), (1, 0)])
def test_the_stored_classifier_is_scikit_learns(values: tuple[int, ...]) -> None:
    """Against the pipeline it was fitted as: same vocabulary, same figures, whatever the number of labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    train = [each for each in rows(90) if each.value in values]
    new = [each.prompt for each in rows(30, seed=5)] + ["", "été – unseen wörds 12.5"]
    record = fitted(train)
    assert record is not None and "pickle" not in str(record)
    plain = make_pipeline(
        make_union(
            TfidfVectorizer(
                ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True, max_features=20_000, min_df=2
            ),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, max_features=20_000, min_df=2),
        ),
        LogisticRegression(class_weight="balanced", max_iter=1000, random_state=3),
    )
    plain.fit([each.prompt for each in train], [each.value for each in train])
    at = {int(value): place for place, value in enumerate(plain.classes_)}
    wanted = [[shares[at[v]] if v in at else 0.0 for v in SCALE.values] for shares in plain.predict_proba(new)]
    assert np.asarray(TfidfClassifier(record, SCALE.labels).predict(new)) == pytest.approx(np.asarray(wanted), abs=1e-5)


@pytest.mark.parametrize("values", [(1, 0, -1), (1, 0)])
@pytest.mark.parametrize("counted", ["sums", "presence"])
def test_naive_bayes_is_the_papers(values: tuple[int, ...], counted: Literal["sums", "presence"]) -> None:
    """Against equation 1 of Wang and Manning 2012, written out, and a regression of each label against the rest."""
    from scipy.special import softmax
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train = [each for each in rows(90) if each.value in values]
    new = [each.prompt for each in rows(30, seed=5)]
    record = fitted(train, TfidfSettings(letters=False, naive_bayes=counted))
    assert record is not None
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True, min_df=2)
    x, y = words.fit_transform([each.prompt for each in train]).toarray(), np.array([each.value for each in train])
    seen, lines = (x > 0).astype(float) if counted == "presence" else x, dict[int, np.ndarray]()
    for value in values:
        p, q = 1 + seen[y == value].sum(axis=0), 1 + seen[y != value].sum(axis=0)
        r = np.log((p / p.sum()) / (q / q.sum()))
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000).fit(x * r, y == value)
        lines[value] = model.decision_function(words.transform(new).toarray() * r)
    given = [value for value in SCALE.values if value in values]
    shares = softmax(np.stack([lines[value] for value in given], axis=1), axis=1)
    wanted = np.zeros((len(new), 3))
    wanted[:, [SCALE.values.index(value) for value in given]] = shares
    assert np.asarray(TfidfClassifier(record, SCALE.labels).predict(new)) == pytest.approx(
        wanted, abs=1e-3
    )  # both solvers stop at 1e-4


def test_too_few_rows_or_labels_give_no_classifier() -> None:
    assert fitted(rows(9)) is None
    assert fitted([each for each in rows(60) if each.value == 1]) is None
    assert out_of_fold(rows(9), SCALE, {}, ONE, seed=0) is None


def test_classifiers_that_are_fitted_together_are_those_fitted_alone() -> None:
    made = rows(90)
    together, shares = fit_tfidf(made, SCALE, RATERS, seed=3), out_of_fold(made, SCALE, groups(made), RATERS, seed=3)
    assert together is not None and shares is not None and list(together) == list(shares) == list(RATERS)
    for name, how in RATERS.items():
        assert together[name] == fitted(made, how), name
        alone = out_of_fold(made, SCALE, groups(made), {name: how}, seed=3)
        assert alone is not None and np.array_equal(alone[name], shares[name]), name


def test_out_of_fold_no_row_is_rated_by_its_own_group() -> None:
    """Rows of one text with a label of chance: a classifier that saw its group would know it."""
    draw = random.Random(1)
    made = [
        row(at, draw.choice((1, 0)), f"Notes: secretword{at // 4} {' '.join(draw.sample(FILLER, 5))}", f"p{at // 4}")
        for at in range(120)
    ]
    labels = {f"p{at}": made[at * 4].value for at in range(30)}
    made = [row(at, labels[each.group or ""], each.prompt, each.group) for at, each in enumerate(made)]

    def right(by_group: dict[str, str]) -> int:
        found = out_of_fold(made, SCALE, by_group, ONE, seed=0)
        assert found is not None
        return sum(SCALE.values[at] == each.value for each, at in zip(made, found["one"].argmax(axis=1), strict=True))

    assert right(groups(made)) < 80 < 100 < right({})


@pytest.mark.slow
def test_a_boundary_case_stands_between_the_two_labels_that_are_confused() -> None:
    made = rows(150)
    blurred = [
        row(500 + at, (1, 0)[at % 2], f"Notes: cough sprain {' '.join(random.Random(at).sample(FILLER, 6))}")
        for at in range(12)
    ]
    every = [*made, *blurred]
    found = gather(split_of(every), SCALE, seed=0).boundaries
    assert found and found[0].id in {each.id for each in blurred}
    few = gather(split_of(made[:6]), SCALE, seed=0)
    assert few.out_of_fold == {} and few.tfidf is None and few.boundaries == ()


def inputs(split: Split, **more) -> BuildInputs:
    return BuildInputs("m", split, SCALE, "topic", created_at="2026-11-23T09:30:00Z", seed=0, **more)


def unused(pool: WordPool) -> TfidfMember:
    """The raters by word counts as a member that does not rate."""
    return TfidfMember(**dict(pool), weight=0.0, dev_agreement=None)


def split_of(train: list[Rating]) -> Split:
    return Split(tuple(train), (), (), groups(train), 0)


@pytest.mark.slow
def test_boundary_cases_and_summary_come_into_the_prompt() -> None:
    blurred = [
        row(500 + at, (1, 0)[at % 2], f"Notes: cough sprain {' '.join(random.Random(at).sample(FILLER, 6))}")
        for at in range(12)
    ]
    split = split_of([*rows(150), *blurred])
    material = gather(split, SCALE, seed=0)
    config = build(replace(inputs(split, signals=material), seed=1), recipes(3)[0])
    assert config.example_ids[-1] in {each.id for each in material.boundaries}
    labels = [each.label for each in config.few_shot_examples]
    assert len(labels) == 8 and all(one != other for one, other in pairwise(labels))
    assert config.context_summary is not None and config.context_summary.shown is True
    assert config.system_prompt.endswith(summary_text(config.context_summary))


@pytest.mark.slow
def test_redaction_leaves_no_word_of_a_row() -> None:
    made = [row(at, each.value, f"{each.prompt} zebrafinch") for at, each in enumerate(rows(150))]
    split = split_of(made)
    material = gather(split, SCALE, seed=0)
    assert material.tfidf is not None
    whole = build(inputs(split, signals=material), recipes(3)[0]).changed(tfidf=unused(material.tfidf))
    assert "zebrafinch" in str(whole)
    (only,) = recipes(3, redact=True)
    for bare in (whole.redact(), build(inputs(split, redact=True), only)):
        text = str(bare)
        assert not any(word in text for word in ["zebrafinch", "sputum", "sprain", "yesterday", "r10"])
        assert bare.redacted and not bare.contains_patient_text and bare == parse(bare.model_dump(mode="json"))
        assert bare.system_prompt and bare.rating_schema == whole.rating_schema
    for recipe, signals in ((recipes(3)[0], NOTHING), (only, material)):
        with pytest.raises(ModelSetConfigError, match="redacted, yet it holds"):
            build(inputs(split, redact=True, signals=signals), recipe)


@pytest.mark.slow
def test_tables_of_another_size_are_refused() -> None:
    split = split_of(rows(60))
    material = gather(split, SCALE, seed=0)
    assert material.tfidf is not None
    content = build(inputs(split), Recipe("examples")).changed(tfidf=unused(material.tfidf)).model_dump(mode="json")
    assert parse(content).tfidf is not None
    first = next(iter(content["tfidf"]["raters"].values()))
    whole, first["weights"] = first["weights"], base64.b64encode(b"1234").decode()
    with pytest.raises(ModelSetConfigError, match="sizes of its tables differ"):
        parse(content)
    first["weights"] = whole
    content["tfidf"]["label_bias"].append(0.0)
    with pytest.raises(ModelSetConfigError, match="not one bias and one weight for each label"):
        parse(content)
    content["tfidf"]["label_bias"].pop()
    content["tfidf"]["weights"]["nobody"] = 1.0
    with pytest.raises(ModelSetConfigError, match="not one weight for each rater"):
        parse(content)


@pytest.mark.slow
def test_the_pool_is_the_weighted_product_of_its_raters() -> None:
    """Written out, and after a way through JSON; the label is that of the largest weighed probability."""
    train = [each for at, each in enumerate(rows(180)) if each.value != -1 or at % 9 == 2]  # one label is rare
    new = rows(40, seed=5)
    words = fit_words(train, SCALE, groups(train), seed=0)
    assert words is not None and set(words.tables) == set(RATERS)
    pool, out_of_fold_shares = pool_words(words, SCALE)
    assert set(out_of_fold_shares) == {each.id for each in train}
    made = build(inputs(split_of(train)), Recipe("examples")).changed(tfidf=unused(pool))
    read = parse(made.model_dump(mode="json")).tfidf
    assert read is not None
    records = [each.prompt for each in new]
    product = np.ones((len(new), 3))
    for name, weight in pool.weights.items():
        own_NK = np.asarray(TfidfClassifier(words.tables[name], SCALE.labels).predict(records))
        product *= np.maximum(own_NK, 1e-6) ** weight
    product *= np.exp(pool.label_bias)
    wanted_NK = product / product.sum(axis=1, keepdims=True)
    found = WordScorer(read, SCALE.labels).predict(records)
    assert np.asarray([each.probabilities for each in found]) == pytest.approx(wanted_NK, abs=1e-9)
    chosen = (wanted_NK * np.asarray(pool.label_weights)).argmax(axis=1).tolist()
    assert [each.label for each in found] == chosen
    rated = rate_by_words(read, new, SCALE)
    assert [each.label for each in rated] == [SCALE.labels[at] for at in chosen]
    assert rate_by_words(read, [], SCALE) == () and WordScorer(read, SCALE.labels).score(records[0]) == found[0]


@pytest.mark.slow
def test_a_large_set_is_cross_validated_by_a_sample() -> None:
    train = rows(120)
    words = fit_words(train, SCALE, groups(train), seed=0, most=60)
    whole = fit_words(train, SCALE, groups(train), seed=0)
    assert words is not None and whole is not None
    sample = {each.id for each in words.rows}
    assert len(sample) == 60 < len(whole.rows) == 120 and words.tables == whole.tables
    assert set(pool_words(words, SCALE)[1]) == sample


def test_a_file_of_version_1_rates_as_before() -> None:
    """Its classifier was one, with the likeliest label."""
    train, new = rows(90), rows(30, seed=5)
    tables = fitted(train)
    assert tables is not None
    content = build(inputs(split_of(train)), Recipe("examples")).model_dump(mode="json")
    old = {**tables.model_dump(mode="json"), "weight": 0.0, "calibration": None, "dev_agreement": None}
    read = parse({**content, "version": 1, "tfidf": old})
    assert read.version == 2 and read.tfidf is not None and list(read.tfidf.raters) == [TFIDF]
    before = TfidfClassifier(tables, SCALE.labels).predict([each.prompt for each in new])
    after = rate_by_words(read.tfidf, new, SCALE)
    assert np.asarray([each.probabilities for each in after]) == pytest.approx(np.asarray(before), abs=1e-5)
    assert [each.value for each in after] == [SCALE.values[int(np.argmax(shares))] for shares in before]
    assert parse({**content, "version": 1}).tfidf is None
    for broken in ({"labels": 3}, [], "text"):
        with pytest.raises(ModelSetConfigError):
            parse({**content, "version": 1, "tfidf": broken})
