//! Reports of made-up evaluations, written and read back.

use resvg::tiny_skia::Pixmap;
use serde_json::{Value, json};

use super::*;
use crate::{
    Clusters, FrontConfig, ObjectiveStatistics, PolicyGroup, PolicySamples, PolicySet,
    plot::clusters_figure, read_statistics,
};

mod compare;
mod page;

const N: usize = 12;

/// An SFT model, one head per objective and a mixture; the scores of prompt i are the policy's
/// means plus 0.01 · (i − 5.5).
fn synthetic(n_objectives: usize) -> Evaluation {
    let names = ["helpful", "harmless", "humor", "brief"];
    let mut plan = vec![("warm start".to_owned(), PolicyGroup::Sft, vec![0.3; n_objectives])];
    for (head, name) in names.iter().enumerate().take(n_objectives) {
        let means = (0..n_objectives).map(|k| if k == head { 0.7 } else { 0.4 }).collect();
        plan.push(((*name).to_owned(), PolicyGroup::Head, means));
    }
    plan.push(("mix".into(), PolicyGroup::Mixture, vec![0.5; n_objectives]));
    let policies = plan
        .into_iter()
        .map(|(label, group, means)| PolicySamples {
            run: None,
            policy: label.replace(' ', "-"),
            label,
            group,
            responses: (0..N).map(|i| format!("<script>alert({i})</script> & \"more\"")).collect(),
            scores: (0..N)
                .map(|i| means.iter().map(|m| m + 0.01 * (i as f32 - 5.5)).collect())
                .collect(),
        })
        .collect();
    Evaluation {
        objectives: names[..n_objectives].iter().map(|&name| name.into()).collect(),
        prompts: (0..N).map(|i| format!("\n\nHuman: What is <b>{i}</b>?\n\nAssistant:")).collect(),
        clusters: Clusters {
            assignments: (0..N).map(|i| usize::from(i >= 8)).collect(),
            labels: vec!["cats, \"dogs\", fur".into(), "bread".into()],
        },
        policies,
    }
}

fn report_of(evaluation: &Evaluation) -> FrontReport {
    FrontReport::new(evaluation, &FrontConfig::new(vec![0.0; evaluation.objectives.len()])).unwrap()
}

#[test]
fn every_file_is_written_and_sound() {
    for k in 2..=4 {
        let evaluation = synthetic(k);
        let report = report_of(&evaluation);
        let temp = tempfile::tempdir().unwrap();
        let extras = ReportExtras {
            title: "Fronts <1> & 2".into(),
            runs: vec![RunExtras {
                name: String::new(),
                metrics: (0..5)
                    .map(|s| json!({"step": s, "loss": 1.0 / f64::from(s + 1)}))
                    .map(|row| serde_json::from_value(row).unwrap())
                    .collect(),
                record: json!({"command": "</pre><script>"}),
            }],
            ..Default::default()
        };
        let files = write_report(&temp.path().join("new"), &report, &evaluation, &extras).unwrap();

        let svg = std::fs::read_to_string(&files.front_svg).unwrap();
        let tree = roxmltree::Document::parse(&svg).unwrap();
        let size = |name| tree.root_element().attribute(name).unwrap().parse::<f64>().unwrap();
        let png = Pixmap::decode_png(&std::fs::read(&files.front_png).unwrap()).unwrap();
        assert_eq!(f64::from(png.width()), 2.0 * size("width"));
        assert_eq!(f64::from(png.height()), 2.0 * size("height"));
        for node in tree.descendants().filter(|n| n.has_tag_name("text")) {
            assert!(node.attribute("font-size").unwrap().parse::<f64>().unwrap() >= 12.0);
        }
        let clusters = clusters_figure(&report).unwrap();
        roxmltree::Document::parse(&clusters.svg).unwrap();

        let csv = std::fs::read_to_string(&files.front_csv).unwrap();
        assert_eq!(csv.lines().count(), 1 + (k + 2) * 3);
        assert!(csv.starts_with("run,policy,label,group,cluster,cluster_label,n,mean_helpful,"));
        assert!(csv.contains("\"cats, \"\"dogs\"\", fur\""));

        let samples = std::fs::read_to_string(&files.samples).unwrap();
        assert_eq!(samples.lines().count(), (k + 2) * N);
        let first: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
        assert_eq!(first["scores"].as_array().unwrap().len(), k);

        let json: Value =
            serde_json::from_slice(&std::fs::read(&files.report_json).unwrap()).unwrap();
        let back: FrontReport = serde_json::from_value(json["front"].clone()).unwrap();
        assert_eq!(back, report);

        let sets = std::fs::read_to_string(&files.sets_csv).unwrap();
        assert_eq!(sets.lines().count(), 1 + 3 * 3, "three sets over all, and in two clusters");
        assert!(sets.starts_with("run,set,cluster,cluster_label,n_policies,hypervolume,"));
        let differences = std::fs::read_to_string(&files.differences_csv).unwrap();
        assert_eq!(differences.lines().count(), 1 + 2);
        let statistics = read_statistics(&files.statistics, &report.objectives).unwrap();
        assert_eq!(statistics, report.statistics);

        // Three figures, or four with parallel coordinates, in two formats; eight other files.
        let n_figures = if k > 2 { 4 } else { 3 };
        assert_eq!(files.figures.len(), 2 * (n_figures - 1));
        for figure in &files.figures {
            assert!(std::fs::metadata(figure).unwrap().len() > 100, "{}", figure.display());
        }
        let n_files = std::fs::read_dir(temp.path().join("new")).unwrap().count();
        assert_eq!(n_files, 2 * n_figures + 7);
    }
}

