"""A few documents of every task that local task files are written for, in the fields of their published files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ARC = [
    {"id": f"Q{i}", "question": question, "choices": {"text": texts, "label": labels}, "answerKey": key}
    for i, (question, texts, labels, key) in enumerate(
        [
            ("Which is a star?", ["the Sun", "Mars", "a comet", "the Moon"], ["A", "B", "C", "D"], "A"),
            ("What do plants take in?", ["oxygen", "carbon dioxide", "iron"], ["1", "2", "3"], "2"),
            ("What melts?", ["ice", "stone", "wood", "air"], ["A", "B", "C", "D"], "A"),
        ]
    )
]
HELLASWAG = [
    (
        "Roof shingle removal",
        "A man is sitting on a roof.",
        "he",
        ["flies.", "naps.", "falls.", "pulls up roofing."],
        3,
    ),
    ("Polo", "The match ends. They smile.", "the man in the USA", ["bows.", "runs.", "sings.", "[x] sits."], 0),
    ("How to cook", "[header] Boil it [title] Take a pot. [step] Fill it.", "", ["Wait.", "Go.", "Eat.", "Sit."], 1),
]
RTE = [
    ("Dana Reeve has died.", "Dana Reeve is dead.", "entailment"),
    ("Cairo is a city.", "Cairo is a lake.", "not_entailment"),
]
Files = dict[str, list[dict[str, Any]]]  # a file's name and its documents
DATA: dict[str, Files] = {
    "arc_easy": {"test.jsonl": ARC, "validation.jsonl": ARC[1:]},
    "arc_challenge": {"test.jsonl": ARC[::-1]},
    "piqa": {
        "validation.jsonl": [
            {"goal": "open a jar", "sol1": "twist the lid", "sol2": "eat the lid", "label": 0},
            {"goal": "dry a shirt", "sol1": "wet it", "sol2": "hang it up", "label": 1},
        ]
    },
    "boolq": {
        "validation.jsonl": [
            {"question": "is ice cold", "passage": "Ice is frozen water.", "label": 1},
            {"question": "is the sun a planet", "passage": "The sun is a star.", "label": 0},
        ]
    },
    "winogrande": {
        "validation.jsonl": [
            {"sentence": "Ann beat Bea so _ was glad.", "option1": "Ann", "option2": "Bea", "answer": "1"},
            {"sentence": "Ann lost to Bea so _ was glad.", "option1": "Ann", "option2": "Bea", "answer": "2"},
        ]
    },
    "openbookqa": {
        "test.jsonl": [
            {"question_stem": "Fog is", "choices": {"text": ["in a marsh", "no fog"], "label": ["A", "B"]}, "answerKey": "A"},
        ]
    },
    "hellaswag": {
        "validation.jsonl": [
            {"activity_label": label, "ctx_a": a, "ctx_b": b, "endings": endings, "label": str(gold)}
            for label, a, b, endings, gold in HELLASWAG
        ]
    },
    "rte": {
        "validation.jsonl": [
            {"sentence1": premise, "sentence2": hypothesis, "label": int(label != "entailment")}
            for premise, hypothesis, label in RTE
        ]
    },
    "lambada_openai": {
        "lambada_test.jsonl": [{"text": "He gave the dog a bone"}, {"text": "She rode home on her horse"}]
    },
}  # fmt: skip
OTHER: dict[str, Files] = {  # the same documents as their other files have them
    "hellaswag": {
        "validation_query.jsonl": [
            {"query": "Roof shingle removal: A man is sitting on a roof. he", "choices": HELLASWAG[0][3], "gold": 3},
            {
                "query": "Polo: The match ends. They smile. the man in the USA",
                "choices": ["bows.", "runs.", "sings.", "sits."],
                "gold": 0,
            },
            {"query": "How to cook: Boil it. Take a pot. Fill it.", "choices": HELLASWAG[2][3], "gold": 1},
        ]
    },
    "rte": {
        "RTE.val.jsonl": [
            {"premise": premise, "hypothesis": hypothesis, "label": label, "idx": i}
            for i, (premise, hypothesis, label) in enumerate(RTE)
        ]
    },
}


def lay_out(folder: Path, data: dict[str, Files]) -> Path:
    for task, files in data.items():
        (folder / task).mkdir(parents=True, exist_ok=True)
        for name, documents in files.items():
            (folder / task / name).write_text("".join(json.dumps(document) + "\n" for document in documents))
    return folder
