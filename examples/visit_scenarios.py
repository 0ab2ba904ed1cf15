"""Kinds of synthetic emergency visits: what is written, how an expert rates it, and why.

Texts are templates; `{slot}` is filled by make_visits.py. Words are shared between the ratings on purpose: whether
"cough" counts depends on who has it, when, and whether it is denied or explained. Invented, not medical knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """`weight` is its share among all; complaint, diagnosis and triage are drawn independently of each other."""

    name: str
    rating: int
    weight: float
    complaint: tuple[str, ...]
    diagnosis: tuple[str, ...]
    triage: tuple[str, ...]
    reasons: tuple[str, ...]


VAGUE = ("not feeling well", "evaluation", "sick", "weakness", "med eval", "general malaise", "fatigue", "fever",
         "eval", "feels unwell", "body aches", "headache", "dizzy")
BREATH = ("{sob}", "difficulty breathing", "{sob} and {cp}", "breathing problem", "cough", "cough and {sob}",
          "chest tightness", "chest congestion", "{cp}")
COUGHS = ("cough", "cough and fever", "fever", "cough x {days}", "cold sx", "flu like sx", "congestion", "sore throat",
          "cough, congestion", "fever and sore throat", "uri sx")
OTHER = ("fall", "ankle pain", "abd pain", "{nvd}", "back pain", "laceration to finger", "headache", "dizziness",
         "rash", "mvc", "flank pain", "knee injury", "weakness", "{cp}", "toothache", "dysuria", "eye pain", "syncope")
BLANK = ("", "", "")
# what the mirrored visits share, so that only the triage note's wording decides
OPEN_COMPLAINT = (*VAGUE, *BREATH[:4], "cough", "fever", "cough x {days}", "fall", "abd pain", "{nvd}", "back pain",
                  "{cp}", "covid test")
OPEN_DIAGNOSIS = (*BLANK, "", "fever, unspecified", "other general symptom", "weakness", "r/o pneumonia", "r/o covid",
                  "pneumonia?", "viral syndrome")

SCENARIOS = (
    # Match ---------------------------------------------------------------------------------------------------------
    Scenario("mirrored, present", 1, 13, OPEN_COMPLAINT, OPEN_DIAGNOSIS,
             ("{co} {infection}. {denies} {elsewhere}", "{denies} {elsewhere}. {co} {infection}",
              "{elsewhere} resolved, now {infection}", "pt has {infection}, {sick} has {elsewhere}",
              "{infection} since {ago}, no {elsewhere}", "no {elsewhere} but {infection} x {days}",
              "{co} {infection} now, {elsewhere} last month"),
             ("{infection} reported", "Signs of respiratory infection", "Infection of the airways in triage note")),
    Scenario("tests positive", 1, 4, OPEN_COMPLAINT, OPEN_DIAGNOSIS,
             ("flu pos, covid neg. {denies} {elsewhere}", "covid pos, flu neg", "cxr infiltrate, no effusion",
              "cxr pos for pneumonia, ekg normal", "flu neg, covid pos. {co} {elsewhere}"),
             ("Positive finding in triage note", "Test or chest film shows infection")),
    Scenario("diagnosed", 1, 6, COUGHS + BREATH + VAGUE[:6],
             ("pneumonia, unspecified organism", "acute uri", "acute bronchitis", "influenza a", "covid-19",
              "viral upper respiratory infection", "bronchiolitis", "croup", "acute pharyngitis", "rsv infection",
              "lobar pneumonia", "acute sinusitis", "cap", "lrti"),
             ("{who} {co} {sx} x {days}, {denies} {nonresp}", "{sx} since {ago}. {denies} {nonresp}", "{who} with {sx}",
              "hx {chronic}. {sx} x {days}", "no {resp}, just tired x {days}", ""),
             ("Diagnosis is a respiratory infection", "{diagnosis} diagnosed", "Respiratory infection in diagnosis")),
    Scenario("symptoms only", 1, 3, COUGHS + VAGUE[:6] + ("cough", "{sob}"), (*BLANK, "fever, unspecified", "cough"),
             ("{co} {wet} and {fever} x {days}. {denies} {nonresp}", "{fever}, {wet} since {ago}, no {nonresp}",
              "{who} {co} {nasal}, {throat} and {fever} x {days}", "{wet} with {fever}, {sick} at home sick too",
              "{co} {fever} and {nasal} x {days}, {denies} {nonresp}", "temp {temp}, {wet}, {nasal}. no {nonresp}"),
             ("Cough or cold symptoms with fever", "Febrile respiratory illness",
              "Infectious symptoms of the airways")),
    Scenario("found in triage", 1, 3, OTHER + VAGUE, (*BLANK, "weakness", "dehydration", "syncope"),
             ("{co} weakness x {days}, also {wet} and {fever}", "cxr shows infiltrate, {fever}. {denies} {cp}",
              "{denies} injury. {wet} and {fever} x {days}", "rapid flu positive, {nonresp} since {ago}",
              "covid test positive {ago}, now {nonresp}", "ems: low sats, {wet}, infiltrate on cxr"),
             ("Triage notes show respiratory infection", "Notes show infection of the airways")),
    Scenario("asthma with infection", 1, 3, (*BREATH, "asthma", "wheezing", "asthma attack"),
             ("asthma exacerbation", "copd exacerbation", "wheezing", ""),
             ("hx asthma, {wet} and {fever} x {days}", "wheezing after cold, {fever}, {nasal}",
              "copd, {wet} green sputum, {fever}. {denies} {cp}", 
              "inhaler not helping, {sick} has flu, {fever} and {wet}"),
             ("Exacerbation with signs of infection", "Asthma or COPD triggered by infection",
              "Fever with respiratory exacerbation")),
    # Does Not Match ------------------------------------------------------------------------------------------------
    Scenario("mirrored, absent", 0, 13, OPEN_COMPLAINT, OPEN_DIAGNOSIS,
             ("{co} {elsewhere}. {denies} {infection}", "{denies} {infection}. {co} {elsewhere}",
              "{infection} resolved, now {elsewhere}", "pt has {elsewhere}, {sick} has {infection}",
              "{elsewhere} since {ago}, no {infection}", "no {infection} but {elsewhere} x {days}",
              "{co} {elsewhere} now, {infection} last month"),
             ("No {infection} now", "Respiratory symptoms denied or past", "Other symptoms, not the airways")),
    Scenario("tests negative", 0, 4, OPEN_COMPLAINT, OPEN_DIAGNOSIS,
             ("flu neg, covid neg. {co} {elsewhere}", "covid neg, flu neg", "cxr no infiltrate, effusion",
              "cxr neg for pneumonia, ekg pos for st changes", "ct pos for pe, cxr no infiltrate"),
             ("Tests or chest film negative", "No sign of infection in the tests")),
    Scenario("unrelated", 0, 5, OTHER, ("contusion", "sprain", "gastroenteritis", "migraine", "uti", "low back pain",
                                       "cellulitis", "laceration", "kidney stone", "dental caries", ""),
             ("{co} {pain} since {ago}. {denies} {resp}, {resp}", "{pain} x {days}, no {resp}", "{who} {co} {pain}",
              "{denies} {wet} or fever. {pain} x {days}", "{pain}; hx {chronic}. no fever or {resp}"),
             ("Unrelated to the airways", "No respiratory symptoms", "Respiratory symptoms are denied",
              "Other cause: {pain}")),
    Scenario("airways without infection", 0, 4, (*BREATH, "asthma", "wheezing", "asthma attack", "copd"),
             ("asthma exacerbation", "copd exacerbation", "wheezing", "asthma, mild intermittent", ""),
             ("hx asthma, out of inhaler x {days}. {denies} fever, {nasal}",
              "wheezing after exercise, no {nasal} or fever",
              "copd, ran out of o2. {denies} {wet}, {fever}", "wheezing near smoke, no fever, no {nasal}"),
             ("Exacerbation without infection", "Asthma or COPD only, no fever", "Airways disease but no infection")),
    Scenario("ruled out", 0, 4, (*BREATH, "r/o pneumonia", "pneumonia?", "r/o covid", "cough and fever"),
             ("chf exacerbation", "anxiety", "chest pain, unspecified", "pulmonary embolism", "musculoskeletal pain",
              "atrial fibrillation", "nstemi"),
             ("r/o pneumonia, cxr clear. {denies} {fever}", "cxr clear, flu and covid negative",
              "{denies} {wet}, {fever}. leg swelling", "sent for pneumonia, cxr negative, {denies} fever",
              "{sob} when lying flat, no {wet} or fever"),
             ("Infection ruled out", "Other cause found, no infection", "Explained by another diagnosis")),
    Scenario("harmless cough", 0, 3, ("cough", "cough x {days}", "congestion", "runny nose", "sneezing", "sore throat"),
             ("adverse effect of ace inhibitor", "gerd", "allergic rhinitis", "seasonal allergies",
              "foreign body in throat", "aspiration of food", ""),
             ("dry cough since starting lisinopril, no fever", "itchy eyes, {nasal} every spring, {denies} fever",
              "cough after meals, reflux. {denies} fever", "choked on food {ago}, cough after, no fever",
              "allergies, {nasal}, no fever, no sick contacts"),
             ("Explained without infection", "Harmless cause, no fever", "No infection, other cause")),
    Scenario("exposure or past", 0, 3, ("covid test", "wants covid test", "exposure", "med refill", "flu shot",
                                       "recheck", "suture removal", "work note", "cough", "flu exposure"),
             ("encounter for screening", "exposure to covid-19", "medication refill", "wound check", "", ""),
             ("{sick} has covid, pt has no sx", "{sick} has flu, {denies} {wet}, fever", "wants covid test, no sx",
              "cough resolved {ago}, here for refill", "hx pneumonia last year, now well, no {resp}",
              "had flu {ago}, resolved, needs work note", "{wet} last month, gone now. {denies} fever"),
             ("No respiratory illness at this visit", "Exposure or past illness only", "No symptoms now")),
    # Unknown -------------------------------------------------------------------------------------------------------
    Scenario("pending", -1, 6, OPEN_COMPLAINT, OPEN_DIAGNOSIS,
             ("flu pending, covid pending", "cxr pending, ekg normal", "left before triage",
              "poor historian, workup pending", "{co} feeling bad since {ago}",
              "cannot say whether {infection}", "unable to obtain hx, {sick} not here"),
             ("Cannot be told from the record", "Not enough information", "Record does not say")),
    Scenario("vague", -1, 5, VAGUE, (*BLANK, "other general symptom", "illness, unspecified"),
             ("", "{who} {co} not feeling well x {days}", "left before triage",
              "pt states feels bad since {ago}", "poor historian", "{fever} x {days}, no other info"),
             ("Not enough information", "Too vague to tell", "Complaint is unspecific")),
    Scenario("one sign", -1, 4, (*BREATH, "fever", "cough x {days}"), (*BLANK, "cough", "dyspnea, unspecified"),
             ("", "left without being seen", "{who} {co} cough, cause unclear", "{sob} x {days}, workup pending",
              "covid swab pending", "cxr pending, poor historian"),
             ("Single sign, cause unclear", "Cannot tell whether infection", "Cause not established")),
)
