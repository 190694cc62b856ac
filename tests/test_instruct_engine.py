"""vLLM's engine, really started, once for this file: what it says, how it ends, and that nothing of it stays."""

import os
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.course.errors import InputError
from helpers.course.paths import sample_data
from helpers.instruct.adapters import save_adapter
from helpers.instruct.export import save_merged
from helpers.instruct.export_adapters import PROJECTIONS
from helpers.instruct.exporting.gate import ExportGate
from helpers.instruct.exporting.probes import probe_questions
from helpers.instruct.generation import LocalModel
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import Prompt
from helpers.instruct.vllm_engine.engine import Engine
from helpers.instruct.vllm_engine.start import engine_processes, last_error, lora_options, need_vllm, output_to

if sys.platform != "linux":
    pytest.skip("vLLM needs Linux", allow_module_level=True)

BASE = str(sample_data("models", "ko-mini-mistral"))
NAMES = [None, "first", "second"]
CONTEXT = 320


def random_adapter(folder, base, seed, alpha=16):
    torch.manual_seed(seed)
    tokenizer, model = load_language_model(base)
    config = LoraConfig(
        r=4, lora_alpha=alpha, target_modules=PROJECTIONS, task_type="CAUSAL_LM", init_lora_weights=False
    )
    return save_adapter(get_peft_model(model, config), Prompt.for_tokenizer(tokenizer), folder, base=base)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    return save_merged(BASE, random_adapter(folder / "adapter", BASE, 3, alpha=4), folder / "merged")


@pytest.fixture(scope="module")
def adapters(merged):
    return {name: random_adapter(merged.with_name(name), str(merged), seed) for seed, name in enumerate(NAMES[1:])}


@pytest.fixture(scope="module")
def local(merged):
    return LocalModel.load(merged)


@pytest.fixture(scope="module")
def gate(local):
    return ExportGate.against(local, probe_questions(8), tolerance=0.02, max_new_tokens=12)


@pytest.fixture(scope="module")
def engine(merged, adapters):
    """The one engine; when the last test is done it is closed, and closed means that no process of it is left."""
    with Engine(merged, adapters=adapters, context=CONTEXT, at_once=8, log=merged.with_name("engine.log")) as engine:
        mine = [process for process in engine._processes if process.is_running()]
        assert mine and engine.left_behind()
        yield engine
    assert engine.left_behind() == [] and not any(process.is_running() for process in mine)
    assert not {child.pid for child in psutil.Process().children(recursive=True)} & {process.pid for process in mine}
    engine.close()  # once more does nothing
    with pytest.raises(InputError, match="has been closed"):
        engine.ask([[2, 5]])


def test_the_engine_says_what_transformers_says(engine, gate):
    agreement = gate.admit("vLLM", engine)  # float32 on both sides: kernels differ, numbers hardly
    assert agreement.difference < 0.01 and agreement.equal_answers + agreement.ties == pytest.approx(1)
    assert gate.compare(engine.under("first")).difference > 0.5  # it could have failed
    with pytest.raises(InputError, match="first adapter"):
        gate.admit("first adapter", engine.under("first"))


def test_an_adapter_at_request_time_is_peft_over_the_same_model(engine, merged, adapters, gate):
    from peft import PeftModel

    model = LocalModel.load(merged).model
    tuned = LocalModel(PeftModel.from_pretrained(model, str(adapters["second"])), engine.prompt)
    own = ExportGate.against(tuned, gate.questions, tolerance=0.02, max_new_tokens=6)
    own.admit("second", engine.under("second"))


def test_requests_with_and_without_adapter_share_a_batch_and_do_not_mix(engine, gate):
    """vLLM's CPU kernels gave requests without adapter the last one of the batch; alone they were right."""
    prompts = [ids for ids in gate.prompts[:4] for _ in NAMES]
    together = engine.ask(prompts, NAMES * 4, max_tokens=8)
    for place, name in enumerate(NAMES):
        alone = [engine.ask([ids], name, max_tokens=8)[0].ids for ids in gate.prompts[:4]]
        assert [answer.ids for answer in together[place::3]] == alone
    assert len({tuple(answer.ids) for answer in together[:3]}) == 3  # the three do say different things


