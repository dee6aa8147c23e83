//! Rows that are computed in shards, killed, resumed and merged.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::*;
use crate::{Error, Result};

const COMMAND: &str = "mopo test";

fn identity(seed: u64) -> Map<String, Value> {
    let Value::Object(map) = json!({ "input": "abc", "seed": seed }) else { unreachable!() };
    map
}

fn job(out: &Path, n_rows: usize, shard: Option<&str>) -> RowJob {
    let shard = shard.map(|shard| shard.parse().unwrap());
    let identity = identity(1);
    RowJob { command: COMMAND, identity, n_rows, unit: 4, shard, out: out.into() }
}

/// A row that shows its unit, so that other units make other rows.
fn line(row: usize) -> String {
    format!("{{\"row\":{row},\"unit\":{}}}", row / 4)
}

fn compute(rows: Range<usize>) -> Result<Vec<String>> {
    assert!(rows.start.is_multiple_of(4));
    Ok(rows.map(line).collect())
}

fn write(job: &RowJob) {
    let mut saved = job.open().unwrap();
    saved.fill(&mut compute, &mut |_| ()).unwrap();
    job.write_shard(&json!({ "note": job.shard }), || saved.lines()).unwrap();
    job.remove_saved().unwrap();
}

fn merged(job: &RowJob, paths: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    job.merge(paths)?.for_each(&mut |line| {
        text += &format!("{line}\n");
        Ok::<_, Error>(())
    })?;
    Ok(text)
}

#[test]
fn merged_rows_are_the_same_however_they_are_divided() {
    let dir = tempfile::tempdir().unwrap();
    for n_rows in [1, 4, 30] {
        let expected: String = (0..n_rows).map(|row| line(row) + "\n").collect();
        for of in [1, 2, 3, 7, 40] {
            let path = |i: usize| dir.path().join(format!("{n_rows}-{i}-of-{of}"));
            let mut paths = vec![];
            for i in (1..=of).rev() {
                write(&job(&path(i), n_rows, Some(&format!("{i}/{of}"))));
                paths.push(path(i));
            }
            let whole = job(&dir.path().join("out"), n_rows, None);
            assert_eq!(merged(&whole, &paths).unwrap(), expected, "{n_rows} rows, {of} shards");
            let notes: Vec<_> = whole.merge(&paths).unwrap().about().cloned().collect();
            assert_eq!(notes[0], json!({ "note": format!("1/{of}") }));
        }
    }
}

#[test]
fn a_row_that_cannot_be_read_is_laid_to_the_file_that_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1");
    write(&job(&path, 8, Some("1/1")));
    let set = |path: &PathBuf| {
        let whole = job(&dir.path().join("out"), 8, None);
        whole.merge(std::slice::from_ref(path)).unwrap()
    };
    let refuse = |line: &str| {
        serde_json::from_str::<Value>(line)
            .map(drop)
            .map_err(|e| Error::RowShards { path: "a row".into(), message: e.to_string() })
    };
    set(&path).for_each(&mut |line| refuse(line)).unwrap();
    let e = set(&path).for_each(&mut |_| refuse("{")).unwrap_err().to_string();
    assert!(e.contains("a row"), "{e}");
    let whole = std::fs::read_to_string(&path).unwrap();
    let changed = dir.path().join("changed");
    std::fs::write(&changed, whole.replace("\"row\":3", "\"row\" 3")).unwrap();
    let e = set(&changed).for_each(&mut |line| refuse(line)).unwrap_err().to_string();
    assert!(e.contains("changed: shard 1/1 was cut off or changed"), "{e}");
}

#[test]
fn parts_are_whole_units_and_cover_all_rows() {
    for n_rows in [0, 1, 7, 8, 9, 64, 1001] {
        for of in [1, 2, 3, 7] {
            let mut next = 0;
            for i in 1..=of {
                let rows = format!("{i}/{of}").parse::<ShardIndex>().unwrap().rows(n_rows, 8);
                assert_eq!(rows.start, next);
                assert!(rows.start % 8 == 0 || rows.is_empty());
                next = rows.end;
            }
            assert_eq!(next, n_rows);
        }
    }
    let many: ShardIndex = format!("{0}/{0}", usize::MAX).parse().unwrap();
    assert_eq!(many.rows(100, 8), 96..100);
    for wrong in ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2"] {
        assert!(wrong.parse::<ShardIndex>().unwrap_err().contains("1/4"), "{wrong}");
        assert!(wrong.parse::<ShardChoice>().unwrap_err().contains("auto/8"), "{wrong}");
    }
    assert_eq!("auto".parse(), Ok(ShardChoice::Auto { of: None }));
    assert_eq!("auto/3".parse(), Ok(ShardChoice::Auto { of: Some(3) }));
    for wrong in ["auto/0", "auto/x", "auto/"] {
        assert!(wrong.parse::<ShardChoice>().unwrap_err().contains("auto/8"), "{wrong}");
    }
    let third: ShardIndex = "3/8".parse().unwrap();
    assert_eq!(third.place(Path::new("a/x-{shard}.jsonl")), Path::new("a/x-3-of-8.jsonl"));
    assert_eq!(third.place(Path::new("a/x.jsonl")), Path::new("a/x.jsonl"));
}

