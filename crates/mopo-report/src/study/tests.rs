//! Studies of made-up evaluations.

use super::*;
use crate::{
    Clusters, Evaluation, FrontConfig, FrontReport, PolicySamples, ReportExtras, write_report,
};

const N: usize = 20;

/// The SFT model at 0.3 and policies at these means; scores spread around them.
fn evaluate(dir: &Path, seed: u64, policies: &[(&str, [f32; 2])]) {
    let samples = |label: &str, group, means: [f32; 2]| PolicySamples {
        run: None,
        policy: label.replace(' ', "-"),
        label: label.into(),
        group,
        responses: vec!["yes".into(); N],
        scores: (0..N).map(|i| means.map(|mean| mean + 0.02 * (i as f32 - 9.5)).to_vec()).collect(),
    };
    let mut all = vec![samples("warm start", PolicyGroup::Sft, [0.3; 2])];
    all.extend(policies.iter().map(|(label, means)| samples(label, PolicyGroup::Head, *means)));
    let evaluation = Evaluation {
        objectives: vec!["a".into(), "b".into()],
        prompts: (0..N).map(|i| format!("prompt {i} of seed {seed}")).collect(),
        clusters: Clusters::single(N),
        policies: all,
    };
    let report = FrontReport::new(&evaluation, &FrontConfig::new(vec![0.0; 2])).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    write_report(dir, &report, &evaluation, &ReportExtras::default()).unwrap();
}

fn run(seed: u64, label: &str, results: &str) -> StudyRun {
    let tokens = Some(CostTokens { trained: 40_000, generated: 0, scored: 5_000 });
    let cost = Some(Cost { seconds: 10.0, responses: 80, memory: Some(1 << 30), tokens });
    StudyRun { seed, label: label.into(), results: format!("{results}-{seed}").into(), cost }
}

fn method(name: &str, runs: Vec<StudyRun>) -> StudyMethod {
    let one = |settings: &str, hypervolume, chosen| StudyTry {
        settings: settings.into(),
        hypervolume,
        chosen,
    };
    StudyMethod {
        name: name.into(),
        tries: vec![one("x=1", 0.1, false), one("x=2", 0.2, true)],
        runs,
    }
}

/// One method with both policies in a run, and a worse one with a run for each.
fn study(root: &Path) -> Study {
    for seed in [1, 2] {
        let lift = 0.01 * seed as f32;
        let at = |name: &str| root.join(format!("{name}-{seed}"));
        evaluate(&at("best"), seed, &[("p", [0.8 + lift, 0.5]), ("q", [0.5, 0.8])]);
        evaluate(&at("first"), seed, &[("policy", [0.7, 0.4])]);
        evaluate(&at("second"), seed, &[("policy", [0.4, 0.7])]);
    }
    let best = [1, 2].map(|seed| run(seed, "", "best")).to_vec();
    let rival = [1, 2].iter().flat_map(|&s| [run(s, "1/0", "first"), run(s, "0/1", "second")]);
    Study {
        title: "Which | is better".into(),
        about: vec!["Made up.".into()],
        reference: "best".into(),
        methods: vec![method("best", best), method("rival", rival.collect())],
        n_clusters: 0,
        sensitivity: vec![],
    }
}

/// Prompts with an even number, and the others.
fn by_parity(prompts: &[String], n: usize) -> std::result::Result<Clusters, String> {
    let odd = |prompt: &String| usize::from(prompt["prompt ".len()..].starts_with(ODD));
    match n {
        2 => Ok(Clusters {
            assignments: prompts.iter().map(odd).collect(),
            labels: vec!["even".into(), "odd".into()],
        }),
        n => Err(format!("{n} are too many")),
    }
}

const ODD: [char; 5] = ['1', '3', '5', '7', '9'];

fn judged(study: &Study, root: &Path, options: &StudyOptions) -> Result<StudyReport> {
    StudyReport::new(study, root, options, &by_parity)
}

