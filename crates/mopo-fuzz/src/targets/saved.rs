//! What the program itself wrote: shards, saved rows, recorded results, runs.

use std::path::Path;

use mopo_hub::{RowJob, ShardIndex, ShardSet, saved_rows_dir};
use mopo_report::{
    Clusters, Evaluation, FrontConfig, FrontReport, PolicyGroup, PolicySamples, RecordedRun,
};
use mopo_train::{RunConfig, RunDir, RunRecord};
use serde_json::{Map, Value, json};

use crate::place::write;
use crate::{Form, Outcome, Place, Runner, Target};

const WORDS: &[&str] = &[
    "format",
    "schema",
    "command",
    "shard",
    "1/2",
    "2/2",
    "0/0",
    "1/18446744073709551615",
    "n_rows",
    "rows",
    "identity",
    "sha256",
    "about",
    "unit",
    "mopo-shard",
    "mopo score",
    "front",
    "points",
    "policy",
    "label",
    "group",
    "means",
    "head",
    "mixture",
    "sft",
    "objectives",
    "config",
    "ref_point",
    "statistics",
    "runs",
    "rewards",
    "record",
    "cluster",
    "prompt",
    "response",
    "scores",
    "cluster_labels",
    "n_prompts",
    "standard_errors",
];

pub(super) fn targets() -> Vec<Target> {
    let target = super::alike(Form::Text, WORDS);
    vec![
        target("shard", "files of shards", || vec![shard_file()], shards, 10.0),
        target("saved-rows", "rows saved while a job runs", saved_seeds, saved, 10.0),
        target(
            "report",
            "report.json of an evaluation",
            || vec![results().0],
            |place| recorded(place, "report.json"),
            5.8,
        ),
        target(
            "samples",
            "samples.jsonl of an evaluation",
            || vec![results().1],
            |place| recorded(place, "samples.jsonl"),
            7.3,
        ),
        target("run", "run.json and config.toml of a run", run_seeds, run, 1.5),
    ]
}

fn job(dir: &Path, shard: usize) -> RowJob {
    let mut identity = Map::new();
    identity.insert("input".into(), Value::from("0123456789abcdef"));
    identity.insert("seed".into(), Value::from(1));
    let out = dir.join(format!("{shard}.jsonl"));
    let shard: ShardIndex = serde_json::from_value(json!(format!("{shard}/2"))).expect("a shard");
    RowJob { command: "mopo score", identity, n_rows: 6, unit: 2, shard: Some(shard), out }
}

/// Writes a shard of two rows in all.
fn write_shard(job: &RowJob) {
    let n = job.rows().len();
    let lines = || (0..n).map(|i| Ok(format!("{{\"row\":{i}}}")));
    job.write_shard(&Value::Null, lines).expect("a folder that can be written");
}

fn shard_file() -> Vec<u8> {
    let place = Place::new().expect("a folder");
    let job = job(place.path(), 1);
    write_shard(&job);
    std::fs::read(&job.out).expect("what was written")
}

/// One of two shards is the input.
fn shards(place: &Place) -> Runner {
    let (one, other) = (job(place.path(), 1), job(place.path(), 2));
    write_shard(&other);
    let paths = [one.out.clone(), other.out.clone()];
    Box::new(move |bytes| {
        write(&one.out, bytes);
        let set = one.merge(&paths).or_else(|_| ShardSet::open(&paths, "mopo score"));
        set.and_then(|set| set.for_each(&mut |_| Ok(()))).into()
    })
}

/// The job of saved rows, and a part of them.
fn saved_seeds() -> Vec<Vec<u8>> {
    let place = Place::new().expect("a folder");
    let job = RowJob { shard: None, ..job(place.path(), 1) };
    let mut rows = job.open().expect("a folder that can be written");
    let filled: mopo_hub::Result<()> =
        rows.fill(&mut |rows| Ok(rows.map(|i| format!("row {i}")).collect()), &mut |_| {});
    filled.expect("a folder that can be written");
    let dir = saved_rows_dir(&job.out);
    ["job.json", "rows-000000000000"]
        .map(|name| std::fs::read(dir.join(name)).expect("what was written"))
        .into()
}