#[test]
fn numbers_are_those_of_the_points() {
    let report = report_of(&synthetic(2));
    // Heads (0.7, 0.4) and (0.4, 0.7): two boxes of 0.28 that share 0.16.
    let value = |set| report.quality(set).unwrap().hypervolume.value;
    assert!((value(PolicySet::Sft) - 0.09).abs() < 1e-6);
    assert!((value(PolicySet::Heads) - 0.40).abs() < 1e-6);
    assert!((value(PolicySet::HeadsAndMixtures) - 0.41).abs() < 1e-6);
    let difference = report.difference(PolicySet::Heads).unwrap();
    assert!((difference.value - 0.31).abs() < 1e-6 && difference.probability_positive == 1.0);
    assert!(difference.interval.low < 0.31 && difference.interval.high > 0.31);

    let flags: Vec<bool> = report.points.iter().map(|p| p.non_dominated).collect();
    assert_eq!(flags, [false, true, true, true]);
    assert_eq!(report.points[1].dominates_sft, Some(true));
    assert_eq!(report.points[0].dominates_sft, Some(false));
    // 0.01 · deviation of 0 … 11 (√13) / √12.
    let expected = 0.01 * (13.0_f64 / 12.0).sqrt();
    let found = report.points[0].standard_errors.as_ref().unwrap()[1];
    assert!((found - expected).abs() < 1e-6, "{found} against {expected}");

    let sizes: Vec<usize> = report.cluster_points.iter().map(|p| p.n).collect();
    assert_eq!(sizes, [8, 8, 8, 8, 4, 4, 4, 4]);
    assert!((report.cluster_points[0].means[0] - 0.28).abs() < 1e-6);
    assert_eq!(report.cluster_sets.len(), 6);
    assert!(report.table().contains("helpful") && report.table().contains("± "));
}

