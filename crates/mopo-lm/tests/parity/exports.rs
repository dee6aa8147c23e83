//! The other direction: directories written by this crate, loaded by transformers and PEFT.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use burn::module::Param;
use mopo_lm::{
    CausalLm, Decoder, GenerationConfig, HeadChoice, HubGeneration, LoadOptions, LoraConfig,
    Mixing, OutputLayer, PolicyHeads, PolicyParams, Weight, WeightDtype, export_hub, generate,
    load_policy, merge, save_policy,
};
use serde_json::json;

use crate::{B, Case, cases, values};

/// Held while random numbers are drawn: the process has one state of them, and some tests need the same numbers twice.
pub(crate) static RANDOM: Mutex<()> = Mutex::new(());

/// Another head than the base model's.
pub(crate) fn heads(model: &CausalLm<B>) -> PolicyHeads<B> {
    let mut heads = PolicyHeads::from_base(&model.lm_head(), 2);
    let last = &mut heads.heads[1];
    last.weight = Weight::Dense(Param::from_tensor(last.weight.dense().mul_scalar(-0.5)));
    last.bias = last.bias.as_ref().map(|bias| Param::from_tensor(bias.val().add_scalar(0.25)));
    heads
}

/// Two policies on a model: its adapter or a fresh one, and the heads.
pub(crate) fn policies(case: &Case) -> (PolicyParams<B>, LoraConfig) {
    let (adapter, lora) = case.lora.clone().unwrap_or_else(|| {
        let lora = LoraConfig { rank: 2, ..Default::default() };
        let _drawing = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
        (lora.init(&case.model.shape(), &Default::default()), lora)
    });
    (PolicyParams { adapters: vec![adapter], heads: heads(&case.model) }, lora)
}

/// Writes logits.json: the logits under these parameters, and where the models are.
fn write_logits(
    dir: &Path,
    base: &Path,
    policy: &Path,
    model: &CausalLm<B>,
    params: &PolicyParams<B>,
) {
    let vocab = model.shape().vocab_size;
    let ids: Vec<u32> = (0..16).map(|i| (i * 37 + 5) % vocab as u32).collect();
    let pair = ([&ids[..1], &ids[1..], &[]], [true, false]);
    let inputs = mopo_lm::PackedBatch::pack(&[pair]).unwrap().inputs(&Default::default());
    let lines = |head: &OutputLayer<B>, adapter| -> Vec<Vec<f32>> {
        let logits = values(head.logits(model.hidden_states_packed(&inputs, adapter)));
        logits.chunks_exact(vocab).map(<[f32]>::to_vec).collect()
    };
    let policies: Vec<_> =
        params.heads.heads.iter().map(|head| lines(head, Some(params.adapter(0)))).collect();
    let told = json!({
        "base": base, "policy": policy, "ids": ids,
        "base_logits": lines(&model.lm_head(), None), "policy_logits": policies,
    });
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("logits.json"), told.to_string()).unwrap();
}

/// Writes a model, with its adapter or a fresh one, as `base/` and `policy/`, and its second policy
/// as the plain model `hub/`, with greedy.json: that policy's continuations of the prompts.
fn export(case: &Case, dir: &Path) {
    let (params, lora) = policies(case);
    let names = ["one", "two"].map(str::to_owned);
    case.model.save(dir.join("base")).unwrap();
    let (shape, loras) = (case.model.shape(), std::slice::from_ref(&lora));
    save_policy(&params, &shape, loras, &names, Mixing::default(), dir.join("policy")).unwrap();
    write_logits(dir, Path::new("base"), Path::new("policy"), &case.model, &params);

    let merged = merge(&case.model, params.adapter(0)).unwrap();
    let end = case.told.end;
    let generation = HubGeneration { eos_token_id: vec![end], ..Default::default() };
    let head = params.heads.get(1).unwrap();
    export_hub(&merged, Some(head), WeightDtype::F32, &generation, dir.join("hub")).unwrap();
    let config = GenerationConfig { temperature: 0.0, ..Default::default() };
    let (prompts, head, device) = (&case.told.prompts, HeadChoice::Policy(1), Default::default());
    let continued =
        generate(&case.model, Some(&params), head, prompts, end, &config, &device).unwrap();
    let told = json!({ "prompts": prompts, "continued": continued, "end": end });
    std::fs::write(dir.join("greedy.json"), told.to_string()).unwrap();
}

#[test]
fn transformers_and_peft_load_what_is_written_here_and_agree() {
    let Some(python) = std::env::var_os("MOPO_REFERENCE_PYTHON") else {
        mopo_testkit::skip!(
            "name a Python with tests/parity/requirements.txt in MOPO_REFERENCE_PYTHON"
        );
    };
    let out = tempfile::tempdir().unwrap();
    let mut dirs = vec![];
    for case in &cases() {
        let dir = out.path().join(case.name.replace(", ", "-"));
        export(case, &dir);
        dirs.push(dir);
    }
    if let Some(run) = std::env::var_os("MOPO_REFERENCE_RUN").map(PathBuf::from) {
        let run = run.canonicalize().unwrap();
        let (base, policy) = (run.join("warm_start"), run.join("policy"));
        let model = CausalLm::<B>::load(&base, LoadOptions::f32(), &Default::default()).unwrap();
        let (params, _) = load_policy(&policy, &model, &Default::default()).unwrap();
        let dir = out.path().join("run");
        write_logits(&dir, &base, &policy, &model, &params);
        dirs.push(dir);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/check_exports.py");
    let output = Command::new(python)
        .arg(script)
        .args(&dirs)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the program that MOPO_REFERENCE_PYTHON names");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
