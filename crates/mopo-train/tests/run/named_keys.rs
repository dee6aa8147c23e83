//! Errors in configurations name the key, at every level.

use super::*;

fn with(set: &str) -> String {
    RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &[set.into()])
        .expect_err(set)
        .to_string()
}

/// The demo with one more line below a section's heading.
fn with_line(section: &str, line: &str) -> String {
    let text = RunConfig::preset("demo").unwrap().to_toml().unwrap();
    let heading = format!("[{section}]\n");
    assert!(text.contains(&heading), "{section}");
    let text = text.replacen(&heading, &format!("{heading}{line}\n"), 1);
    RunConfig::parse(&text, "mine.toml").expect_err(section).to_string()
}

#[test]
fn an_unknown_key_is_named_with_its_line_wherever_it_is() {
    for section in [
        "data",
        "tokenizer",
        "model",
        "model.scratch",
        "sft",
        "lora",
        "method",
        "mopo",
        "mopo.ball",
        "training",
        "checkpoints",
        "evaluation",
        "[evaluation.rewards]",
        "evaluation.rewards.reward",
    ] {
        let e = with_line(section, "stepz = 3");
        assert!(e.contains("stepz") && e.contains("line"), "[{section}]: {e}");
    }
    let e = with_line("tokenizer", "vocabsize = 3");
    assert!(e.contains("did you mean `vocab_size`"), "{e}");
}

#[test]
fn two_keys_that_exclude_each_other_are_both_named() {
    for (section, line, names) in [
        ("tokenizer", "file = \"x\"", ["vocab_size", "file"]),
        ("mopo.ball", "radius = 0.1", ["radius", "confidence"]),
        ("model", "hub = \"x\"", ["hub", "scratch"]),
    ] {
        let e = with_line(section, line);
        assert!(names.iter().all(|name| e.contains(name)) && e.contains("keep one"), "{e}");
    }
    let text = preset_text("demo").unwrap();
    let set = |set: &str| RunConfig::parse_with(text, "demo", &[set.into()]).unwrap();
    let method = set("mopo.ball.radius=0.2").method;
    assert_eq!(mopo(&method).ball, mopo_core::Ball::Radius(0.2));
    assert_eq!(set("mopo.ball={radius=0.2}").method, method);
}

#[test]
fn what_a_list_or_a_shape_refuses_is_named_by_its_section() {
    let axis = |name: &str| {
        format!("{{name=\"{name}\",ref_point=0.0,reward={{kind=\"demo\",objective_idx=0}}}}")
    };
    for (set, key) in [
        ("policies=[\"helpful\",\"helpful\"]", "`policies`"),
        ("policies=[\"helpful\",\"sft\"]", "`policies` has `sft`"),
        ("policies=[\"worst-case\",\"helpful\"]", "`policies` has `worst-case`"),
        (&format!("evaluation.rewards=[{},{}]", axis("a"), axis("a")), "`evaluation.rewards`"),
        (&format!("evaluation.rewards=[{},{}]", axis("a"), axis("")), "`evaluation.rewards`"),
        ("model.scratch.hidden_size=33", "`model.scratch`"),
        ("model.scratch.num_attention_heads=3", "`model.scratch`"),
        ("evaluation.rewards.0.name=x", "`evaluation.rewards` is a list"),
        ("mopo.tau.x=1", "`mopo.tau` is a key"),
        ("tokenizer.file=5", "tokenizer.file"),
        ("data.n_prompts=100000", "`data.n_prompts`"),
    ] {
        let e = with(set);
        assert!(e.contains(key), "{set}: {e}");
    }
}

#[test]
fn a_value_that_is_no_toml_is_told_so() {
    for set in [
        "seed=18446744073709551616",
        "mopo.tau=1.2.3",
        "mopo.tau=\"0.1",
        "training.steps=10 000",
        "evaluation.rewards=[",
    ] {
        let e = with(set);
        assert!(e.contains("not valid TOML") && e.contains(set), "{set}: {e}");
    }
    // Where text is wanted it is text.
    let text = preset_text("demo").unwrap();
    let set = ["name=2nd".to_string()];
    assert_eq!(RunConfig::parse_with(text, "demo", &set).unwrap().name, "2nd");
}

#[test]
fn files_that_are_no_configuration_are_named() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("mine.toml");
    let says = || RunConfig::from_file(&file).unwrap_err().to_string();
    assert!(says().contains("mine.toml"), "{}", says());
    std::fs::write(&file, b"name = \"\xff\"").unwrap();
    assert!(says().contains("mine.toml") && says().contains("UTF-8"), "{}", says());
    // Takes no room on the disk.
    std::fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    assert!(says().contains("mine.toml") && says().contains("MiB"), "{}", says());
}

#[test]
fn files_that_a_configuration_names_are_told_by_their_key() {
    let resolve = |_: &str| unreachable!("no reward of the demo is a model");
    for (set, key) in [
        ("model.hub=/no/such/model", "`model.hub`"),
        ("tokenizer.file=/no/such/file", "`tokenizer.file`"),
        ("training.prompt_weight=0.5", "`training.prompt_weight`"),
        ("evaluation.max_new_tokens=47", ""),
    ] {
        let checked = tiny(&[set]).check_files(&resolve, None);
        match key {
            "" => checked.unwrap(),
            key => {
                let e = checked.unwrap_err().to_string();
                assert!(e.contains(key), "{set}: {e}");
            }
        }
    }
}
