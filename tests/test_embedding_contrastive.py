"""InfoNCE over rows: masks, both directions, the temperature on every path, bad rows, the Trainer, two processes."""

import json
import math
import weakref

import numpy as np
import pytest
import torch
import torch.multiprocessing as processes
import torch.nn.functional as F

from helpers.course.errors import InputError
from helpers.course.launch import free_port
from helpers.course.machine import set_seed
from helpers.course.training_faults import Diverged
from helpers.data.pairs import Pairs
from helpers.embedding import contrastive, gather
from helpers.embedding.batching import DistinctBatches
from helpers.embedding.contrastive import ContrastiveRows, InfoNCE
from helpers.embedding.encoder import Encoder
from helpers.embedding.gather import average_gradients, end_group
from helpers.embedding.grad_cache import GradCache
from helpers.embedding.infonce import callbacks as contrastive_callbacks
from helpers.embedding.infonce import trainer as contrastive_trainer
from helpers.embedding.infonce.batches import batch_of, refuse_unequal_negatives
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.infonce.trainer import negatives_per_query, train_contrastive
from helpers.embedding.losses import info_nce

QUERIES = ["여권 만들기", "막차 시간", "여권 만들기", "도서관 휴관일", "쓰레기 버리는 날", "예방접종 예약"]
DOCUMENTS = [
    "여권은 구청에서 신청한다.", "버스는 자정까지 다닌다.", "사진과 신분증을 가져간다.",
    "도서관은 월요일에 쉰다.", "종량제 봉투는 저녁에 내놓는다.", "보건소에 전화로 예약한다.",
]  # fmt: skip
NEGATIVES = [
    ["여권 사진은 여섯 달 안에 찍는다."],
    [],
    ["막차는 열두 시에 떠난다."],
    ["버스는 자정까지 다닌다.", "책은 두 주 빌린다."],
    [],
    [],
]
ROWS = ContrastiveRows.checked(QUERIES, DOCUMENTS, NEGATIVES)


