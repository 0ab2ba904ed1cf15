"""The whole training job as its users do it without this project: TRL + PEFT, or Unsloth's CPU mode (bench/job.py).

usage: peer_job.py base BASE.gguf OUT                                 the GGUF as a Hugging Face folder, once
       peer_job.py train HF_FOLDER training_data.jsonl OUT --side trl-fp32|trl-bf16|unsloth [--epochs 3] [--lr 2e-4]
                   [--batch 4] [--rank 16] [--seed 42] [--steps N]
Writes OUT/merged and prints one JSON line: seconds for each stage, steps, tokens, loss.
Nothing is chosen on validation records: the last state is what is kept.
"""
import argparse, json, os, time
T0 = time.time()
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("what", choices=("base", "train")); ap.add_argument("base"); ap.add_argument("paths", nargs="+")
ap.add_argument("--side", default="trl-fp32", choices=("trl-fp32", "trl-bf16", "unsloth")); ap.add_argument("--epochs", type=float, default=3)
ap.add_argument("--lr", type=float, default=2e-4); ap.add_argument("--batch", type=int, default=4); ap.add_argument("--rank", type=int, default=16)
ap.add_argument("--seed", type=int, default=42); ap.add_argument("--steps", type=int, default=-1); ap.add_argument("--max-len", type=int, default=2048)
a = ap.parse_args()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if a.side == "unsloth":
    os.environ.setdefault("UNSLOTH_FORCE_CPU", "1")
    from unsloth import FastLanguageModel  # has to come before the others
import torch
if os.environ.get("OMP_NUM_THREADS"): torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
from transformers import AutoModelForCausalLM, AutoTokenizer
stages = {"start": round(time.time() - T0, 2)}


def as_folder(gguf, out):
    folder, name = os.path.split(os.path.abspath(gguf))
    tok = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # transformers 5.23 marks a GGUF as quantised, and so untrainable and not to be saved, even where it is dequantised
    model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None
    if hasattr(model.config, "quantization_config"): del model.config.quantization_config
    model.save_pretrained(out); tok.save_pretrained(out)


def load():
    if a.side == "unsloth":  # as in its notebooks
        model, tok = FastLanguageModel.from_pretrained(a.base, max_seq_length=a.max_len, dtype=None, load_in_4bit=False)
        return FastLanguageModel.get_peft_model(
            model, r=a.rank, lora_alpha=a.rank, lora_dropout=0, bias="none", use_gradient_checkpointing=False, random_state=a.seed,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]), tok, None
    from peft import LoraConfig
    dtype = torch.bfloat16 if a.side == "trl-bf16" else torch.float32
    lora = LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return AutoModelForCausalLM.from_pretrained(a.base, dtype=dtype), AutoTokenizer.from_pretrained(a.base), lora


def train():
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    data, out = a.paths
    rows = [json.loads(line)["messages"] for line in open(data, encoding="utf-8")]
    t = time.time(); model, tok, lora = load(); stages["load"] = round(time.time() - t, 2)
    rows = [{"prompt": m[:-1], "completion": m[-1:]} for m in rows]
    lengths = [len(tok.apply_chat_template(r["prompt"] + r["completion"], tokenize=True, return_dict=False)) for r in rows]
    args = SFTConfig(output_dir=out, per_device_train_batch_size=a.batch, learning_rate=a.lr, num_train_epochs=a.epochs, max_steps=a.steps,
                     logging_steps=10, report_to=[], save_strategy="no", max_length=a.max_len, use_cpu=True, bf16=False,
                     gradient_checkpointing=False, seed=a.seed, dataloader_pin_memory=False, completion_only_loss=True)
    trainer = SFTTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tok, peft_config=lora)
    t = time.time(); done = trainer.train(); stages["train"] = round(time.time() - t, 2)
    t = time.time(); merged = trainer.model.merge_and_unload(); merged.save_pretrained(out + "/merged"); tok.save_pretrained(out + "/merged")
    stages["merge"] = round(time.time() - t, 2)
    tokens = trainer.state.global_step * a.batch * sum(lengths) / len(lengths)
    print(json.dumps({"stages": stages, "steps": trainer.state.global_step, "rows": len(rows), "mean_tokens_row": round(sum(lengths) / len(lengths)),
                      "tokens_per_second": round(tokens / stages["train"], 1), "loss": round(done.training_loss, 4), "dtype": str(merged.dtype)}))


if a.what == "base":
    as_folder(a.base, a.paths[0]); print(json.dumps({"stages": {**stages, "read": round(time.time() - T0 - stages["start"], 2)}}))
else:
    train()