#[test]
fn fronts_are_unions_of_runs_and_means_of_seeds() {
    let temp = tempfile::tempdir().unwrap();
    let study = study(temp.path());
    let report = judged(&study, temp.path(), &StudyOptions::default()).unwrap();
    assert_eq!((&report.seeds[..], &report.n_prompts[..]), (&[1, 2][..], &[N, N][..]));
    let names: Vec<&str> = report.methods.iter().map(|method| &*method.name).collect();
    assert_eq!(names, [SFT, "best", "rival"]);
    // Two rectangles and their overlap, for each seed; the mean over both.
    let best = |lift: f64| 2.0 * 0.8 * 0.5 + lift * 0.5 - 0.25;
    let expected = [0.09, (best(0.01) + best(0.02)) / 2.0, 2.0 * 0.28 - 0.16];
    for (method, expected) in report.methods.iter().zip(expected) {
        assert!((method.hypervolume.value - expected).abs() < 1e-6, "{method:?}");
        let interval = method.hypervolume.interval.unwrap();
        assert!(interval.low < expected && interval.high > expected);
    }
    assert!(report.methods[1].against.is_none());
    let rival = report.methods[2].against.as_ref().unwrap();
    assert!((rival.difference.value - (expected[1] - expected[2])).abs() < 1e-6);
    assert!(rival.holds && rival.probability == 1.0);
    let igd = |m: usize| report.methods[m].igd_plus.as_ref().unwrap().value;
    assert!(igd(1) == 0.0 && igd(2) > 0.0 && igd(0) > igd(2));
    let labels: Vec<&str> = report.points.iter().map(|point| &*point.label).collect();
    assert_eq!(labels, ["", "p", "q", "1/0", "0/1"]);
    let z = |p: usize| report.points[p].z[0].as_ref().unwrap().value;
    assert!(z(0).abs() < 1e-6 && z(1) > z(3) && z(3) > z(4));
    // The same seed draws the same resamples.
    let again = judged(&study, temp.path(), &StudyOptions::default()).unwrap();
    assert_eq!(report, again);
}

#[test]
fn a_reference_that_is_behind_does_not_hold() {
    let temp = tempfile::tempdir().unwrap();
    let behind = Study { reference: "rival".into(), ..study(temp.path()) };
    let report = judged(&behind, temp.path(), &StudyOptions::default()).unwrap();
    let best = report.methods[1].against.as_ref().unwrap();
    assert!(!best.holds && best.probability == 0.0 && best.difference.value < 0.0);
    assert!(report.methods[0].against.as_ref().unwrap().holds, "the SFT model is behind");
}

#[test]
fn the_page_and_its_markdown_have_every_table() {
    let temp = tempfile::tempdir().unwrap();
    let study = study(temp.path());
    let options = StudyOptions { n_resamples: 50, ..StudyOptions::default() };
    let report = judged(&study, temp.path(), &options).unwrap();
    let files = write_study(temp.path(), &study, &report).unwrap();
    let text = std::fs::read_to_string(&files.markdown).unwrap();
    let page = std::fs::read_to_string(&files.index_html).unwrap();
    for words in ["Fronts", "Policies and objectives", "Cost", "Hyper-parameters", "best ahead by"]
    {
        assert!(text.contains(words) && page.contains(words), "{words}");
    }
    // Two runs of 80 responses and 10 seconds for each seed.
    assert!(text.contains("| rival | 2 | 20 | 160 | 80 | 0 | 10 | 1.00 |"), "{text}");
    assert!(text.contains("| rival | x=2 |") && text.contains("| chosen |"));
    assert!(files.figures.iter().all(|path| path.exists()) && page.contains("<svg"));
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&files.json).unwrap()).unwrap();
    assert_eq!(json["report"]["methods"][2]["against"]["holds"], true);
}

#[test]
fn what_cannot_be_compared_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let whole = study(temp.path());
    let refused = |change: fn(&mut Study)| {
        let mut study = whole.clone();
        change(&mut study);
        let options = StudyOptions { n_resamples: 2, ..StudyOptions::default() };
        judged(&study, temp.path(), &options).unwrap_err().to_string()
    };
    for (found, words) in [
        (refused(|study| study.reference = "other".into()), "best, rival"),
        (refused(|study| study.methods[1].name = "best".into()), "methods.name"),
        (refused(|study| study.methods[1].name = SFT.into()), "methods.name"),
        (refused(|study| study.methods.clear()), "methods"),
        (refused(|study| study.methods[1].runs.truncate(2)), "`rival` with seeds [1]"),
        (refused(|study| drop(study.methods[1].runs.remove(0))), "seed 2"),
        (refused(|study| study.methods[0].runs[0].results = "none".into()), "none"),
    ] {
        assert!(found.contains(words), "{words}: {found}");
    }
}