def test_an_answer_ends_by_token_text_or_length(engine, gate):
    answers = engine.ask(gate.prompts, max_tokens=12, ignore_eos=True)
    place = next(
        place for place, each in enumerate(answers) if len(each.text) > 6 and not engine.prompt.ended(each.ids)
    )
    ids, whole = [gate.prompts[place]], answers[place]
    assert whole.finish == "length" and len(whole.ids) == 12
    assert whole.text == engine.prompt.answer_text(whole.ids)
    at_token = engine.ask(ids, max_tokens=12, stop_token_ids=[whole.ids[4]], ignore_eos=True)[0]
    assert at_token.finish == "stop" and at_token.ids == whole.ids[: whole.ids.index(whole.ids[4]) + 1]
    word = whole.text[3:5]
    at_text = engine.ask(ids, max_tokens=12, stop=[word], ignore_eos=True)[0]
    assert at_text.finish == "stop" and at_text.text == whole.text[: whole.text.index(word)].strip()


def test_an_answer_is_one_of_the_choices(engine, gate):
    from vllm.sampling_params import StructuredOutputsParams

    labels = ["금융", "통신", "여행"]
    free = engine.ask(gate.prompts, max_tokens=8)
    assert not all(answer.text in labels for answer in free)
    spelled = [engine.prompt.spelled(label) for label in labels]
    assert spelled == [f" {label}" for label in labels]
    held = engine.ask(gate.prompts, structured_outputs=StructuredOutputsParams(choice=spelled))
    assert all(answer.text in labels and answer.finish == "stop" for answer in held)
    answer_begins = engine.prompt.example("?", labels[0]).input_ids[len(engine.prompt.prompt_ids("?"))]
    assert engine.prompt.tokenizer.convert_ids_to_tokens(answer_begins)[0] == "▁"
    assert all(engine.prompt.tokenizer.convert_ids_to_tokens(answer.ids[0])[0] == "▁" for answer in held)


def test_a_seed_repeats_a_draw(engine, gate):
    def drawn(seed):
        return [each.ids for each in engine.ask(gate.prompts, temperature=1.5, seed=seed, max_tokens=12)]

    first = drawn(1)
    assert first == drawn(1) and first != drawn(2)
    assert first != [each.ids for each in engine.ask(gate.prompts, max_tokens=12)]


def test_a_shared_beginning_is_read_once(engine):
    block = engine.llm.llm_engine.vllm_config.cache_config.block_size
    start = [(7 * place) % 4000 + 100 for place in range(block + 10)]
    cold, warm = (engine.ask([[*start, token]], max_tokens=4)[0] for token in (50, 60))
    assert (cold.cached, warm.cached) == (0, block)
    assert engine.ask([[*start, 60]], max_tokens=4)[0].ids == warm.ids
    assert engine.ask([[*start, 70]], "first", max_tokens=2)[0].cached == 0  # under an adapter keys and values differ


def test_wrong_requests_are_named(engine):
    with pytest.raises(InputError, match=r"no such adapter[\s\S]*third[\s\S]*first"):
        engine.ask([[2, 5]], "third")
    with pytest.raises(InputError, match=r"no room for an answer[\s\S]*prompt 2[\s\S]*320 tokens"):
        engine.ask([[2, 5], [5] * CONTEXT])
    with pytest.raises(InputError, match=r"prompt 1[\s\S]*0 tokens"):
        engine.log_probs([[]], [[]])
    with pytest.raises(InputError, match=r"vLLM refuses[\s\S]*top_p"):
        engine.ask([[2, 5]], top_p=7)