#[test]
fn what_was_saved_is_not_computed_again_and_damage_is() {
    let dir = tempfile::tempdir().unwrap();
    let job = job(&dir.path().join("out"), 30, Some("2/2"));
    assert_eq!(job.rows(), 16..30);
    let mut saved = job.open().unwrap();
    let mut calls = 0;
    let stopped = saved.fill(
        &mut |rows| {
            calls += 1;
            if calls == 3 {
                Err(Error::Scheduler { message: "killed".into() })
            } else {
                compute(rows)
            }
        },
        &mut |_| (),
    );
    assert!(stopped.is_err());
    let done = saved.n_done();
    assert!((8..14).contains(&done), "{done}");

    let mut saved = job.open().unwrap();
    assert_eq!(saved.n_done(), done);
    // A part that was cut off, and one of other rows under the name of these.
    let parts = |dir: &Path| {
        let mut parts: Vec<PathBuf> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|path| path.display().to_string().contains("rows-"))
            .collect();
        parts.sort();
        parts
    };
    let all = parts(&job.progress_dir());
    let text = std::fs::read_to_string(&all[0]).unwrap();
    std::fs::write(&all[0], &text[..text.len() - 2]).unwrap();
    let mut computed = vec![];
    saved = job.open().unwrap();
    assert!(saved.n_done() < done);
    saved
        .fill(
            &mut |rows| {
                computed.push(rows.clone());
                compute(rows)
            },
            &mut |_| (),
        )
        .unwrap();
    assert_eq!(computed[0].start, 16);
    assert_eq!(saved.n_done(), 14);
    job.write_shard(&Value::Null, || saved.lines()).unwrap();
    assert!(job.shard_is_done().unwrap());
    assert!(!job.progress_dir().exists());
}

#[test]
fn a_folder_of_another_job_is_refused_with_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let first = job(&dir.path().join("out"), 30, Some("1/2"));
    first.open().unwrap();
    for (other, words) in [
        (RowJob { identity: identity(2), ..first.clone() }, "another `seed` (1, not 2)"),
        (RowJob { shard: Some("2/2".parse().unwrap()), ..first.clone() }, "another shard"),
        (RowJob { n_rows: 31, ..first.clone() }, "not this one"),
    ] {
        let error = other.open().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("out.progress"), "{error}");
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for i in 1..=3 {
        write(&job(&path(&i.to_string()), 30, Some(&format!("{i}/3"))));
    }
    write(&job(&path("half"), 30, Some("2/2")));
    write(&job(&path("longer"), 31, Some("2/3")));
    write(&RowJob { identity: identity(2), ..job(&path("seed"), 30, Some("2/3")) });
    write(&RowJob { command: "mopo other", ..job(&path("other"), 30, Some("2/3")) });
    job(&path("begun"), 30, Some("2/3")).open().unwrap();
    std::fs::write(path("text"), "a\n").unwrap();
    std::fs::write(path("binary"), [0xff, 0xfe, 0]).unwrap();
    let whole = std::fs::read_to_string(path("2")).unwrap();
    std::fs::write(path("cut"), &whole[..whole.len() - 3]).unwrap();
    std::fs::write(path("changed"), whole.replace("\"row\":13", "\"row\":14")).unwrap();
    let about = "\"about\":{\"note\":\"2/3\"}";
    assert!(whole.contains(about));
    std::fs::write(path("noted"), whole.replace(about, &about.replace("note", "nose"))).unwrap();
    let out = job(&path("out"), 30, None);
    for (names, words) in [
        (&["1", "3"][..], "missing: 2/3"),
        (&["1", "2", "2", "3"], "2: duplicate shard 2/3"),
        (&["1", "half", "3"], "half: shard 2/2 has another number of shards"),
        (&["1", "longer", "3"], "longer: shard 2/3 was made with another number of rows"),
        (&["1", "seed", "3"], "seed: shard 2/3 was made with another `seed` (2, not 1)"),
        (
            &["1", "other", "3"],
            "other: this is not a shard; give the files that `mopo test --shard`",
        ),
        (&["1", "begun", "3"], "begun: this shard is not finished"),
        (&["1", "text", "3"], "text: this is not a shard"),
        (&["1", "binary", "3"], "binary: this is not a shard"),
        (&["1", "absent", "3"], "absent"),
        (&["1", "cut", "3"], "cut: shard 2/3 was cut off or changed"),
        (&["1", "changed", "3"], "changed: shard 2/3 was cut off or changed"),
        (&["1", "noted", "3"], "noted: shard 2/3 was cut off or changed"),
        (&[], "give the file of every shard"),
    ] {
        let paths: Vec<PathBuf> = names.iter().map(|name| path(name)).collect();
        let error = merged(&out, &paths).unwrap_err().to_string();
        assert!(error.contains(words), "{names:?}: {error}");
    }
    // All of one job, but not of this command.
    let paths: Vec<PathBuf> = ["1", "2", "3"].map(path).to_vec();
    let other = RowJob { identity: identity(5), ..out };
    let error = merged(&other, &paths).unwrap_err().to_string();
    assert!(error.contains("another `seed` (1, not 5) than this command"), "{error}");
    // A shard where something else is.
    let taken = RowJob { out: path("text"), shard: Some("1/3".parse().unwrap()), ..other };
    assert!(taken.shard_is_done().unwrap_err().to_string().contains("--force"));
}
