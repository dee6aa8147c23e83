"""Makes pairwise.json: losses on fixed numbers by TRL's own code, which the tests compare ours with.

    pip install torch transformers trl==1.16.0
    python make_pairwise.py > pairwise.json

The numbers are log-probabilities of whole responses, drawn once; TRL's methods run on a stand-in for its trainer.
"""

import json
import warnings
from unittest.mock import MagicMock

import torch
import trl
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer

warnings.filterwarnings("ignore")
N, LENGTH = 6, 9


def batch():
    """A mask of the responses' tokens, their log-probs, and log-probs of whole responses under a reference."""
    torch.manual_seed(7)
    mask = torch.zeros(2 * N, LENGTH, dtype=torch.long)
    for row in range(2 * N):
        mask[row, 2 : 3 + (row * 5) % 7] = 1
    log_probs = -2 * torch.rand(2 * N, LENGTH - 1) * mask[:, 1:]
    # Log-ratios up to about 4 nats, on both sides.
    reference = log_probs.sum(1) - 1.5 * torch.randn(2 * N)
    return mask, log_probs, reference


def dpo(mask, log_probs, reference, **settings):
    """The loss of TRL's DPO trainer with these settings."""
    trainer = MagicMock()
    trainer.accelerator.device = torch.device("cpu")
    trainer.accelerator.gather = trainer.accelerator.gather_for_metrics = lambda tensor: tensor
    trainer.aux_loss_enabled = False
    trainer.ld_alpha = None
    trainer.precompute_ref_logps = True
    trainer.use_weighting = False
    trainer.loss_weights = [1.0]
    trainer.f_divergence_type = settings.pop("divergence", "reverse_kl")
    trainer.f_alpha_divergence_coef = settings.pop("alpha", 1.0)
    trainer.loss_types = [settings.pop("loss_type", "sigmoid")]
    trainer.beta = settings.pop("beta")
    trainer.label_smoothing = settings.pop("label_smoothing", 0.0)
    chosen, rejected = reference.chunk(2)
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    # The rest only goes into metrics.
    nothing = torch.zeros_like(log_probs)
    outputs = MagicMock(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False).item()


def kto(mask, log_probs, reference, mismatched, beta, desirable, undesirable):
    """The loss of TRL's KTO trainer; `mismatched`: log-probs of mismatched pairs under the policy and the reference."""
    trainer = MagicMock()
    trainer.accelerator.device = torch.device("cpu")
    trainer.accelerator.gather_for_metrics = lambda tensor: tensor
    trainer.aux_loss_enabled = False
    trainer.precompute_ref_logps = trainer.calculate_KL = True
    trainer.loss_type = "kto"
    trainer.beta, trainer.desirable_weight, trainer.undesirable_weight = beta, desirable, undesirable
    trainer._compute_kl_logps = lambda model, batch: mismatched[0]
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": torch.arange(2 * N) < N,
        "ref_logps": reference,
        "ref_KL_logps": mismatched[1],
    }
    nothing = torch.zeros_like(log_probs)
    outputs = MagicMock(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    return KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False).item()


def simpo(log_probs, lengths, beta, margin):
    trainer = MagicMock()
    trainer.loss_type = "simpo"
    trainer.alpha = 0.0
    trainer.beta, trainer.simpo_gamma, trainer.label_smoothing = beta, margin, 0.0
    trainer.accelerator.device = torch.device("cpu")
    chosen, rejected = (log_probs / lengths).chunk(2)
    return CPOTrainer.cpo_loss(trainer, chosen, rejected)[0].mean().item()


def main():
    mask, token_log_probs, reference = batch()
    run = lambda **settings: dpo(mask, token_log_probs, reference, **settings)
    log_probs, lengths = token_log_probs.sum(1), mask[:, 1:].sum(1)
    as_list = lambda tensor: [round(x, 6) for x in tensor.tolist()]
    # Log-ratios of mismatched pairs with a mean above 0, and below it.
    torch.manual_seed(8)
    ratios = 0.7 + torch.randn(2 * N)
    mismatched = [(ratios - 20, torch.full((2 * N,), -20.0)), (-ratios - 20, torch.full((2 * N,), -20.0))]
    divergences = [
        ("forward_kl", {"divergence": "forward_kl"}),
        ("jensen_shannon", {"divergence": "js_divergence"}),
        # TRL's alpha counts from the other end.
        ("alpha:0.3", {"divergence": "alpha_divergence", "alpha": 0.7}),
        ("alpha:0.8", {"divergence": "alpha_divergence", "alpha": 0.2}),
    ]
    print(
        json.dumps(
            {
                "trl": trl.__version__,
                "chosen": {
                    "log_probs": as_list(log_probs[:N]),
                    "reference": as_list(reference[:N]),
                    "tokens": lengths[:N].tolist(),
                },
                "rejected": {
                    "log_probs": as_list(log_probs[N:]),
                    "reference": as_list(reference[N:]),
                    "tokens": lengths[N:].tolist(),
                },
                "dpo": [{"beta": b, "loss": run(beta=b)} for b in (0.1, 0.5, 2.0)],
                "dpo_per_token": [
                    {"beta": b, "loss": run(beta=b, loss_type="sigmoid_norm")} for b in (0.5, 2.0)
                ],
                "robust": [
                    {"beta": 0.5, "noise": e, "loss": run(beta=0.5, loss_type="robust", label_smoothing=e)}
                    for e in (0.1, 0.3)
                ],
                "ipo_per_token": [{"beta": b, "loss": run(beta=b, loss_type="ipo")} for b in (0.1, 1.0)],
                "f_dpo": [
                    {"divergence": name, "beta": 0.5, "loss": run(beta=0.5, **settings)}
                    for name, settings in divergences
                ],
                "kto": [
                    {
                        "beta": b,
                        "desirable": d,
                        "undesirable": u,
                        "kl": max(0.0, round((own - ref).mean().item(), 6)),
                        "loss": kto(mask, token_log_probs, reference, (own, ref), b, d, u),
                    }
                    for b, d, u in ((0.1, 1.0, 1.0), (0.7, 1.5, 0.5))
                    for own, ref in mismatched
                ],
                "simpo": [
                    {"beta": b, "margin": m, "loss": simpo(log_probs, lengths, b, m)}
                    for b, m in ((2.0, 0.5), (5.0, 1.5))
                ],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
