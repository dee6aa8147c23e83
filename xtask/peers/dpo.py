"""A step of DPO as users of TRL have it: DPOTrainer on a frozen model with a LoRA adapter of PEFT, on the CPU.

    python dpo.py MODEL_DIR|FILE.gguf PAIRS.jsonl [--batch 8 --steps 6 --max-len 512 --threads 2]

Prints one JSON line with the median time of the steps after the first. A GGUF file is read as f32, which is the only
way in which transformers reads it. Pairs that have --max-len tokens or more are left out, as `mopo bench train` does.
Needs torch, transformers, peft, trl and datasets, and gguf for such a file.
"""
import argparse, json, resource, statistics, tempfile, time
import torch, transformers, trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from inputs import fitting_rows, model_source

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("pairs")
for name, value in {"batch": 8, "steps": 6, "max-len": 512, "threads": 2}.items():
    p.add_argument(f"--{name}", type=int, default=value)
p.add_argument("--device", default="cpu")
a = p.parse_args()
torch.set_num_threads(a.threads)
source = model_source(a.model)
tok = AutoTokenizer.from_pretrained(**source)
if tok.pad_token is None:
    tok.pad_token = tok.eos_token
model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
# What was read from blocks is f32 now, but the trainer refuses a model that says it is quantised.
model.is_quantized = False

rows = fitting_rows(a.pairs, tok, a.max_len, a.steps * a.batch)

seconds = []


class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        seconds.append(time.perf_counter() - self.began)


with tempfile.TemporaryDirectory() as out:
    told = trl.DPOConfig(
        output_dir=out, use_cpu=a.device == "cpu", bf16=False, fp16=False, seed=0, num_train_epochs=1, beta=0.1,
        per_device_train_batch_size=a.batch, max_length=a.max_len, learning_rate=2e-4, gradient_checkpointing=False,
        dataloader_num_workers=0, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
    )
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = trl.DPOTrainer(model=model, args=told, train_dataset=Dataset.from_list(rows), processing_class=tok,
                             peft_config=lora, callbacks=[Clock()])
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    trainer.train()
s = statistics.median(seconds[1:] or seconds)
print(json.dumps(dict(peer="trl", trl=trl.__version__, torch=torch.__version__, transformers=transformers.__version__,
                      device=a.device, threads=a.threads, steps=len(seconds), batch=a.batch, trainable_parameters=trained,
                      seconds_per_step=round(s, 4), pairs_per_second=round(a.batch / s, 4),
                      peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                      seconds=[round(x, 4) for x in seconds])))