fn saved(place: &Place) -> Runner {
    let seeds = saved_seeds();
    let job = RowJob { shard: None, ..job(place.path(), 1) };
    let dir = saved_rows_dir(&job.out);
    Box::new(move |bytes| {
        let is_job = bytes.first() == Some(&b'{');
        std::fs::create_dir_all(&dir).expect("the folder of a target can be written");
        write(&dir.join("job.json"), if is_job { bytes } else { &seeds[0] });
        write(&dir.join("rows-000000000000"), if is_job { &seeds[1] } else { bytes });
        let Ok(rows) = job.open() else { return Outcome::Refused };
        match rows.lines().collect::<mopo_hub::Result<Vec<_>>>() {
            Ok(lines) if lines.len() != rows.n_done() => {
                Outcome::Wrong("another number of rows".into())
            }
            lines => lines.into(),
        }
    })
}

/// `report.json` and `samples.jsonl` of a small evaluation.
fn results() -> (Vec<u8>, Vec<u8>) {
    let policy = |name: &str, group, scores: [[f32; 2]; 3]| PolicySamples {
        run: None,
        policy: name.into(),
        label: name.into(),
        group,
        responses: vec!["one".into(), "two".into(), "caf\u{e9}".into()],
        scores: scores.map(Vec::from).into(),
    };
    let evaluation = Evaluation {
        objectives: vec!["helpful".into(), "harmless".into()],
        prompts: vec!["Tea?".into(), "Why?".into(), "How?".into()],
        clusters: Clusters { assignments: vec![0, 1, 0], labels: vec!["tea".into(), "why".into()] },
        policies: vec![
            policy("sft", PolicyGroup::Sft, [[0.0, 0.5], [0.25, 0.5], [0.0, 0.0]]),
            policy("head-helpful", PolicyGroup::Head, [[1.0, 0.0], [0.75, 0.25], [1.0, 0.5]]),
            policy("head-harmless", PolicyGroup::Head, [[0.0, 1.0], [0.5, 0.75], [0.5, 1.0]]),
        ],
    };
    let config = FrontConfig { n_resamples: 20, ..FrontConfig::new(vec![-1.0, -1.0]) };
    let front = FrontReport::new(&evaluation, &config).expect("a small evaluation");
    let report = json!({ "front": front, "record": { "configuration": {} } });
    let mut samples = String::new();
    for policy in &evaluation.policies {
        for (i, prompt) in evaluation.prompts.iter().enumerate() {
            let line = json!({
                "policy": policy.policy, "cluster": evaluation.clusters.assignments[i], "prompt": prompt,
                "response": policy.responses[i], "scores": policy.scores[i],
            });
            samples += &format!("{line}\n");
        }
    }
    (report.to_string().into_bytes(), samples.into_bytes())
}

/// Reads an evaluation one of whose files is the input, and computes its front again as `mopo report` does.
fn recorded(place: &Place, name: &'static str) -> Runner {
    let (report, samples) = results();
    place.file("report.json", &report);
    place.file("samples.jsonl", &samples);
    let dir = place.path().to_path_buf();
    Box::new(move |bytes| {
        write(&dir.join(name), bytes);
        RecordedRun::read(&dir, "a run")
            .and_then(|run| FrontReport::new(&run.evaluation, &run.config))
            .into()
    })
}

/// A new run of the demo.
fn new_run(place: &Place) -> std::path::PathBuf {
    let config = RunConfig::preset("demo").expect("a preset");
    let record = RunRecord::new("flex".into(), config.seed, None, false);
    let path = place.path().join("run");
    // Of the same target, before a panic.
    let _ = std::fs::remove_dir_all(&path);
    RunDir::create(&path, &config, &mut record.expect("a record"))
        .expect("a folder that can be written");
    path
}

/// Its record, then its configuration.
fn run_seeds() -> Vec<Vec<u8>> {
    let place = Place::new().expect("a folder");
    let path = new_run(&place);
    ["run.json", "config.toml"]
        .map(|name| std::fs::read(path.join(name)).expect("what was written"))
        .into()
}

fn run(place: &Place) -> Runner {
    let path = new_run(place);
    let seeds = run_seeds();
    Box::new(move |bytes| {
        let is_record = bytes.first() == Some(&b'{');
        write(&path.join("run.json"), if is_record { bytes } else { &seeds[0] });
        write(&path.join("config.toml"), if is_record { &seeds[1] } else { bytes });
        RunDir::open(&path).into()
    })
}
