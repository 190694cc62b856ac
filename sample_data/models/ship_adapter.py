"""An adapter that a training run left, as this repository carries it: weights in bfloat16, no path of a machine, checksums.

python sample_data/models/ship_adapter.py outputs/nsmc_task/adapter ko-mini-mistral-chooser
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from helpers.course.checksums import write_checksums
from helpers.instruct.adapters import CARD_FILE, WEIGHTS

MODELS = Path(__file__).resolve().parent
FILES = (CARD_FILE, "adapter_config.json", "prompt.json", "tokenizer.json", "tokenizer_config.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("name", help="of the folder beside this file")
    told = parser.parse_args()
    folder = MODELS / told.name
    folder.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(told.adapter / name, folder / name)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))["base"]
    config["target_modules"].sort()  # peft keeps them as a set
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = {name: weight.to(torch.bfloat16) for name, weight in load_file(told.adapter / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    write_checksums(folder)


if __name__ == "__main__":
    main()