#[test]
fn z_scores_and_distances_are_counted_in_the_sft_models_statistics() {
    let mut evaluation = synthetic(2);
    let report = report_of(&evaluation);
    // Scores 0.3 + 0.01 · (i − 5.5): deviation 0.01 · √13.
    let deviation = 0.01 * 13.0_f64.sqrt();
    let s = &report.statistics[1];
    assert!((s.mean - 0.3).abs() < 1e-6 && (s.std - deviation).abs() < 1e-6, "{s:?}");
    assert!(s.source.contains("SFT model") && s.n == Some(N));
    let z = report.points[1].z_scores[0].unwrap();
    assert!((z - 0.4 / deviation).abs() < 1e-3, "{z}");
    // The front: both heads and the mixture (0.5, 0.5). From the SFT model (0.3, 0.3) to the heads
    // √(0.4² + 0.1²), to the mixture √(0.2² + 0.2²); the largest difference is 0.4.
    let warm = report.quality(PolicySet::Sft).unwrap();
    let expected = (2.0 * 0.17_f64.sqrt() + 0.08_f64.sqrt()) / 3.0 / deviation;
    assert!((warm.igd_plus.unwrap().value - expected).abs() < 1e-3);
    let heads = report.quality(PolicySet::Heads).unwrap();
    // Only the mixture is missing: 0.1 in one objective.
    assert!((heads.igd_plus.unwrap().value - 0.1 / deviation / 3.0).abs() < 1e-3);
    assert!((heads.epsilon.unwrap().value - 0.1 / deviation).abs() < 1e-3);
    assert!(heads.igd_plus.unwrap().interval.is_some());
    let all = report.quality(PolicySet::HeadsAndMixtures).unwrap();
    assert_eq!((all.igd_plus.unwrap().value, all.epsilon.unwrap().value), (0.0, 0.0));

    // Given statistics are used instead, in any order, but must be complete.
    let given = |name: &str| ObjectiveStatistics {
        objective: name.into(),
        mean: 0.5,
        std: 0.1,
        n: None,
        source: "published".into(),
    };
    let mut config = FrontConfig::new(vec![0.0; 2]);
    config.statistics = vec![given("harmless"), given("helpful")];
    let z = FrontReport::new(&evaluation, &config).unwrap().points[1].z_scores[0].unwrap();
    assert!((z - 2.0).abs() < 1e-5, "{z}");
    config.statistics.pop();
    let e = FrontReport::new(&evaluation, &config).unwrap_err().to_string();
    assert!(e.contains("`helpful`"), "{e}");

    // Equal scores have no deviation: no z-scores for that objective and no distances, but a page.
    evaluation.policies[0].scores.iter_mut().for_each(|row| row[1] = 0.0);
    let report = report_of(&evaluation);
    assert_eq!(report.points[1].z_scores[1], None);
    assert!(report.points[1].z_scores[0].is_some());
    assert!(report.sets.iter().all(|q| q.igd_plus.is_none() && q.epsilon.is_none()));
    let temp = tempfile::tempdir().unwrap();
    let files = write_report(temp.path(), &report, &evaluation, &ReportExtras::default()).unwrap();
    let html = std::fs::read_to_string(files.index_html).unwrap();
    assert!(html.contains("no z-scores") && !html.contains("NaN"));
}

#[test]
fn sets_without_policies_are_left_out() {
    let mut evaluation = synthetic(2);
    evaluation.policies.retain(|p| p.group == PolicyGroup::Head);
    let report = report_of(&evaluation);
    assert_eq!(report.sets.len(), 1);
    assert!(report.differences.is_empty() && report.points[0].dominates_sft.is_none());
    let written = |report: &FrontReport, evaluation: &Evaluation| {
        let temp = tempfile::tempdir().unwrap();
        let files =
            write_report(temp.path(), report, evaluation, &ReportExtras::default()).unwrap();
        let rows = |path| std::fs::read_to_string(path).unwrap().lines().count() - 1;
        assert_eq!(rows(files.differences_csv), 0);
        // Over all prompts, and in each of two clusters
        assert_eq!(rows(files.sets_csv), 3);
        assert_eq!(rows(files.front_csv), 3 * evaluation.policies.len());
        let page = std::fs::read_to_string(files.index_html).unwrap();
        assert!(!page.contains("NaN"));
        page
    };
    assert_eq!(report.sets[0].of.set, PolicySet::Heads);
    assert!(!written(&report, &evaluation).contains("SFT model"));

    evaluation.policies.truncate(1);
    evaluation.policies[0].group = PolicyGroup::Sft;
    let report = report_of(&evaluation);
    let sets: Vec<_> = report.sets.iter().map(|quality| quality.of.set).collect();
    assert_eq!((sets, report.sets[0].n_policies), (vec![PolicySet::Sft], 1));
    assert!(report.differences.is_empty() && report.points[0].non_dominated);
    written(&report, &evaluation);
}

