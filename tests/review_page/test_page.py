"""The routes of the page, without a socket: the three works, two raters, undo, who may read it."""

from __future__ import annotations

import json
import re
import stat
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

from expertune.rate.merge import merge_review
from expertune.ratings.read import read_ratings
from expertune.review_page.agreement import agreements
from expertune.stats.intervals import KAPPA, bootstrap, clusters
from rate.stub import write_csv
from review_page.pages import (
    HOST,
    SCALE,
    TOKEN,
    page_of,
    rate_source,
    rated_file,
    raw_file,
    read,
    review_source,
    tab,
    truth,
)

MISSING = "the page's packages are not installed (expertune[page])"
security = pytest.importorskip("expertune.review_page.security", reason=MISSING)
HEADERS, Access = security.HEADERS, security.Access
START = f"/{TOKEN}/"


def test_rated_records_become_a_file_that_tune_reads(tmp_path: Path) -> None:
    source = raw_file(tmp_path, 12)
    with page_of(rate_source(source), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        seen = set()
        for _ in range(12):
            seen.add(ana.text)
            ana.press(truth(ana.text), comment="clear" if "b3" in ana.text else "")
        assert len(seen) == 12 and "Nothing is left for you" in ana.page
        assert "12 records with a rating" in client.post(f"{START}rater/1/rate/write").text
    ratings = read_ratings(tmp_path / "results.csv", SCALE)
    assert {rating.id: rating.value for rating in ratings} == {f"r{i}": SCALE.values[i % 3] for i in range(12)}
    assert [rating.prompt for rating in ratings] == [row["Prompt"] for row in read(source)]
    assert {rating.id: rating.rationale for rating in ratings if rating.rationale} == {"r3": "clear"}
    assert ratings[5].extra["Ward"] == "w1"
    for name in ("results.csv", "results.summary.json", "page.sqlite", "page.sqlite-wal"):
        if (tmp_path / name).exists():
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name


def test_a_raw_file_gets_prompts_and_keeps_the_ratings_that_it_has(tmp_path: Path) -> None:
    rows = [{"Chief Complaint": f"cough {i}", "Age": 30 + i, "Rating": "1" if i < 2 else ""} for i in range(5)]
    source = rate_source(write_csv(tmp_path / "visits.csv", rows))
    assert len(source.items) == 3 and "\nChief complaint: cough 2\n" in source.items[0].text
    with page_of(source, tmp_path) as (session, client):
        tab(session, client, "Ana").press(0)
        client.post(f"{START}rater/1/rate/write")
    assert sorted(rating.value for rating in read_ratings(tmp_path / "results.csv", SCALE)) == [0, 1, 1]


def test_undo_goes_back_one_rating_at_a_time(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        first = ana.text
        second = ana.press(1).text
        third = ana.press(1).text
        assert len({first, second, third}) == 3
        assert ana.undo().text == second and "Undone" in ana.page
        assert ana.open().text == second  # a reload changes nothing
        assert ana.undo().text == first
        assert session.finals() == {}
        assert "Nothing to undo." in ana.undo().page
        ana.press(-1)
        assert [final.value for final in session.finals().values()] == [-1]


def test_a_stale_page_rates_nothing(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        other = tab(session, client, "Ana")
        ana.press(1)
        assert "Not saved" in other.press(0).page
        assert "Not saved" in ana.press(7).page  # no such value
        assert "Not saved" in ana.post("rate", {"record": "x", "step": "independent", "value": "1"}).page
        assert [entry.value for entry in session.journal.ratings()] == [1]


def test_two_raters_never_see_the_same_record_without_overlap(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path, 40)), tmp_path) as (session, client):
        ana, ben = tab(session, client, "Ana"), tab(session, client, "Ben")
        seen: list[str] = []
        for _ in range(20):
            assert ana.text != ben.text
            seen += [ana.text, ben.text]
            ana.press(1)
            ben.press(0)
        assert len(set(seen)) == 40
        assert dict(session.status(exact=True).raters) == {"Ana": 20, "Ben": 20}


def test_a_share_of_the_records_is_rated_by_two(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path, 60)), tmp_path, overlap=0.25) as (session, client):
        ana = tab(session, client, "Ana")
        for _ in range(24):
            ana.press(truth(ana.text))
        ben = tab(session, client, "Ben")
        for at in range(20):
            ben.press(1 if at % 3 == 0 else truth(ben.text))
        both = [own for own in session.votes.independent.values() if len(own) == 2]
        assert len(both) == -(-len(session.votes.independent) // 4)
        (agreement,) = session.status(exact=True).agreements
        first, second = zip(*(own.values() for own in both), strict=True)
        assert (agreement.first, agreement.second, agreement.records) == ("Ana", "Ben", len(both))
        assert agreement.agreed == sum(a == b for a, b in zip(first, second, strict=True))
        assert agreement.kappa == pytest.approx(cohen_kappa_score(first, second))
        page = ben.open().page
        assert f"<b>{agreement.share:.0%}</b>".replace("%", " %") in page and f"{agreement.kappa:.2f}" in page
        span = agreement.kappa_interval
        assert span.low < agreement.kappa < span.high
        assert f"(95 % interval {span.low:.2f} to {span.high:.2f})" in page
        client.post(f"{START}rater/1/rate/write")
    (found,) = json.loads((tmp_path / "results.summary.json").read_text())["agreement"]
    assert (found["kappa"], found["share"]) == (agreement.kappa, agreement.share)
    assert found["kappa_interval"] == asdict(span)


def rated_twice(count: int, patients: int) -> list[tuple[str, dict[str, int]]]:
    """Two experts who differ on a third of the patients, on all the records of such a patient."""
    values, own = SCALE.values, [i % patients for i in range(count)]
    return [(f"p{at}", {"Ana": values[at % 3], "Ben": values[(at + (at % 5 < 2)) % 3]}) for at in own]


@pytest.mark.parametrize("patients", [30, 120])
def test_the_interval_of_kappa_is_that_of_the_cluster_bootstrap(patients: int) -> None:
    rated = rated_twice(120, patients)
    (found,) = agreements(rated, SCALE.values)
    one, other = ([SCALE.values.index(own[name]) for _, own in rated] for name in ("Ana", "Ben"))
    (expected,) = bootstrap(clusters(one, other, 3, [group for group, _ in rated]), [KAPPA], 20_000, 1, 0.95)
    assert found.kappa == pytest.approx(expected.value) == pytest.approx(cohen_kappa_score(one, other))
    ends = [(each.low, each.high) for each in (found.kappa_interval, expected.interval)]
    assert ends[0] == pytest.approx(ends[1], abs=0.02)
    assert found.kappa_interval.method.endswith(f"{patients} groups")


def test_patients_with_many_records_widen_the_interval_of_kappa(tmp_path: Path) -> None:
    rows = [
        {"Row_ID": f"r{i}", "MRN": f"m{i % 6}", "Prompt": f"Complaint: cough {i}", "A": 1, "B": int(i % 6 < 4)}
        for i in range(60)
    ]
    for row in rows[:12]:
        row["A"] = row["B"] = 0

    def width(names: tuple[str, ...]) -> float:
        table = write_csv(tmp_path / "two.csv", [{name: row[name] for name in names} for row in rows])
        with page_of(rate_source(table, experts=("A", "B")), tmp_path / str(len(names))) as (session, _):
            span = session.status(exact=True).agreements[0].kappa_interval
        return span.high - span.low

    (tmp_path / "4").mkdir()
    (tmp_path / "5").mkdir()
    assert width(("Row_ID", "MRN", "Prompt", "A", "B")) > 1.5 * width(("Row_ID", "Prompt", "A", "B"))


def test_experts_who_never_differ_get_no_interval(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path, 12)), tmp_path, overlap=1.0) as (session, client):
        for name in ("Ana", "Ben"):
            rater = tab(session, client, name)
            for _ in range(12):
                rater.press(truth(rater.text))
        (agreement,) = session.status(exact=True).agreements
        assert (agreement.records, agreement.kappa, agreement.kappa_interval) == (12, 1.0, None)
        assert "κ <b>1.00</b></li>" in client.get(f"{START}rater/1/rate/results").text


