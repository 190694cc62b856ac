"""One prompt object: equal ids everywhere, EOS learned, PAD is not EOS, BOS once, and a prompt.json that is checked."""

import json
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer

from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY
from helpers.instruct.prompts import IGNORED, PROMPT_FILE, Prompt

MODEL = REPOSITORY / "sample_data/models/ko-mini-mistral"
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}"
    "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + MISTRAL


def tokenizer_of(template=None, named=True, **changes):
    """``named``: the markers of turns stand among ``all_special_tokens``; they need not."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    if template == CHATML and named:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    elif template == CHATML:
        tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
        assert "<|im_end|>" not in tokenizer.all_special_tokens
    tokenizer.chat_template = template
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


@pytest.fixture(scope="module", params=["seed", "mistral", "chatml"])
def prompt(request):
    template = {"seed": None, "mistral": MISTRAL, "chatml": CHATML}[request.param]
    return Prompt.for_tokenizer(tokenizer_of(template), "chat" if template else "seed")


TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "<" not in text and "[" not in text)


@settings(max_examples=60, deadline=None)
@given(question=TEXTS, answer=TEXTS, text=st.just("") | TEXTS)
def test_training_generation_and_server_have_equal_ids(prompt, question, answer, text):
    ids = prompt.prompt_ids(question, text)
    example = prompt.example(question, answer, text)
    assert example.input_ids[: len(ids)] == ids
    assert example.labels[: len(ids)] == [IGNORED] * len(ids)
    assert example.labels[len(ids) :] == example.input_ids[len(ids) :]
    assert example.labels[-1] == prompt.stop_ids[0]
    assert example.trained == len(example.input_ids) - len(ids) > 1
    whole = question.strip() + "\n\n" + text.strip() if text.strip() else question
    assert prompt.message_ids([{"role": "user", "content": whole}]) == ids
    assert ids.count(2) == 1 and ids[0] == 2  # BOS once, in front
    assert prompt.pad_id not in prompt.stop_ids and prompt.pad_id not in example.input_ids


def test_the_seed_form_is_the_seeds_own(prompt):
    if prompt.template == "seed":
        text = prompt.tokenizer.decode(prompt.prompt_ids("날씨를 말해 줘."))
        assert text.removeprefix("<s>").strip() == "###입력:날씨를 말해 줘.\n\n###출력:"
        assert prompt.example("가", "나").labels[-1] == prompt.tokenizer.eos_token_id


def test_one_space_less_by_a_typing_hand_gives_other_ids(prompt):
    """What the object protects from: the equality above can fail."""
    typed = prompt.tokenizer("###입력: 날씨를 말해 줘.\n\n###출력: ").input_ids
    assert typed != prompt.prompt_ids("날씨를 말해 줘.") == prompt.prompt_ids("  날씨를 말해 줘.\n")


def test_a_first_turn_with_its_answer_is_the_training_row(prompt):
    messages = [{"role": "user", "content": "몇 시야?"}, {"role": "assistant", "content": "세 시예요."}]
    row = prompt.example("몇 시야?", "세 시예요.").input_ids
    ids = prompt.message_ids([*messages, {"role": "user", "content": "고마워."}])
    if prompt.template == "seed":
        assert ids[: len(row)] == row and ids[len(row) :] == prompt.prompt_ids("고마워.")[1:]
    assert ids.count(prompt.stop_ids[0]) >= 1 and len(ids) > len(row)


def test_a_system_text_goes_in_front_and_can_be_replaced(prompt):
    strict = Prompt.for_tokenizer(prompt.tokenizer, prompt.template, system="짧게 답해 주세요.")
    with_system = strict.prompt_ids("눈은 왜 하얘?")
    assert with_system == prompt.prompt_ids(
        "눈은 왜 하얘?", system=unicodedata.normalize("NFD", " 짧게 답해 주세요.\n")
    )
    assert with_system != prompt.prompt_ids("눈은 왜 하얘?") == strict.prompt_ids("눈은 왜 하얘?", system="")
    assert with_system == prompt.prompt_ids("눈은 왜 하얘?", system="짧게 답해 주세요.")
    messages = [{"role": "system", "content": "짧게 답해 주세요."}, {"role": "user", "content": "눈은 왜 하얘?"}]
    assert with_system == prompt.message_ids(messages)
    assert "짧게 답해" in strict.tokenizer.decode(with_system)


def test_nfd_and_nfc_have_equal_ids(prompt):
    assert prompt.prompt_ids(unicodedata.normalize("NFD", "한국어")) == prompt.prompt_ids("한국어")


def test_an_answer_is_cut_at_its_stop_token_and_read_back(prompt):
    example = prompt.example("가", "정답은 서울입니다.")
    answer = example.input_ids[-example.trained :]
    assert prompt.answer_text(answer) == "정답은 서울입니다."
    assert prompt.answer_text([*answer, *answer]) == "정답은 서울입니다."  # what comes after the stop does not count
    assert prompt.answer_text(torch.tensor([*answer, prompt.pad_id])) == "정답은 서울입니다."
    assert prompt.answer_text([prompt.pad_id, prompt.bos_id, *answer[:-1], prompt.pad_id]) == "정답은 서울입니다."
    assert prompt.ended(answer) and not prompt.ended(answer[:-1])


def test_an_answer_is_spelled_as_it_stands_behind_its_question(prompt):
    example, spelled = prompt.example("?", "긍정"), prompt.spelled(" 긍정\n")
    front, both = (prompt.tokenizer.decode(ids) for ids in (prompt.prompt_ids("?"), example.input_ids[:-1]))
    assert both == front + spelled and spelled == " 긍정"


def test_special_tokens_in_a_text_do_not_work():
    seed = Prompt.for_tokenizer(tokenizer_of())
    example = seed.example("끝은 </s> 이렇게 쓰나요? <s>", "네, </s> 이렇게요.")
    assert example.input_ids.count(3) == 1 and example.input_ids.count(2) == 1
    chat = Prompt.for_tokenizer(tokenizer_of(MISTRAL), "chat")
    with pytest.raises(InputError, match="special tokens"):
        chat.prompt_ids("끝은 </s> 이렇게 쓰나요?")
    assert chat.example("가", "네, </s> 이렇게요.").input_ids.count(3) == 1


@pytest.mark.parametrize("named", [True, False])
def test_markers_of_turns_in_a_text_do_not_work_however_they_were_added(named):
    chat = Prompt.for_tokenizer(tokenizer_of(CHATML, named), "chat")
    assert chat.stop_ids == (chat.tokenizer.convert_tokens_to_ids("<|im_end|>"), 3)
    for text in ("끝<|im_end|>", "<|im_start|>system"):
        with pytest.raises(InputError, match="special tokens"):
            chat.prompt_ids(text)
        with pytest.raises(InputError, match="special tokens"):
            chat.prompt_ids("안녕", system=text)
        for turns in ((text, "네.", "안녕"), ("안녕", text, "안녕")):
            roles = ("user", "assistant", "user")
            with pytest.raises(InputError, match="special tokens"):
                chat.message_ids([{"role": role, "content": each} for role, each in zip(roles, turns, strict=True)])
    seed = Prompt.for_tokenizer(tokenizer_of(CHATML, named))
    assert max(seed.prompt_ids("끝<|im_end|>")) < 8192  # text as text


def test_what_a_chat_template_refuses_is_named():
    chat = Prompt.for_tokenizer(tokenizer_of(NO_SYSTEM), "chat")
    assert chat.prompt_ids("안녕") == Prompt.for_tokenizer(tokenizer_of(MISTRAL), "chat").prompt_ids("안녕")
    with pytest.raises(InputError, match=r"no system role here[\s\S]*system, user"):
        chat.prompt_ids("안녕", system="짧게.")
    with pytest.raises(InputError, match="no conversation at all"):
        Prompt.for_tokenizer(tokenizer_of("{{ raise_exception('no conversation at all') }}"), "chat")


def test_a_template_that_asks_for_the_date_gets_the_same_every_day(tmp_path, monkeypatch):
    dated = tokenizer_of("{{ bos_token }}{{ strftime_now('%d %B %Y') }} " + MISTRAL.replace("{{ bos_token }}", ""))
    prompt = Prompt.for_tokenizer(dated, "chat")
    assert "26 July 2024" in dated.decode(prompt.prompt_ids("안녕"))


def test_an_answer_that_ended_at_once_is_a_turn(prompt):
    messages = [("user", "가"), ("assistant", ""), ("user", "나")]
    ids = prompt.message_ids([{"role": role, "content": text} for role, text in messages])
    first, last = prompt.prompt_ids("가"), prompt.prompt_ids("나")
    assert ids[: len(first)] == first and prompt.stop_ids[0] in ids[len(first) :]
    if prompt.template == "seed":
        assert ids == [*first, prompt.stop_ids[0], *last[1:]]


def test_pad_is_never_eos():
    assert Prompt.for_tokenizer(tokenizer_of()).pad_id == 0
    for given_pad in (None, "</s>", "<s>"):
        tokenizer = tokenizer_of(pad_token=given_pad)
        prompt = Prompt.for_tokenizer(tokenizer)
        assert prompt.pad_id == tokenizer.pad_token_id not in (prompt.eos_id, prompt.bos_id)
    bare = tokenizer_of(pad_token=None)
    bare.get_vocab = lambda: {"</s>": 3}
    with pytest.raises(InputError, match="PAD"):
        Prompt.for_tokenizer(bare)
    with pytest.raises(InputError, match="EOS"):
        Prompt.for_tokenizer(tokenizer_of(eos_token=None))


def test_a_chat_template_ends_answers_with_its_own_token():
    chatml = Prompt.for_tokenizer(tokenizer_of(CHATML), "chat")
    assert chatml.stop_ids == (chatml.tokenizer.convert_tokens_to_ids("<|im_end|>"), 3)
    assert chatml.example("가", "나").labels[-1] == chatml.stop_ids[0]
    assert Prompt.for_tokenizer(tokenizer_of(MISTRAL), "chat").stop_ids == (3,)


def test_saved_and_loaded(prompt, tmp_path):
    own = Prompt.for_tokenizer(prompt.tokenizer, prompt.template, system="존댓말로.")
    own.save(tmp_path)
    own.tokenizer.save_pretrained(tmp_path)
    for again in (Prompt.load(tmp_path), Prompt.load(tmp_path, own.tokenizer)):
        assert again.prompt_ids("가나다", "라") == own.prompt_ids("가나다", "라")
        assert (again.stop_ids, again.pad_id, again.system) == (own.stop_ids, own.pad_id, "존댓말로.")


def test_a_prompt_file_that_is_missing_or_altered_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no prompt.json"):
        Prompt.load(tmp_path)
    path = Prompt.for_tokenizer(tokenizer_of()).save(tmp_path)
    assert path == tmp_path / PROMPT_FILE
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace("###출력:", "### 출력:"), encoding="utf-8")
    with pytest.raises(InputError, match="altered"):
        Prompt.load(tmp_path, tokenizer_of())
    path.write_text(good[: len(good) // 2], encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        Prompt.load(tmp_path, tokenizer_of())
    path.write_text(json.dumps([1]), encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        Prompt.load(tmp_path, tokenizer_of())


def test_a_tokenizer_of_other_ids_is_refused(tmp_path):
    Prompt.for_tokenizer(tokenizer_of()).save(tmp_path)
    other = tokenizer_of()
    other.add_tokens(["질문"])
    with pytest.raises(InputError, match="does not fit"):
        Prompt.load(tmp_path, other)


def test_a_bos_that_the_tokenizer_does_not_write_is_not_written():
    tokenizer = tokenizer_of()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    prompt = Prompt.for_tokenizer(tokenizer)
    assert tokenizer.bos_token_id == 2 and prompt.bos_id is None
    assert prompt.prompt_ids("가") == Prompt.for_tokenizer(tokenizer_of()).prompt_ids("가")[1:]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "가"}],
        [{"role": "user", "content": "가"}, {"role": "user", "content": "나"}],
        [{"role": "user", "content": "가"}, {"role": "assistant", "content": "나"}],
        [{"role": "user", "content": "가"}, {"role": "system", "content": "나"}, {"role": "user", "content": "다"}],
        [{"role": "tool", "content": "가"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": " \n"}],
        [{"content": "가"}],
    ],
)
def test_messages_out_of_turn_are_refused(prompt, messages):
    with pytest.raises(InputError):
        prompt.message_ids(messages)


@pytest.mark.parametrize(
    ("messages", "place", "given"),
    [
        ([("user", "가"), ("tool", "나")], "message 2", {"role": "tool", "content": "나"}),
        ([("system", "가")], "messages", "no user message"),
        ([("system", "가"), ("user", "나"), ("assistant", "다"), ("user", " ")], "user message, turn 3", ""),
    ],
)
def test_a_message_that_cannot_be_used_is_named(prompt, messages, place, given):
    with pytest.raises(InputError) as raised:
        prompt.message_ids([{"role": role, "content": text} for role, text in messages])
    assert (raised.value.place, raised.value.given) == (place, given)


def test_what_cannot_be_a_prompt_is_named():
    with pytest.raises(InputError, match="template"):
        Prompt.for_tokenizer(tokenizer_of(), "alpaca")
    with pytest.raises(InputError, match="chat template"):
        Prompt.for_tokenizer(tokenizer_of(), "chat")
    with pytest.raises(InputError, match="empty"):
        Prompt.for_tokenizer(tokenizer_of()).example("가", "  ")
