"""Loading the language model and its tokenizer."""

import json
import subprocess
import sys

from transformers import AutoTokenizer

from helpers.course.paths import sample_data
from helpers.instruct.models import load_tokenizer

MODEL = str(sample_data("models", "ko-mini-mistral"))
TEXTS = ["안녕하세요", " 두 칸  띄움\n\n새 줄 ", "뷁쀍 ツ 😀", "<s>끝</s>"]


def test_the_short_way_gives_the_same_tokenizer() -> None:
    ours, searched = load_tokenizer(MODEL), AutoTokenizer.from_pretrained(MODEL)
    assert type(ours) is type(searched)
    assert ours(TEXTS)["input_ids"] == searched(TEXTS)["input_ids"]
    assert ours.special_tokens_map == searched.special_tokens_map
    assert ours.model_max_length == searched.model_max_length


def test_the_short_way_does_not_search() -> None:
    code = (
        "import sys; from helpers.instruct.models import load_tokenizer;"
        f"load_tokenizer({MODEL!r}); print('mistral_common' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_a_folder_that_names_no_class_is_searched(tmp_path) -> None:
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    del told["tokenizer_class"]
    file.write_text(json.dumps(told), encoding="utf-8")
    assert load_tokenizer(str(tmp_path))(TEXTS)["input_ids"] == load_tokenizer(MODEL)(TEXTS)["input_ids"]
