"""Real input through the command line of lesson 07: does a task get better, and do answers end?

    python benchmarks/nsmc_task.py --max_steps 400

Training rows: the permissive instruction mix and 10,000 film reviews of NSMC's training side as one more task, both from
KO_DATA_DIR (``--mix_rows``, ``--reviews``: fewer of them; ``--choices``: also so many rows of ``choice_rows.py`` in
``helpers/data/instruction_tasks``, which teach to answer with a word that the question names; ``--max_steps``: how long).
Asked: 1,000 reviews of NSMC's test side, or with ``--dev`` of reviews that training left out; free greedy generation,
before and after. An answer that is no label is wrong (coverage says how many were labels); the majority label's score
stands beside. ``choice_macro_f1`` lets the model choose between the two labels by likelihood: what it knows, apart from
whether it keeps to the form. Tasks that it was never trained for are lesson 10's to ask (``-p adapter
OUTPUT_DIR/adapter``).
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from sklearn.metrics import f1_score

from helpers.course.atomic import read_text
from helpers.course.jsonl import read_jsonl, write_jsonl
from helpers.course.paths import REPOSITORY, course_data_dir, repository_path
from helpers.course.separated import read_separated
from helpers.data.instruction_tasks.choice_rows import ChoiceRows, Labelled
from helpers.data.instruction_tasks.leakage import LeakIndex, zero_shot_texts
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import Prompt
from helpers.instruct.rows import Row
from helpers.instruct.scoring.likelihood import label_likelihoods
from helpers.instruct.sft.preview import answering, answers

UTTERANCES = {
    "질문(question)": "질문",
    "명령(command)": "명령",
    "평서(statement)": "평서",
    "단편(fragment)": "단편",
    "수사의문(rhetorical question)": "반문",
}
LABELS = ("부정", "긍정")
PHRASINGS = (
    "다음 영화 리뷰가 긍정인지 부정인지 한 단어로 답하세요.",
    "이 영화평의 감정을 긍정, 부정 가운데 하나로 적어 줘.",
    "리뷰를 읽고 '긍정' 또는 '부정'이라고만 쓰시오.",
)


def reviews(path: Path, limit: int, seed: int, phrasings: Sequence[str]) -> list[Row]:
    """Reviews of an NSMC file as rows of one task, labels as words; as many as asked for, drawn at random."""
    text, _ = read_text(path)
    table = read_separated(text, path, "\t", False, None)
    table = table[table["document"].str.strip() != ""].sample(limit, random_state=seed)
    draw = random.Random(seed)
    return [
        {"instruction": draw.choice(phrasings), "input": text, "output": LABELS[int(label)], "task": "NSMC"}
        for text, label in zip(table["document"], table["label"], strict=True)
    ]


def choices(count: int, mix: Sequence[Row], seed: int) -> list[Row]:
    """Rows of :class:`ChoiceRows` from the mix, from utterances (3i4k) and from titles of petitions."""
    utterances = read_jsonl(course_data_dir("classification/3i4k_train.jsonl.gz"))
    said = [(row["text"], UTTERANCES[row["label_text"]]) for row in utterances if row["label_text"] in UTTERANCES]
    petitions = read_jsonl(course_data_dir("classification/petitions_category.jsonl.gz"))
    asked = [(row["title"], row["label"]) for row in petitions]
    texts = [row["output"].split("\n")[0] for row in mix] + [text for text, _ in said[:12_000]]
    return ChoiceRows(texts, [Labelled("말하는 사람의 뜻", said), Labelled("청원의 분야", asked)], seed).rows(count)


def without_test_texts(rows: Sequence[Row]) -> list[Row]:
    """The rows that hold no text of the four zero-shot sets; says how many did."""
    index = LeakIndex(zero_shot_texts(course_data_dir("zero_shot")))
    leaking = {leak.row for leak in index.leaks(rows)}
    print(f"{len(leaking)} of {len(rows)} rows hold a text of a test set and are left out", flush=True)
    return [row for number, row in enumerate(rows) if number not in leaking]


def scores(model, prompt, rows: Sequence[Row]) -> dict[str, float]:
    """Macro F1 over all rows (no label is wrong), coverage, share of answers that ended by themselves; and F1 of a choice."""
    given = answers(model, prompt, rows, max_new_tokens=8, batch_size=50)
    wanted = [row["output"] for row in rows]
    majority = max(LABELS, key=wanted.count)
    said = [one.text if one.text in LABELS else "none" for one in given]

    def macro(answers: Sequence[str]) -> float:
        return float(f1_score(wanted, answers, labels=list(LABELS), average="macro", zero_division=0))

    questions = [prompt.prompt_ids(row["instruction"], row["input"]) for row in rows]
    with_end = [prompt.example(rows[0]["instruction"], label, rows[0]["input"]) for label in LABELS]
    with answering(model):
        likely = label_likelihoods(model, questions, [one.input_ids[-one.trained :] for one in with_end])  # (N, 2)
    return {
        "macro_f1": macro(said),
        "choice_macro_f1": macro([LABELS[best] for best in likely.argmax(1).tolist()]),
        "coverage": sum(one in LABELS for one in said) / len(said),
        "eos_rate": sum(one.ended for one in given) / len(given),
        "majority_macro_f1": macro([majority] * len(rows)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="NSMC as a task, before and after instruction tuning on a real mix")
    parser.add_argument("--config_path", default="config/instruction_lora.yaml")
    parser.add_argument("--model", default="sample_data/models/ko-mini-mistral")
    parser.add_argument("--output_dir", default="outputs/nsmc_task")
    parser.add_argument("--reviews", type=int, default=10_000)
    parser.add_argument("--mix_rows", type=int, default=20_000)
    parser.add_argument("--choices", type=int, default=0)
    parser.add_argument("--dev", action="store_true", help="ask reviews that training left out")
    parser.add_argument("--test_rows", type=int, default=1_000)
    parser.add_argument("--max_steps", type=int, default=400)
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    told = parser.parse_args()
    folder = repository_path(told.output_dir)
    mix = read_jsonl(course_data_dir("instruct/mix_permissive.jsonl.gz"))
    named = choices(told.choices, mix, 13) if told.choices else []
    mix = random.Random(13).sample(mix, min(told.mix_rows, len(mix)))
    drawn = reviews(course_data_dir("classification/nsmc_train.tsv.gz"), told.reviews + told.test_rows, 13, PHRASINGS)
    rows = without_test_texts([*mix, *drawn[: told.reviews], *named])
    train = write_jsonl(folder / "train.jsonl", rows)
    if told.dev:
        test = [row | {"instruction": PHRASINGS[0]} for row in drawn[told.reviews :]]
    else:
        test = reviews(course_data_dir("zero_shot/ratings_test_a.txt"), told.test_rows, 13, PHRASINGS[:1])
    told_to_train = {
        "model": told.model,
        "output_dir": folder,
        "train_path": train,
        "max_rows": len(rows),
        "val_share": 0.03,
        "max_val_rows": 300,
        "max_steps": told.max_steps,
        "max_seq_length": told.max_seq_length,
        "num_train_epochs": 1,
        "train_batch_size": 32,
        "learning_rate": told.learning_rate,
        "warmup_steps": 20,
        "eval_steps": 50,
        "save_steps": 50,
    }
    tokenizer, base = load_language_model(told.model)
    prompt = Prompt.for_tokenizer(tokenizer)
    before = scores(base, prompt, test)
    print("before", json.dumps(before), flush=True)
    command = [sys.executable, "-m", "helpers.instruct.tuning", "--config_path", told.config_path]
    command += [part for name, value in told_to_train.items() for part in ("-p", name, str(value))]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    tuned = PeftModel.from_pretrained(base, str(folder / "adapter"))
    after = scores(tuned, Prompt.load(folder / "adapter"), test)
    print("after", json.dumps(after), flush=True)
    figures = {"before": before, "after": after, "training": json.loads((folder / "metrics.json").read_text())}
    (folder / "nsmc.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
