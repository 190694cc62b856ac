"""Late interaction against its definition, one query and one document at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.course.errors import InputError
from helpers.embedding.encoder import TOKEN_BUDGET, Encoder
from helpers.embedding.scoring.late_interaction import late_interaction, late_interaction_run
from helpers.embedding.scoring.runs import scored_run

MODEL = "sample_data/models/ko-mini-encoder"
PROMPTS = {"query": "query: ", "document": "passage: "}
QUERIES = ["도서관은 몇 시에 여나요", "버스", "건전지는 어디에 버리면 되는지 알려 주세요"]
DOCUMENTS = [
    "도서관은 아홉 시에 문을 열고 여섯 시에 닫습니다",
    "폐건전지는 주민센터의 수거함에 넣습니다",
    "눈",
    "버스가 늦다",
]


@pytest.fixture(params=["mean", "weighted"])
def encoder(request):
    made = Encoder.load(MODEL, prompts=PROMPTS)
    if request.param == "weighted":
        made.weigh_pieces(made.tokenize(QUERIES + DOCUMENTS, "document"))
    return made


def by_definition(encoder, query, document):
    sides = []
    for text, prompt in ((query, "query"), (document, "document")):
        ids = torch.tensor(encoder.tokenize([text], prompt))
        hidden = encoder.model(input_ids=ids, attention_mask=torch.ones_like(ids))[0][0]
        weights = torch.ones(ids.shape[1]) if encoder.piece_weights is None else encoder.piece_weights(ids)[0]
        sides.append((F.normalize(hidden, dim=-1), weights))
    (asked, weights), (told, _) = sides
    best = torch.stack([max(token @ other for other in told) for token in asked])
    return (best * weights).sum() / weights.sum()


@pytest.mark.parametrize("budget", [1, 40, 2_048])  # a text at a time, a few, all
@torch.no_grad()
def test_scores_are_those_of_the_definition(monkeypatch, encoder, budget):
    monkeypatch.setitem(TOKEN_BUDGET, "cpu", budget)
    scores = late_interaction(encoder.train(), QUERIES, DOCUMENTS, "query", "document")
    assert encoder.training  # as it was
    encoder.eval()
    expected = torch.tensor([[by_definition(encoder, query, text) for text in DOCUMENTS] for query in QUERIES])
    assert torch.allclose(scores, expected, atol=1e-5)
    assert scores.argmax(1).tolist() == [0, 3, 1] and scores.abs().max() <= 1 + 1e-6


def test_a_text_finds_itself_whatever_stands_around_it(encoder):
    """Without prompts each token's best match in the same text is itself."""
    scores = late_interaction(encoder, DOCUMENTS, DOCUMENTS)
    assert torch.allclose(scores.diagonal(), torch.ones(len(DOCUMENTS)), atol=1e-5)
    assert (scores.argmax(1) == torch.arange(len(DOCUMENTS))).all()


def test_a_run_is_cut_and_ordered_as_every_other(encoder):
    queries = {f"q{number}": text for number, text in enumerate(QUERIES)}
    documents = {f"d{number}": text for number, text in enumerate(DOCUMENTS)}
    run = late_interaction_run(encoder, queries, documents, top=2)
    assert [next(iter(found)) for found in run.values()] == ["d0", "d3", "d1"]
    assert all(len(found) == 2 for found in run.values())
    assert scored_run(["q"], ["a", "c", "b"], np.array([[1.0, 0.5, 1.0]]), 2) == {"q": {"b": 1.0, "a": 1.0}}
    bare = Encoder.load(MODEL, prompts={})  # no prompts to put before either side
    assert [*late_interaction_run(bare, {"q": DOCUMENTS[2]}, documents, 1)["q"]] == ["d2"]


def test_what_is_not_finite_is_named(encoder):
    word = encoder.tokenize(["눈"])[0][1]
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight[word] = torch.nan
    with pytest.raises(InputError, match="not finite") as error:
        late_interaction_run(encoder, {"q7": "버스"}, {"d1": "버스가 늦다", "d2": "눈"})
    assert error.value.place == "query q7, document d2"
