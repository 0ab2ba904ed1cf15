"""Documents for the small base model: plain text, chats and short JSON answers, all drawn from open medical text.

The JSON tasks are reading exercises (is this finding present, is this text about that disease, which question does it
answer). None of them is the rating task of the example visits, and no rated data set is read.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

BOS, EOS, START, END = "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"
SYSTEMS = ("You are a helpful assistant.", "You are a careful reader of clinical notes.", "Answer with JSON only.")
FINDINGS = (
    "fever",
    "chills",
    "cough",
    "congestion",
    "nausea",
    "vomiting",
    "chest pain",
    "shortness of breath",
    "headache",
    "abdominal pain",
    "diarrhea",
    "constipation",
    "dizziness",
    "rash",
    "back pain",
    "weight loss",
    "seizures",
    "hypertension",
    "diabetes",
    "asthma",
    "numbness",
    "weakness",
    "bleeding",
    "swelling",
    "palpitations",
    "smoking",
    "alcohol use",
    "allergies",
    "dysuria",
    "sore throat",
    "wheezing",
    "fatigue",
    "joint pain",
    "blurred vision",
)
_NEGATION = re.compile(r"\b(no|not|denies|denied|without|negative for|never|nor)\b", re.IGNORECASE)
_QUESTION_KINDS = {
    "symptoms": "symptoms",
    "treatments": "treatment",
    "causes": "cause",
    "prevent": "prevention",
    "diagnose": "diagnosis",
    "outlook": "outlook",
    "genetic": "genetics",
    "inherited": "genetics",
    "affected": "frequency",
    "complications": "complications",
    "is (are)": "definition",
}


def chat(user: str, answer: str, system: str = "") -> str:
    """One exchange in the form of the model's chat template."""
    head = f"{START}system\n{system}{END}\n" if system else ""
    return f"{BOS}{head}{START}user\n{user}{END}\n{START}assistant\n{answer}{END}\n"


def read_blocks(path: Path) -> list[list[str]]:
    """Blocks of lines, separated by empty lines."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        text = file.read()
    return [block.split("\n") for block in re.split(r"\n\s*\n", text) if block.strip()]


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?]) +(?=[A-Z])", text) if part.strip()]


def first_words(text: str, words: int) -> str:
    """Whole sentences from the start, about `words` words of them and at least one."""
    kept, count = [], 0
    for sentence in sentences(text):
        kept.append(sentence)
        count += len(sentence.split())
        if count >= words:
            break
    return " ".join(kept)


def _note_style(text: str, rng: random.Random) -> str:
    """Some texts as notes are typed: all lower or all upper case, without the last full stop."""
    draw = rng.random()
    if draw < 0.2:
        return text.lower().rstrip(".")
    return text.upper() if draw < 0.27 else text


def medquad(folder: Path, rng: random.Random) -> Iterator[str]:
    pairs = []
    for block in read_blocks(folder / "medquad.txt.gz"):
        text = " ".join(block)
        found = re.match(r"Question: (.*?) ?\? *Answer: (.*)", text)
        if found and len(found[2]) > 40:
            pairs.append((found[1].strip(), re.sub(r"\s+", " ", found[2])))
    focuses = [_focus(question) for question, _ in pairs]
    for (question, answer), focus in zip(pairs, focuses, strict=True):
        short = first_words(answer, rng.choice((12, 25, 45)))[:500]
        if rng.random() < 0.6:
            yield chat(f"{question}?", short, rng.choice(("", "", SYSTEMS[0])))
        passage = first_words(answer, rng.choice((8, 16, 24)))[:320]
        if rng.random() < 0.35:
            yield _kind_task(question, focus, passage, rng)
        if rng.random() < 0.6:
            yield _topic_task(focus, passage, focuses, rng)
        if rng.random() < 0.12:
            yield f"{BOS}{question}?\n{answer[:1500]}{EOS}"


def _focus(question: str) -> str:
    """The disease or subject that a question of MedQuAD's fixed forms asks about."""
    lead = (
        r"^(what|how|who|do|is|are)\b"
        r"(.*?\b(of|for|to|by|with|about|causes|diagnose|prevent|related to)\b| is \(are\))? "
    )
    return re.sub(r" inherited$", "", re.sub(lead, "", question, count=1, flags=re.IGNORECASE)).strip()


