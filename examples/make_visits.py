"""Write formatted_dataset.csv: synthetic emergency visits rated for the topic "respiratory infections".

    python examples/make_visits.py [--rows 500] [--seed 11] [--out examples/formatted_dataset.csv]

The same seed and rows give the same bytes. Every visit is invented.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
from pathlib import Path

from visit_scenarios import SCENARIOS, Scenario

HERE = Path(__file__).parent
TOPIC = "respiratory infections"
LABELS = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
COLUMNS = (
    "Row_ID",
    "C_BioSense_ID",
    "Sex",
    "Age",
    "ChiefComplaintOrig",
    "Discharge Diagnosis",
    "TriageNotes",
    "Topic",
    "Prompt",
    "Standardized_Rating",
    "Rationale of Rating",
)
NOISE = 0.05  # share of rows that the expert rated wrongly
RETURNS = 0.06  # share of visits by a patient seen before
SLOTS = {
    "sob": ("sob", "shortness of breath", "doe", "short of breath"),
    "cp": ("cp", "chest pain"),
    "nvd": ("n/v/d", "n/v", "vomiting", "diarrhea"),
    "nonresp": ("n/v/d", "cp", "abd pain", "vomiting", "rash", "ha", "back pain", "dysuria"),
    "resp": ("cough", "sob", "congestion", "sore throat", "runny nose", "productive cough", "fever"),
    "sx": ("cough", "fever and cough", "congestion", "sore throat", "sob", "runny nose", "wet cough, sob", "chills"),
    "wet": ("cough", "productive cough", "wet cough", "cough w/ sputum", "coughing"),
    "nasal": ("congestion", "runny nose", "nasal congestion", "rhinorrhea", "sneezing"),
    "throat": ("sore throat", "throat pain", "hoarse voice"),
    "fever": ("fever", "fevers", "subj fever", "chills", "fever to {temp}"),
    "pain": (
        "ankle pain",
        "abd pain",
        "flank pain",
        "r knee pain",
        "burning w/ urination",
        "tooth pain",
        "neck pain",
        "ha",
        "low back pain",
        "pain after fall",
        "n/v",
        "wrist pain s/p fall",
    ),
    "infection": (
        "cough and fever",
        "fever, {nasal}",
        "{wet} and chills",
        "{wet}, {nasal}",
        "sore throat and fever",
        "{throat}, {wet}",
        "fever w/ {wet}",
    ),
    "elsewhere": (
        "abd pain",
        "{nvd}",
        "dysuria",
        "back pain",
        "rash",
        "ankle pain",
        "ha",
        "{cp}",
        "leg swelling",
        "dizziness, {nvd}",
        "abd pain and {nvd}",
        "ha, rash",
    ),
    "chronic": ("dm", "htn", "asthma", "copd", "chf", "cad", "ckd"),
    "sick": ("son", "daughter", "spouse", "roommate", "coworker", "mother"),
    "who": ("pt", "patient"),
    "co": ("c/o", "complains of", "presents w/", "reports"),
    "denies": ("denies", "no", "neg for", "denies any"),
}
WRONG_REASONS = {1: "Possible respiratory illness", 0: "Does not look like infection", -1: "Hard to tell from record"}


def fill(template: str, rng: random.Random, values: dict[str, str]) -> str:
    """The template with every {slot} drawn, none twice while there are others; slots may hold slots."""
    used: set[str] = set()

    def draw(found: re.Match[str]) -> str:
        name = found[1]
        if name in values:
            return values[name]
        if name == "days":
            return rng.choice((f"{rng.randint(2, 9)}d", f"{rng.randint(2, 9)} days", f"{rng.randint(1, 3)} wk"))
        if name == "ago":
            return rng.choice(("yesterday", "last week", f"{rng.randint(2, 6)} days ago", "last night", "monday"))
        if name == "temp":
            return f"{rng.uniform(100.4, 103.9):.1f}"
        choice = rng.choice([text for text in SLOTS[name] if text not in used] or SLOTS[name])
        used.add(choice)
        return choice

    while (filled := re.sub(r"\{(\w+)\}", draw, template)) != template:
        template = filled
    return template


def misspell(text: str, rng: random.Random) -> str:
    """About one long word in 20 typed wrongly: two letters swapped, one lost or one doubled."""
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) > 4 and word.isalpha() and rng.random() < 0.05:
            spot = rng.randint(1, len(word) - 3)
            words[place] = rng.choice(
                (
                    word[:spot] + word[spot + 1] + word[spot] + word[spot + 2 :],
                    word[:spot] + word[spot + 1 :],
                    word[:spot] + word[spot] + word[spot:],
                )
            )
    return " ".join(words)


def typed(text: str, style: str) -> str:
    return text.upper() if style == "upper" else text[:1].upper() + text[1:] if style == "first" else text


def rate(scenario: Scenario, diagnosis: str, rng: random.Random, values: dict[str, str]) -> tuple[int, str]:
    """The expert's rating and reason; now and then a wrong one, as real experts give."""
    if rng.random() < NOISE:
        wrong = rng.choice([value for value in (1, 0, -1) if value != scenario.rating])
        return wrong, WRONG_REASONS[wrong]
    reason = fill(rng.choice(scenario.reasons), rng, {**values, "diagnosis": diagnosis})
    return scenario.rating, reason[:1].upper() + reason[1:]