def test_of_many_raters_the_page_shows_the_pairs_with_most_records(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path, 200)), tmp_path, overlap=1.0) as (session, _):
        ids = [session.join(f"r{at}") for at in range(9)]
        for at in range(120):
            rater = ids[at % 7 if at < 60 else at % 9]
            item = session.shown(rater, "rate")
            assert item is not None and session.rate(rater, "rate", item.key, "independent", at % 2)
        assert session.undo(ids[0], "rate") is not None
        counted = Counter(session.names[entry.rater] for entry in session.entries)
        every, shown = session.status(exact=True), session.status()
        assert len(every.agreements) > 6 and shown.agreements == every.agreements[:6]
        assert [each.records for each in every.agreements] == sorted(each.records for each in every.agreements)[::-1]
        assert every.raters == shown.raters == counted and sum(counted.values()) == 119


@pytest.mark.slow
def test_the_more_is_rated_the_more_must_be_new_to_learn_again(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path, 1200)), tmp_path, overlap=0.0) as (session, _):
        asked, ask = list[int](), session._ask_to_learn
        session._ask_to_learn = lambda: (asked.append(session.changes), ask())  # type: ignore[method-assign]
        rater = session.join("Ana")
        for at in range(1100):
            item = session.shown(rater, "rate")
            assert item is not None and session.rate(rater, "rate", item.key, "independent", at % 2)
    steps = [new - old for old, new in pairwise(asked)]
    assert asked[0] == 10 and set(steps[:40]) == {10} and steps == sorted(steps) and 20 <= steps[-1] <= 23