#[test]
fn any_two_methods_are_compared() {
    let temp = tempfile::tempdir().unwrap();
    let mut study = study(temp.path());
    // With the first seed better than "best" by a little, with the second much worse.
    for (seed, means) in [(1, [[0.82, 0.52], [0.52, 0.82]]), (2, [[0.7, 0.4], [0.4, 0.7]])] {
        let policies = [("p", means[0]), ("q", means[1])];
        evaluate(&temp.path().join(format!("mixed-{seed}")), seed, &policies);
    }
    study.methods.push(method("mixed", [1, 2].map(|seed| run(seed, "", "mixed")).to_vec()));
    let report = judged(&study, temp.path(), &StudyOptions::default()).unwrap();
    assert!((0..4).all(|m| report.ahead[m][m].is_none()));
    let certain = report.ahead[1][2].unwrap();
    assert!(certain.value == 1.0 && certain.interval.unwrap().low == 1.0, "{certain:?}");
    let (a, b) = (report.ahead[1][3].unwrap(), report.ahead[3][1].unwrap());
    // One of two seeds is ahead: half of the resamples draw both, a quarter each only one of them.
    assert!((a.value - 0.5).abs() < 0.05 && (a.value + b.value - 1.0).abs() < 1e-9, "{a:?}");
    assert_eq!(a.interval, Some(Interval { low: 0.0, high: 1.0 }));
}

#[test]
fn fronts_are_drawn_by_cluster_and_parameters_on_their_own() {
    let temp = tempfile::tempdir().unwrap();
    let mut study = Study { n_clusters: 2, ..study(temp.path()) };
    let value = |value: f64, results: &str| StudyValue { value, runs: vec![run(1, "", results)] };
    study.sensitivity = vec![StudySensitivity {
        method: "best".into(),
        parameter: "τ".into(),
        values: vec![value(0.1, "first"), value(0.2, "best")],
    }];
    let options = StudyOptions { n_resamples: 50, ..StudyOptions::default() };
    let report = judged(&study, temp.path(), &options).unwrap();
    let [even, odd] = &report.clusters[..] else { panic!("{:?}", report.clusters) };
    // Of prompts 0 to 19 those with a first digit that is odd: 1, 3, 5, 7, 9 and 10 to 19.
    assert_eq!((&even.n_prompts[..], &odd.n_prompts[..]), (&[5, 5][..], &[15, 15][..]));
    // The scores rise with the prompts' numbers.
    assert!(
        even.hypervolumes[1] < odd.hypervolumes[1] && even.hypervolumes[2] < even.hypervolumes[1]
    );
    let whole = report.points[1].z[0].as_ref().unwrap().value;
    let mean = (even.z[1][0].unwrap() * 5.0 + odd.z[1][0].unwrap() * 15.0) / 20.0;
    assert!((whole - mean).abs() < 1e-6, "{whole} {mean}");

    let of = &report.sensitivity[0];
    assert_eq!((&*of.parameter, &of.seeds[..]), ("τ", &[1][..]));
    // A single policy, and the two rectangles of the best with the first seed.
    assert!((of.points[0].1.value - 0.28).abs() < 1e-6, "{of:?}");
    assert!((of.points[1].1.value - 0.555).abs() < 1e-6, "{of:?}");
    let files = write_study(temp.path(), &study, &report).unwrap();
    assert_eq!(files.figures.len(), 6);
    let text = std::fs::read_to_string(&files.markdown).unwrap();
    for words in ["(clusters.png)", "(sensitivity.png)", "| best | τ | 0.2 |", "even (10)"] {
        assert!(text.contains(words), "{words}: {text}");
    }

    study.n_clusters = 3;
    let error = judged(&study, temp.path(), &options).unwrap_err().to_string();
    assert!(error.contains("n_clusters") && error.contains("too many"), "{error}");
    study.n_clusters = 0;
    study.sensitivity[0].method = "none".into();
    assert!(judged(&study, temp.path(), &options).unwrap_err().to_string().contains("none"));
    study.sensitivity[0] =
        StudySensitivity { method: "best".into(), parameter: "τ".into(), values: vec![] };
    assert!(judged(&study, temp.path(), &options).unwrap_err().to_string().contains("values"));
}
