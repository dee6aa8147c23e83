//! Losses on pairs against those of TRL's own code on the same numbers (`make_pairwise.py`).

use burn::tensor::Tensor;
use mopo_core::divergence::Divergence;
use mopo_core::pairwise::{
    KtoWeights, denoised, dpo_loss, f_reward, ipo_loss, kto_loss, simpo_loss,
};
use mopo_testkit::TestBackend as B;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    chosen: Side,
    rejected: Side,
    dpo: Vec<Case>,
    dpo_per_token: Vec<Case>,
    robust: Vec<Case>,
    ipo_per_token: Vec<Case>,
    f_dpo: Vec<Case>,
    simpo: Vec<Case>,
    kto: Vec<Case>,
}

/// Responses: log-probs of the policy and of a reference, numbers of tokens.
#[derive(Deserialize)]
struct Side {
    log_probs: Vec<f32>,
    reference: Vec<f32>,
    tokens: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    beta: f64,
    #[serde(default)]
    noise: f64,
    #[serde(default)]
    margin: f64,
    #[serde(default)]
    divergence: Option<String>,
    #[serde(default)]
    kl: f64,
    #[serde(default)]
    desirable: f64,
    #[serde(default)]
    undesirable: f64,
    loss: f64,
}

fn tensor(values: impl Iterator<Item = f32>) -> Tensor<B, 1> {
    Tensor::from_data(values.collect::<Vec<_>>().as_slice(), &Default::default())
}

impl Side {
    fn log_ratios(&self) -> Tensor<B, 1> {
        tensor(self.log_probs.iter().zip(&self.reference).map(|(a, b)| a - b))
    }

    fn tokens(&self) -> Tensor<B, 1> {
        tensor(self.tokens.iter().copied())
    }
}

type Loss<'a> = dyn Fn(&Case, [Tensor<B, 1>; 2], Tensor<B, 1>, Tensor<B, 1>) -> Tensor<B, 1> + 'a;

/// `loss` of every case, with the chosen response first and with it second.
fn check(name: &str, cases: &[Case], values: [Tensor<B, 1>; 2], loss: &Loss<'_>) {
    assert!(!cases.is_empty());
    let n = values[0].dims()[0];
    let mass = Tensor::<B, 1>::full([n], 1.0 / n as f64, &Default::default());
    let [chosen, rejected] = values;
    for case in cases {
        let label = |first: bool| {
            let label = if first { 1.0 } else { 0.0 };
            Tensor::<B, 1>::full([n], denoised(label, case.noise), &Default::default())
        };
        for found in [
            loss(case, [chosen.clone(), rejected.clone()], label(true), mass.clone()),
            loss(case, [rejected.clone(), chosen.clone()], label(false), mass.clone()),
        ] {
            let found = f64::from(found.into_scalar());
            let error = (found - case.loss).abs() / (1.0 + case.loss.abs());
            assert!(error < 2e-5, "{name}: {found} and {}", case.loss);
        }
    }
}

#[test]
fn losses_are_those_of_trl_on_the_same_numbers() {
    let fixture: Fixture = serde_json::from_str(include_str!("pairwise.json")).unwrap();
    let sides = [&fixture.chosen, &fixture.rejected];
    let ratios = || sides.map(Side::log_ratios);
    let per_token = || sides.map(|side| side.log_ratios() / side.tokens());
    let plain: &Loss<'_> = &|case, [a, b], labels, mass| dpo_loss(a, b, labels, mass, case.beta);
    check("dpo", &fixture.dpo, ratios(), plain);
    check("robust", &fixture.robust, ratios(), plain);
    check("dpo per token", &fixture.dpo_per_token, per_token(), plain);
    check("ipo per token", &fixture.ipo_per_token, per_token(), &|case, [a, b], labels, mass| {
        ipo_loss(a, b, labels, mass, case.beta)
    });
    check("f-dpo", &fixture.f_dpo, ratios(), &|case, [a, b], labels, mass| {
        let divergence: Divergence = case.divergence.as_deref().unwrap().parse().unwrap();
        let reward = |value| f_reward(value, divergence);
        dpo_loss(reward(a), reward(b), labels, mass, case.beta)
    });
    let means = sides.map(|side| tensor(side.log_probs.iter().copied()) / side.tokens());
    check("simpo", &fixture.simpo, means, &|case, [a, b], labels, mass| {
        simpo_loss(a, b, labels, mass, case.beta, case.margin)
    });
    check("kto", &fixture.kto, ratios(), &|case, [a, b], labels, mass| {
        let weights = KtoWeights { desirable: case.desirable, undesirable: case.undesirable };
        kto_loss(a, b, labels, mass, case.kl, case.beta, weights)
    });
}
