"""Small runs of DPO from the shipped adapter, one of them cut off: ``python -m tests.instruct_dpo_run FOLDER``.

In a process of its own, because Unsloth patches transformers, and in a working folder that is not the repository's root.
Prints one line of JSON.
"""

import json
import os
import sys
from pathlib import Path

import torch

from helpers.course.paths import sample_data
from helpers.instruct.unsloth_first import fast_language_model

CHOOSER = sample_data("models", "ko-mini-mistral-chooser")


def main(folder: str) -> None:
    fast_language_model()
    from transformers import TrainerCallback

    from helpers.instruct.dpo.preference_sets import preference_sets
    from helpers.instruct.dpo.run import load_for_dpo, prefer
    from helpers.instruct.dpo.settings import DpoSettings
    from helpers.instruct.watching import lora_b

    os.chdir(folder)
    settings = DpoSettings.load(smoke=False, max_pairs=8, max_steps=4, train_batch_size=2, save_steps=2, warmup_steps=0)

    class CutOff(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            if state.global_step == 3:
                raise KeyboardInterrupt

    class OtherReference(TrainerCallback):
        steps = 0

        def on_train_begin(self, args, state, control, model, **given):
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if ".ref." in name:
                        weight.zero_()

        def on_step_end(self, args, state, control, **given):
            self.steps = state.global_step

    def run(name, *callbacks):
        own = settings.changed(output_dir=Path(folder, name))
        model, prompt = load_for_dpo(own, CHOOSER)
        history = prefer(model, prompt, preference_sets(own, prompt).train, own, callbacks)
        return lora_b(model), history

    said = {}
    whole, alone = run("whole")
    try:
        run("cut", CutOff())
    except KeyboardInterrupt:
        resumed, went_on = run("cut")
    said |= {"steps": alone.steps, "resumed_from": went_on.resumed_from, "matrices": len(whole)}
    said["same"] = all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    said["same_losses"] = alone.losses == went_on.losses
    other = OtherReference()
    try:
        run("other", other)
    except RuntimeError as error:
        said |= {"refused": str(error), "refused_at": other.steps}
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
