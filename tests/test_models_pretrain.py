"""Pretraining: tokenizers that know every syllable, sides that never mix, and a run that survives SIGKILL bit for bit."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY

MODELS = REPOSITORY / "sample_data/models"
sys.path.insert(0, str(MODELS))
import pretrain  # noqa: E402 (a script beside the weights, not a package)
from corpus import HOLD_OUT_SAMPLE, NEEDED, is_held_out, key_of, read_corpus, read_sample, train_tokenizer  # noqa: E402
from lm_run import Documents  # noqa: E402
from loop import train  # noqa: E402

TOY = {"vocab_size": 2048, "hidden": 64, "layers": 2, "heads": 4, "intermediate": 128, "batch_tokens": 1024}
OVERRIDES = [f"{kind}.{key}={value}" for kind in ("encoder", "lm") for key, value in TOY.items()]
OVERRIDES += ["lm.context=256", "lm.kv_heads=2", "lm.tokens=14000", "encoder.tokens=14000"]


def settings_of(run_dir, *more):
    chosen = pretrain.load_settings(
        REPOSITORY / "config/pretraining.yaml", [*OVERRIDES, f"run_dir={run_dir}", *more], "cpu"
    )
    return chosen | {"data_dir": REPOSITORY / "sample_data"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    pretrain.prepare(settings_of(folder))
    return folder


@pytest.mark.parametrize("kind", ["encoder", "lm"])
@given(text=st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=12))
def test_no_syllable_is_unknown(run_dir, kind, text):
    tokenizer = pretrain.Tokenizer.from_file(str(run_dir / f"{kind}.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert pretrain.UNK not in ids and tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", ["ko-mini-encoder", "ko-mini-mistral"])
def test_no_syllable_is_unknown_to_the_shipped_models(name):
    tokenizer = pretrain.Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    syllables = [chr(code) for code in range(0xAC00, 0xD7A4)]
    rows = [row.ids for row in tokenizer.encode_batch(syllables, add_special_tokens=False)]
    assert len(rows) == 11_172 and not any(pretrain.UNK in row for row in rows)
    assert tokenizer.decode_batch(rows) == syllables


TESTED = {  # what is scored, by where it stands
    "KorSTS": "강가에서 연을 날린다.",
    "KorSTS, second": "물가에서 연을 날린다.",
    "query": "세탁기에서 물이 새요",
    "article": "시장은 새 다리를 열었다.",
    "short question": "졸려?",
    "question with a comma": "비 와, 우산 챙겼어?",
    "review": "잔잔하다",
    "premise": "그는 늦게 왔다.",
    "comment": "응원합니다",
}
UNTESTED = ["오늘은 날씨가 좋다", "아무 데서도 묻지 않은 줄이다."]


@pytest.fixture
def corpus_folder(tmp_path):
    """A small corpus that holds every tested text, and the tests themselves in their own formats."""
    files = {
        "corpus/corpus_ko.sources.tsv": f"source\tfirst_line\tlast_line\nmixed\t1\t{len(TESTED) + len(UNTESTED)}\n",
        "sts/sts-dev.tsv": "genre\tfile\tyear\tid\tscore\tsentence1\tsentence2\n"
        f"a\tb\tc\t1\t4.0\t{TESTED['KorSTS']}\t{TESTED['KorSTS, second']}\n",
        "retrieval/wikinews/corpus.jsonl": json.dumps({"_id": "d0", "text": f"앞 문단.\n{TESTED['article']}"}),
        "zero_shot/ratings_test.txt": f"id\tdocument\tlabel\n1\t{TESTED['review']}\t1\n2\t\t0\n",
        "zero_shot/xnli.dev.ko.tsv": "sentence1\tsentence2\tgold_label\n"
        f"{TESTED['premise']}\t그는 일찍 왔다.\tcontradiction\n",
        "zero_shot/kor_pair_test.csv": "\ufeffid,question1,question2,is_duplicate\n"
        f'1,{TESTED["short question"]},"{TESTED["question with a comma"]}",1\n',
        "zero_shot/hate_speech_train.tsv": f"comments\tbias\n{TESTED['comment']}\tnone\n",
    }
    for name in ("petitions", "law_articles", "paraKQC", "wikinews"):
        rows = [{"text": TESTED["query"]}, {"text": UNTESTED[0], "split": "train"}]
        files[f"retrieval/{name}/queries.jsonl"] = "\n".join(map(json.dumps, rows))
    for name, text in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "data/corpus/corpus_ko.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join([*TESTED.values(), *UNTESTED]))
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["encoder", "lm"])
def test_a_tokenizer_adds_what_its_model_reads_and_parts_digits(run_dir, kind):
    tokenizer = pretrain.Tokenizer.from_file(str(run_dir / f"{kind}.json"))
    plain = tokenizer.encode("2026년", add_special_tokens=False)
    assert [piece for piece in plain.tokens if piece.isdigit()] == list("2026")
    last = [pretrain.LAST] if kind == "encoder" else []  # a language model's EOS is added by who ends a text
    assert tokenizer.encode("2026년").ids == [pretrain.FIRST, *plain.ids, *last]


def test_every_tested_text_is_left_out_however_short(corpus_folder):
    train_lines, held_out, removed = read_corpus(corpus_folder)
    assert [line.text for line in train_lines + held_out] == UNTESTED
    assert removed == {"mixed": len(TESTED)}


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_of_the_corpus_is_named(corpus_folder, name):
    path = corpus_folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=name):
        read_corpus(corpus_folder)


def test_a_named_folder_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("KO_DATA_DIR", str(tmp_path / "typo"))
    with pytest.raises(SystemExit, match=r"folder of the corpus is not there\n.*typo"):
        pretrain.main(["prepare", "--set", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_where_the_corpus_lies(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((REPOSITORY / "config/pretraining.yaml").read_text().replace("../shared/data", "../nowhere"))
    monkeypatch.delenv("KO_DATA_DIR", raising=False)
    assert pretrain.load_settings(recipe, [], "cpu")["data_dir"] == REPOSITORY / "sample_data"
    monkeypatch.setenv("KO_DATA_DIR", "/named")
    assert str(pretrain.load_settings(recipe, [], "cpu")["data_dir"]) == "/named"
    assert str(pretrain.load_settings(recipe, ["data_dir=/told"], "cpu")["data_dir"]) == "/told"


def test_equal_letters_fall_on_one_side():
    train, held_out, _ = read_sample(REPOSITORY / "sample_data")
    assert not {key_of(line.text) for line in train} & {key_of(line.text) for line in held_out} and len(held_out) > 50
    written_otherwise = [" " + line.text.replace(" ", "") + "!" for line in held_out]
    assert all(is_held_out(text, HOLD_OUT_SAMPLE) for text in written_otherwise)
    assert (
        is_held_out("오늘은 공기가 좋다")
        and is_held_out(" 오늘은 공기가 좋다! ")
        and not is_held_out("오늘은 날씨가 좋다")
    )


@pytest.mark.parametrize(
    "override, says",
    [
        ("encoder.sink=8", r"no such setting\n.*key encoder.sink\n.*batch_tokens"),
        ("sink=8", r"no such setting\n.*key sink\n.*checkpoint_seconds"),
        ("seed.deep=8", "no such setting"),
        ("lm=3", "allowed: a section"),
        ("lm.tokens=many", r"key lm.tokens\n.*given:   many\n.*allowed: a whole number"),
        ("lm.tokens=1.5", "a whole number"),
        ("lm.tokens=", "a whole number"),
        ("lm.lr_muon=nan", "a number"),
        ("dtype=bf16", r"no such dtype\n.*\n.*bf16\n.*auto, bfloat16, float32"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path, override, says):
    with pytest.raises(InputError, match=says):
        settings_of(tmp_path, override)


def test_settings_have_the_types_of_the_file(tmp_path):
    settings = settings_of(tmp_path, "lm.tokens=1e6", "lm.lr_muon=1e-3", "seed=5")
    assert (settings["lm"]["tokens"], settings["lm"]["lr_muon"], settings["seed"]) == (1_000_000, 0.001, 5)
    assert type(settings["lm"]["tokens"]) is int


def test_a_profile_is_taken_or_refused():
    recipe = REPOSITORY / "config/pretraining.yaml"
    large = pretrain.load_settings(recipe, [], "a100")
    assert (large["dtype"], large["lm"]["batch_tokens"], large["lm"]["hidden"]) == ("bfloat16", 131_072, 256)
    assert pretrain.load_settings(recipe, ["dtype=float32"], "a100")["dtype"] == "float32"
    with pytest.raises(InputError, match=r"no such profile[\s\S]*a100, cpu, t4"):
        pretrain.load_settings(recipe, [], "a-100")


@pytest.mark.parametrize("bf16, dtype", [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_the_machine_multiplies_itself(tmp_path, monkeypatch, bf16, dtype):
    monkeypatch.setattr("recipe.detect_machine", lambda: SimpleNamespace(bf16=bf16))
    assert settings_of(tmp_path, "dtype=auto")["dtype"] == dtype


def test_a_vocabulary_smaller_than_the_alphabet_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"encoder.vocab_size: 300 is too small for this text; bytes, special tokens"):
        pretrain.prepare(settings_of(tmp_path, "encoder.vocab_size=300"))


@pytest.mark.parametrize("vocab_size", [1536, 2048])
def test_a_small_vocabulary_spells_the_rarer_syllables_in_bytes(vocab_size):
    """A corpus has more syllables than a lesson's vocabulary has places."""
    lines = [f"{chr(0xAC00 + n)}{chr(0xAC00 + (n * 7) % 4000)} 가나다" for n in range(4000)]
    tokenizer = train_tokenizer(iter(lines), vocab_size, pretrain.SPECIALS["lm"], "lm")
    assert tokenizer.get_vocab_size() <= vocab_size
    assert all(tokenizer.decode(tokenizer.encode(line).ids) == line for line in lines[::97])


