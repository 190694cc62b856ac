"""Lesson 04's recipe: losses against ten lines of arithmetic, prompts that arrive, EmbeddingGemma's architecture."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY
from helpers.data.pairs import Pairs, read_pairs
from helpers.data.retrieval import Document, RetrievalSet
from helpers.embedding import sentence_recipe
from helpers.embedding.encoder import Encoder
from helpers.embedding.losses import info_nce
from helpers.embedding.retrieval_metrics import retrieval_metrics
from helpers.embedding.scoring.runs import bm25_run, dense_run, documents_of, judged_queries, triplets_as_retrieval
from helpers.embedding.sentence_recipe import (
    load_sentence_model,
    make_loss,
    save_sentence_model,
    sentence_run,
    sentence_spearman,
    train_triplets,
    unit_vectors,
    weigh_pieces,
)
from helpers.embedding.title_examples import answered_first, mean_margin, read_examples
from helpers.embedding.triplet_settings import TripletSettings

SAVINGS = REPOSITORY / "sample_data/savings"


def settings(tmp_path, **changes):
    return TripletSettings.load(output_dir=tmp_path, batch_size=2, max_steps=2, **changes)


@pytest.fixture
def triplets():
    return read_pairs(SAVINGS / "train.jsonl").take(range(8))


def embeddings(seed=0, rows=6):
    return list(torch.randn(3, rows, 16, generator=torch.Generator().manual_seed(seed)))


def test_triplet_loss_is_the_ten_lines(tmp_path):
    anchor, positive, negative = embeddings()
    near = 1 - F.cosine_similarity(anchor, positive)
    far = 1 - F.cosine_similarity(anchor, negative)
    ours = F.relu(near - far + 0.3).mean()
    loss = make_loss(None, settings(tmp_path, triplet_margin=0.3), "TripletLoss")
    theirs = loss.compute_loss_from_embeddings([anchor, positive, negative], None)
    torch.testing.assert_close(ours, theirs)
    other = make_loss(None, settings(tmp_path, triplet_margin=0.5), "TripletLoss")
    assert not torch.isclose(ours, other.compute_loss_from_embeddings([anchor, positive, negative], None))


def test_ranking_loss_is_info_nce(tmp_path):
    anchor, positive, negative = embeddings(1)
    for temperature in (0.05, 0.2):
        loss = make_loss(None, settings(tmp_path, loss_temperature=temperature), "MultipleNegativesRankingLoss")
        theirs = loss.compute_loss_from_embeddings([anchor, positive, negative], None)
        torch.testing.assert_close(info_nce(anchor, positive, negative, temperature), theirs)
    assert not torch.isclose(info_nce(anchor, positive, negative, 0.05), theirs)


def test_training_moves_the_weights_and_repeats_itself(tmp_path, triplets):
    own, runs = settings(tmp_path), []
    for _ in range(2):
        model = load_sentence_model(own)
        before = model[0].auto_model.embeddings.word_embeddings.weight.detach().clone()
        losses = train_triplets(model, triplets, make_loss(model, own, "MultipleNegativesRankingLoss"), own)
        after = model[0].auto_model.embeddings.word_embeddings.weight.detach()
        assert len(losses) == 2 and not torch.equal(before, after)
        runs.append((losses, after))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])


def test_word_vectors_have_a_rate_of_their_own(tmp_path, triplets):
    own = settings(tmp_path, lr=1e-5, warmup=0.0)
    for rate, least, most in ((None, 0, 1e-4), (1e-2, 5e-3, 1)):
        model = load_sentence_model(own)
        start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        loss = make_loss(model, own, "MultipleNegativesRankingLoss")
        train_triplets(model, triplets, loss, own.changed(embedding_lr=rate))
        moved = {name: (weight - start[name]).abs().max().item() for name, weight in model.named_parameters()}
        words = next(moved.pop(name) for name in start if "word_embeddings" in name)
        assert least <= words <= most and 0 < max(moved.values()) < 1e-4


def test_prompts_reach_training_and_search(tmp_path, triplets):
    own = settings(tmp_path, query_prompt="질의 # ", document_prompt="문서 # ")
    model = load_sentence_model(own)
    seen = []

    def remember(module, given, named):
        texts = model.tokenizer.batch_decode(given[0]["input_ids"], skip_special_tokens=True)
        seen.extend(text.strip()[:4] for text in texts)

    model[0].register_forward_pre_hook(remember, with_kwargs=True)
    train_triplets(model, triplets, make_loss(model, own, "MultipleNegativesRankingLoss"), own, prompts=True)
    assert len(seen) == 2 * 2 * 3 and seen.count("질의 #") == 4 and seen.count("문서 #") == 8
    seen.clear()
    sentence_run(model, triplets_as_retrieval(triplets), prompts=True)
    assert seen.count("질의 #") == 8 and seen.count("문서 #") == len(seen) - 8 > 0
    seen.clear()
    sentence_run(model, triplets_as_retrieval(triplets))
    train_triplets(model, triplets, make_loss(model, own, "MultipleNegativesRankingLoss"), own)
    assert seen and not {"질의 #", "문서 #"} & set(seen)


def test_vectors_are_those_of_the_encoder(tmp_path):
    texts = ["세금 없는 투자 계좌", "일반 적금"]
    model = load_sentence_model(settings(tmp_path))
    ours = Encoder.load("sample_data/models/ko-mini-encoder", pooling="mean", max_length=64).encode(texts)
    np.testing.assert_allclose(unit_vectors(model, texts), ours, atol=1e-5)
    assert np.abs(unit_vectors(model, texts, "query") - ours).max() > 1e-3


def test_counted_piece_weights_are_those_of_the_encoder(tmp_path, triplets):
    own = settings(tmp_path, max_length=24)  # texts are cut: what the model does not read is not counted
    plain = load_sentence_model(own)
    model = weigh_pieces(plain, triplets.first, triplets.second)
    encoder = Encoder.load(own.model, pooling="mean", max_length=24, prompts=model.prompts)
    encoder.weigh_pieces(encoder.tokenize(triplets.first, "query") + encoder.tokenize(triplets.second, "document"))
    ours, theirs = encoder.encode(triplets.first, prompt="query"), unit_vectors(model, triplets.first, "query")
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert np.abs(theirs - unit_vectors(plain, triplets.first, "query")).max() > 1e-2
    assert weigh_pieces(model, triplets.first, triplets.second) is model


def test_a_model_with_weighed_pieces_keeps_its_default_prompt_and_similarity(tmp_path, triplets):
    plain = load_sentence_model(settings(tmp_path))
    plain.default_prompt_name, plain.similarity_fn_name = "query", "dot"
    model = weigh_pieces(plain, triplets.first, triplets.second)
    assert (model.default_prompt_name, model.similarity_fn_name) == ("query", "dot")


def test_a_first_token_cannot_be_weighted(tmp_path, triplets):
    folder = Encoder.load("sample_data/models/ko-mini-encoder", pooling="cls").save(tmp_path / "cls")
    model = load_sentence_model(settings(tmp_path, model=str(folder)))
    with pytest.raises(InputError, match=r"(?s)only a mean can be weighted.*cls"):
        weigh_pieces(model, triplets.first, triplets.second)


def test_trained_piece_weights_are_saved(tmp_path, triplets):
    """The library's own save leaves the weights of before training in the file that its load reads."""
    from sentence_transformers import SentenceTransformer

    encoder = Encoder.load("sample_data/models/ko-mini-encoder", max_length=64)
    encoder.weigh_pieces(encoder.tokenize(triplets.first + triplets.second))
    own = settings(tmp_path, model=str(encoder.save(tmp_path / "weighted")), lr=0.05)
    model = load_sentence_model(own)
    np.testing.assert_allclose(unit_vectors(model, triplets.first), encoder.encode(triplets.first), atol=1e-5)
    before = model[1].emb_layer.weight.detach().clone()
    train_triplets(model, triplets, make_loss(model, own, "MultipleNegativesRankingLoss"), own)
    trained = unit_vectors(model, triplets.first)
    assert (model[1].emb_layer.weight - before).abs().max() > 0.01
    save_sentence_model(model, tmp_path / "model")
    again = SentenceTransformer(str(tmp_path / "model"), device=str(model.device))
    np.testing.assert_allclose(unit_vectors(again, triplets.first), trained, atol=1e-5)
    ours = Encoder.load(tmp_path / "model")  # which takes no weight below zero, where so high a rate would have led
    assert model[1].emb_layer.weight.min() < 1e-5
    np.testing.assert_allclose(ours.encode(triplets.first), trained, atol=1e-5)


