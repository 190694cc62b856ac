"""The memory arithmetic: weights as transformers counts them, keys and values as a real cache holds them."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MistralConfig, MistralForCausalLM, Qwen3Config

from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY
from helpers.instruct.exporting.settings import ExportSettings
from helpers.instruct.vllm_engine.gpu_memory import (
    GIB,
    GPUS,
    MISTRAL,
    SOLAR,
    ModelShape,
    fit,
    fit_table,
    serve_command,
)
from helpers.instruct.zero_shot import ZeroShotSettings
from helpers.serving.settings import ServingSettings

QWEN = ModelShape("Qwen3 1.7B", 28, 2048, 6144, 16, 8, 151936, 128, tied=True)  # less a norm of 128 in q and k
SHAPES = {"mistralai/Mistral-7B-v0.1": MISTRAL, "Qwen/Qwen3-1.7B-Base": QWEN}
SMALLEST = {"t4": GPUS["T4"], "a100": GPUS["A100 40 GB"]}


@pytest.mark.parametrize("shape, kind", [(SOLAR, LlamaConfig), (MISTRAL, MistralConfig), (QWEN, Qwen3Config)])
def test_weights_are_those_of_the_real_architecture(shape, kind):
    config = kind(
        num_hidden_layers=shape.layers, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    norms = sum(p.numel() for name, p in model.named_parameters() if "q_norm" in name or "k_norm" in name)
    assert sum(p.numel() for p in model.parameters()) == shape.weights + norms and norms < 1e-5 * shape.weights
    assert ModelShape.of(shape.name, config) == shape


def test_published_sizes():
    assert round(SOLAR.weights / 1e9, 1) == 10.7 and round(MISTRAL.weights / 1e9, 2) == 7.24
    assert round(QWEN.weights / 1e9, 1) == 1.7


@pytest.mark.parametrize("profile", SMALLEST)
def test_vllm_has_room_under_every_gpu_profile(profile):
    export, serving = ExportSettings.load(profile=profile), ServingSettings.load(profile=profile)
    lengths = [(export, export.context), (serving, serving.max_prompt_tokens + serving.max_tokens)]
    assert serving.backend == "vllm"
    asking = ZeroShotSettings.load(profile=profile)
    if not asking.load_in_4bit:  # lesson 10 by vLLM, where its model is for it
        lengths.append((asking, asking.context))
    for settings, length in lengths:
        gpu, share = SMALLEST[profile], settings.memory_share
        found = fit(SHAPES[settings.model], gpu, utilization=share)
        assert found.sequences(length) >= 8, settings.default_config
        assert gpu * (1 - share) > 1.5, settings.default_config  # for the process beside it, and CUDA's own


@pytest.mark.parametrize("profile", SMALLEST)
def test_lesson_10_has_room_under_every_gpu_profile(profile):
    asking = ZeroShotSettings.load(profile=profile)
    assert asking.backend == "transformers"
    weight_bytes = 0.55 if asking.load_in_4bit else 2
    found = fit(SHAPES[asking.model], SMALLEST[profile], weight_bytes=weight_bytes, utilization=1)
    assert found.tokens >= 2 * asking.batch_tokens  # a batch, and what families begin with
    assert found.sequences(1024 + asking.max_new_tokens) >= asking.batch_size
    assert fit(MISTRAL, SMALLEST["t4"], utilization=0.95).tokens == 0  # why the t4 profiles do not take it in 16 bits


@pytest.mark.parametrize(("tied", "head_width"), [(True, None), (False, None), (False, 16)])
def test_the_cache_of_one_token_is_what_a_model_keeps(tied, head_width):
    config = AutoConfig.from_pretrained(REPOSITORY / "sample_data/models/ko-mini-mistral")
    config.tie_word_embeddings = tied
    config.head_dim = head_width or config.head_dim  # Mistral Nemo's heads together are narrower than its layers
    shape, model = ModelShape.of("small", config), MistralForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) == shape.weights
    with torch.no_grad():
        kept = model(input_ids=torch.ones(1, 5, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in kept.layers)
    assert held == 5 * shape.kv_bytes(model.dtype.itemsize)


def test_a_gpu_holds_no_more_than_it_has():
    for gpu in GPUS.values():
        for count in (1, 2, 4, 8, 16):
            found = fit(SOLAR, gpu, count)
            heads = max(1, 8 / count)
            held = found.weights + found.tokens * SOLAR.kv_bytes() * heads / 8 / GIB + 1.5
            assert held + SOLAR.kv_bytes() * heads / 8 / GIB > gpu * 0.9  # not one token more
            assert found.tokens == 0 or held <= gpu * 0.9
    assert fit(SOLAR, GPUS["T4"]).tokens == 0 < fit(SOLAR, GPUS["T4"], 2).tokens < fit(SOLAR, GPUS["T4"], 4).tokens
    assert fit(SOLAR, GPUS["T4"], weight_bytes=0.55).tokens > 0
    # beyond one key head a GPU the copies cost: twice the GPUs no longer make each token half as dear
    assert fit(SOLAR, 40, 16, working_gb=0).cache > fit(SOLAR, 40, 8, working_gb=0).cache
    per_gb = [fit(SOLAR, 40, n).tokens / fit(SOLAR, 40, n).cache for n in (4, 8, 16)]
    assert per_gb[1] == pytest.approx(2 * per_gb[0], rel=1e-3) and per_gb[2] == pytest.approx(per_gb[1], rel=1e-3)


def test_heads_that_cannot_be_shared_out_are_named():
    with pytest.raises(InputError, match="divisor of 32"):
        fit(SOLAR, 80, 3)


def test_table_says_what_does_not_fit():
    table = fit_table([SOLAR, MISTRAL], counts=(1, 2))
    assert len(table) == 2 * len(GPUS) * 2
    assert table.iloc[0]["sequences of 2,048"] == "does not fit" and table.iloc[-1]["sequences of 2,048"] > 100


def test_vllm_itself_understands_the_command():
    arguments = pytest.importorskip("vllm.engine.arg_utils", reason="vLLM has wheels for Linux only")
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    model = str(REPOSITORY / "sample_data/models/ko-mini-mistral")  # vLLM looks a hub's name up as soon as it reads it
    command = serve_command(model, tensor_parallel=2, data_parallel=4, length=4096)
    parser = arguments.AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    told = arguments.AsyncEngineArgs.from_cli_args(parser.parse_args(["--model", *command[2:]]))
    assert command[:2] == ["vllm", "serve"]
    assert (told.tensor_parallel_size, told.data_parallel_size, told.max_model_len) == (2, 4, 4096)