def vectors(rows=ROWS, width=8, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    counts = (len(rows), len(rows), sum(map(len, rows.negatives)))
    return [torch.randn(n, width, generator=draw, dtype=dtype) for n in counts]


def written_out(q, candidates, hidden, temperature):
    """The formula, one exponential at a time."""
    losses = []
    for i, query in enumerate(F.normalize(q, dim=-1)):
        weights = [
            0 if (i, j) in hidden else math.exp(float(query @ c) / temperature)
            for j, c in enumerate(F.normalize(candidates, dim=-1))
        ]
        losses.append(-math.log(weights[i] / sum(weights)))
    return sum(losses) / len(losses)


HIDDEN = {(0, 2), (2, 0), (1, 8)}  # the other answer to 여권 만들기; 막차's own document as somebody's hard negative


@pytest.mark.parametrize("rows_at_once", [256, 2])
def test_loss_is_the_formula_with_false_negatives_left_out(rows_at_once, monkeypatch):
    monkeypatch.setattr(contrastive, "ROWS_AT_ONCE", rows_at_once)
    q, d, n = vectors()
    loss = InfoNCE(ROWS, 0.2)
    assert loss.whole(q, d, n).item() == pytest.approx(written_out(q, torch.cat([d, n]), HIDDEN, 0.2), rel=1e-9)
    assert written_out(q, torch.cat([d, n]), set(), 0.2) != pytest.approx(loss.whole(q, d, n).item(), rel=1e-3)
    assert loss.masked.share == len(HIDDEN) / (6 * (6 + 4 - 1))
    both = InfoNCE(ROWS, 0.2, both_directions=True).whole(q, d, n).item()
    backwards = written_out(d, q, {(2, 0), (0, 2)}, 0.2)
    assert both == pytest.approx((loss.whole(q, d, n).item() + backwards) / 2, rel=1e-9)


def test_a_known_positive_of_a_row_that_was_not_taken_is_no_negative():
    with pytest.raises(InputError, match="known positive of its query"):
        ROWS.take([0]).with_negatives([[DOCUMENTS[2]]])


class Saved:
    """What a graph holds, so that its end can be seen."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_a_part_of_the_loss_is_gone_before_the_next_is_computed(monkeypatch):
    held, alive = weakref.WeakSet(), []

    def kept(tensor):
        held.add(one := Saved(tensor.detach()))  # the tensor itself would hold its graph, which holds it
        return one

    def watched(*given, **told):
        alive.append(len(held))
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda one: one.tensor):
            return info_nce(*given, **told)

    monkeypatch.setattr(contrastive, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(contrastive, "info_nce", watched)
    words = torch.nn.Embedding(9, 4)
    cache = GradCache(lambda chunk: words(torch.tensor(chunk)).mean(1), token_budget=64)
    sides = [[[row + 1] for row in range(6)]] * 2
    cache(InfoNCE(ContrastiveRows.checked(QUERIES, DOCUMENTS), 0.2), *sides).backward()
    assert alive == [0, 0, 0]


@pytest.mark.parametrize("both_directions", [False, True])
@pytest.mark.parametrize("with_cache", [False, True])
def test_the_temperature_reaches_the_loss_on_every_path(both_directions, with_cache):
    sides = vectors()
    values = []
    for temperature in (0.05, 0.2):
        loss = InfoNCE(ROWS, temperature, both_directions=both_directions)
        if with_cache:
            tables = [side.requires_grad_() for side in sides]
            lists = [[(s, i) for i in range(len(side))] for s, side in enumerate(sides)]
            cache = GradCache(lambda texts, t=tables: torch.stack([t[s][i] for s, i in texts]), token_budget=6)
            values.append(cache(loss, *lists).item())
        else:
            values.append(loss.whole(*sides).item())
    assert abs(values[0] - values[1]) > 0.1


def test_counts_that_differ_are_refused():
    q, d, n = vectors()
    with pytest.raises(InputError, match=r"vectors \(6, 6, 3\)"):
        InfoNCE(ROWS, 0.1).whole(q, d, n[:3])
    with pytest.raises(InputError, match="6, 5 and 6"):
        ContrastiveRows.checked(QUERIES, DOCUMENTS[:5])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"documents": ["", *DOCUMENTS[1:]]}, "document is empty"),
        ({"queries": ["  ", *QUERIES[1:]]}, "query is empty"),
        ({"negatives": [["\n"], *NEGATIVES[1:]]}, "hard negative is empty"),
        ({"negatives": [["여권은 구청에서 신청한다"], *NEGATIVES[1:]]}, "same text as its positive"),
        ({"negatives": [["사진과 신분증을 가져간다."], *NEGATIVES[1:]]}, "known positive of its query"),
    ],
)
def test_rows_that_would_train_wrongly_are_named(change, told):
    given = {"queries": QUERIES, "documents": DOCUMENTS, "negatives": NEGATIVES} | change
    with pytest.raises(InputError, match=f"{told}(.|\n)*row r0"):
        ContrastiveRows.checked(**given, ids=[f"r{i}" for i in range(6)])


def test_pairs_become_rows_and_a_negative_that_answers_is_left_out():
    pairs = Pairs(["가 나", "가 나"], ["첫째 답", "둘째 답"], ["둘째 답", "다른 것"])
    rows = ContrastiveRows.of_pairs(pairs)
    assert rows.negatives == [[], ["다른 것"]] and rows.left_out == 1
    told = negatives_per_query(rows.take([1, 0]), InfoNCESettings.load(batch_size=2))
    assert "1 hard negatives left out, which answer their query" in told
    assert ContrastiveRows.of_pairs(Pairs(["가"], ["나"], ["다"])).left_out == 0


def test_rows_that_are_taken_keep_all_that_is_known_of_their_queries():
    some = ROWS.take([1, 0])
    assert some.queries == [QUERIES[1], QUERIES[0]] and some.relevant == ROWS.relevant
    assert some.with_negatives(None).relevant == ROWS.relevant and some.with_negatives(None).negatives == [[], []]


def test_a_query_that_stands_among_the_documents_is_masked_for_itself_and_is_another_key():
    rows = ContrastiveRows.checked(["여권 만들기", "막차 시간"], ["여권은 구청에서 신청한다.", "여권 만들기!"])
    masked = InfoNCE(rows, 0.1).masked
    assert list(zip(masked.rows.tolist(), masked.columns.tolist(), strict=True)) == [(0, 1)]
    keys = rows.keys()
    assert len({key for row in keys for key in row}) == 4


def test_texts_without_a_letter_are_told_apart():
    rows = ContrastiveRows.checked(["지구는 둥글다 (○/×)", "해는 서쪽에서 뜬다 (○/×)"], ["○", "×"], [["×"], ["○"]])
    masked = InfoNCE(rows, 0.1).masked
    assert list(zip(masked.rows.tolist(), masked.columns.tolist(), strict=True)) == [(0, 3), (1, 2)]  # the same text
    keys = rows.keys()
    assert len({key for row in keys for key in row}) == 4
    with pytest.raises(InputError, match="same text as its positive"):
        ContrastiveRows.checked(["답은?"], ["○"], [[" ○ "]])


# The Trainer


@pytest.fixture
def settings(tmp_path):
    common = dict(
        batch_size=4, epochs=1, max_length=16, chunk_tokens=64, autocast="no", warmup=0.0, piece_weights=False
    )
    return InfoNCESettings.load(output_dir=tmp_path, **common)


@pytest.mark.parametrize("profile", ["cpu", "t4", "a100"])
def test_the_rows_of_the_lesson_fill_the_batch_of_every_profile(profile):
    own = InfoNCESettings.load(profile=profile)
    keys = own.training_rows().keys()
    assert len(DistinctBatches(keys, own.batch_size, own.seed).draw(0)[0]) == own.batch_size


def run(settings, **changes):
    own = settings.changed(**changes)
    set_seed(0)
    encoder = own.encoder()
    for name, module in encoder.named_modules():  # dropout draws differ between one pass and many
        if name.endswith("dropout"):
            module.p = 0.0
    for layer in getattr(encoder.model, "base_model", encoder.model).modules():
        if type(layer).__name__ == "BertSelfAttention":
            layer.dropout.p = 0.0
    return encoder, train_contrastive(encoder, ROWS, own)


def weights(encoder):
    return torch.cat([p.detach().flatten() for p in encoder.parameters() if p.requires_grad])


def test_cached_training_ends_at_the_weights_of_the_whole_batch(settings):
    whole, first = run(settings, grad_cache=False, max_steps=2)
    cached, second = run(settings, grad_cache=True, max_steps=2)
    start = weights(settings.encoder())
    assert (weights(whole) - start).norm() > 1e-2
    # Adam turns a gradient near 0 into a step of full size whatever its sign: so the losses, and most of the weights
    assert second.losses == pytest.approx(first.losses, rel=1e-4)
    assert (weights(cached) - weights(whole)).norm() < 0.05 * (weights(whole) - start).norm()
    assert abs(run(settings, max_steps=2, loss_temperature=0.2)[1].losses[0] - first.losses[0]) > 0.01
    assert first.losses[1] != first.losses[0]


def test_word_vectors_have_a_rate_of_their_own(settings):
    start = {name: weight.detach() for name, weight in settings.encoder().named_parameters()}
    for rate, least, most in ((None, 0, 1e-4), (1e-2, 5e-3, 1)):
        encoder, history = run(settings, max_steps=1, lr=1e-5, embedding_lr=rate)
        moved = {name: (weight - start[name]).abs().max().item() for name, weight in encoder.named_parameters()}
        words = moved.pop("model.embeddings.word_embeddings.weight")
        assert least <= words <= most and 0 < max(moved.values()) < 1e-4 and history.steps == 1


def test_piece_weights_start_by_rarity_among_the_training_texts_and_learn(settings):
    start, _ = run(settings, piece_weights=True, max_steps=1, lr=1e-12)
    colon = start.tokenizer.convert_tokens_to_ids(":")  # in every text, for both prefixes end in it
    first = start.piece_weights.values().detach()
    assert start.pooling == "weighted" and first[colon] < 0.05 and first.max() > 0.9
    moved = run(settings, piece_weights=True, max_steps=2, lr=1e-3)[0].piece_weights.values().detach()
    seen = sorted({piece for side in batch_of(start, ROWS).sides for ids in side for piece in ids})
    ratio = (moved / first)[seen]
    assert ratio.log().abs().max() > 0.01 and (moved > 0).all()


def test_lora_moves_and_bf16_leaves_no_autocast_behind(settings):
    encoder, history = run(settings, use_lora=True, autocast="bf16", max_steps=1)
    assert all(p.abs().sum() > 0 for n, p in encoder.named_parameters() if ".lora_B." in n) and history.steps == 1
    with torch.no_grad():
        assert encoder.model(**encoder.tokenizer(["비"], return_tensors="pt"))[0].dtype == torch.float32
    before = encoder.encode(QUERIES, prompt="query")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder.encode(QUERIES, prompt="query")
    assert np.abs(before - rounded).max() > 1e-5
    np.testing.assert_array_equal(encoder.encode(QUERIES, prompt="query"), before)


def test_rows_that_several_processes_could_not_gather_are_named_before_the_first_step(settings, monkeypatch):
    monkeypatch.setattr(contrastive_trainer, "world", lambda: (0, 2))
    with pytest.raises(InputError, match=r"(?s)row 1 \(0\), row 4 \(0\), row 5 \(0\).*3 of 6.*negatives to 0"):
        run(settings)
    refuse_unequal_negatives(PAIRED)


def test_rows_longer_than_a_chunk_are_named_before_the_first_step(settings):
    lengths = [
        max(len(ids) for side in batch_of(settings.encoder(), ROWS.take([i])).sides for ids in side) for i in range(6)
    ]
    budget = sorted(set(lengths))[-2]
    long = next(row for row, length in enumerate(lengths) if length > budget)
    told = rf"(?s)row {long} \({max(lengths)} tokens\).*chunk_tokens {budget}.*at least {max(lengths)}"
    with pytest.raises(InputError, match=told):
        run(settings, chunk_tokens=budget)
    assert run(settings, chunk_tokens=budget, grad_cache=False, max_steps=1)[1].steps == 1


def test_hard_negatives_are_counted_in_the_rows(settings):
    told = settings.changed(batch_size=4, hard_negatives=3)
    assert negatives_per_query(PAIRED, told) == "3 documents of other queries + 4 hard negatives (1 process)"
    assert "+ about 3 hard negatives" in negatives_per_query(ROWS, told)
    assert "+ 0 hard negatives" in negatives_per_query(PAIRED, told.changed(hard_negatives=0))


def test_prefixes_are_applied_and_saved_with_the_model(settings, tmp_path):
    from sentence_transformers import SentenceTransformer

    encoder = settings.encoder()
    sides = batch_of(encoder, ROWS).sides
    assert encoder.tokenizer.decode(sides[0][0], skip_special_tokens=True).strip().startswith("query: 여권")
    assert encoder.tokenizer.decode(sides[2][0], skip_special_tokens=True).strip().startswith("passage: 여권 사진")
    theirs = SentenceTransformer(str(encoder.save(tmp_path / "model")), device="cpu")
    assert theirs.prompts == {"query": "query: ", "document": "passage: "}
    given = theirs.encode_query(QUERIES, normalize_embeddings=True)
    np.testing.assert_allclose(given, encoder.encode(QUERIES, prompt="query"), atol=1e-5)
    assert np.abs(given - encoder.encode(QUERIES)).max() > 1e-3


def test_empty_prefixes_are_kept_and_saved(settings, tmp_path):
    encoder = settings.changed(query_prompt="", document_prompt="").encoder()
    assert encoder.prompts == {"query": "", "document": ""}
    assert batch_of(encoder, ROWS).sides[0] == encoder.tokenizer(QUERIES)["input_ids"]
    again = Encoder.load(encoder.save(tmp_path / "model"))
    assert again.prompts == encoder.prompts
    np.testing.assert_allclose(again.encode(QUERIES, prompt="query"), encoder.encode(QUERIES), atol=1e-6)


def test_rows_are_read_anew_each_time(settings, tmp_path):
    own = settings.changed(e5_files=[str(tmp_path / "more.jsonl")])
    for query in ("막차는 언제 있나요", "첫차는 언제 있나요"):
        row = {"query": query, "document": "버스는 자정까지 다닌다.", "hard_negative": "책은 두 주 빌린다."}
        (tmp_path / "more.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        assert own.training_rows().queries[-1] == query


class Poison(torch.optim.AdamW):
    """After a step with it nothing is finite any more."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(math.nan)


@pytest.mark.parametrize("grad_cache", [False, True])
def test_divergence_is_told_with_step_rows_and_rate(settings, grad_cache, monkeypatch):
    monkeypatch.setattr(contrastive_trainer, "optimizer_of", lambda encoder, own: Poison(encoder.parameters()))
    with pytest.raises(Diverged, match=r"(?s)not a finite number.*step 2, rows \d(, \d){3}.*lower lr \(it is 0.003\)"):
        run(settings, grad_cache=grad_cache, max_steps=3, lr=3e-3)
    with pytest.raises(Diverged, match=r"(?s)a weight is not.*step 1"):  # no loss after the last step could tell
        run(settings, grad_cache=grad_cache, max_steps=1)


def test_a_damaged_start_is_not_blamed_on_the_rate(settings):
    encoder = settings.encoder()
    next(encoder.parameters()).data.fill_(math.nan)
    with pytest.raises(Diverged, match=r"(?s)step 1.*the model you start from is damaged"):
        train_contrastive(encoder, ROWS, settings)


@pytest.mark.parametrize("shown", [True, False])
def test_a_long_run_shows_a_line(settings, monkeypatch, capsys, shown):
    train_contrastive(settings.encoder(), ROWS, settings.changed(max_steps=1))
    assert not capsys.readouterr().out  # it took no ten seconds
    monkeypatch.setattr(contrastive_callbacks, "QUIET_SECONDS", 0.0)
    history = train_contrastive(settings.encoder(), ROWS, settings.changed(max_steps=2), shown=shown)
    told = capsys.readouterr().out
    assert ("2/2" in told and f"loss={history.losses[-1]:.3f}" in told) == shown


# Two processes: gradients averaged by us, or by DistributedDataParallel; bytes of graphs that are kept


TWO_PROCESSES = {"ours": (False, 0), "wrapped": (True, 0), "some kept": (True, 10**4), "all kept": (True, 10**9)}


def _worker(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    share = PAIRED.take(range(3 * rank, 3 * rank + 3))
    for name, (wrapped, keep) in TWO_PROCESSES.items():
        model = torch.nn.parallel.DistributedDataParallel(_encoder()) if wrapped else _encoder()
        cache = GradCache(model, token_budget=12, keep_bytes=keep, **({"no_sync": model.no_sync} if wrapped else {}))
        cache(InfoNCE(share, 0.1, both_directions=True), *_ids(share)).backward()
        if not wrapped:
            average_gradients(model.parameters())
        torch.save(torch.cat([p.grad.flatten() for p in model.parameters()]), folder / f"{rank}-{name}.pt")
    del model, cache
    end_group()


PAIRED = ContrastiveRows.checked(QUERIES, DOCUMENTS, [[f"오답 {sign}"] for sign in "가나다라마바"])


def _encoder():
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.layer = torch.nn.Embedding(300, 8).double(), torch.nn.Linear(8, 8).double()

        def forward(self, texts):
            return torch.stack([torch.tanh(self.layer(self.words(torch.tensor(text)))).mean(0) for text in texts])

    return Bag()


def _ids(rows):
    negatives = [text for texts in rows.negatives for text in texts]
    return [[[ord(c) % 300 for c in text][:12] for text in side] for side in (rows.queries, rows.documents, negatives)]


def test_two_processes_give_the_gradient_of_one(tmp_path):
    model = _encoder()
    loss = InfoNCE(PAIRED, 0.1, both_directions=True)
    loss.whole(*(model(side) for side in _ids(PAIRED))).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert (
        loss.masked.share > 0
    )  # the two answers to 여권 만들기 lie in one process; its query in the other direction too
    model.zero_grad()
    for part in (range(3), range(3, 6)):  # what two processes that never speak to each other would do
        rows = PAIRED.take(part)
        (InfoNCE(rows, 0.1, both_directions=True).whole(*(model(side) for side in _ids(rows))) / 2).backward()
    alone = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert (alone - expected).norm() / expected.norm() > 0.05
    processes.get_context("forkserver").set_forkserver_preload(["helpers.embedding.infonce.trainer"])
    processes.start_processes(_worker, (free_port(), tmp_path), nprocs=2, start_method="forkserver")
    for name in TWO_PROCESSES:
        for rank in range(2):
            given = torch.load(tmp_path / f"{rank}-{name}.pt", weights_only=True)
            assert (given - expected).norm() / expected.norm() < 1e-10, (rank, name)


def test_processes_that_hold_different_numbers_of_texts_are_refused(monkeypatch):
    def beside(*other):
        def all_gather(parts, own):
            parts[:] = [own, other]

        monkeypatch.setattr(gather.dist, "all_gather_object", all_gather)
        return gather.gather_texts(["가"], ["나"])

    monkeypatch.setattr(gather, "world", lambda: (0, 2))
    assert beside(["다"], ["라"]) == [["가", "다"], ["나", "라"]]
    with pytest.raises(InputError, match=r"(?s)hold different numbers.*\(1, 1\), \(1, 0\)"):
        beside(["다"], [])


def test_a_weight_without_a_gradient_here_takes_half_of_the_other_processs(monkeypatch):
    monkeypatch.setattr(gather, "world", lambda: (0, 2))
    monkeypatch.setattr(gather.dist, "all_reduce", lambda gradient: gradient.add_(1.0))  # what the other one adds
    used, unused, frozen = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    used.grad = torch.full((2,), 3.0)
    average_gradients([used, unused, frozen.requires_grad_(False)])
    assert used.grad.tolist() == [2.0, 2.0] and unused.grad.tolist() == [0.5, 0.5] and frozen.grad is None