def prompt_of(visit: dict[str, str]) -> str:
    """The row's full prompt; empty fields stay visible, since a missing diagnosis is information too."""
    return (
        f"Chief complaint: {visit['ChiefComplaintOrig']}\nDiagnosis: {visit['Discharge Diagnosis'] or 'none'}\n"
        f"Triage: {visit['TriageNotes'] or 'none'}\nSex: {visit['Sex']}\nAge: {visit['Age']}\n\n"
        f"Task: does this visit match {TOPIC}?"
    )


def make_visit(scenario: Scenario, patient: tuple[str, str, int], rng: random.Random) -> dict[str, str]:
    identity, sex, age = patient
    style = rng.choice(("lower", "lower", "first", "upper"))
    # drawn once for the visit, since the reason may repeat them
    values = {"pain": rng.choice(SLOTS["pain"]), "infection": fill(rng.choice(SLOTS["infection"]), rng, {})}
    diagnosis = rng.choice(scenario.diagnosis)
    visit = {
        "C_BioSense_ID": identity,
        "Sex": sex,
        "Age": str(age),
        "ChiefComplaintOrig": typed(misspell(fill(rng.choice(scenario.complaint), rng, values), rng), style),
        "Discharge Diagnosis": diagnosis,
        "TriageNotes": typed(misspell(fill(rng.choice(scenario.triage), rng, values), rng), style),
        "Topic": TOPIC,
    }
    rating, reason = rate(scenario, diagnosis, rng, values)
    return {**visit, "Prompt": prompt_of(visit), "Standardized_Rating": str(rating), "Rationale of Rating": reason}


def make_visits(rows: int, seed: int) -> list[dict[str, str]]:
    """`rows` visits in the order of their Row_ID."""
    rng = random.Random(seed)
    patients: list[tuple[str, str, int]] = []
    visits = []
    for number in range(1, rows + 1):
        if patients and rng.random() < RETURNS:
            patient = rng.choice(patients)
        else:
            age = min(96, max(1, round(rng.triangular(1, 95, 35))))
            patient = (f"P{len(patients) + 1:05d}", rng.choice("FM"), age)
            patients.append(patient)
        scenario = rng.choices(SCENARIOS, [one.weight for one in SCENARIOS])[0]
        visits.append({"Row_ID": str(number), **make_visit(scenario, patient, rng)})
    return visits


def to_csv(visits: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([visit[column] for column in COLUMNS] for visit in visits)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--out", type=Path, default=HERE / "formatted_dataset.csv")
    args = parser.parse_args()
    args.out.write_bytes(to_csv(make_visits(args.rows, args.seed)).encode())
    mapping = {"rating_mapping": LABELS, "topic": TOPIC}
    args.out.with_name("rating_mapping_metadata.json").write_text(json.dumps(mapping, indent=2) + "\n")


if __name__ == "__main__":
    main()
