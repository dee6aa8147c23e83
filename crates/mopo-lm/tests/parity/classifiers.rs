//! Classifiers on decoders against the scores of transformers (fixtures_classifiers/), and their files against its
//! loaders.

use std::path::{Path, PathBuf};

use mopo_lm::{Classifier, LoadDtype, LoadOptions, Pooling, TokenRow};
use serde::Deserialize;

use super::{B, relative, values};

const MODELS: [&str; 7] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "starcoder2", "phi3"];

#[derive(Deserialize)]
struct Told {
    transformers: String,
    labels: Vec<String>,
    sequences: Vec<Vec<u32>>,
    scores: Vec<Vec<f32>>,
}

fn fixture(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures_classifiers").join(model)
}

fn told(model: &str) -> Told {
    let told = std::fs::read(fixture(model).with_extension("json")).unwrap();
    serde_json::from_slice(&told).unwrap()
}

fn load(dir: &Path) -> Classifier<B> {
    Classifier::load(dir, LoadDtype::F32, &Default::default()).unwrap()
}

/// The model's input, pooled as transformers does.
fn rows(model: &Classifier<B>, sequences: &[Vec<u32>]) -> Vec<TokenRow> {
    let row = |ids: &Vec<u32>| {
        model.check(ids).unwrap();
        let pool = Pooling::LastNonPad.at(ids, model.pad_token(), None).unwrap();
        TokenRow { ids: ids.clone(), pool }
    };
    sequences.iter().map(row).collect()
}

#[test]
fn scores_agree_alone_and_in_batches() {
    for name in MODELS {
        let told = told(name);
        assert_eq!(told.transformers, "5.23.0");
        let model = load(&fixture(name));
        assert_eq!(model.labels(), told.labels);
        let rows = rows(&model, &told.sequences);
        let expected = told.scores.concat();
        let together = relative(name, &values(model.forward(&rows)), &expected);
        let alone = rows.iter().flat_map(|row| values(model.forward(std::slice::from_ref(row))));
        let alone = relative(name, &alone.collect::<Vec<_>>(), &expected);
        println!("{name}: scores differ by {alone:.1e}, in a batch by {together:.1e}");
    }
}

#[test]
fn saved_classifiers_have_the_same_scores_here_and_in_transformers() {
    let out = tempfile::tempdir().unwrap();
    let mut args = vec![];
    for name in MODELS {
        let (dir, told) = (out.path().join(name), told(name));
        let model = load(&fixture(name));
        model.save(&dir).unwrap();
        let again = load(&dir);
        assert_eq!(again.shape(), model.shape());
        let rows = rows(&again, &told.sequences);
        assert_eq!(values(again.forward(&rows)), values(model.forward(&rows)), "{name}");
        args.push((dir, fixture(name).with_extension("json")));
    }
    let Some(python) = std::env::var_os("MOPO_REFERENCE_PYTHON") else {
        mopo_testkit::skip_rest!(
            "name a Python with tests/parity/requirements.txt in MOPO_REFERENCE_PYTHON"
        );
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/check_classifiers.py");
    let output = std::process::Command::new(python)
        .arg(script)
        .args(args.iter().flat_map(|(dir, told)| [dir, told]))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the program that MOPO_REFERENCE_PYTHON names");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_fresh_score_on_a_decoder_takes_an_adapter() {
    let device = Default::default();
    for name in ["llama3", "gemma3"] {
        let dir = super::fixtures().join(name);
        let labels = vec!["kind".to_owned(), "brief".to_owned(), "funny".to_owned()];
        let fresh = mopo_lm::DecoderClassifier::<B>::fresh(
            &dir,
            labels.clone(),
            LoadOptions::f32(),
            &device,
        )
        .unwrap();
        let (adapter, _) =
            mopo_lm::load_adapter::<B>(dir.join("adapter"), &fresh.decoder_shape(), &device)
                .unwrap();
        let rows =
            [TokenRow { ids: vec![3, 5, 8], pool: 2 }, TokenRow { ids: vec![9, 4, 7, 1], pool: 1 }];
        let score = fresh.score.val();
        let adapted = values(fresh.forward_with(&adapter, score.clone(), &rows));
        let merged = fresh.merged(&adapter, score).unwrap();
        relative(name, &values(merged.forward(&rows)), &adapted);
        assert_eq!(adapted.len(), 2 * labels.len());
        assert!(adapted != values(fresh.forward(&rows)), "{name}: the adapter changes nothing");
        // Neighbours that share a beginning, are one another's beginning, or are equal.
        let texts =
            [&[3, 5, 8][..], &[3, 5, 8, 2], &[3, 5, 8, 2], &[3, 5, 1, 6], &[4], &[4, 4], &[7]];
        let rows_of_pairs = texts.map(|ids| TokenRow { ids: ids.to_vec(), pool: ids.len() - 1 });
        let of_pairs = values(fresh.forward_with(&adapter, merged.score.val(), &rows_of_pairs));
        relative(name, &of_pairs, &values(merged.forward(&rows_of_pairs)));
        // What follows the classified token is not seen.
        let short = [rows[0].clone(), TokenRow { ids: vec![9, 4], pool: 1 }];
        assert_eq!(values(fresh.forward(&short)), values(fresh.forward(&rows)));
    }
    let phi = mopo_lm::DecoderClassifier::<B>::fresh(
        super::fixtures().join("half"),
        vec!["kind".into()],
        LoadOptions::f32(),
        &device,
    );
    let error = phi.unwrap_err().to_string();
    assert!(error.contains("`model_type` is \"phi\"") && error.contains("llama"), "{error}");
}
