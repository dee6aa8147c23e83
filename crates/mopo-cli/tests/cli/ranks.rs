//! Training by several processes. With the feature `mpi`: ranks of a real MPI job end at the bits of one process, a rank
//! that dies ends the job, and another number of ranks goes on.

use crate::common::{fail, mopo, tiny};

#[test]
fn a_reward_model_is_not_trained_by_several() {
    let mut command = mopo(&["reward", "train", "helpful", "--out", "never"]);
    let said = fail(command.env("OMPI_COMM_WORLD_SIZE", "2"));
    assert!(said.contains("mopo reward train") && said.contains("without the launcher"), "{said}");
}

#[test]
#[cfg(not(feature = "mpi"))]
fn a_program_without_mpi_does_not_start_as_several() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = tiny(&dir.path().join("run"));
    let said = fail(command.env("OMPI_COMM_WORLD_SIZE", "2"));
    assert!(said.contains("--features mpi"), "{said}");
    assert!(!dir.path().join("run").exists());
}

#[cfg(feature = "mpi")]
mod mpi {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::{fail, mopo, tiny};
    use crate::common::{stderr, succeed};
    use crate::kill_and_resume::{assert_same_run, metrics};

    /// Whether there is a launcher here; if not, the test says so.
    macro_rules! needs_mpirun {
        () => {
            if Command::new("mpirun").arg("--version").output().is_err() {
                mopo_testkit::skip!("no program mpirun");
            }
        };
    }

    /// `command` as `n` ranks on this machine.
    fn ranks(n: usize, command: &Command) -> Command {
        let mut mpirun = Command::new("mpirun");
        mpirun.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
        mpirun.args([
            "--mca",
            "mpi_yield_when_idle",
            "1",
            "--mca",
            "btl_base_warn_component_unused",
            "0",
        ]);
        mpirun.args(["-n", &n.to_string()]).arg(command.get_program()).args(command.get_args());
        mpirun
    }

    /// Four micro-batches of a pair each, with dropout.
    const STEPS: [&str; 6] = [
        "training.steps=4",
        "training.batch_size=1",
        "training.gradient_accumulation_steps=4",
        "sft.steps=3",
        "sft.batch_size=2",
        "sft.gradient_accumulation_steps=2",
    ];

    fn small(out: &Path, more: &[&str]) -> Command {
        let mut command = tiny(out);
        for set in STEPS.iter().chain(more) {
            command.args(["--set", set]);
        }
        command
    }

    #[test]
    fn any_number_of_ranks_trains_to_the_bits_of_one_process() {
        needs_mpirun!();
        let dir = tempfile::tempdir().unwrap();
        let evaluated =
            ["training.eval_steps=2", "training.eval_prompts=3", "mopo.reference_lag=2"];
        let alone = dir.path().join("alone");
        succeed(&mut small(&alone, &evaluated));
        for n in [1, 2, 3, 4] {
            let together = dir.path().join(n.to_string());
            succeed(&mut ranks(n, &small(&together, &evaluated)));
            assert_same_run(&alone, &together);
            for file in ["result.json", "eval_samples.jsonl"] {
                let text = |run: &Path| {
                    let text = fs::read_to_string(run.join(file)).unwrap();
                    text.lines().filter(|line| !line.contains("\"seconds\"")).collect::<String>()
                };
                assert_eq!(text(&alone), text(&together), "{file}, {n} ranks");
            }
        }
    }

