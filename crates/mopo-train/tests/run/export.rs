//! Exports of a finished run: whole or absent, whatever is in their place, and made only of files
//! that the run recorded. The content of exports is tested through the program.

use std::fs;

use mopo_testkit::TestBackend;
use mopo_train::{ExportChoice, ExportSource, check_export_place};

use super::*;

/// Exports one policy, or all.
fn export(source: &Path, policy: Option<&str>, out: &Path, force: bool) -> Result<ExportChoice> {
    let source = ExportSource::open(source)?;
    let choice = source.choose(policy)?;
    source.export::<TestBackend>(choice, None, out, force, &Default::default())?;
    Ok(choice)
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::Export { .. } | Error::Hub(mopo_hub::Error::Output { .. })),
        "{error:?}"
    );
    error.to_string()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_export_replaces_only_an_earlier_one_and_leaves_nothing_else() {
    let (tmp, run) = finished(&[]);
    let out = tmp.path().join("out");
    let weights = || fs::read(out.join("model.safetensors")).unwrap();
    // Leftovers of killed exports of this version and of earlier ones are removed by the next
    // export. No process has such a number.
    fs::create_dir(tmp.path().join(".out.new-4194999")).unwrap();
    fs::create_dir(tmp.path().join(".tmp-4194999-abcdefgh")).unwrap();
    assert_eq!(export(&run, Some("helpful"), &out, false).unwrap(), ExportChoice::Policy(0));
    assert_eq!(names(tmp.path()), ["out", "run"]);
    let first = weights();

    // Without --force nothing is replaced, and with it only an export.
    let e = refusal(export(&run, Some("harmless"), &out, false));
    assert!(e.contains("not empty") && e.contains("--force"), "{e}");
    assert!(weights() == first);
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let e = refusal(export(&run, Some("harmless"), &out, true));
    assert!(e.contains("`notes.txt` is not part of an export"), "{e}");
    assert!(weights() == first);
    fs::remove_file(out.join("notes.txt")).unwrap();

    assert_eq!(export(&run, Some("1"), &out, true).unwrap(), ExportChoice::Policy(1));
    assert!(weights() != first);
    assert_eq!(names(tmp.path()), ["out", "run"]);

    // Not even with --force a part of a run, or the source itself.
    for place in ["warm_start", "policy", "pareto", "data/new", "checkpoints/x/y"] {
        let e = refusal(export(&run, Some("0"), &run.join(place), true));
        assert!(e.contains("it belongs to") && e.contains("/run"), "{place}: {e}");
    }
    let base = run.join("warm_start");
    std::os::unix::fs::symlink(&base, tmp.path().join("link")).unwrap();
    let e = refusal(export(&run, Some("0"), &tmp.path().join("link"), true));
    assert!(e.contains("it belongs to"), "{e}");
    fs::remove_file(tmp.path().join("link")).unwrap();
    let all = tmp.path().join("all");
    export(&run, None, &all, false).unwrap();
    for place in ["", "base", "policy", "../all/base"] {
        let e = refusal(export(&all, Some("0"), &all.join(place), true));
        assert!(e.contains("it belongs to") || e.contains("its own source"), "{place}: {e}");
    }
    fs::remove_dir_all(&all).unwrap();

    // One kind replaces another: no file of the first is left.
    assert_eq!(export(&run, None, &out, true).unwrap(), ExportChoice::All);
    assert!(!out.join("model.safetensors").exists());
    // An export of one policy made from it would destroy the others.
    let e = refusal(export(&out, Some("helpful"), &out, true));
    assert!(e.contains("its own source") && out.join("base").exists(), "{e}");
    assert_eq!(export(&run, Some("helpful"), &out, true).unwrap(), ExportChoice::Policy(0));
    assert!(weights() == first && !out.join("base").exists());
    for name in ["sft", "warm-start"] {
        assert_eq!(export(&run, Some(name), &out, true).unwrap(), ExportChoice::Sft);
    }
    assert!(weights() != first);

    // A failure on the way changes nothing.
    let last = weights();
    fs::remove_file(run.join("tokenizer.json")).unwrap();
    export(&run, Some("helpful"), &out, true).unwrap_err();
    assert!(weights() == last);
    assert_eq!(names(tmp.path()), ["out", "run"]);
}

