"""The peers' side of bench/gpu.py: TRL + PEFT or Unsloth on the folders that gpu_ours.py made; one JSON line per figure.

usage: peer_gpu.py trl|unsloth --work FOLDER --rows ROWS.json [--models …] [--batches 4 32] [--device cuda|cpu] [--warm 3] [--seconds 4]
Their own trainer, LoRA rank 16 on all linear layers, bf16, no gradient checkpointing (they have room), fused AdamW, rows padded to the
longest of a step (packing would put other numbers of rows into a step). Loss on the answers only. Real tokens are counted, no padding.
"""
import argparse, gc, json, os, shutil, sys, time
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("side", choices=("trl", "unsloth")); ap.add_argument("--work", required=True); ap.add_argument("--rows")
ap.add_argument("--models", nargs="+", required=True); ap.add_argument("--batches", nargs="+", type=int, default=[4, 32])
ap.add_argument("--device", default="cuda"); ap.add_argument("--warm", type=float, default=3); ap.add_argument("--seconds", type=float, default=4)
a = ap.parse_args()
os.environ.update(HF_HUB_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1", HF_DATASETS_OFFLINE="1", WANDB_DISABLED="true", TOKENIZERS_PARALLELISM="false")
if a.device == "cpu": os.environ["UNSLOTH_FORCE_CPU"] = "1"
os.chdir(a.work)  # Unsloth writes the code that it compiles into the working folder
real_stdout = os.dup(1); os.dup2(2, 1)  # they print much
def say(**found): os.write(real_stdout, (json.dumps(found) + "\n").encode())
name = {"trl": "TRL + PEFT", "unsloth": "Unsloth"}[a.side]
if a.side == "unsloth":
    from unsloth import FastLanguageModel  # has to come before the others
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
WARM_STEPS, cuda = 12, a.device == "cuda"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Clock(TrainerCallback):
    def __init__(self): self.first, self.start, self.steps, self.seconds = None, None, 0, 0.0
    def on_step_begin(self, *_, **__): self.first = self.first or time.perf_counter()
    def on_step_end(self, args, state, control, **_):
        now = time.perf_counter()
        if self.start is not None: self.steps += 1
        elif state.global_step >= WARM_STEPS and now - self.first >= a.warm:
            if cuda: torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats()
            self.start = time.perf_counter()
        if self.start is not None and now - self.start >= a.seconds:
            if cuda: torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.start; control.should_training_stop = True


def load(model):
    folder, dtype = os.path.join(a.work, "hf", model), torch.bfloat16 if cuda else torch.float32
    if a.side == "unsloth":  # as in its notebooks
        net, tok = FastLanguageModel.from_pretrained(folder, max_seq_length=512, dtype=dtype, load_in_4bit=False)
        return FastLanguageModel.get_peft_model(net, r=16, lora_alpha=32, lora_dropout=0, bias="none", use_gradient_checkpointing=False,
                                                random_state=42, target_modules=LINEAR), tok, None
    from peft import LoraConfig
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa"), AutoTokenizer.from_pretrained(folder), lora


def measure(model, batch):
    rows = json.load(open(a.rows))[model]["rows"]
    data = Dataset.from_list([{"input_ids": p + t, "labels": [-100] * len(p) + t} for _, p, t in rows])
    net, tok, lora = load(model); clock, out = Clock(), os.path.join(a.work, "out")
    args = SFTConfig(output_dir=out, per_device_train_batch_size=batch, learning_rate=2e-4, max_steps=1000000, logging_steps=1000000, report_to=[],
                     save_strategy="no", max_length=512, use_cpu=not cuda, bf16=cuda, gradient_checkpointing=False, seed=42, packing=False,
                     optim="adamw_torch_fused" if cuda else "adamw_torch", dataloader_pin_memory=cuda, disable_tqdm=True, lr_scheduler_type="constant")
    trainer = SFTTrainer(model=net, args=args, train_dataset=data, processing_class=tok, peft_config=lora, callbacks=[clock])
    trainer.train()
    mean = sum(len(p) + len(t) for _, p, t in rows) / len(rows)
    peak = round(torch.cuda.max_memory_allocated() / 1e6) if cuda else 0
    shutil.rmtree(out, ignore_errors=True)
    say(side=name, model=model, batch=batch, tokens_s=round(clock.steps * batch * mean / clock.seconds, 1), peak_mb=peak, steps=clock.steps)


for model in a.models:
    for batch in a.batches:
        try:
            measure(model, batch)
        except Exception as error:
            import traceback; traceback.print_exc()
            say(side=name, model=model, batch=batch, error=f"{type(error).__name__}: {error}"[:300])
        gc.collect()
        if cuda: torch.cuda.empty_cache()