    #[test]
    fn every_kind_of_method_has_the_same_bits() {
        needs_mpirun!();
        let dir = tempfile::tempdir().unwrap();
        let weights = "{ helpful = 0.5, harmless = 0.3, humor = 0.2 }";
        let weighted = |kind: &str| format!("{kind}.preference_weights={weights}");
        let online = "ric.online={ rounds = 1, share = 0.5, prompts = 3, answers = 1, temperature = 1.0, max_new_tokens = 6 }";
        // Of the demo's own rewards some score all answers of an untrained model alike.
        let length = |name: &str, target: usize| {
            format!(
                "{{ name = \"{name}\", ref_point = -100.0, reward = {{ kind = \"length\", unit = \"characters\", target = {target} \
                 }} }}"
            )
        };
        let rewards = format!(
            "evaluation.rewards=[{}, {}, {}]",
            length("helpful", 5),
            length("harmless", 20),
            length("humor", 40)
        );
        let cases: [(&str, Vec<String>); 9] = [
            (
                "mopo",
                ["mopo.extraction=pairwise", "adapters=per_policy", "mopo.reference_lag=2"]
                    .map(String::from)
                    .into(),
            ),
            ("dpo", vec!["dpo.objective=helpful".into()]),
            ("kto", vec!["kto.objective=helpful".into()]),
            ("ham", vec![]),
            ("raco", vec![weighted("raco")]),
            (
                "sacpo",
                vec![
                    "sacpo.order=[\"helpful\", \"humor\"]".into(),
                    "sacpo.betas=[0.1, 0.2]".into(),
                ],
            ),
            ("ric", vec![online.into()]),
            (
                "ppo",
                vec![
                    "ppo.objective=helpful".into(),
                    "ppo.max_new_tokens=6".into(),
                    "ppo.epochs=2".into(),
                    rewards.clone(),
                ],
            ),
            (
                "grpo",
                vec![
                    weighted("grpo"),
                    "grpo.max_new_tokens=6".into(),
                    "grpo.group_size=2".into(),
                    rewards,
                ],
            ),
        ];
        for (i, (method, set)) in cases.iter().enumerate() {
            let run = |name: &str| {
                let out = dir.path().join(format!("{i}-{name}"));
                let set: Vec<&str> = set.iter().map(String::as_str).collect();
                let mut command = mopo(&["train", "demo", "--method", method, "--out"]);
                command.arg(&out);
                let tiny = crate::common::TINY.iter().filter(|set| !set.starts_with("mopo."));
                for set in tiny.chain(&STEPS).chain(&set) {
                    command.args(["--set", set]);
                }
                (out, command)
            };
            let ((alone, mut one), (together, two)) = (run("alone"), run("together"));
            succeed(&mut one);
            // Also fewer micro-batches than ranks in the last round.
            succeed(&mut ranks(2 + i % 2, &two));
            let (one, both) = (files(&alone.join("policy")), files(&together.join("policy")));
            assert!(one == both && one.len() > 2, "{method}: the policies differ");
            assert_eq!(metrics(&alone), metrics(&together), "{method}");
        }
    }

