//! Every family on a frozen base of 4 and of 8 bits, against the same base with its weights written out: logits,
//! gradients of an adapter, and a policy with several heads.

use std::path::Path;
use std::sync::PoisonError;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_lm::{
    CausalLm, Decoder, GenerationConfig, HeadChoice, HubGeneration, LoadOptions, LoraAdapter,
    Mixing, PackedBatch, Weight, WeightDtype, export_hub, generate, load_adapter, load_policy,
    merge, save_policy, sequence_log_probs,
};
use mopo_ops::{FusedBackend, QuantFormat};
use mopo_testkit::TestAutodiffBackend;

use crate::exports::{RANDOM, policies};
use crate::{B, cases, fixtures, logits_of, relative};

type Ad = TestAutodiffBackend;

/// In 8 bits, with the output layer too, and in 4 bits.
fn formats() -> [LoadOptions; 4] {
    let [int8, nf4, double] = [
        QuantFormat::Int8,
        QuantFormat::Nf4 { double_quant: false },
        QuantFormat::Nf4 { double_quant: true },
    ]
    .map(LoadOptions::quantised);
    [int8, int8.with_output(), nf4, double]
}

/// A base with its linear layers quantised, the rest in f32, and the same with these layers' weights written out.
fn quantised<Bk: FusedBackend>(model: &str, format: LoadOptions, dir: &Path) -> [CausalLm<Bk>; 2] {
    let load =
        |dir: &Path, options| CausalLm::<Bk>::load(dir, options, &Default::default()).unwrap();
    // Gemma rounds a factor as its file's data type would: that is one for both.
    let (whole, written) = (dir.join("whole"), dir.join("written"));
    load(&fixtures().join(model), LoadOptions::f32()).save(&whole).unwrap();
    let base = load(&whole, format);
    base.save(&written).unwrap();
    [base, load(&written, LoadOptions::f32())]
}

/// Σ (a − b)² / Σ b².
fn relative_square(found: &[f32], expected: &[f32]) -> f32 {
    let of = |f: &dyn Fn((&f32, &f32)) -> f32| found.iter().zip(expected).map(f).sum::<f32>();
    of(&|(a, b)| (a - b).powi(2)) / of(&|(_, b)| b.powi(2))
}

#[test]
fn a_quantised_base_is_its_weights_written_out() {
    let device = Default::default();
    for case in cases() {
        let (model, part) = case.name.split_once(", ").unwrap();
        for format in formats() {
            let name = format!("{} in {format:?}", case.name);
            let dir = tempfile::tempdir().unwrap();
            let [base, plain] = quantised::<B>(model, format, dir.path());
            let of = |model: &CausalLm<B>| {
                logits_of(model, case.adapter(), &model.lm_head(), &case.told.sequences).concat()
            };
            let found = of(&base);
            relative(&name, &found, &of(&plain));
            let has_output = matches!(base.lm_head().weight, Weight::Quantised(_));
            assert_eq!(has_output, format.quantise_output, "{name}");
            // The weights were rounded, and not more than the format does.
            let error = relative_square(&found, &case.logits.concat());
            let most = match (format.quantise, format.quantise_output) {
                (Some(QuantFormat::Int8), false) => 1e-3,
                (Some(QuantFormat::Int8), true) => 5e-3,
                _ => 0.5,
            };
            assert!(error > 1e-9 && error < most, "{name}: {error}");

            // A policy's second head continues as the plain model that is written of it.
            let (params, lora) = policies(&case);
            let (policy, names) = (dir.path().join(part), ["one", "two"].map(str::to_owned));
            let loras = std::slice::from_ref(&lora);
            save_policy(&params, &base.shape(), loras, &names, Mixing::default(), &policy).unwrap();
            let (params, _) = load_policy(&policy, &base, &device).unwrap();
            let hub = dir.path().join("hub");
            let merged = merge(&plain, params.adapter(0)).unwrap();
            let head = params.heads.get(1).unwrap();
            let end = HubGeneration::default();
            export_hub(&merged, Some(head), WeightDtype::F32, &end, &hub).unwrap();
            let hub = CausalLm::<B>::load(&hub, LoadOptions::f32(), &device).unwrap();
            let rows = &case.told.sequences;
            let of_policy = logits_of(&base, Some(params.adapter(0)), head, rows).concat();
            relative(&name, &of_policy, &logits_of(&hub, None, &hub.lm_head(), rows).concat());
            let config =
                GenerationConfig { temperature: 0.0, max_new_tokens: 16, ..Default::default() };
            let continued = |model: &CausalLm<B>, params, head| {
                let (prompts, end) = (&case.told.prompts, case.told.unused);
                generate(model, params, head, prompts, end, &config, &device).unwrap()
            };
            assert_eq!(
                continued(&base, Some(&params), HeadChoice::Policy(1)),
                continued(&hub, None, HeadChoice::Base),
                "{name}"
            );
        }
    }
}

#[test]
fn an_adapter_on_a_quantised_base_has_the_gradients_of_the_weights_written_out() {
    let device = Default::default();
    for case in cases() {
        let (model, part) = case.name.split_once(", ").unwrap();
        if part == "base" {
            continue;
        }
        for format in formats() {
            let name = format!("{} in {format:?}", case.name);
            let dir = tempfile::tempdir().unwrap();
            let [base, plain] = quantised::<Ad>(model, format, dir.path()).map(Module::no_grad);
            let of_adapter = fixtures().join(model).join(part);
            let (adapter, _) = load_adapter::<Ad>(of_adapter, &base.shape(), &device).unwrap();
            let pairs: Vec<_> = case
                .told
                .pairs
                .iter()
                .map(|p| ([&p.prompt[..], &p.first, &p.second], [true; 2]))
                .collect();
            let batch = PackedBatch::pack(&pairs).unwrap();
            let responses: Vec<usize> = (0..batch.responses.len()).collect();
            let gradients = |model: &CausalLm<Ad>, adapter: &LoraAdapter<Ad>| {
                // The same dropout.
                let _drawing = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
                Ad::seed(&device, 1);
                let hidden = model.hidden_states_packed(&batch.inputs(&device), Some(adapter));
                let log_probs = sequence_log_probs(hidden, &model.lm_head(), &batch, &responses);
                let gradients = log_probs.sum().backward();
                let pairs = adapter.layers.iter().flat_map(|layer| layer.pairs.iter().flatten());
                let of = |p: Tensor<Ad, 2>| -> Vec<f32> {
                    p.grad(&gradients).expect("a gradient").into_data().to_vec().unwrap()
                };
                pairs.flat_map(|pair| [of(pair.a.val()), of(pair.b.val())]).collect::<Vec<_>>()
            };
            let (found, expected) = (gradients(&base, &adapter), gradients(&plain, &adapter));
            assert!(!found.is_empty());
            for (found, expected) in found.iter().zip(&expected) {
                let error = relative_square(found, expected);
                assert!(error < 1e-6, "{name}: {error}");
                assert!(found.iter().any(|x| *x != 0.0), "{name}");
            }
        }
    }
}
