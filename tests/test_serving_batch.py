"""Continuous batching: whatever else is in the batch, an answer is what the model alone would have written."""

import socket
import sys
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import MistralConfig, MistralForCausalLM

from helpers.serving import worker
from helpers.serving.jobs import Job, Sampling, Tokens, Unfinished
from helpers.serving.sampling import GREEDY_BELOW, Sampler, draw_all
from helpers.serving.transformers_batch import TransformersBatch
from helpers.serving.wire import packed

STOP = 3
ADAPTERS = {"loud.v1": "loud", "other": "other"}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, eos_token_id=STOP, pad_token_id=0,
    )  # fmt: skip
    base = MistralForCausalLM(config).eval()
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False), "loud")
    tuned.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    return tuned.eval()


def prompts(count):
    draw = torch.Generator().manual_seed(1)
    return [tuple(torch.randint(4, 97, (3 + 5 * n % 17,), generator=draw).tolist()) for n in range(count)]


def alone(model, job):
    """The reference: transformers' own greedy generate with that adapter, by peft's name for it."""
    ids = torch.tensor([job.ids])
    settings = dict(max_new_tokens=job.max_tokens, do_sample=False, eos_token_id=list(job.stop_ids), pad_token_id=0)
    if job.adapter is None:
        with model.disable_adapter():
            output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    else:
        model.set_adapter(ADAPTERS[job.adapter])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    return output[0, len(job.ids) :].tolist()


def run(batch, arrivals):
    """Answers and finish reasons; ``arrivals``: step number -> jobs that come then."""
    answers, ends, step = {}, {}, 0
    while batch.busy or any(when >= step for when in arrivals):
        for job in arrivals.get(step, []):
            batch.add(job)
        for part in batch.step():
            answers.setdefault(part.job, []).extend(part.ids)
            if part.finish:
                ends[part.job] = part.finish
        step += 1
    return answers, ends


@pytest.mark.parametrize("size", [1, 3, 8])
def test_answers_do_not_depend_on_the_batch(model, size):
    adapters = [None, "loud.v1", "other"]
    stop = alone(model, Job(0, prompts(1)[0], 12, ()))[3]  # a token that one of them will write
    jobs = [Job(n, ids, 4 + 7 * n % 20, (stop,), adapters[n % 3]) for n, ids in enumerate(prompts(12))]
    arrivals = {0: jobs[:4], 2: jobs[4:5], 9: jobs[5:]}
    answers, ends = run(TransformersBatch(model, size, 0, adapters=ADAPTERS), arrivals)
    for job in jobs:
        assert answers[job.id] == alone(model, job), f"job {job.id} with {job.adapter}"
        assert ends[job.id] == ("stop" if answers[job.id][-1] == stop else "length")
    assert set(ends.values()) == {"stop", "length"}


def test_the_comparison_could_fail(model):
    """Two adapters and the base model answer the same prompt in three ways."""
    ids = prompts(1)[0]
    texts = {tuple(alone(model, Job(0, ids, 12, (STOP,), adapter))) for adapter in (None, *ADAPTERS)}
    assert len(texts) == 3


def test_a_stopped_job_leaves_and_the_others_go_on(model):
    jobs = [Job(n, ids, 15, ()) for n, ids in enumerate(prompts(3))]
    batch = TransformersBatch(model, 2, 0)
    for job in jobs:
        batch.add(job)
    first = [part for _ in range(3) for part in batch.step()]
    assert {part.job for part in first} == {0, 1}
    batch.stop(0)
    batch.stop(77)  # was never there
    answers, _ = run(batch, {})
    assert set(answers) == {1, 2}
    written = [token for part in first if part.job == 1 for token in part.ids]
    assert written + answers[1] == alone(model, jobs[1])
    assert not batch.busy and batch.cache is None


def test_padding_that_no_row_needs_is_dropped(model):
    batch = TransformersBatch(model, 2, 0)
    batch.add(Job(0, tuple(range(4, 64)), 2, ()))
    batch.add(Job(1, (5, 6), 30, ()))
    for _ in range(3):
        batch.step()
    assert batch.mask.shape[1] < 10 and batch.cache.layers[0].keys.shape[2] == batch.mask.shape[1]


