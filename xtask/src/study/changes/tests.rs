//! Studies that are called again with another plan, by a program that only writes down what it was called with.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use super::*;
use crate::study::places::Places;
use crate::study::plan::Plan;
use crate::study::work::Program;

/// A `mopo` that trains nothing: a run is its arguments.
const FAKE: &str = r#"#!/bin/sh
command=$1; shift
words= out= verify=
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift ;;
        --verify) verify=1 ;;
        *) words="$words $1" ;;
    esac
    shift
done
if [ "$verify" ]; then
    [ "$(cat "$out/run.json")" = "$words" ] && exit 0
    echo "error: other words" >&2
    exit 1
fi
mkdir -p "$out"
case $command in
    train)
        echo "$out" >> "$(dirname "$0")/trained"
        mkdir "$out/data"
        printf '{}\n{"prompt":"a"}\n{"prompt":"b"}\n' > "$out/data/heldout.jsonl"
        echo "$words" > "$out/run.json"
        echo "words = '''$words'''" > "$out/config.toml"
        case $words in *"--method mopo "*)
            printf '[method]\nkind = "mopo"\n[mopo]\n' >> "$out/config.toml" ;;
        esac
        echo '{}' > "$out/result.json" ;;
    pareto)
        echo "$out" >> "$(dirname "$0")/evaluated"
        echo '{}' > "$out/report.json" ;;
    study)
        volume() { echo '{"hypervolume":{"value":'"$1"'}}'; }
        echo '{"report":{"methods":['"$(volume 0),$(volume 1),$(volume 2)"']}}' > "$out/results.json" ;;
esac
"#;