def test_pieces_with_shared_characters_start_close(run_dir):
    tokenizer = pretrain.Tokenizer.from_file(str(run_dir / "encoder.json"))
    ids, offsets, _ = pretrain.read_arrays(run_dir, "encoder")
    pieces = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    vectors, share = pretrain.word_vectors(pieces, ids, offsets, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4) and share.sum() == pytest.approx(1)
    words = [i for i, piece in enumerate(pieces) if len(piece) == 3 and piece[0] == "▁"]
    near = [vectors[i] @ vectors[j] for i in words for j in words if i < j and pieces[i][1] == pieces[j][1]]
    far = [
        vectors[i] @ vectors[j] for i in words for j in words if i < j and not set(pieces[i][1:]) & set(pieces[j][1:])
    ]
    assert np.mean(near) > np.mean(far) + 0.1


def linked(run_dir, folder):
    """A run folder of its own with what `prepare` left in another."""
    folder.mkdir()
    for path in run_dir.iterdir():
        os.link(path, folder / path.name)
    return folder


def weights(folder, kind):
    return torch.load(folder / f"{kind}.pt", weights_only=True)["model"]


def command(folder, kind):
    arguments = [argument for override in OVERRIDES for argument in ("--set", override)]
    arguments += ["--set", f"run_dir={folder}", "--set", "checkpoint_seconds=0"]
    return [sys.executable, str(MODELS / "pretrain.py"), kind, *arguments]