def test_what_two_raters_differ_on_is_adjudicated(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path, 10)), tmp_path, overlap=1.0) as (session, client):
        ana = tab(session, client, "Ana")
        for _ in range(10):
            ana.press(1, comment="mine")
        ben = tab(session, client, "Ben")
        for at in range(10):
            ben.press(0 if at < 4 else 1)
        assert len(session.finals()) == 6 and session.status(exact=True).open_conflicts == 4
        eve = tab(session, client, "Eve", "adjudicate")
        assert "Ana</span> <b>Match</b>" in eve.page and "Ben</span> <b>Does Not Match</b>" in eve.page
        assert "“mine”" in eve.page
        for _ in range(3):
            eve.press(-1)
        assert eve.undo().hidden("step") == "adjudicated"
        values = sorted(final.value for final in session.finals().values())
        assert values == [-1, -1, 1, 1, 1, 1, 1, 1] and session.status(exact=True).open_conflicts == 2
        eve.press(-1)
        eve.press(-1)
        assert "No two experts differ" in eve.page


def test_a_review_is_blind_first(tmp_path: Path) -> None:
    rated = rated_file(tmp_path)
    with page_of(review_source(rated), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        item = session.items[ana.hidden("record")]
        assert item.opinion is not None
        for shown in ("80 %", item.opinion.rationale, "random sample", "several labels", "<mark>", "Predicted"):
            assert shown not in ana.page.partition('<aside id="status"')[0], shown
        assert ana.hidden("step") == "independent"
        ana.press(-1)
        assert ana.hidden("step") == "revised" and session.items[ana.hidden("record")] == item
        assert "80 %" in ana.page and item.opinion.rationale in ana.page
        assert ana.open().hidden("step") == "revised"  # a reload goes on there
        ana.press(1)
        assert ana.hidden("record") != item.key
        assert session.finals()[item.key].value == 1
        assert session.votes.independent[item.key] == {1: -1}
        ana.undo()
        assert (ana.hidden("record"), ana.hidden("step")) == (item.key, "revised")
        ana.undo()
        assert (ana.hidden("record"), ana.hidden("step")) == (item.key, "independent")


def test_a_review_becomes_the_file_that_merge_review_takes(tmp_path: Path) -> None:
    rated = rated_file(tmp_path)
    into = write_csv(
        tmp_path / "into.csv", [{"Row_ID": "a", "Prompt": "Complaint: burn", "Rating": 0, "Rationale": ""}]
    )
    with page_of(review_source(rated), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        for at in range(8):
            ana.press(truth(ana.text), comment="=1+1" if at == 0 else "")
            ana.press(truth(ana.text))
        client.post(f"{START}rater/1/review/write")
        queued = len(session.source.rows)
    merged = merge_review(tmp_path / "results.csv", into, tmp_path / "merged.csv", SCALE)
    assert (merged.added, merged.not_reviewed, merged.conflicts, merged.damaged) == (8, queued - 8, (), ())
    ratings = read_ratings(tmp_path / "merged.csv", SCALE)
    assert all(rating.value == truth(rating.prompt) for rating in ratings[1:])
    assert [rating.rationale for rating in ratings if rating.rationale] == ["=1+1"]


def test_the_error_rate_of_the_random_sample_counts_what_was_said_before_the_model_was_seen(tmp_path: Path) -> None:
    rated = rated_file(tmp_path, 80, wrong=range(1, 80, 5))
    with page_of(review_source(rated, sample=0.4), tmp_path) as (session, client):
        assert session.status(exact=True).sample is None
        ana = tab(session, client, "Ana")
        wrong = []
        while "step" in ana.page and ana.hidden("step"):
            item = session.items[ana.hidden("record")]
            assert item.opinion is not None
            if item.opinion.sampled:
                wrong.append(item.opinion.label != SCALE.label_of(truth(item.text)))
            ana.press(truth(item.text))
            ana.press(SCALE.values[0])  # whatever is said afterwards
        sample = session.status(exact=True).sample
        assert sample is not None and sample.interval is not None and sample.n == len(wrong) == 24
        assert 0 < sum(wrong) < 24 and sample.value == sum(wrong) / 24
        low, high = proportion_confint(sum(wrong), 24, method="wilson")
        assert (sample.interval.low, sample.interval.high) == pytest.approx((low, high))
        client.post(f"{START}rater/1/review/write")
        assert f"{100 * sample.value:.1f} %" in client.get(f"{START}rater/1/review/results").text
    summary = json.loads((tmp_path / "results.summary.json").read_text())
    assert summary["random_sample"]["error_rate"]["value"] == sample.value


def test_the_random_sample_is_spread_over_the_queue(tmp_path: Path) -> None:
    items = review_source(rated_file(tmp_path, 200), sample=0.2).items
    sampled = [at for at, item in enumerate(items) if item.opinion and item.opinion.sampled]
    assert len(sampled) == 30 and len(items) == 80
    for part in range(4):
        assert 6 <= sum(part * 20 <= at < part * 20 + 20 for at in sampled) <= 9
    assert [items[at].row for at in sampled] != sorted(int(items[at].text.split("b")[-1]) for at in sampled)


def test_columns_of_two_experts_are_adjudicated(tmp_path: Path) -> None:
    first = ["1"] * 10
    second = ["1", "0"] * 4 + ["Unknown", ""]
    source = rate_source(raw_file(tmp_path, 10, A=first, B=second), experts=("A", "B"))
    with page_of(source, tmp_path) as (session, client):
        assert session.status(exact=True).total == 5
        eve = tab(session, client, "Eve")
        for _ in range(4):
            assert "A</span> <b>Match</b>" in eve.page
            eve.press(0)
        assert session.status(exact=True).agreements[0].records == 9
        client.post(f"{START}rater/1/adjudicate/write")
    values = {rating.id: rating.value for rating in read_ratings(tmp_path / "results.csv", SCALE)}
    assert len(values) == 9 and sum(value == 0 for value in values.values()) == 4


def test_text_is_escaped_and_marked(tmp_path: Path) -> None:
    rows = [{"Row_ID": str(i), "Prompt": f'<script>alert({i})</script> & "cough"\''} for i in range(3)]
    with page_of(rate_source(write_csv(tmp_path / "raw.csv", rows)), tmp_path) as (session, client):
        ana = tab(session, client, "<b>Ana</b>")
        assert "<script>alert" not in ana.page and "<b>Ana</b>" not in ana.page
        assert "&lt;script&gt;alert" in ana.page and ana.text in [row["Prompt"] for row in rows]
        ana.press(1, comment="</textarea><script>x</script>")
        assert "<script>x" not in ana.undo().page and "&lt;/textarea&gt;" in ana.page


@pytest.mark.parametrize(
    "path", ["", "static/page.css", "static/htmx.min.js", "rater/1/rate", "rater/9/rate", "nothing"]
)
def test_every_answer_has_the_headers(tmp_path: Path, path: str) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        tab(session, client, "Ana")
        answer = client.get(START + path)
        assert answer.status_code == (404 if path in ("rater/9/rate", "nothing") else 200)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert (
            answer.headers["cache-control"] == "no-store" and "unsafe" not in answer.headers["content-security-policy"]
        )


def test_no_page_has_an_inline_script_or_style_or_another_host(tmp_path: Path) -> None:
    with page_of(review_source(rated_file(tmp_path)), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        pages = [client.get(START).text, ana.page, ana.press(1).page, client.get(f"{START}rater/1/review/results").text]
        for page in pages:
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)
            assert not re.search(r'(?:src|href|action|hx-post|hx-get)="(?!/t0ken/|#)', page)


REFUSED = [
    ({"Host": "evil.example:8000"}, 421),
    ({"Host": "127.0.0.1:8001"}, 421),
    ({"Host": ""}, 421),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": f"https://{HOST}"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
]


@pytest.mark.parametrize(("headers", "code"), REFUSED)
def test_other_hosts_and_pages_are_refused(tmp_path: Path, headers: dict[str, str], code: int) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        rated = {"record": ana.hidden("record"), "step": "independent", "value": "1"}
        for answer in (
            client.get(START, headers=headers),
            client.post(f"{START}rater/1/rate/rate", data=rated, headers=headers),
        ):
            assert answer.status_code == code
            assert "Ana" not in answer.text and answer.headers["cache-control"] == "no-store"
        assert session.entries == []


def test_a_post_without_an_origin_and_an_address_without_the_token_are_refused(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        tab(session, client, "Ana")
        del client.headers["Origin"]
        assert client.get(START).status_code == 200
        assert client.post(f"{START}join", data={"name": "Eve"}).status_code == 403
        for path in ("/", "/t0ke/", "/static/page.css", "/rater/1/rate", f"/x/{TOKEN}/"):
            assert client.get(path).status_code == 404
        assert "Eve" not in session.names.values()


def test_a_password_is_asked_for(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from expertune.review_page.security import Guard

    async def inner(scope: object, receive: object, send: object) -> None:
        from starlette.responses import PlainTextResponse

        await PlainTextResponse("in")(scope, receive, send)  # pyright: ignore[reportArgumentType]

    guard = Guard(inner, Access("https", ("page.example:8443",), TOKEN, "correct horse battery"))
    client = TestClient(guard, base_url="https://page.example:8443")
    refused = client.get(START)
    assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
    assert client.get(START, auth=("ana", "wrong")).status_code == 401
    assert client.get(START, headers={"Authorization": "Basic !!"}).status_code == 401
    assert client.get(START, auth=("ana", "correct horse battery")).text == "in"


def test_no_text_of_a_record_is_in_an_address(tmp_path: Path) -> None:
    with page_of(review_source(rated_file(tmp_path)), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        ana.press(1)
        addresses = re.findall(r'(?:src|href|action|hx-post|hx-get)="([^"]*)"', ana.open().page)
        assert len(addresses) > 10
        for address in addresses:
            assert not any(word in address for word in ("cough", "ankle", "dizzy", "Ana", ana.hidden("record")))


def test_a_name_is_needed_and_a_body_has_a_limit(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        for name in ("", "   ", "a\x07b"):
            answer = client.post(f"{START}join", data={"name": name})
            assert answer.status_code == 422 and "Type a name." in answer.text
        assert client.post(f"{START}join", data={"name": "x" * 100_000}).status_code == 413
        assert session.names == {}


def test_without_scripts_a_form_leads_back_to_the_page(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        del client.headers["HX-Request"]
        fields = {"record": ana.hidden("record"), "step": "independent", "value": "1"}
        answer = client.post(f"{START}rater/1/rate/rate", data=fields)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{START}rater/1/rate")
        assert len(session.entries) == 1


def test_a_comment_is_saved_on_its_own(tmp_path: Path) -> None:
    with page_of(rate_source(raw_file(tmp_path)), tmp_path) as (session, client):
        ana = tab(session, client, "Ana")
        ana.post("comment", {"record": ana.hidden("record"), "comment": " two\nlines "})
        assert ">two lines</textarea>" in ana.open().page
        ana.post("comment", {"record": "unknown", "comment": "x"})
        assert list(session.journal.comments().values()) == ["two lines"]