    /// All files below a folder, by their paths there.
    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), PathBuf::from(entry.file_name()));
            match path.is_dir() {
                true => {
                    found.extend(files(&path).into_iter().map(|(below, b)| (name.join(below), b)))
                }
                false => drop(found.insert(name, fs::read(&path).unwrap())),
            }
        }
        found
    }

    /// The ranks that train this run.
    fn processes(run: &Path) -> Vec<u32> {
        let run = run.to_str().unwrap();
        let name =
            |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let all = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let mut found: Vec<u32> = all
            .filter(|pid| {
                name(*pid).contains(run) && name(*pid).starts_with(env!("CARGO_BIN_EXE_mopo"))
            })
            .collect();
        found.sort_unstable();
        found
    }

    fn signal(name: &str, pid: u32) {
        assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
    }

    #[test]
    fn a_rank_that_dies_or_stops_ends_the_job_and_another_number_goes_on() {
        needs_mpirun!();
        let dir = tempfile::tempdir().unwrap();
        let (alone, cut) = (dir.path().join("alone"), dir.path().join("cut"));
        let more = [
            "training.steps=300",
            "checkpoints.save_steps=2",
            "training.gradient_accumulation_steps=3",
        ];
        succeed(&mut small(&alone, &more));
        let resume = |extra: &[&str]| {
            let mut command = mopo(&["train", "--resume"]);
            command.arg(&cut).args(extra);
            command
        };
        for (n, sig, first) in [(3, "-KILL", true), (2, "-KILL", false), (2, "-STOP", false)] {
            let command = match first {
                true => small(&cut, &more),
                false => resume(&["--rank-timeout", "3"]),
            };
            let newest = || {
                fs::read_dir(cut.join("checkpoints")).map_or(0, |all| {
                    all.filter_map(|e| {
                        e.unwrap().file_name().to_str()?.rsplit_once("mopo-step-")?.1.parse().ok()
                    })
                    .max()
                    .unwrap_or(0)
                })
            };
            let before: usize = newest();
            let mut job =
                ranks(n, &command).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let patience = Instant::now();
            while newest() <= before + 2 {
                assert!(patience.elapsed() < Duration::from_secs(120), "no new checkpoint");
                std::thread::sleep(Duration::from_millis(5));
            }
            let pids = processes(&cut);
            assert_eq!(pids.len(), n, "{pids:?}");
            // The last one started is not rank 0 with this launcher, or it is: both must do.
            signal(sig, pids[n - 1]);
            let died = Instant::now();
            while job.try_wait().unwrap().is_none() {
                assert!(died.elapsed() < Duration::from_secs(20), "the job goes on without a rank");
                std::thread::sleep(Duration::from_millis(20));
            }
            let output = job.wait_with_output().unwrap();
            assert!(!output.status.success());
            if sig == "-STOP" {
                assert!(stderr(&output).contains("has waited 3 s"), "{}", stderr(&output));
            }
            assert!(processes(&cut).is_empty(), "a rank lives on");
        }
        // By itself, then as four.
        crate::kill_and_resume::kill_once_there(
            &mut resume(&[]),
            &cut.join("checkpoints/mopo-step-000200"),
        );
        succeed(&mut ranks(4, &resume(&[])));
        assert_same_run(&alone, &cut);
    }

    #[test]
    fn an_error_of_one_rank_ends_all_and_is_said_once() {
        needs_mpirun!();
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let said = fail(&mut ranks(3, &small(&run, &["mopo.tau=-1"])));
        assert_eq!(said.matches("mopo.tau").count(), 1, "{said}");
        // Ranks with other arguments than rank 0.
        let (one, other) = (small(&run, &[]), small(&run, &["seed=7"]));
        let mut both = ranks(1, &one);
        both.args([":", "-n", "1"]).arg(other.get_program()).args(other.get_args());
        let said = fail(&mut both);
        assert!(said.contains("another configuration than rank 0"), "{said}");
    }

    #[test]
    fn a_full_disk_ends_the_job_and_the_run_goes_on_afterwards() {
        needs_mpirun!();
        let dir = tempfile::tempdir().unwrap();
        let (alone, cut) = (dir.path().join("alone"), dir.path().join("cut"));
        succeed(&mut small(&alone, &[]));
        let data = ["data/train.jsonl", "data/heldout.jsonl", "tokenizer.json"];
        let largest = data
            .map(|file| fs::metadata(alone.join(file)).unwrap().len())
            .into_iter()
            .max()
            .unwrap();
        // The limit is each rank's own, and without what MPI shares in memory, whose files it would cut, too.
        let inner = small(&cut, &[]);
        let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", largest / 512 + 8);
        let mut shell = Command::new("sh");
        shell.args(["-c", &limited]).arg(inner.get_program()).args(inner.get_args());
        let mut job = ranks(2, &shell);
        job.env("PMIX_MCA_gds", "hash").env("OMPI_MCA_btl", "tcp,self");
        let output = job.output().unwrap();
        assert!(!output.status.success());
        assert!(stderr(&output).contains("--resume"), "{}", stderr(&output));
        let mut resume = mopo(&["train", "--resume"]);
        succeed(&mut ranks(2, resume.arg(&cut)));
        assert_same_run(&alone, &cut);
    }
}