@pytest.mark.parametrize("kind", ["encoder", "lm"])
def test_a_killed_run_ends_with_the_same_weights(run_dir, tmp_path, kind):
    for name in ("whole", "killed"):
        linked(run_dir, tmp_path / name)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "whole", kind), check=True, env=environment, capture_output=True)
    log = tmp_path / "killed" / f"{kind}.log.jsonl"
    process = subprocess.Popen(command(tmp_path / "killed", kind), env=environment, stderr=subprocess.DEVNULL)
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = torch.load(tmp_path / "killed" / f"{kind}.pt", weights_only=True)
    assert stopped["tokens"] < 14_000
    subprocess.run(command(tmp_path / "killed", kind), check=True, env=environment, capture_output=True)
    whole, killed = (weights(tmp_path / name, kind) for name in ("whole", "killed"))
    assert any(not torch.equal(whole[name], stopped["model"][name]) for name in whole)  # there was something left to do
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    steps = [row["step"] for row in map(json.loads, log.read_text().splitlines())]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("kind", ["encoder", "lm"])
def test_a_run_without_prepare_says_what_to_run(tmp_path, kind):
    with pytest.raises(SystemExit, match=r"(?s)no token arrays here.*`pretrain.py prepare` first"):
        pretrain.main([kind, "--set", f"run_dir={tmp_path}", *(part for one in OVERRIDES for part in ("--set", one))])