def _kind_task(question: str, focus: str, passage: str, rng: random.Random) -> str:
    kind = next((name for key, name in _QUESTION_KINDS.items() if key in question.lower()), "other")
    answer = json.dumps({"type": kind, "topic": focus}, ensure_ascii=False)
    return chat(f"Text: {_note_style(passage, rng)}\n\nWhat kind of information is this?", answer, rng.choice(SYSTEMS))


def _topic_task(focus: str, passage: str, focuses: list[str], rng: random.Random) -> str:
    about = rng.random() < 0.5
    topic = focus if about else rng.choice(focuses)
    about = about or topic == focus
    reason = f"The text is about {focus}."
    answer = json.dumps({"answer": "Yes" if about else "No", "reason": reason}, ensure_ascii=False)
    return chat(f"Text: {_note_style(passage, rng)}\n\nIs this text about {topic}?", answer, rng.choice(SYSTEMS))


def mts_dialog(folder: Path, rng: random.Random) -> Iterator[str]:
    notes = []
    previous = ""
    for block in read_blocks(folder / "mts_dialog.txt.gz"):
        text = "\n".join(block)
        spoken = re.match(r"(Doctor|Patient|Guest_\w+):", text)
        if not spoken:
            notes.append(" ".join(block))
            yield f"{BOS}{_note_style(text, rng)}{EOS}"
        elif previous and rng.random() < 0.8:
            yield chat(f"Summarize:\n{text[:900]}", previous[:500])
        elif rng.random() < 0.5:
            yield f"{BOS}{text[:1500]}{EOS}"
        previous = "" if spoken else " ".join(block)
    for note in notes * 3:
        yield from _finding_tasks(note, rng)


def _finding_tasks(note: str, rng: random.Random) -> Iterator[str]:
    """Classify a finding as present, absent or not stated, by a negation before it in its clause."""
    parts = sentences(note)
    stated: dict[str, tuple[str, int]] = {}
    for place, part in enumerate(parts):
        for finding in FINDINGS:
            found = re.search(rf"\b{finding}\b", part, re.IGNORECASE)
            if found and finding not in stated:
                clause = re.split(r"\bbut\b|;", part[: found.end()])[-1]
                stated[finding] = ("No" if _NEGATION.search(clause) else "Yes", place)
    asked = rng.sample(sorted(stated), min(len(stated), 4))
    for finding in asked:
        answer, place = stated[finding]
        context = " ".join(parts[max(0, place - rng.randint(0, 2)) : place + 1 + rng.randint(0, 1)])[-400:]
        yield _finding_chat(context, finding, answer, parts[place][:160], rng)
    if parts and rng.random() < 0.5:
        absent = rng.choice([name for name in FINDINGS if name not in stated])
        yield _finding_chat(first_words(note, 25)[:400], absent, "Not stated", f"{absent} is not mentioned", rng)


def _finding_chat(note: str, finding: str, answer: str, reason: str, rng: random.Random) -> str:
    if rng.random() < 0.4:
        note, reason = note.lower(), reason.lower()
    age, sex = rng.randint(1, 95), rng.choice(("Female", "Male", "F", "M"))
    body = f"Note: {note}\nAge: {age}\nSex: {sex}" if rng.random() < 0.5 else f"Note: {note}"
    target = json.dumps({"answer": answer, "reason": reason}, ensure_ascii=False)
    return chat(f"{body}\n\nDoes the patient have {finding}?", target, rng.choice(SYSTEMS))


def abstracts(folder: Path, rng: random.Random) -> Iterator[str]:
    for name in ("synergy_abstracts.txt.gz", "pubmedqa_train_abstracts.txt.gz"):
        for block in read_blocks(folder / name):
            title, text = block[0], " ".join(block[1:])
            if len(text) < 200 or rng.random() < 0.6:
                continue
            if rng.random() < 0.3:
                yield chat(f"Write a title:\n{first_words(text, 60)[:600]}", title)
            else:
                yield f"{BOS}{title}\n{text[:1200]}{EOS}"


def documents(folder: Path, seed: int) -> list[str]:
    """Every document in a seeded order; notes come twice, since they are the nearest to visits and the fewest."""
    rng = random.Random(seed)
    texts = [*medquad(folder, rng), *mts_dialog(folder, rng), *mts_dialog(folder, rng), *abstracts(folder, rng)]
    rng.shuffle(texts)
    return texts
