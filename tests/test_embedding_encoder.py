"""The encoder against its definition and against sentence-transformers: pooling, prefixes, truncation, saving, order."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import T5Config
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from helpers.course.checksums import write_checksums
from helpers.course.errors import InputError
from helpers.embedding.encoder import Encoder
from helpers.embedding.encoding.loading import longest, resolve_model
from helpers.embedding.encoding.piece_weights import PieceWeights

MODEL = "sample_data/models/ko-mini-encoder"
PREFIXES = {"query": "질문: ", "document": "문서: "}
TEXTS = [
    "비가 와서 경기가 취소됐다.", "네.", "지하철 막차를 놓쳐서 한 시간을 걸어 집에 왔더니 다리가 아프다.",
    "우산을 두고 왔다.", "점심에는 멸치 육수로 끓인 칼국수를 먹고 오후에는 밀린 서류를 정리했다.",
]  # fmt: skip


def load(**options):
    return Encoder.load(MODEL, **{"max_length": 32, **options})


def weighted(**options):
    encoder = load(**options)
    encoder.weigh_pieces(encoder.tokenize(TEXTS))
    return encoder


def hidden_states(encoder, text):
    """(L, H) of one text alone, without padding, and its ids, straight from the transformers model."""
    ids = encoder.tokenizer(text, return_tensors="pt", truncation=True, max_length=encoder.max_length)["input_ids"]
    with torch.inference_mode():
        return encoder.model.eval()(input_ids=ids)[0][0].float(), ids[0].tolist()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_what_it_says_whatever_the_padding(pooling):
    encoder = load(pooling=pooling)
    by_definition = [hidden_states(encoder, text)[0] for text in TEXTS]
    expected = np.stack([states.mean(0) if pooling == "mean" else states[0] for states in by_definition])
    in_one_batch = encoder.encode(TEXTS, normalize=False, token_budget=10_000)
    one_by_one = encoder.encode(TEXTS, normalize=False, token_budget=1)
    np.testing.assert_allclose(in_one_batch, expected, atol=2e-5)
    np.testing.assert_allclose(one_by_one, expected, atol=2e-5)
    other = load(pooling="cls" if pooling == "mean" else "mean").encode(TEXTS, normalize=False)
    assert np.abs(other - expected).max() > 1e-2  # so the comparison could have failed


def test_a_weighted_mean_counts_every_piece_by_its_smooth_inverse_frequency():
    encoder = weighted()
    pieces = [piece for ids in encoder.tokenize(TEXTS) for piece in ids]
    expected = []
    for text in TEXTS:
        states, ids = hidden_states(encoder, text)
        weights = np.array([1e-3 / (1e-3 + pieces.count(piece) / len(pieces)) for piece in ids])
        expected.append((states.numpy() * weights[:, None]).sum(0) / weights.sum())
    np.testing.assert_allclose(encoder.encode(TEXTS, normalize=False, token_budget=10_000), expected, atol=2e-5)
    assert np.abs(load().encode(TEXTS, normalize=False) - expected).max() > 1e-2  # the plain mean is another vector


def test_piece_weights_are_trained_kept_and_saved_with_an_adapter(tmp_path):
    encoder = weighted(prompts=PREFIXES)
    encoder.add_lora(r=2, alpha=4)
    encoder(*encoder.pad(encoder.tokenize(TEXTS))).square().sum().backward()
    weights = encoder.piece_weights.scaled_log
    assert weights.grad.abs().max() > 0
    with torch.no_grad():
        weights -= 0.01 * weights.grad.sign()
    encoder.weigh_pieces(encoder.tokenize(TEXTS[:1]))  # trained ones are not counted anew
    assert encoder.piece_weights.scaled_log is weights
    expected, folder = encoder.encode(TEXTS), encoder.save_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(Encoder.load(folder).encode(TEXTS), expected, atol=2e-5)
    plain = Encoder.load(folder, pooling="mean")  # what is asked for counts, here as in a folder with merged weights
    assert plain.pooling == "mean" and plain.piece_weights is None
    assert np.abs(plain.encode(TEXTS) - expected).max() > 1e-3
    going_on = load(prompts=PREFIXES)
    going_on.load_adapter(folder, trainable=True)
    assert going_on.pooling == "weighted" and going_on.piece_weights.scaled_log.requires_grad
    assert not Encoder.load(folder).piece_weights.scaled_log.requires_grad


def test_a_piece_without_a_weight_takes_that_of_its_small_letters_or_of_the_unknown():
    config = {"vocab": ["OK", "ok", "가"], "word_weights": {"ok": 0.5}}
    for more, unknown in (({}, 1.0), ({"unknown_word_weight": 0.25}, 0.25)):
        weights = PieceWeights.of_word_weights(config | more, 3, "config.json").values()
        torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, unknown]))


def test_piece_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"only a mean can be weighted"):
        load(pooling="cls").weigh_pieces([[1]])
    with pytest.raises(InputError, match=r"(?s)cannot be counted.*at least one text"):
        load().weigh_pieces([])
    with pytest.raises(InputError, match=r"(?s)no weights for its pieces.*weigh_pieces"):
        load(pooling="weighted")
    folder = weighted().save(tmp_path / "model")
    path = folder / "1_WordWeights" / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"vocab": config["vocab"][:-1]}, "another tokenizer.*12,287 pieces.*12,288"),
        ({"word_weights": config["word_weights"] | {config["vocab"][7]: -1.0}}, "below zero.*-1.0"),
    ):
        path.write_text(json.dumps(config | change))
        write_checksums(folder)
        with pytest.raises(InputError, match=f"(?s){message}"):
            Encoder.load(folder)
    path.write_text(json.dumps(config))
    write_checksums(folder)
    assert Encoder.load(folder, pooling="mean").piece_weights is None
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("true", "no").replace("false", "true").replace("no", "false"))
    write_checksums(folder)
    with pytest.raises(InputError, match=r"(?s)no mean is taken.*pooling cls"):
        Encoder.load(folder)


def test_padding_would_change_a_mean_over_all_places():
    encoder = load().eval()
    ids, mask = encoder.pad(encoder.tokenize(TEXTS[:2]))
    with torch.inference_mode():
        states = encoder.model(input_ids=ids, attention_mask=mask)[0]
        ours, careless = encoder(ids, mask), states.mean(1)
    torch.testing.assert_close(ours[0], careless[0], atol=1e-4, rtol=0)  # the longer text has no padding
    assert (ours[1] - careless[1]).abs().max() > 1e-2


def test_vectors_stand_in_the_order_of_the_texts_and_have_length_one():
    encoder = load()
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), encoder.dimension) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1]), together[::-1], atol=2e-5)
    assert encoder.encode([]).shape == (0, encoder.dimension)


def test_encode_leaves_the_mode_as_it_was_and_drops_nothing_out():
    encoder = load().train()
    np.testing.assert_array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))
    assert encoder.training
    with torch.no_grad():
        tokens = encoder.tokenize(TEXTS)
        assert not torch.equal(encoder.embed(tokens), encoder.embed(tokens))  # with dropout, as in training


def test_a_text_is_cut_to_max_length_special_tokens_and_prefix_counted():
    encoder = load(max_length=8, prompts=PREFIXES)
    whole = load(max_length=64, prompts=PREFIXES)
    [cut], [long] = encoder.tokenize([TEXTS[4]]), whole.tokenize([TEXTS[4]])
    assert len(cut) == 8 < len(long)
    assert cut == [*long[:7], long[-1]]  # the closing token stays
    [with_prefix] = encoder.tokenize([TEXTS[4]], "query")
    assert len(with_prefix) == 8 and with_prefix == encoder.tokenize(["질문: " + TEXTS[4]])[0]
    same_start = TEXTS[4][:8]
    assert len(encoder.tokenize([same_start])[0]) <= 8
    np.testing.assert_allclose(encoder.encode([TEXTS[4] + " 끝"]), encoder.encode([TEXTS[4]]), atol=1e-6)
    assert np.abs(whole.encode([TEXTS[4] + " 끝"]) - whole.encode([TEXTS[4]])).max() > 1e-3


def test_a_prefix_is_put_before_the_text_and_a_default_one_unasked():
    encoder = load(prompts=PREFIXES)
    written_out = encoder.encode(["질문: " + text for text in TEXTS])
    np.testing.assert_array_equal(encoder.encode(TEXTS, prompt="query"), written_out)
    assert np.abs(encoder.encode(TEXTS) - written_out).max() > 1e-3
    default = load(prompts=PREFIXES, prompt="query")
    np.testing.assert_array_equal(default.encode(TEXTS), written_out)
    with pytest.raises(InputError, match=r"(?s)no prompt.*given: +title.*query, document"):
        encoder.encode(TEXTS, prompt="title")


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "mean"},
        {"pooling": "cls", "max_length": 12},
        {"pooling": "mean", "prompts": PREFIXES, "prompt": "document"},
        {"prompts": PREFIXES, "prompt": "query", "weighted": True},
    ],
    ids=["mean", "cls, cut short", "prefix", "weighted"],
)
def test_a_saved_encoder_is_the_same_here_and_in_sentence_transformers(options, tmp_path):
    from sentence_transformers import SentenceTransformer

    encoder = (weighted if options.pop("weighted", False) else load)(**options)
    encoder.add_lora(r=4, alpha=8)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if ".lora_B." in name or "piece_weights" in name:  # an adapter that does something, other weights
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    expected = encoder.encode(TEXTS)
    assert np.abs(expected - load(**options).encode(TEXTS)).max() > 1e-3
    folder = encoder.save(tmp_path / "model")
    again = Encoder.load(folder)
    told = (again.pooling, again.max_length, again.prompts, again.prompt)
    assert told == (encoder.pooling, encoder.max_length, encoder.prompts, encoder.prompt)
    np.testing.assert_allclose(again.encode(TEXTS), expected, atol=2e-5)
    theirs = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS, normalize_embeddings=True), expected, atol=2e-5)
    if encoder.prompts:
        ours = encoder.encode(TEXTS, prompt="query")
        np.testing.assert_allclose(theirs.encode(TEXTS, prompt_name="query"), ours, atol=2e-5)


def test_an_adapter_folder_alone_brings_its_base_and_its_settings(tmp_path):
    encoder = load(max_length=20, prompts=PREFIXES, prompt="query")
    encoder.add_lora(r=2, alpha=4)
    again = Encoder.load(encoder.save_adapter(tmp_path / "adapter"))
    assert (again.max_length, again.prompts, again.prompt) == (20, PREFIXES, "query")
    np.testing.assert_allclose(again.encode(TEXTS), encoder.encode(TEXTS), atol=2e-5)
    with pytest.raises(InputError, match="no LoRA adapter to save"):
        load().save_adapter(tmp_path / "none")


def test_an_adapter_is_pooled_as_it_was_trained(tmp_path):
    encoder = load(pooling="cls")
    encoder.add_lora(r=2, alpha=4)
    folder = encoder.save_adapter(tmp_path / "adapter")
    assert Encoder.load(folder).pooling == "cls" and Encoder.load(folder, pooling="mean").pooling == "mean"
    with pytest.raises(InputError, match=r"(?s)another pooling.*adapter, pooling.*given: +mean.*allowed: cls"):
        load().load_adapter(folder, trainable=True)
    again = load(pooling="cls")
    again.load_adapter(folder, trainable=True)
    for second in (again.add_lora, lambda **_: again.load_adapter(folder, trainable=True)):
        with pytest.raises(InputError, match=r"(?s)has a LoRA adapter already.*merged"):
            second(r=2, alpha=4)


def test_a_tokenizer_that_knows_no_limit_sets_none():
    config = load().model.config
    assert longest(config, VERY_LARGE_INTEGER) == config.max_position_embeddings and longest(config, 100) == 100
    relative = T5Config()  # its positions have no end
    assert longest(relative, VERY_LARGE_INTEGER) is None and longest(relative) is None


def test_prompts_of_your_own_replace_those_of_the_folder_and_its_default(tmp_path):
    folder = load(prompts=PREFIXES, prompt="query").save(tmp_path / "model")
    plain, expected = Encoder.load(folder, prompts={}), load().encode(TEXTS)
    assert (plain.prompts, plain.prompt) == ({}, None) and Encoder.load(folder).prompt == "query"
    np.testing.assert_array_equal(plain.encode(TEXTS), expected)
    other = Encoder.load(folder, prompts={"title": "제목: "})
    assert (other.prompts, other.prompt) == ({"title": "제목: "}, None)


def test_a_folder_of_sentence_transformers_is_read_to_its_length_and_its_prompt_is_pooled(tmp_path):
    from sentence_transformers import SentenceTransformer

    long, folder = " ".join(TEXTS * 6), tmp_path / "theirs"
    theirs = SentenceTransformer(str(load(max_length=200).save(tmp_path / "ours")), device="cpu")
    theirs.save(str(folder))
    ours = Encoder.load(folder)
    assert ours.max_length == theirs.max_seq_length == 200 < len(theirs.tokenizer(long)["input_ids"])
    np.testing.assert_allclose(ours.encode([long])[0], theirs.encode(long, normalize_embeddings=True), atol=2e-5)
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"include_prompt": False}))
    with pytest.raises(InputError, match=r"(?s)leaves the prompt out.*1_Pooling/config.json.*SentenceTransformer"):
        Encoder.load(folder)


def test_a_failed_save_leaves_the_old_folder_whole(tmp_path, monkeypatch):
    encoder = load()
    encoder.save(tmp_path / "model")
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "model").iterdir() if path.is_file())

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(encoder.tokenizer, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        encoder.save(tmp_path / "model")
    after = sorted((path.name, path.read_bytes()) for path in (tmp_path / "model").iterdir() if path.is_file())
    assert before == after and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_checksums_guard_weights_but_a_card_may_be_edited(tmp_path):
    folder = load().save(tmp_path / "model")
    (folder / "README.md").write_text("# a card\n")
    write_checksums(folder)
    (folder / "README.md").write_text("# a card with a figure more\n")
    Encoder.load(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"(?s)checksum.*model\.safetensors"):
        Encoder.load(folder)


def test_parts_that_are_not_known_are_refused_by_name(tmp_path):
    folder = load().save(tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([*modules, {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}])
    )
    write_checksums(folder)
    with pytest.raises(InputError, match=r"(?s)parts that Encoder does not have.*Dense"):
        Encoder.load(folder)


def test_a_text_longer_than_the_budget_is_encoded_too():
    encoder = load().eval()
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(tokens, token_budget=3), encoder.embed(tokens), atol=1e-5, rtol=0)
    assert max(map(len, tokens)) > 3


def test_gradients_reach_every_text_through_the_sorted_batches():
    encoder = load().eval()
    vectors = encoder.embed(encoder.tokenize(TEXTS), token_budget=30)
    loss = (F.normalize(vectors, dim=-1)[0] * F.normalize(vectors, dim=-1)[4]).sum()
    loss.backward()
    words = encoder.model.get_input_embeddings().weight.grad
    used = {i for number in (0, 4) for i in encoder.tokenize(TEXTS)[number]}
    unused = {i for i in encoder.tokenize(TEXTS)[3]} - used
    assert all(words[i].abs().sum() > 0 for i in used) and all(words[i].abs().sum() == 0 for i in unused) and unused


def test_a_folder_is_found_from_the_root_and_a_hub_name_stays():
    assert resolve_model(MODEL).endswith(MODEL) and resolve_model("BM-K/KoSimCSE-roberta") == "BM-K/KoSimCSE-roberta"
    for wrong in ("./gone", "sample_data/models/ko-mini-encodr"):
        with pytest.raises(InputError, match="does not exist"):
            resolve_model(wrong)


def test_an_encoder_is_loaded_onto_the_device_of_this_machine(monkeypatch):
    monkeypatch.setattr("helpers.embedding.encoder.torch_device", lambda: torch.device("meta"))
    assert Encoder.load(MODEL).device.type == "meta"  # stands for a GPU, which few test machines have


def test_a_damaged_adapter_is_refused(tmp_path):
    encoder = weighted()
    encoder.add_lora(r=2, alpha=4)
    folder = encoder.save_adapter(tmp_path / "adapter")
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[:-2000] + b"?" * 2000)
    for load_it in (Encoder.load, lambda damaged: load().load_adapter(damaged, trainable=True)):
        with pytest.raises(InputError, match=r"(?s)checksum.*adapter_model\.safetensors"):
            load_it(folder)
    (folder / "adapter_model.safetensors").write_bytes(whole)
    (folder / "1_WordWeights" / "config.json").unlink()
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match=r"no weights for its pieces"):  # the card says "weighted"
        Encoder.load(folder)


def test_damaged_weights_are_named_with_their_folder(tmp_path):
    from helpers.embedding.sentence_recipe import open_sentence_model

    encoder = load()
    folder = encoder.save(tmp_path / "model")
    encoder.add_lora(r=2, alpha=4)
    adapter = encoder.save_adapter(tmp_path / "adapter")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 43857408\n"
    for path, read in (
        (folder / "model.safetensors", Encoder.load),
        (folder / "model.safetensors", open_sentence_model),
        (adapter / "adapter_model.safetensors", Encoder.load),
    ):
        (path.parent / "SHA256SUMS").unlink(missing_ok=True)
        for broken in (path.read_bytes()[:5000], pointer):
            path.write_bytes(broken)
            with pytest.raises(InputError, match=rf"(?s)(can be loaded|damaged).*{path.parent}.*says: .*header"):
                read(path.parent)


@pytest.mark.parametrize(
    "name", ["modules.json", "sentence_bert_config.json", "adapter_config.json", "course_adapter.json"]
)
def test_a_damaged_file_beside_a_model_is_named_and_a_byte_order_mark_is_none(name, tmp_path):
    encoder = load(prompts=PREFIXES)
    if "adapter" in name:
        encoder.add_lora(r=2, alpha=4)
    folder = (encoder.save_adapter if "adapter" in name else encoder.save)(tmp_path / "model")
    (folder / "SHA256SUMS").unlink()
    whole = (folder / name).read_text(encoding="utf-8")
    if name != "adapter_config.json":  # which peft reads too, and takes no mark
        (folder / name).write_text(whole, encoding="utf-8-sig")
        assert Encoder.load(folder).prompts == PREFIXES
    for broken in (whole[:-9].encode(), whole.encode("utf-16")):
        (folder / name).write_bytes(broken)
        with pytest.raises(InputError, match=rf"(?s)no valid JSON.*{folder / name}"):
            Encoder.load(folder)


def test_a_model_that_lowers_letters_before_its_tokenizer_is_refused(tmp_path):
    folder = load().save(tmp_path / "model")
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": True}))
    write_checksums(folder)
    with pytest.raises(InputError, match=r"(?s)small letters.*sentence_bert_config\.json.*SentenceTransformer"):
        Encoder.load(folder)


def test_a_prompt_that_leaves_no_room_is_refused():
    long = {"query": "task: search result | query: ", "short": "질문: "}
    encoder = load(max_length=16, prompts=long)
    with pytest.raises(
        InputError, match=r"(?s)no room.*max_length 16; the prompt 'task: search result.*take 20 pieces"
    ):
        encoder.encode(TEXTS, prompt="query")
    vectors = encoder.encode(TEXTS, prompt="short")
    assert (vectors @ vectors.T)[0, 1:].max() < 0.999


def test_texts_come_as_any_list_and_never_as_one_string():
    from helpers.embedding.sentence_recipe import open_sentence_model, unit_vectors

    encoder, theirs = load(), open_sentence_model(MODEL)
    for read in (encoder.encode, lambda texts: unit_vectors(theirs, texts)):
        with pytest.raises(InputError, match=r"(?s)list of texts.*\[text\]"):
            read("안녕하세요")
    expected = encoder.encode(TEXTS)
    for given in (np.array(TEXTS), pd.Series(TEXTS), tuple(TEXTS)):
        np.testing.assert_array_equal(encoder.encode(given), expected)
    assert encoder.encode(np.array([], dtype=str)).shape == (0, 384)


@pytest.mark.parametrize("config", [None, '{"model_type": "foo"}', "{broken"])
def test_a_folder_without_a_model_is_named_whatever_is_in_it(config, tmp_path):
    from helpers.embedding.sentence_recipe import open_sentence_model

    if config:
        (tmp_path / "config.json").write_text(config)
    for read in (Encoder.load, open_sentence_model):
        with pytest.raises(InputError, match=rf"(?s)no model that can be loaded.*{tmp_path}.*transformers says"):
            read(tmp_path)
