"""The server over vLLM's engine, started once for this file: what transformers would say, adapters by name, and stops."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from helpers.instruct.export import adapted_model
from helpers.instruct.generation import LocalModel
from helpers.serving.background import model_server
from helpers.serving.vllm_batch import VllmBatch
from tests.serving import BEGINNINGS, MODEL, ONE_THREAD, QUESTIONS, SMALL, ask, client, expected, loud_adapter

if sys.platform != "linux":
    pytest.skip("vLLM needs Linux", allow_module_level=True)

LIMITS = {"max_prompt_tokens": 100, "max_tokens": 24, "default_tokens": 12, "batch_size": 8}


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    return loud_adapter(tmp_path_factory.mktemp("vllm") / "loud")


@pytest.fixture(scope="module")
def server(loud):
    given = SMALL | LIMITS | {"adapters": {"loud.v1": str(loud)}, "backend": "vllm"}
    with model_server(loud.with_name("log"), environment=ONE_THREAD, **given) as running:
        yield running


@pytest.mark.parametrize("gpu, eager", [("none", True), ("t4", False)])
def test_kernels_are_compiled_on_a_gpu_only(monkeypatch, gpu, eager):
    told = {}
    monkeypatch.setattr("vllm.EngineArgs", lambda **options: told.update(options))
    monkeypatch.setattr("vllm.v1.engine.llm_engine.LLMEngine.from_engine_args", lambda arguments: None)
    monkeypatch.setattr("helpers.instruct.vllm_engine.start.detect_machine", lambda: SimpleNamespace(gpu_class=gpu))
    VllmBatch(MODEL, size=2, context=64, dtype="float32", adapters={}, memory_share=0.1, seed=13)
    assert told["enforce_eager"] is eager


def test_answers_are_those_of_transformers_with_and_without_adapter_in_one_batch(server, loud):
    tuned = LocalModel(*adapted_model(MODEL, loud))
    texts = QUESTIONS[:4]
    written = tuned.generate([tuned.prompt.prompt_ids(text) for text in texts], 12)
    own = {"ko-mini": [expected(text, 12) for text in texts], "loud.v1": list(map(tuned.prompt.answer_text, written))}

    def answer(asked):
        name, text = asked
        return client(server).chat.completions.create(model=name, messages=ask(text)).choices[0].message.content

    asked = [(name, text) for text in texts for name in own]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, asked))
    assert answers == [own[name][texts.index(text)] for name, text in asked]
    assert own["ko-mini"] != own["loud.v1"]


def test_a_stream_ends_at_a_stop_text_at_its_length_and_not_where_it_may_not(server):
    create = client(server).completions.create
    text = max(BEGINNINGS[:8], key=lambda text: len(expected(text, 12, raw=True)))
    whole = expected(text, 12, raw=True)
    parts = list(create(model="ko-mini", prompt=text, stream=True))
    assert "".join(part.choices[0].text for part in parts) == whole and len(parts) > 3
    middle = whole[len(whole) // 2]
    cut = create(model="ko-mini", prompt=text, stop=middle).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(middle)], "stop")
    longest = create(model="ko-mini", prompt=text, max_tokens=24, extra_body={"ignore_eos": True})
    assert (longest.choices[0].finish_reason, longest.usage.completion_tokens) == ("length", 24)
    assert server.health()["running"] == 0 and server.health()["restarts"] == 0


def test_a_list_of_prompts_gets_a_choice_each(server):
    """As over transformers; a stop text ends one answer, and its tokens that are still on their way disturb nobody."""
    create = client(server).completions.create
    whole = [expected(text, 12, raw=True) for text in BEGINNINGS[:10]]
    choices = create(model="ko-mini", prompt=BEGINNINGS[:10]).choices
    assert [(choice.index, choice.text) for choice in choices] == list(enumerate(whole))
    stop, texts = whole[0][len(whole[0]) // 2], [""] * 10
    for part in create(model="ko-mini", prompt=BEGINNINGS[:10], stop=stop, stream=True):
        texts[part.choices[0].index] += part.choices[0].text
    assert texts == [text.partition(stop)[0] for text in whole] and server.health()["running"] == 0