#[test]
fn only_exports_are_replaced_and_links_are_kept() {
    let (tmp, run) = finished(&[]);
    let at = |name: &str| tmp.path().join(name);
    for out in [Path::new(""), Path::new(".."), Path::new("/")] {
        assert!(refusal(check_export_place(out, true)).contains("with a name"));
    }
    check_export_place(&at("deep/down"), false).unwrap();
    fs::create_dir(at("empty")).unwrap();
    check_export_place(&at("empty"), false).unwrap();
    fs::write(at("file"), "mine").unwrap();
    assert!(refusal(check_export_place(&at("file"), true)).contains("not a directory"));
    let e = refusal(check_export_place(&run, true));
    assert!(e.contains("not part of an export"), "{e}");

    // A link stays a link, to an export or to nothing yet.
    for target in ["empty", "absent"] {
        let link = at(&format!("to-{target}"));
        std::os::unix::fs::symlink(target, &link).unwrap();
        for policy in [Some("helpful"), None] {
            export(&run, policy, &link, true).unwrap();
            assert!(link.is_symlink());
            assert_eq!(at(target).join("base").is_dir(), policy.is_none());
        }
    }
}

#[test]
fn files_that_are_not_the_recorded_ones_are_not_exported() {
    let (tmp, whole) = finished(&[]);
    let files = [
        "warm_start/model.safetensors",
        "warm_start/config.json",
        "policy/adapter_model.safetensors",
        "policy/adapter_config.json",
        "policy/heads.safetensors",
        "policy/policy.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ];
    let out = tmp.path().join("out");
    for name in files {
        let run = tmp.path().join("changed");
        copy(&whole, &run);
        flip(&run.join(name));
        // The run, and its policies separately.
        for source in [run.clone(), run.join("policy")] {
            for policy in [Some("helpful"), None] {
                let e = export(&source, policy, &out, false).unwrap_err().to_string();
                assert!(e.contains(name) && e.contains("SHA-256"), "{e}");
                assert!(!out.exists());
            }
        }
        fs::remove_file(run.join(name)).unwrap();
        assert!(export(&run, None, &out, false).is_err() && !out.exists(), "{name}");
        fs::remove_dir_all(&run).unwrap();
    }
    // A configuration that it was not trained with; `[evaluation]` may change.
    let config = whole.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("max_new_tokens = 8", "max_new_tokens = 9")).unwrap();
    export(&whole, None, &out, false).unwrap();
    let defaults = fs::read_to_string(out.join("generation_config.json")).unwrap();
    assert!(defaults.contains("\"max_new_tokens\": 9"), "{defaults}");
    assert!(text.contains("tau = "));
    let changed = text.replacen("tau = ", "tau = 1", 1);
    fs::write(&config, changed).unwrap();
    let e = export(&whole, None, &out, true).unwrap_err().to_string();
    assert!(e.contains("config.toml") && e.contains("tau"), "{e}");

    // Directories without policies, and policies without their base.
    let e = refusal(ExportSource::open(tmp.path()));
    assert!(e.contains("no policies"), "{e}");
    fs::remove_dir_all(out.join("base")).unwrap();
    let e = refusal(ExportSource::open(&out));
    assert!(e.contains("base model"), "{e}");
}

#[test]
fn a_policy_is_chosen_by_name_or_index() {
    let (_tmp, run) = finished(&[]);
    let source = ExportSource::open(&run.join("policy")).unwrap();
    let of = |name| source.choose(name).unwrap();
    assert_eq!(of(Some("humor")), ExportChoice::Policy(2));
    assert_eq!(of(Some("0")), ExportChoice::Policy(0));
    assert_eq!(source.describe(of(Some("0"))), "policy `helpful`");
    assert_eq!(source.describe(of(None)), "3 policies");
    for name in ["kind", "3", "-1", "", "helpful "] {
        let e = refusal(source.choose(Some(name)));
        assert!(e.contains("helpful, harmless, humor (0 to 2)") && e.contains("`sft`"), "{e}");
    }
}
