"""What the tests of the server share: a small adapter that answers differently, clients, and the reference answers."""

import functools

import torch
from openai import OpenAI
from peft import LoraConfig, get_peft_model

from helpers.instruct.adapters import save_adapter
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import Prompt

MODEL = "sample_data/models/ko-mini-mistral"
SMALL = {"tuned": False, "dtype": "float32", "template": "seed", "repetition_penalty": 1.0}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
QUESTIONS = [
    f"{place}에서 {thing} 이야기를 써 주세요."
    for place in ("부산", "제주도", "시골 학교", "우주 정거장", "오래된 시장")
    for thing in ("고양이", "첫눈", "기차", "할머니의 김치", "잃어버린 우산")
]
BEGINNINGS = [
    f"{who} {where}"
    for who in ("우리 할머니는", "그 배우는", "정부는 올해", "이 식당은", "고양이가")
    for where in ("어제 시장에서", "처음부터 끝까지", "서울 한가운데", "비가 오는 날이면", "아무도 모르게")
]
"""Texts to continue: unlike answers to questions, these differ whatever the weights are."""


@functools.cache
def reference():
    """Tokenizer's prompt and the model in float32, as the server loads them."""
    tokenizer, model = load_language_model(MODEL)
    return Prompt.for_tokenizer(tokenizer), model.float().eval()


@functools.cache
def expected(text: str, tokens: int, *, raw: bool = False) -> str:
    """The greedy answer by transformers' own generate, one prompt at a time; ``raw``: the text is continued as it stands."""
    prompt, model = reference()
    plain = [prompt.bos_id, *prompt.tokenizer(text, add_special_tokens=False).input_ids]
    ids = torch.tensor([plain if raw else prompt.prompt_ids(text)])
    settings = dict(do_sample=False, eos_token_id=list(prompt.stop_ids), pad_token_id=prompt.pad_id)
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, **settings)
    if raw:
        whole, read = (prompt.tokenizer.decode(part, skip_special_tokens=True) for part in (output[0], ids[0]))
        return whole[len(read) :]
    return prompt.answer_text(output[0, ids.shape[1] :].tolist())


def loud_adapter(folder):
    """An untrained adapter with random weights: another model, for all that a test can see."""
    tokenizer, model = load_language_model(MODEL)
    torch.manual_seed(3)
    config = LoraConfig(r=8, lora_alpha=400, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    return save_adapter(get_peft_model(model.float(), config), Prompt.for_tokenizer(tokenizer), folder, base=MODEL)


def client(server, key: str = "none", **options) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60, **options)


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]