def test_embedding_gemma_architecture_goes_the_same_way(tmp_path, triplets):
    """Gemma's layers, two Dense modules and prompts of its own, at toy size: the hub's model has this form."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, Gemma3TextConfig, Gemma3TextModel

    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "sample_data/models/ko-mini-mistral")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        use_bidirectional_attention=True,
    )
    Gemma3TextModel(config).save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    parts = [Transformer(str(tmp_path / "gemma")), Pooling(32, "mean"), Dense(32, 64), Dense(64, 32), Normalize()]
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    SentenceTransformer(modules=parts, prompts=prompts).save(str(tmp_path / "toy"))
    own = TripletSettings.load(
        model=str(tmp_path / "toy"), output_dir=tmp_path, profile="t4", max_steps=2, batch_size=2, max_length=64
    )
    model = load_sentence_model(own)
    assert model.prompts["query"] == prompts["query"] and next(model.parameters()).dtype == torch.float32
    before = unit_vectors(model, triplets.first, "query")
    train_triplets(
        model, triplets, make_loss(model, own, own.loss_name), own, prompts=True, batch_size=1, epochs=1, lr=0.01
    )
    assert np.abs(unit_vectors(model, triplets.first, "query") - before).max() > 1e-4


def test_a_token_is_asked_for_by_name_and_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(InputError, match="HF_TOKEN") as error:
        load_sentence_model(settings(tmp_path, model="nobody/no-such-model"))
    assert "hf_secret" not in str(error.value) and "is set" in str(error.value)


@pytest.mark.parametrize("token", ["hf_secret", None])
def test_a_token_is_read_from_the_environment_and_from_nowhere_else(token, tmp_path, monkeypatch):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    given = []
    monkeypatch.setattr(sentence_recipe, "SentenceTransformer", lambda *_, **told: given.append(told["token"]))
    sentence_recipe.open_sentence_model(settings(tmp_path).model)
    assert given == [token or False]  # None would have the library look for a login file


def test_widths_are_put_in_order_and_none_is_below_one(tmp_path):
    assert settings(tmp_path, matryoshka_dims=[48, 384, 96]).matryoshka_dims == [384, 96, 48]
    for wrong in ([384, 0], [-5], [96, 96]):
        with pytest.raises(InputError, match="matryoshka_dims"):
            settings(tmp_path, matryoshka_dims=wrong)


def test_too_few_triplets_are_refused(tmp_path, triplets):
    own = settings(tmp_path).changed(batch_size=9)
    model = load_sentence_model(own)
    with pytest.raises(InputError, match="9 or more"):
        train_triplets(model, triplets, make_loss(model, own, "TripletLoss"), own)
    with pytest.raises(InputError, match="two"):
        train_triplets(model, Pairs(["a"] * 9, ["b"] * 9), make_loss(model, own, "TripletLoss"), own)


def test_examples_share_no_text_with_their_training_rows():
    examples = read_examples(SAVINGS / "examples.jsonl")
    trained = {text for row in read_pairs(SAVINGS / "train.jsonl").texts() for text in row}
    assert {each.language for each in examples} == {"ko", "en"}
    assert all(trained.isdisjoint([each.query, *each.documents]) for each in examples)


def test_margin_and_count_of_examples(tmp_path):
    examples = read_examples(SAVINGS / "examples.jsonl")

    class Perfect:
        """Every text is a basis vector of its own; a query has that of its right document."""

        max_seq_length = None

        def encode(self, texts, **_):
            bases = {text: i for i, text in enumerate(dict.fromkeys(d for e in examples for d in e.documents))}
            right = {each.query: each.documents[each.answer] for each in examples}
            return np.eye(len(bases), dtype=np.float32)[[bases[right.get(text, text)] for text in texts]]

    assert answered_first(Perfect(), examples) == len(examples) and mean_margin(Perfect(), examples) == 1
    turned = [type(each)(each.language, each.query, each.documents[::-1], each.answer) for each in examples]
    assert answered_first(Perfect(), turned) < len(examples) and mean_margin(Perfect(), turned) < 0


@pytest.mark.parametrize(
    "row",
    [
        {"query": "질문", "documents": ["하나"], "answer": 0},
        {"query": " ", "documents": ["하나", "둘"], "answer": 0},
        {"query": "질문", "documents": ["하나", "둘"], "answer": 2},
    ],
)
def test_bad_examples_are_named(tmp_path, row):
    (tmp_path / "examples.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(InputError, match="row 1"):
        read_examples(tmp_path / "examples.jsonl")


def test_runs_rank_as_the_vectors_say():
    data = RetrievalSet(
        {"a": Document("", "가"), "b": Document("제목", "나"), "c": Document("", "다")},
        {"q": "물음", "unjudged": "아무도 판정하지 않은 물음"},
        {"q": {"b": 1}},
    )
    vectors = {"물음": [1, 0], "가": [0.5, 0.5], "제목 나": [0.9, 0], "다": [0.5, -0.5]}
    encode = lambda texts: np.array([vectors[text] for text in texts])  # noqa: E731
    run = dense_run(judged_queries(data), documents_of(data), encode, encode, top=2)
    assert run == {"q": pytest.approx({"b": 0.9, "c": 0.5})}  # a tie at the edge: the later id stays
    assert retrieval_metrics(run, data.qrels)["ndcg@1"] == 1
    vectors["다"] = [np.nan, 0]
    with pytest.raises(InputError, match="document c"):
        dense_run(judged_queries(data), documents_of(data), encode, encode)
    with pytest.raises(InputError, match="one vector for each"):
        dense_run(judged_queries(data), documents_of(data), encode, lambda texts: np.ones((1, 2)))


def test_bm25_leaves_out_what_shares_nothing():
    assert bm25_run({"q": "도서관 시간"}, {"a": "도서관 이용 시간", "b": "버스 노선"}).keys() == {"q"}
    assert list(bm25_run({"q": "도서관 시간"}, {"a": "도서관 이용 시간", "b": "버스 노선"})["q"]) == ["a"]


def test_an_anchor_with_two_positives_is_one_query():
    data = triplets_as_retrieval(Pairs(["가", "가", "나"], ["ㄱ", "ㄴ", "ㄷ"], ["ㄹ", "ㄷ", "ㄱ"]))
    assert len(data.queries) == 2 and len(data.corpus) == 4
    assert sorted(len(grades) for grades in data.qrels.values()) == [1, 2]


def test_lengths_that_cannot_be_are_refused_as_the_encoder_refuses_them(tmp_path, triplets):
    with pytest.raises(InputError, match=r"(?s)ko-mini-encoder cannot read that many.*100000.*at most 512"):
        load_sentence_model(settings(tmp_path, max_length=100_000))
    own = settings(tmp_path, max_length=16)  # the query prompt has 20 pieces
    model = load_sentence_model(own)
    with pytest.raises(InputError, match=r"(?s)no room.*'task: search result"):
        unit_vectors(model, ["가"], "query")
    with pytest.raises(InputError, match=r"no room"):
        train_triplets(model, triplets, make_loss(model, own, "TripletLoss"), own, prompts=True)
    assert unit_vectors(model, ["가"]).shape == (1, 384)


def test_scores_that_rank_nothing_are_refused(tmp_path, triplets):
    model, same = load_sentence_model(own := settings(tmp_path)), Pairs(["가", "나"], ["다", "라"], None, [2.0, 2.0])
    for call in (
        lambda: sentence_spearman(model, same),
        lambda: train_triplets(model, triplets, make_loss(model, own, "TripletLoss"), own, scored=same),
    ):
        with pytest.raises(InputError, match="all the same"):
            call()