def test_muon_moves_every_direction_alike():
    gradient = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.logspace(0, -2, 64))
    weight = torch.nn.Parameter(torch.zeros(32, 64))
    weight.grad = gradient
    pretrain.Muon([weight], lr=1.0, momentum=0.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals(weight.data) / (0.2 * 64**0.5)
    assert torch.linalg.svdvals(gradient).max() > 20 * torch.linalg.svdvals(gradient).min()
    assert values.min() > 0.6 and values.max() < 1.3


def test_a_checkpoint_of_other_settings_or_another_prepare_is_refused(run_dir, tmp_path):
    folder = linked(run_dir, tmp_path / "run")
    short = ["lm.tokens=3072", "checkpoint_seconds=0"]
    pretrain.pretrain_lm(settings_of(folder, *short))
    rows = [json.loads(row) for row in (folder / "lm.log.jsonl").read_text().splitlines()]
    assert ["held_out" in row for row in rows] == [False, False, True]
    with pytest.raises(InputError, match=r"other settings[\s\S]*lm.lr_muon"):
        pretrain.pretrain_lm(settings_of(folder, *short, "lm.lr_muon=0.5"))
    with pytest.raises(InputError, match=r"other settings[\s\S]*dtype"):
        pretrain.pretrain_lm(settings_of(folder, *short) | {"dtype": "bfloat16"})
    pretrain.pretrain_lm(settings_of(folder, "lm.tokens=4096"))  # more of the same goes on
    assert torch.load(folder / "lm.pt", weights_only=True)["step"] == 4
    text = (folder / "lm.json").read_text()
    (folder / "lm.json").unlink()  # a link: the fixture's own stays
    (folder / "lm.json").write_text(text + " ")
    with pytest.raises(InputError, match=r"another `prepare`[\s\S]*lm.json"):
        pretrain.pretrain_lm(settings_of(folder, "lm.tokens=5120"))
    with pytest.raises(InputError, match=r"lm\.json"):
        pretrain.export(settings_of(folder), "lm", tmp_path / "out")


def test_numbers_that_are_not_finite_stop_a_run_before_its_checkpoint(run_dir, tmp_path):
    folder = linked(run_dir, tmp_path / "run")
    short = settings_of(folder, "checkpoint_seconds=0")
    pretrain.pretrain_lm(short | {"stop_after": 1})
    state = torch.load(folder / "lm.pt", weights_only=True)
    state["model"]["model.norm.weight"][0] = torch.nan
    torch.save(state, folder / "lm.pt")
    before = (folder / "lm.pt").read_bytes()
    with pytest.raises(InputError, match=r"not finite\n.*lm, step 2\n.*loss nan"):
        pretrain.pretrain_lm(short)
    assert (folder / "lm.pt").read_bytes() == before and len((folder / "lm.log.jsonl").read_text().splitlines()) == 1


def test_the_best_checkpoint_is_kept_beside_the_last_and_exported(run_dir, tmp_path):
    settings = settings_of(linked(run_dir, tmp_path / "run"), "lm.tokens=4", "held_out_seconds=0")
    model, seen = pretrain.new_lm(settings), []

    def batch_loss(step, progress):
        return model(torch.tensor([[2, 300 + step, 3]])).logits.square().mean(), 1, {"loss": 0.0}

    def held_out_loss():
        seen.append(model.model.norm.weight.detach().clone())
        return [3.0, 1.0, 2.0, 1.5][len(seen) - 1]

    train(model, batch_loss, held_out_loss, settings, "lm")
    folder, last = settings["run_dir"], model.state_dict()
    best = torch.load(folder / "lm.best.pt", weights_only=True)
    assert (best["step"], best["held_out"]) == (2, 1.0) and torch.load(folder / "lm.pt", weights_only=True)["step"] == 4
    assert torch.equal(best["model"]["model.norm.weight"], seen[1])
    pretrain.export(settings, "lm", tmp_path / "out")
    exported = load_file(tmp_path / "out/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(exported, best["model"]["model.embed_tokens.weight"].bfloat16())
    assert not torch.equal(exported, last["model.embed_tokens.weight"].bfloat16())
    rows = (tmp_path / "out/training_log.csv").read_text().splitlines()
    assert rows[0].endswith(",loss,held_out") and len(rows) == 3 and rows[2].endswith(",1.0")


def test_an_export_over_the_shipped_model_must_be_asked_for(capsys):
    for arguments in (["export-lm"], ["export-lm", "--out", "somewhere", "--replace"]):
        with pytest.raises(SystemExit, match="2"):
            pretrain.main(arguments)
        assert "--out FOLDER, or else --replace" in capsys.readouterr().err


def test_neighbours_are_joined_and_eos_stands_between_packed_documents():
    offsets = np.array([0, 5, 9, 20, 24])
    firsts = pretrain.documents(offsets, np.array(["petitions", "petitions", "nsmc", "nsmc"]))
    assert firsts.tolist() == [0, 2, 3, 4]
    news = np.array(["petitions"] * 3)  # 5, 4 and a line break are 10; 11 more make 21
    assert pretrain.documents(np.array([0, 5, 9, 20]), news, most=21).tolist() == [0, 3]
    assert pretrain.documents(np.array([0, 5, 9, 20]), news, most=20).tolist() == [0, 2, 3]
    packing = Documents(np.arange(100, 124), offsets, firsts, newline=10)
    whole = [[100, 101, 102, 103, 104, 10, 105, 106, 107, 108], [*range(109, 120)], [*range(120, 124)]]
    assert [packing.document(i).tolist() for i in range(3)] == [
        [pretrain.FIRST, *text, pretrain.LAST] for text in whole
    ]
    batch = packing.batch(np.random.default_rng(0), 4, 32)
    assert batch.shape == (4, 32)
    flat = batch.flatten().tolist()
    starts = [place for place, piece in enumerate(flat) if piece == pretrain.FIRST]
    assert len(starts) > 5 and all(flat[place - 1] == pretrain.LAST for place in starts[1:])
    inside = [flat[a + 1 : b - 1] for a, b in pairwise(starts)]
    assert all(text in whole for text in inside)