const PLAN: &str = r#"
title = "t"
preset = "demo"
objectives = ["a", "b"]
reference = "Soups"
seeds = [0, 1]
n_tries = 2
weight_steps = 1
validation_prompts = 1
test_prompts = 1
sft = ["sft.steps=3"]
set = ["lora.rank=4"]
[quick]
seeds = [0]
n_tries = 1
weight_steps = 1
validation_prompts = 1
test_prompts = 1
sft = []
set = []
[[methods]]
name = "DPO"
kind = "dpo"
runs = "objective"
set = ["dpo.objective={objective}", "dpo.train_head=false"]
tries = [["dpo.beta=0.1"], ["dpo.beta=0.3"]]
[[methods]]
name = "Soups"
kind = "rewarded_soups"
set = ["rewarded_soups.runs={runs:DPO}"]
"#;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("mopo-study-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let mopo = dir.join("mopo");
        fs::write(&mopo, FAKE).unwrap();
        fs::set_permissions(&mopo, fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    /// Goes through all methods; what was trained and evaluated meanwhile, or the error.
    fn study(&self, plan: &str, redo: bool) -> Result<[Vec<String>; 2]> {
        self.study_by(1, plan, redo)
    }

    /// The same by so many jobs.
    fn study_by(&self, jobs: usize, plan: &str, redo: bool) -> Result<[Vec<String>; 2]> {
        let lists = ["trained", "evaluated"].map(|name| self.0.join(name));
        lists.iter().for_each(|path| drop(fs::remove_file(path)));
        let study = Study {
            plan: Plan::parse(plan, "test").unwrap(),
            program: Program { mopo: self.0.join("mopo"), threads: None },
            out: self.0.join("out"),
            data: None,
            model: None,
            device: "flex".into(),
            jobs,
            cores: 1,
            places: Places::new(jobs),
            first: Mutex::new(None),
            redo,
        };
        study.methods(&study.plan.methods.iter().collect::<Vec<_>>())?;
        Ok(lists.map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().map(|line| study.shown(Path::new(line))).collect()
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_there_is_neither_made_again_nor_mixed_with_other_settings() {
    let place = Place::new("changes");
    let [trained, evaluated] = place.study(PLAN, false).unwrap();
    // Two SFT models, two tries of two objectives with the first seed, one with the second, and a soup of each.
    assert_eq!((trained.len(), evaluated.len()), (2 + 4 + 2 + 2, 4 + 2 + 2 + 2), "{trained:?}");
    assert!(trained.contains(&"seed-1/dpo/try-2-b".to_string()), "the better one: {trained:?}");
    assert_eq!(place.study(PLAN, false).unwrap(), [vec![], vec![]].map(|none: Vec<String>| none));

    for (from, to, named, n_trained) in [
        // Of all runs of a method, and so of the soups.
        ("dpo.train_head=false", "dpo.train_head=true", "seed-0/dpo/try-1-a", 4 + 2 + 2),
        // Of one try.
        ("dpo.beta=0.1", "dpo.beta=0.2", "seed-0/dpo/tries.json", 2),
        ("dpo.beta=0.3", "dpo.beta=0.5", "seed-0/dpo/tries.json", 2 + 2 + 2),
        ("sft.steps=3", "sft.steps=5", "seed-0/base", 10),
        ("lora.rank=4", "lora.rank=8", "seed-0/base", 10),
    ] {
        let changed = PLAN.replace(from, to);
        let error = format!("{:#}", place.study(&changed, false).unwrap_err());
        assert!(error.contains(named) && error.contains("--redo"), "{to}: {error}");
        let [trained, _] = place.study(&changed, true).unwrap();
        assert_eq!(trained.len(), n_trained, "{to}: {trained:?}");
        assert_eq!(place.study(&changed, false).unwrap()[0].len(), 0, "{to}");
        // And back.
        place.study(PLAN, true).unwrap();
    }
}

#[test]
fn evaluations_are_made_again_alone_and_older_ones_are_taken_as_they_are() {
    let place = Place::new("evaluations");
    place.study(PLAN, false).unwrap();
    let finer = PLAN.replacen("weight_steps = 1", "weight_steps = 2", 1);
    let error = format!("{:#}", place.study(&finer, false).unwrap_err());
    assert!(error.contains("try-2-a.test") && error.contains("--redo"), "{error}");
    let [trained, evaluated] = place.study(&finer, true).unwrap();
    // The choice is not made again: only the test of what was chosen.
    assert_eq!((trained.len(), evaluated.len()), (0, 6), "{evaluated:?}");
    for seed in [0, 1] {
        let method = place.0.join(format!("out/seed-{seed}/dpo"));
        for entry in fs::read_dir(method).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().ends_with(".asked.json") {
                fs::remove_file(path).unwrap();
            }
        }
    }
    assert_eq!(place.study(&finer, false).unwrap()[1].len(), 0);
    assert!(place.study(PLAN, false).is_err(), "they are recorded now");
}

#[test]
fn a_run_that_was_only_begun_is_compared_too() {
    let place = Place::new("begun");
    place.study(PLAN, false).unwrap();
    let run = place.0.join("out/seed-1/soups/try-1-all");
    for name in ["result.json", "config.toml"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    remove(&beside(&run, "test")).unwrap();
    let changed = PLAN.replace("runs={runs:DPO}\"]", "runs={runs:DPO}\", \"seed=3\"]");
    let error = format!("{:#}", place.study(&changed, false).unwrap_err());
    assert!(error.contains("soups"), "{error}");
}

#[test]
fn corners_that_a_method_shares_are_trained_once() {
    let weighted = "[[methods]]\nname = \"Weighted\"\nkind = \"dpo\"\nruns = \"weights\"\ncorners_of = \"DPO\"\n\
                    set = [\"x={weights}\"]\ntries = [[\"y=1\"], [\"y=2\"]]\n";
    let plan = format!("{PLAN}{weighted}").replacen("weight_steps = 1", "weight_steps = 2", 1);
    let place = Place::new("corners");
    let [trained, evaluated] = place.study(&plan, false).unwrap();
    let of = |list: &[String], name: &str| list.iter().filter(|run| run.contains(name)).count();
    // Only the middle: two tries with the first seed, the better one with the second.
    assert_eq!((of(&trained, "/weighted/"), of(&trained, "/dpo/")), (3, 6), "{trained:?}");
    assert_eq!(
        (of(&evaluated, "/weighted/"), of(&evaluated, "/dpo/")),
        (2 + 2, 8),
        "{evaluated:?}"
    );
    assert_eq!(place.study(&plan, false).unwrap()[0].len(), 0);

    // The choices of both rest on DPO's tries.
    let choice = place.0.join("out/seed-0/weighted/tries.json");
    let before = fs::metadata(&choice).unwrap().modified().unwrap();
    let changed = plan.replace("dpo.train_head=false", "dpo.train_head=true");
    assert!(place.study(&changed, false).is_err());
    let [trained, _] = place.study(&changed, true).unwrap();
    assert_eq!(of(&trained, "/weighted/"), 0, "{trained:?}");
    assert!(fs::metadata(&choice).unwrap().modified().unwrap() > before);
}

#[test]
fn several_jobs_make_what_one_does_and_the_error_is_of_what_failed() {
    let others = "[[methods]]\nname = \"IPO\"\nkind = \"ipo\"\ntries = [[\"i=1\"], [\"i=2\"]]\n\
                  [[methods]]\nname = \"HaM\"\nkind = \"ham\"\ntries = [[\"h=1\"], [\"h=2\"]]\n";
    let plan = format!("{PLAN}{others}");
    let sorted = |mut lists: [Vec<String>; 2]| {
        lists.iter_mut().for_each(|list| list.sort());
        lists
    };
    let (one, three) = (Place::new("one-job"), Place::new("three-jobs"));
    let made = sorted(one.study_by(1, &plan, false).unwrap());
    assert_eq!(sorted(three.study_by(3, &plan, false).unwrap()), made);

    let place = Place::new("failing-job");
    let mopo = place.0.join("mopo");
    let failing = FAKE.replacen(
        "command=$1; shift",
        "command=$1; shift\ncase \"$*\" in *h=2*) exit 4 ;; esac",
        1,
    );
    fs::write(&mopo, failing).unwrap();
    let error = format!("{:#}", place.study_by(3, &plan, false).unwrap_err());
    assert!(error.contains("exit status: 4") && error.contains("h=2"), "{error}");
    // It goes on where it was.
    fs::write(&mopo, FAKE).unwrap();
    let [trained, _] = place.study_by(3, &plan, false).unwrap();
    assert!(trained.contains(&"seed-0/ham/try-2-all".to_owned()), "{trained:?}");
    assert!(!trained.contains(&"seed-0/base".to_owned()), "{trained:?}");
}

#[test]
fn other_parameters_without_a_reason_end_a_study_at_the_first_such_run() {
    let place = Place::new("parameters");
    let heads = format!("{PLAN}[[methods]]\nname = \"MOPO\"\nkind = \"mopo\"\ntries = [[], []]\n");
    let error = place.study(&heads, false).unwrap_err().to_string();
    let named = ["seed-0/mopo/try-1-all output layers", "other_parameters"];
    assert!(named.iter().all(|words| error.contains(words)), "{error}");
    let said = heads + "other_parameters = \"its policies differ in them\"\n";
    let [trained, _] = place.study(&said, false).unwrap();
    // The run that was refused is as good as it was.
    assert_eq!(trained, ["seed-0/mopo/try-2-all", "seed-1/mopo/try-2-all"]);
}
