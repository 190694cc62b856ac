"""Lesson 03's recipe on real retrieval sets: BM25, the model before and after, and BM25 fused with each.

    python benchmarks/retrieval.py paraKQC --max_rows 4000
    python benchmarks/retrieval.py petitions --also wikinews        a set without a train split is tested with that model
    python benchmarks/retrieval.py petitions --also wikinews --max_length 384 --untrained --model FOLDER

Trains on the train split of the first set, tests on its test split (a set without splits is used whole). A tenth of the
train queries is held back, with every train query that shares a document with them (with --statutes a fifth of the
statutes is): on those the fusion (by ranks or by scores) and the model's weight in it (BM25 counts 1) are chosen, and with
--dev they are tested instead of the test split, which then is not looked at: that is where settings are chosen (a fusion is
then scored on the queries that chose it). The model searches with a vector for each text, with one for each token (late
interaction), and with both, whose scores are added; which of them to fuse with BM25, the held-back queries say too. Prints
NDCG@1 and @10 and writes them to OUTPUT_DIR/<set>.json, the trained model beside them; with --untrained it measures the
model as it is, and writes nothing.

--statutes, for law_articles: trains also on the articles of 1,655 other statutes in the shared corpus, with eight articles of
a statute side by side in a batch (``--group_size``).
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from statutes import statute_of, statute_pairs

from helpers.course.machine import set_seed
from helpers.course.paths import course_data_dir
from helpers.data.e5_rows import e5_from_beir
from helpers.data.pairs import Pairs
from helpers.data.retrieval import RetrievalSet, read_beir
from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.encoder import Encoder
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.infonce.trainer import train_contrastive
from helpers.embedding.retrieval_metrics import Run, retrieval_metrics
from helpers.embedding.scoring.fusion import reciprocal_rank_fusion, score_fusion
from helpers.embedding.scoring.late_interaction import late_interaction_run
from helpers.embedding.scoring.runs import bm25_run, dense_run, documents_of, judged_queries

KNOBS = {"max_length": int, "batch_size": int, "hard_negatives": int, "epochs": int, "max_steps": int, "lr": float}
KNOBS |= {"group_size": int, "embedding_lr": float, "loss_temperature": float, "seed": int, "model": str}
WEIGHTS = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
FUSIONS: dict[str, tuple[Callable[..., Run], float]] = {
    f"by ranks, k {k}, weight {weight:g}": (partial(reciprocal_rank_fusion, k=k), weight)
    for k in (60, 10, 2)
    for weight in WEIGHTS
} | {f"by scores, weight {weight:g}": (score_fusion, weight) for weight in WEIGHTS}
"""How runs become one, and what each run of the model counts in it."""
ALIKE = ("by ranks, k 60, weight 1", "by scores, weight 1")


def held_back(train: RetrievalSet, seed: int, by_statute: bool = False) -> tuple[RetrievalSet, RetrievalSet]:
    """A tenth of the queries, and those of the others that share no document with them: (to train on, to choose by).

    ``by_statute``: instead all queries of a fifth of the statutes, for no statute of the test split is trained on either.
    """
    judged, draw = list(judged_queries(train)), random.Random(seed)
    if by_statute:
        statutes = {query: statute_of(train.corpus[next(iter(train.qrels[query]))].full()) for query in judged}
        names = sorted(set(statutes.values()))
        chosen = set(draw.sample(names, len(names) // 5))
        dev = [query for query in judged if statutes[query] in chosen]
    else:
        dev = sorted(draw.sample(judged, min(300, len(judged) // 10)))
    theirs = {document for query in dev for document in train.qrels[query]}
    rest = [query for query in judged if query not in set(dev) and theirs.isdisjoint(train.qrels[query])]
    return train.of_queries(rest), train.of_queries(dev)


def training_rows(train: RetrievalSet, more: Sequence[Pairs], most: int | None, seed: int) -> ContrastiveRows:
    """Judged pairs with a hard negative by BM25, and more pairs; `most` of them drawn by seed."""
    rows = ContrastiveRows.of_pairs(e5_from_beir(train), *more)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows.take(order[:most].tolist())


class Test:
    """A test set with its BM25 run, which every model is compared and fused with."""

    def __init__(self, name: str, data: RetrievalSet) -> None:
        self.name, self.data = name, data
        self.queries, self.documents = judged_queries(data), documents_of(data)
        self.bm25 = bm25_run(self.queries, self.documents)
        self.scores = {"BM25": self.score(self.bm25)}

    def score(self, run: Run) -> dict[str, float]:
        found = retrieval_metrics(run, self.data.qrels)
        return {name: round(found[name], 4) for name in ("ndcg@1", "ndcg@10")}

    def runs(self, encoder: Encoder) -> dict[str, list[Run]]:
        """By what a text becomes."""
        sides = (partial(encoder.encode, prompt=prompt) for prompt in ("query", "document"))
        texts = self.queries, self.documents
        one, tokens = dense_run(*texts, *sides), late_interaction_run(encoder, *texts)
        return {"one vector": [one], "every token": [tokens], "both": [one, tokens]}

    def fused(self, runs: list[Run], fusion: str) -> dict[str, float]:
        """Scores of BM25's run and the model's, fused."""
        fuse, weight = FUSIONS[fusion]
        return self.score(fuse([self.bm25, *runs], weights=[1.0] + [weight] * len(runs)))

    def best_fusions(self, encoder: Encoder) -> dict[str, str]:
        """For each way to search, the fusion with the highest NDCG@10 here; the first of equal ones."""
        best = {}
        for way, runs in self.runs(encoder).items():
            found = {fusion: self.fused(runs, fusion)["ndcg@10"] for fusion in FUSIONS}
            best[way] = max(found, key=lambda fusion: found[fusion])
            print(f"{self.name}, held back, {way} + BM25, {best[way]}: NDCG@10 {found[best[way]]}", flush=True)
        return best

    def measure(self, label: str, encoder: Encoder, fusions: dict[str, str]) -> None:
        """Adds the encoder's scores, and those of its fusions with BM25: both alike, and the one that was chosen."""
        for way, runs in self.runs(encoder).items():
            name = f"{label}, {way}"
            found = {name: self.score(score_fusion(runs))}
            found |= {f"{name} + BM25, {fusion}": self.fused(runs, fusion) for fusion in (*ALIKE, fusions[way])}
            self.scores |= found
            for name, scores in found.items():
                print(f"{self.name:14}{name:64}{scores}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="folder below KO_DATA_DIR/retrieval")
    parser.add_argument("--also", nargs="*", default=[], help="further sets to test on")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks/retrieval"))
    parser.add_argument("--max_rows", type=int)
    parser.add_argument("--untrained", action="store_true", help="measure the model as it is")
    parser.add_argument("--dev", action="store_true", help="test on held-back train queries")
    parser.add_argument("--statutes", action="store_true", help="for law_articles; see above")
    parser.add_argument("--layers", type=int, help="keep so many of the encoder's layers; 0: a bag of word vectors")
    parser.add_argument("--piece_weights", action=argparse.BooleanOptionalAction, help="a weighted mean, learned")
    for knob, kind in KNOBS.items():
        parser.add_argument(f"--{knob}", type=kind)
    options = parser.parse_args()
    knobs = {knob: getattr(options, knob) for knob in (*KNOBS, "piece_weights")}
    settings = InfoNCESettings.load(output_dir=options.output_dir, **knobs)
    whole = read_beir(course_data_dir("retrieval", options.train))
    train, held = held_back(whole.of_split("train"), settings.seed, options.statutes)
    dev = Test(options.train, held)
    tests = [dev if options.dev else Test(options.train, whole.of_split("test"))]
    for name in options.also:
        data = read_beir(course_data_dir("retrieval", name))
        tests.append(Test(name, data.of_split("test") if data.splits else data))
    known = {statute_of(document.full()) for document in whole.corpus.values()} if options.statutes else set()
    more = [statute_pairs(course_data_dir("corpus/corpus_ko.txt.gz"), known)] if options.statutes else []
    rows = training_rows(train, more, options.max_rows, settings.seed)
    groups = [statute_of(document) for document in rows.documents] if options.statutes else None
    set_seed(settings.seed)
    encoder = settings.encoder()
    if options.layers is not None:
        encoder.model.encoder.layer = encoder.model.encoder.layer[: options.layers]
    fusions = dev.best_fusions(encoder)
    for test in tests:
        print(f"{test.name}: {len(test.queries)} queries, {len(test.documents)} documents; BM25 {test.scores['BM25']}")
        test.measure("base", encoder, fusions)
    if options.untrained:
        return
    start = time.perf_counter()
    history = train_contrastive(encoder, rows, settings, groups)
    print(f"{len(rows)} rows, {history.steps} steps, {time.perf_counter() - start:.0f} s")
    encoder.save(options.output_dir / options.train / "model")
    fusions = dev.best_fusions(encoder)
    for test in tests:
        test.measure("trained", encoder, fusions)
    told = {"rows": len(rows), "steps": history.steps, "dev": options.dev, **settings.model_dump(mode="json")}
    result = {"settings": told, "scores": {test.name: test.scores for test in tests}}
    (options.output_dir / f"{options.train}.json").write_text(json.dumps(result, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