def test_what_an_engine_prints_goes_to_its_log(tmp_path, capfd):
    with output_to(tmp_path / "deep" / "log"):
        os.write(1, b"RuntimeError: no memory\n")
        psutil.Popen([sys.executable, "-c", "print('child')"]).wait()
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"
    text = (tmp_path / "deep" / "log").read_text()
    assert "child" in text and last_error(tmp_path / "deep" / "log") == "RuntimeError: no memory"
    (tmp_path / "empty").write_text("fine\n")
    assert last_error(tmp_path / "empty") == "none"
    log = tmp_path / "deep" / "log"
    assert last_error(log, log.stat().st_size) == "none"  # an error of an earlier start is not this one's


def test_the_engines_processes_are_the_new_ones_that_live(monkeypatch):
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    old, new, tracker = (psutil.Popen([*sleeper, word]) for word in ("old", "new", "resource_tracker"))
    ended = psutil.Popen([sys.executable, "-c", ""])
    ended.wait()  # as a process that ends between the list of children and the look at its command line
    children = psutil.Process.children
    monkeypatch.setattr(psutil.Process, "children", lambda *told, **how: [*children(*told, **how), ended])
    try:
        before = set(psutil.Process().children(recursive=True)) - {ended, new, tracker}
        assert engine_processes(before) == [new]
    finally:
        for process in (old, new, tracker):
            process.kill()
            process.wait()


def test_memory_is_given_back_before_the_engine_asks_for_it(monkeypatch, tmp_path):
    freed = []
    monkeypatch.setattr("helpers.instruct.vllm_engine.engine.free_memory", lambda: freed.append(True))
    with pytest.raises(InputError):
        Engine(tmp_path)  # there is no model: nothing is started
    assert freed == [True]


@pytest.mark.parametrize("gpu, slots", [("none", 2), ("t4", 1)])
def test_only_a_cpu_gets_a_slot_more_than_adapters(monkeypatch, tmp_path, gpu, slots):
    (tmp_path / "adapter_config.json").write_text('{"r": 12}')
    monkeypatch.setattr("helpers.instruct.vllm_engine.start.detect_machine", lambda: SimpleNamespace(gpu_class=gpu))
    assert lora_options([tmp_path]) == {"enable_lora": True, "max_loras": slots, "max_lora_rank": 16}
    assert lora_options([]) == {}


def test_without_vllm_one_clear_error(monkeypatch):
    need_vllm()
    monkeypatch.setattr("helpers.instruct.vllm_engine.start.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"vLLM is not to be had here[\s\S]*Colab"):
        need_vllm()


def test_a_backend_over_the_engine_speaks_as_its_adapter(engine, merged, adapters):
    from helpers.instruct.scoring.backends import TransformersBackend
    from helpers.instruct.vllm_engine.backend import VllmBackend

    local = TransformersBackend.load(str(merged), adapters)
    prompts = [engine.prompt.prompt_ids(text) for text in ("사과는 무슨 색인가요?", "인사해 줘.")]
    words, found = ["빨강", "노랑"], []
    labels = [engine.prompt.example("?", word).input_ids[len(engine.prompt.prompt_ids("?")) : -1] for word in words]
    for which, adapter in (("base", None), ("first", "first"), ("second", "second")):
        own = VllmBackend(engine, engine.prompt, name=which, adapter=adapter)
        theirs = local[which].likelihoods(prompts, labels)
        torch.testing.assert_close(own.likelihoods(prompts, labels), theirs, atol=0.02, rtol=0)
        assert all(place in (0, 1) for place in own.choose(prompts, words, labels))
        assert len(own.free(prompts, 4)) == 2 and own.room == CONTEXT - 1 and own.facts["backend"] == "vllm"
        found.append(theirs)
    assert (found[0] - found[1]).abs().max() > 0.1 < (found[1] - found[2]).abs().max()