#[test]
fn one_prompt_has_no_standard_error_and_still_a_page() {
    let mut evaluation = synthetic(2);
    evaluation.prompts.truncate(1);
    evaluation.clusters = Clusters::single(1);
    for policy in &mut evaluation.policies {
        policy.responses.truncate(1);
        policy.scores.truncate(1);
    }
    let report = report_of(&evaluation);
    assert_eq!(report.points[0].standard_errors, None);
    let temp = tempfile::tempdir().unwrap();
    let files = write_report(temp.path(), &report, &evaluation, &ReportExtras::default()).unwrap();
    let csv = std::fs::read_to_string(files.front_csv).unwrap();
    assert!(!csv.contains("NaN"), "{csv}");
    assert!(!std::fs::read_to_string(files.front_svg).unwrap().contains("NaN"));
}

#[test]
fn equal_policies_still_make_a_figure() {
    let mut evaluation = synthetic(3);
    for policy in &mut evaluation.policies {
        policy.scores = vec![vec![0.0, -2.0, 1e-9]; N];
    }
    let report = report_of(&evaluation);
    assert!(report.points.iter().all(|p| p.non_dominated && p.own_hypervolume == 0.0));
    let figure = plot::front_figure(&report, "Equal").unwrap();
    assert!(!figure.svg.contains("NaN") && !figure.svg.contains("inf"), "{}", figure.svg);
    assert!(figure.to_png(1.0).is_ok() && figure.to_png(0.0).is_err());
}

#[test]
fn the_verdict_is_in_plain_words() {
    let mut evaluation = synthetic(2);
    let said = words::verdict(&report_of(&evaluation)).join(" ");
    assert!(said.starts_with("The 2 heads together cover a hypervolume of 0.400"), "{said}");
    assert!(said.contains("more (95\u{a0}% interval") && said.contains("Every head"), "{said}");
    for i in 1..4 {
        evaluation.policies[i].scores = evaluation.policies[0].scores.clone();
    }
    evaluation.policies[3].scores[0][0] = -9.0;
    let said = words::verdict(&report_of(&evaluation)).join(" ");
    assert!(said.contains("not distinguishable") && said.contains("None of the 2"), "{said}");
    assert!(said.contains("so the hypervolume is 0: mix"), "{said}");
}

#[test]
fn wrong_input_names_the_field() {
    let fails = |change: &dyn Fn(&mut Evaluation), part: &str| {
        let mut evaluation = synthetic(2);
        change(&mut evaluation);
        let e = FrontReport::new(&evaluation, &FrontConfig::new(vec![0.0; 2]));
        let e = e.unwrap_err().to_string();
        assert!(e.contains(part), "`{e}` does not name `{part}`");
    };
    fails(&|e| e.prompts.clear(), "prompts");
    fails(&|e| e.policies.clear(), "policies");
    fails(&|e| e.clusters.assignments.truncate(3), "clusters.assignments");
    fails(&|e| e.clusters.assignments[2] = 9, "clusters.assignments[2]");
    fails(&|e| e.clusters.labels.push("x".into()), "clusters.labels[2]");
    fails(&|e| e.policies[1].responses.truncate(3), "responses of helpful");
    fails(&|e| e.policies[1].scores.truncate(3), "scores of helpful");
    fails(&|e| e.policies[1].scores[4].truncate(1), "scores of helpful, prompt 4");
    fails(&|e| e.policies[1].scores[4][1] = f32::NAN, "score `harmless` of helpful, prompt 4");
    fails(&|e| e.policies[1].policy = "mix".into(), "mix");
    fails(&|e| e.objectives = vec!["one".into()], "objectives");

    let evaluation = synthetic(2);
    let fails = |config: FrontConfig, part: &str| {
        let e = FrontReport::new(&evaluation, &config).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    };
    fails(FrontConfig::new(vec![0.0]), "ref_point");
    fails(FrontConfig::new(vec![0.0, f64::NAN]), "ref_point[1]");
    for n_resamples in [0, usize::MAX] {
        fails(FrontConfig { n_resamples, ..FrontConfig::new(vec![0.0; 2]) }, "n_resamples");
    }
    fails(FrontConfig { confidence: 1.0, ..FrontConfig::new(vec![0.0; 2]) }, "confidence");

    let temp = tempfile::tempdir().unwrap();
    let other = report_of(&synthetic(3));
    assert!(write_report(temp.path(), &other, &evaluation, &ReportExtras::default()).is_err());
    let file = temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    let report = report_of(&evaluation);
    let e = write_report(&file, &report, &evaluation, &ReportExtras::default()).unwrap_err();
    assert!(e.to_string().contains("file"), "{e}");
}