def test_a_job_that_cannot_be_done_is_refused(model):
    batch = TransformersBatch(model, 2, 0)
    with pytest.raises(ValueError, match="no adapter"):
        batch.add(Job(0, (4,), 2, (), "missing"))
    with pytest.raises(ValueError, match="empty"):
        batch.add(Job(0, (), 2, ()))


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux")
def test_what_vllm_refuses_is_refused_and_ends_nobody_elses_answer():
    """Its errors are no ValueErrors: one that got through would end the engine's process."""
    from vllm.exceptions import VLLMValidationError

    from helpers.serving.vllm_batch import VllmBatch

    class Refusing:
        def add_request(self, *_, **__):
            raise VLLMValidationError("the prompt cannot be empty")

    batch = VllmBatch.__new__(VllmBatch)  # without the engine, which takes half a minute to start
    batch.engine, batch.adapters, batch._names = Refusing(), {}, {}
    with pytest.raises(ValueError, match="cannot be empty"):
        batch.add(Job(0, (), 2, ()))
    with pytest.raises(ValueError, match="top_p"):
        batch.add(Job(1, (4,), 2, (), sampling=Sampling(top_p=7)))
    with pytest.raises(ValueError, match="no adapter"):
        batch.add(Job(2, (4,), 2, (), "missing"))


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux")
def test_what_vllm_leaves_off_is_no_whole_answer():
    from helpers.serving.vllm_batch import VllmBatch

    def output(job, reason):
        answer = SimpleNamespace(token_ids=[5], finish_reason=reason)
        return SimpleNamespace(request_id=str(job), outputs=[answer], finished=reason is not None)

    ends = [None, "length", "stop", "repetition", "abort", "error"]
    batch = VllmBatch.__new__(VllmBatch)
    batch.engine, batch._names = SimpleNamespace(step=lambda: map(output, range(6), ends)), {4: "4", 5: "5"}
    *whole, aborted, failed = batch.step()
    assert whole == [Tokens(job, (5,), end) for job, end in enumerate([None, "length", "stop", "stop"])]
    assert (aborted, failed) == tuple(
        Unfinished(job, f"vLLM ended its answer early ({end})") for job, end in ((4, "abort"), (5, "error"))
    )
    assert not batch._names


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux")
def test_vllm_is_greedy_where_transformers_is():
    from helpers.serving.vllm_batch import VllmBatch

    asked = []
    batch = VllmBatch.__new__(VllmBatch)
    batch.engine = SimpleNamespace(add_request=lambda name, prompt, params, **_: asked.append(params.temperature))
    batch.adapters, batch._names = {}, {}
    for job, temperature in enumerate((GREEDY_BELOW / 2, 0.5)):
        batch.add(Job(job, (4,), 2, (), sampling=Sampling(temperature=temperature)))
    assert asked == [0, 0.5]


@pytest.fixture
def engine_end(monkeypatch):
    """Run the worker over a batch whose ``add`` fails; the server's end, and what runs it."""

    def no_disk(job):
        raise OSError("no space left")

    def end_process(code):
        raise SystemExit(code)

    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)  # as it comes to a spawned process
    monkeypatch.setattr(worker, "_use_threads", lambda threads: None)
    monkeypatch.setattr(worker, "transformers_batch", lambda settings: SimpleNamespace(busy=False, add=no_disk))
    monkeypatch.setattr(worker.os, "_exit", end_process)
    with ours, theirs:
        yield ours, theirs, lambda: worker.main(theirs, SimpleNamespace(backend="transformers", threads=1), 64)


def test_an_engine_that_fails_is_not_taken_for_a_server_that_is_gone(engine_end):
    server, own, run_worker = engine_end
    server.sendall(packed(Job(0, (4,), 2, ())))
    with pytest.raises(OSError, match="no space left"):
        run_worker()
    assert not own.get_inheritable()  # a child of the engine does not keep the connection open


def test_a_server_that_is_gone_ends_the_engine(engine_end):
    server, _, run_worker = engine_end
    server.close()
    with pytest.raises(SystemExit) as end:
        run_worker()
    assert end.value.code == 0


def test_the_servers_seed_repeats_answers_that_have_none_of_their_own(model):
    def answers(seed):
        jobs = [Job(n, prompts(1)[0], 12, (), sampling=Sampling(temperature=1.5)) for n in range(2)]
        return run(TransformersBatch(model, 2, 0, seed=seed), {0: jobs})[0]

    assert answers(5) == answers(5) != answers(6)
    assert answers(5)[0] != answers(5)[1]


LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0])


def sampler(prompt=3, **rules):
    return Sampler(Sampling(**rules), [prompt], 4, torch.device("cpu"))


def draws(count, by, logits=LOGITS):
    return [by.draw(logits) for _ in range(count)]


def shares(**rules):
    drawn = draws(4000, sampler(seed=5, **rules))
    return [drawn.count(token) / len(drawn) for token in range(4)]


def test_drawn_shares_are_the_softmax():
    expected = (LOGITS / 0.7).softmax(0).tolist()
    assert shares(temperature=0.7) == pytest.approx(expected, abs=0.03)


def test_top_k_and_top_p_leave_out_the_tail():
    two = LOGITS[:2].softmax(0).tolist()
    assert shares(temperature=1.0, top_k=2) == pytest.approx([*two, 0, 0], abs=0.03)
    # 0.61 + 0.22 is the first sum to reach 0.7
    assert shares(temperature=1.0, top_p=0.7) == pytest.approx([*two, 0, 0], abs=0.03)
    assert shares(temperature=1.0, top_p=0.01) == shares(temperature=1.0, top_k=1) == [1, 0, 0, 0]
    assert shares(temperature=1.0, top_k=1_000_000) == shares(temperature=1.0)  # more than there are


@pytest.mark.parametrize("rules", [{"temperature": 5e-324}, {"temperature": 1e-5}, {"temperature": 2, "top_p": 5e-324}])
def test_the_smallest_rules_that_are_allowed_take_the_likeliest_token(rules):
    """Both are zero in float32: one bad division, or nothing left to draw from, would end the engine for everybody."""
    assert shares(**rules) == [1, 0, 0, 0]


def test_below_a_hundred_thousandth_nothing_is_drawn_by_lot():
    tied = torch.zeros(4)
    assert set(draws(50, sampler(temperature=9e-6, seed=1), tied)) == {0}
    assert set(draws(50, sampler(temperature=2e-5, seed=1), tied)) == {0, 1, 2, 3}


def test_a_seed_repeats():
    def answer(seed, **rules):
        return draws(50, sampler(temperature=1.0, seed=seed, **rules))

    random = torch.Generator().manual_seed(0)  # 0 is a seed too
    assert answer(0) == [int(torch.multinomial(LOGITS.softmax(0), 1, generator=random)) for _ in range(50)]
    assert answer(1) == answer(1) != answer(2)
    assert answer(1, top_p=0.9) == answer(1, top_p=0.9) != answer(2, top_p=0.9)


def test_penalties_push_away():
    assert draws(3, sampler(frequency_penalty=0.6)) == [0, 0, 1]  # 2.0, 1.4, then 0.8 < 1.0
    assert draws(5, sampler(presence_penalty=1.4)) == [0, 1, 0, 0, 0]  # once: 0.6 whenever it was written, 1.0 before
    assert draws(1, sampler(0, presence_penalty=1.4, frequency_penalty=1.4)) == [0]  # the prompt was not written
    assert draws(3, sampler(repetition_penalty=2.5)) == [0, 1, 0]  # 0.8 < 1.0; then 0.4
    assert draws(1, sampler(0, repetition_penalty=2.5)) == [1]  # token 0 stands in the prompt
    negative = torch.tensor([-0.5, -0.9, -2.0, -2.0])
    assert draws(1, sampler(0, repetition_penalty=2.0), negative) == [1]  # away from zero: -1.0


def test_only_rows_that_ask_for_more_are_drawn_one_by_one():
    asked = [sampler(), sampler(presence_penalty=1.4), sampler(temperature=5.0, seed=3)]
    rows = [draw_all(LOGITS.repeat(3, 1), asked) for _ in range(40)]
    assert [row[:2] for row in rows[:4]] == [[0, 0], [0, 1], [0, 0], [0, 0]] and len({row[2] for row in rows}) == 4


@pytest.mark.parametrize(
    "asked, told, cores, expected",
    [(None, None, 8, [7]), (None, None, 1, [1]), (3, None, 8, [3]), (None, "2", 8, []), (3, "2", 8, [3])],
)
def test_the_engine_leaves_a_core_to_the_server(monkeypatch, asked, told, cores, expected):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr("helpers.course.machine.usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    worker._use_threads(asked)
    assert set_to == expected
