//! Downloads from a server on the loopback device: what is downloaded, kept and retried, and the
//! errors.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use mopo_hub::{Hub, ModelName, Progress, Silent, Snapshot, TensorFiles, Unit};
use mopo_testkit::LoopbackHub;
use tempfile::TempDir;

const REPO: &str = "org/small-model";

/// A server, a home for its cache, and the weights that it serves.
struct Setup {
    server: LoopbackHub,
    home: TempDir,
    weights: Vec<u8>,
}

impl Setup {
    fn new() -> Self {
        let setup = Self {
            server: LoopbackHub::start(),
            home: tempfile::tempdir().unwrap(),
            weights: safetensors(1.5),
        };
        setup.publish("main", &setup.weights);
        setup
    }

    fn publish(&self, branch: &str, weights: &[u8]) -> String {
        self.server.publish(
            REPO,
            branch,
            &[
                ("README.md", b"not fetched"),
                ("config.json", b"{\"model_type\": \"phi\"}"),
                ("model.safetensors", weights),
                ("pytorch_model.bin", b"not fetched"),
                ("tokenizer.json", b"{}"),
            ],
        )
    }

    fn hub(&self, variables: &[(&str, &str)]) -> Hub {
        let home = self.home.path();
        Hub::from_variables(|name| match name {
            "HF_HOME" => Some(home.into()),
            "HF_ENDPOINT" => Some(self.server.endpoint().into()),
            _ => variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)),
        })
        .unwrap()
    }

    fn fetch(&self, name: &str) -> mopo_hub::Result<Snapshot> {
        self.hub(&[]).fetch(&name.parse().unwrap(), &mut Silent)
    }

    fn message(&self, name: &str) -> String {
        self.fetch(name).unwrap_err().to_string()
    }

    fn repo_dir(&self) -> PathBuf {
        self.home.path().join("hub/models--org--small-model")
    }

    /// The files in the directories of commits, without partial files and locks.
    fn visible(&self) -> Vec<String> {
        let mut names = vec![];
        for commit in fs::read_dir(self.repo_dir().join("snapshots")).into_iter().flatten() {
            for file in fs::read_dir(commit.unwrap().path()).unwrap() {
                names.push(file.unwrap().file_name().into_string().unwrap());
            }
        }
        names.sort();
        names
    }

    fn paths(&self) -> Vec<String> {
        self.server.take_requests().into_iter().map(|request| request.path).collect()
    }
}

/// One tensor `a` `[8192]` of equal values.
fn safetensors(value: f32) -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[8192],"data_offsets":[0,32768]}}"#;
    let mut header = header.as_bytes().to_vec();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend((0..8192).flat_map(|i| (value + i as f32).to_le_bytes()));
    file
}

fn first_value(dir: &Path) -> f32 {
    let data = TensorFiles::open(dir).unwrap().take("a", &[8192]).unwrap();
    data.to_vec::<f32>().unwrap()[0]
}

#[derive(Default)]
struct Watch {
    lines: Vec<String>,
    n_bytes: u64,
}

impl Progress for Watch {
    fn begin(&mut self, file: &str, done: u64, n_bytes: u64, unit: Unit) {
        assert_eq!((done, unit), (0, Unit::Bytes));
        self.lines.push(format!("{file} {n_bytes}"));
    }

    fn advance(&mut self, n_bytes: u64, _: &str) {
        self.n_bytes += n_bytes;
    }

    fn end(&mut self, _: &str) {
        self.lines.push("end".into());
    }

    fn note(&mut self, text: &str) {
        self.lines.push(text.into());
    }
}

#[test]
fn a_model_is_downloaded_once_with_notes() {
    let setup = Setup::new();
    let commit = setup.publish("main", &setup.weights);
    let mut watch = Watch::default();
    let name: ModelName = REPO.parse().unwrap();
    let snapshot = setup.hub(&[]).fetch(&name, &mut watch).unwrap();
    assert_eq!(snapshot.name.to_string(), format!("{REPO}@{commit}"));
    assert_eq!(snapshot.dir, setup.repo_dir().join("snapshots").join(&commit));
    assert_eq!(first_value(&snapshot.dir), 1.5);
    assert_eq!(setup.visible(), ["config.json", "model.safetensors", "tokenizer.json"]);
    let size = setup.weights.len();
    assert!(watch.lines.contains(&format!("model.safetensors {size}")), "{:?}", watch.lines);
    assert_eq!(watch.lines.iter().filter(|line| *line == "end").count(), 3);
    assert_eq!(watch.n_bytes as usize, size + 21 + 2);
    // The layout of Hugging Face's own client.
    let branch = fs::read_to_string(setup.repo_dir().join("refs/main")).unwrap();
    assert_eq!(branch, commit);

    setup.paths();
    assert_eq!(setup.fetch(REPO).unwrap(), snapshot);
    assert_eq!(setup.paths(), [format!("/api/models/{REPO}/revision/main")]);
    assert_eq!(setup.fetch(&snapshot.name.to_string()).unwrap(), snapshot);
    assert_eq!(setup.paths(), [""; 0], "a pinned model that is there needs no network");
}

#[test]
fn a_branch_moves_and_a_commit_does_not() {
    let setup = Setup::new();
    let old = setup.fetch(REPO).unwrap();
    setup.publish("main", &safetensors(9.0));
    setup.publish("refs/pr/1", &safetensors(4.0));
    assert_eq!(first_value(&setup.fetch(REPO).unwrap().dir), 9.0);
    assert_eq!(first_value(&setup.fetch(&format!("{REPO}@refs/pr/1")).unwrap().dir), 4.0);
    assert_eq!(setup.fetch(&old.name.to_string()).unwrap(), old);
    assert_eq!(first_value(&old.dir), 1.5);
}

#[test]
fn lost_connections_are_taken_up_where_they_broke() {
    let setup = Setup::new();
    setup.server.cut_after(Some(12_000));
    let snapshot = setup.fetch(REPO).unwrap();
    assert_eq!(fs::read(snapshot.dir.join("model.safetensors")).unwrap(), setup.weights);
    let ranges: Vec<String> =
        setup.server.take_requests().into_iter().filter_map(|request| request.range).collect();
    assert!(ranges.contains(&"bytes=12000-".into()), "{ranges:?}");
    assert!(ranges.contains(&"bytes=24000-".into()), "{ranges:?}");
}

#[test]
fn what_was_cut_is_not_in_the_model_and_is_finished_later() {
    let setup = Setup::new();
    setup.server.cut_after(Some(1000));
    let name: ModelName = REPO.parse().unwrap();
    let hub = setup.hub(&[]).with_attempts(1);
    let error = hub.fetch(&name, &mut Silent).unwrap_err().to_string();
    for words in [REPO, "`model.safetensors`", "try again", "/tree/"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(setup.visible(), ["config.json", "tokenizer.json"]);
    assert!(!setup.repo_dir().join("refs/main").exists());
    // Without network such a model is not available.
    let offline = setup.hub(&[("HF_HUB_OFFLINE", "1")]);
    offline.fetch(&name, &mut Silent).unwrap_err();

    setup.server.cut_after(None);
    setup.server.take_requests();
    let snapshot = setup.fetch(REPO).unwrap();
    assert_eq!(first_value(&snapshot.dir), 1.5);
    let requests = setup.server.take_requests();
    assert!(requests.iter().any(|r| r.range.as_deref() == Some("bytes=1000-")), "{requests:?}");
    assert!(!requests.iter().any(|r| r.path.ends_with("config.json")), "{requests:?}");
}

#[test]
fn an_end_that_looks_like_the_end_is_noticed() {
    let setup = Setup::new();
    setup.server.hide_length(true);
    setup.server.cut_after(Some(1000));
    let error = setup.message(REPO);
    assert!(error.contains("`model.safetensors` arrived damaged"), "{error}");
    assert!(error.contains("1000 bytes instead of 32"), "{error}");
    assert_eq!(setup.visible(), ["config.json", "tokenizer.json"]);
    setup.server.cut_after(None);
    assert_eq!(first_value(&setup.fetch(REPO).unwrap().dir), 1.5);
}

#[test]
fn a_wrong_continuation_is_noticed_by_length_or_hash() {
    for n_cut in [1000, 32] {
        let setup = Setup::new();
        let name: ModelName = REPO.parse().unwrap();
        setup.server.cut_after(Some(n_cut));
        setup.hub(&[]).with_attempts(1).fetch(&name, &mut Silent).unwrap_err();
        // The rest is that of another file of the same length.
        let part = fs::read_dir(setup.repo_dir().join("blobs")).unwrap();
        let part = part
            .map(|entry| entry.unwrap().path())
            .find(|p| p.extension().is_some_and(|e| e == "part"));
        if n_cut == 32 {
            fs::write(part.unwrap(), [0; 32]).unwrap();
        } else {
            setup.server.ignore_ranges(true);
        }
        setup.server.cut_after(None);
        let error = setup.message(REPO);
        let reason = if n_cut == 32 { "SHA-256" } else { "bytes instead of" };
        assert!(error.contains("arrived damaged") && error.contains(reason), "{error}");
        setup.server.ignore_ranges(false);
        assert_eq!(first_value(&setup.fetch(REPO).unwrap().dir), 1.5);
    }
}

#[test]
fn a_part_that_was_whole_already_is_fetched_again() {
    let setup = Setup::new();
    let name: ModelName = REPO.parse().unwrap();
    setup.server.cut_after(Some(1000));
    setup.hub(&[]).with_attempts(1).fetch(&name, &mut Silent).unwrap_err();
    setup.server.cut_after(None);
    let part = fs::read_dir(setup.repo_dir().join("blobs")).unwrap();
    let part = part
        .map(|entry| entry.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "part"));
    fs::write(part.unwrap(), &setup.weights).unwrap();
    assert_eq!(first_value(&setup.fetch(REPO).unwrap().dir), 1.5);
}

#[test]
fn shards_come_with_their_index_and_one_that_is_missing_is_named() {
    let setup = Setup::new();
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let files: [(&str, &[u8]); 3] = [
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1.safetensors", &setup.weights),
    ];
    setup.server.publish("org/sharded", "main", &files);
    let error = setup.message("org/sharded");
    for words in ["index.json", "`model-2.safetensors`", "not in the repository"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let offline = setup.hub(&[("HF_HUB_OFFLINE", "1")]);
    offline.fetch(&"org/sharded".parse().unwrap(), &mut Silent).unwrap_err();

    let mut all = files.to_vec();
    let b = {
        let mut bytes = setup.weights.clone();
        let at = bytes.windows(3).position(|w| w == b"\"a\"").unwrap();
        bytes[at + 1] = b'b';
        bytes
    };
    all.push(("model-2.safetensors", &b));
    setup.server.publish("org/sharded", "main", &all);
    let snapshot = setup.fetch("org/sharded").unwrap();
    let files = TensorFiles::open(&snapshot.dir).unwrap();
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn weights_that_are_truncated_on_hugging_face_are_refused_on_reading() {
    let setup = Setup::new();
    setup.publish("main", &setup.weights[..20_000]);
    let snapshot = setup.fetch(REPO).unwrap();
    let error = TensorFiles::open(&snapshot.dir).err().unwrap().to_string();
    assert!(error.contains("model.safetensors (20000 bytes) is not a complete"), "{error}");
}

#[test]
fn offline_says_what_to_fetch_and_where_to_put_it() {
    let setup = Setup::new();
    let hub = setup.hub(&[("HF_HUB_OFFLINE", "1")]);
    let name: ModelName = REPO.parse().unwrap();
    let error = hub.fetch(&name, &mut Silent).unwrap_err().to_string();
    let dir = setup.repo_dir().join("snapshots/main");
    let page = format!("{}/{REPO}/tree/main", setup.server.endpoint());
    for words in [
        "HF_HUB_OFFLINE is set",
        "config.json",
        "model.safetensors (or ",
        "tokenizer.json",
        &page,
        dir.to_str().unwrap(),
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(setup.paths(), [""; 0]);

    // It works as described, and then only what is still missing is named.
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    let error = hub.fetch(&name, &mut Silent).unwrap_err().to_string();
    assert!(!error.contains("config.json") && error.contains("model.safetensors"), "{error}");
    fs::write(dir.join("model.safetensors"), &setup.weights).unwrap();
    let snapshot = hub.fetch(&name, &mut Silent).unwrap();
    assert_eq!((snapshot.dir, snapshot.name), (dir, name));
    assert_eq!(setup.paths(), [""; 0]);
}

#[test]
fn cached_files_are_used_while_hugging_face_is_down() {
    let setup = Setup::new();
    let snapshot = setup.fetch(REPO).unwrap();
    setup.server.fail_with(Some(503));
    let mut watch = Watch::default();
    let name: ModelName = REPO.parse().unwrap();
    let hub = setup.hub(&[]).with_attempts(2);
    assert_eq!(hub.fetch(&name, &mut watch).unwrap(), snapshot);
    assert!(watch.lines[0].contains("cannot be reached") && watch.lines[0].contains("503"));
    let other: ModelName = "org/other".parse().unwrap();
    let error = hub.fetch(&other, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("models--org--other"), "{error}");
    // Nobody listens at this address.
    let nowhere = Hub::from_variables(|name| match name {
        "HF_HOME" => Some(setup.home.path().into()),
        "HF_ENDPOINT" => Some("http://127.0.0.1:1".into()),
        _ => None,
    });
    let error =
        nowhere.unwrap().with_attempts(1).fetch(&other, &mut Silent).unwrap_err().to_string();
    assert!(
        error.contains("config.json") && error.contains("http://127.0.0.1:1/org/other"),
        "{error}"
    );
}

#[test]
fn models_that_are_not_there_or_not_for_everybody() {
    let setup = Setup::new();
    for name in ["org/other", "org/small-model@v2"] {
        let error = setup.message(name);
        assert!(error.contains(name) && error.contains("no model of that name"), "{error}");
    }
    setup.server.publish("org/onnx", "main", &[("config.json", b"{}"), ("model.onnx", b"x")]);
    let error = setup.message("org/onnx");
    assert!(error.contains("org/onnx") && error.contains("no weights"), "{error}");

    setup.server.require_token("secret-7");
    let error = setup.message(REPO);
    assert!(error.contains("401") && error.contains("HF_TOKEN"), "{error}");
    assert!(error.contains("no token is set"), "{error}");
    let name: ModelName = REPO.parse().unwrap();
    let wrong = setup.hub(&[("HF_TOKEN", "secret-8")]).fetch(&name, &mut Silent).unwrap_err();
    let error = wrong.to_string();
    assert!(error.contains("with the token that is set") && !error.contains("secret"), "{error}");
    setup.server.take_requests();
    setup.hub(&[("HF_TOKEN", "secret-7")]).fetch(&name, &mut Silent).unwrap();
    let requests = setup.server.take_requests();
    let (store, hub): (Vec<_>, Vec<_>) =
        requests.iter().partition(|r| r.path.starts_with("/store/"));
    assert!(!store.is_empty() && hub.iter().all(|r| r.authorization.is_some()));
}

#[test]
fn an_export_of_all_policies_keeps_its_directories() {
    let setup = Setup::new();
    setup.server.publish(
        "org/policies",
        "main",
        &[
            ("tokenizer.json", b"{}"),
            ("policy/policy.json", b"{}"),
            ("policy/heads.safetensors", b"heads"),
            ("base/config.json", b"{}"),
            ("base/model.safetensors", &setup.weights),
        ],
    );
    let snapshot = setup.fetch("org/policies").unwrap();
    assert_eq!(fs::read(snapshot.dir.join("policy/heads.safetensors")).unwrap(), b"heads");
    assert_eq!(first_value(&snapshot.dir.join("base")), 1.5);
    let offline = setup.hub(&[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(offline.fetch(&"org/policies".parse().unwrap(), &mut Silent).unwrap(), snapshot);
}

/// All files below a directory, the cache included.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() && !path.is_symlink() {
            true => found.extend(below(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn what_a_server_sends_never_becomes_a_path_elsewhere() {
    let ways = ["../../../../pwned", "../../../../../pwned", "/pwned", "a/../../pwned", "..", "."];
    for what in ["etag", "x-repo-commit", "sha", "rfilename"] {
        for way in ways {
            let setup = Setup::new();
            let inside = setup.repo_dir();
            setup.server.forge(what, way);
            match (what, setup.fetch(REPO)) {
                // A file with another name is not one that a model needs.
                ("rfilename", found) => drop(found.unwrap()),
                (_, found) => {
                    let error = found.unwrap_err().to_string();
                    assert!(error.contains(REPO) && error.contains(way), "{what}: {error}");
                }
            }
            let outside: Vec<_> = below(setup.home.path())
                .into_iter()
                .filter(|file| !file.starts_with(&inside))
                .collect();
            assert!(outside.is_empty(), "{what} {way}: {outside:?}");
            let near = setup.home.path().parent().unwrap().join("pwned");
            assert!(!near.exists(), "{what} {way}");
            setup.server.forge_nothing();
            assert_eq!(first_value(&setup.fetch(REPO).unwrap().dir), 1.5);
        }
    }
    // In an export, where files are selected by folder.
    let setup = Setup::new();
    for name in ["policy/../../../pwned", "base//pwned", "policy/..", "base/"] {
        let files: [(&str, &[u8]); 3] = [
            ("policy/policy.json", b"{}"),
            ("base/config.json", b"{}"),
            ("base/model.safetensors", &setup.weights),
        ];
        setup.server.publish("org/policies", "main", &files);
        setup.server.forge("rfilename", name);
        let dir = setup.fetch("org/policies").unwrap().dir;
        assert_eq!(below(&dir).len(), 3, "{name}");
    }
}

#[test]
fn unusable_answers_are_errors() {
    for (what, value, words) in [
        ("location", "", "redirect has no target"),
        ("location", "ftp://127.0.0.1/x", "config.json"),
        ("location", "http://", "config.json"),
        // To itself, endlessly.
        ("location", "/org/small-model/resolve/main/config.json", "config.json"),
        ("content-range", "bytes 0-0/*", "Content-Range"),
        ("content-range", "bytes 0-0/-1", "Content-Range"),
        ("content-range", "bytes 0-0/99999999999999999999999", "Content-Range"),
        ("etag", "", "ETag"),
        ("sha", "main", "main"),
    ] {
        let setup = Setup::new();
        setup.server.forge(what, value);
        let hub = setup.hub(&[]).with_attempts(1);
        let error = hub.fetch(&REPO.parse().unwrap(), &mut Silent).unwrap_err().to_string();
        assert!(error.contains(REPO) && error.contains(words), "{what}: {value}: {error}");
        assert_eq!(setup.visible(), [""; 0]);
    }
    // A length other than the file's: the download is discarded.
    let setup = Setup::new();
    setup.server.forge("content-range", "bytes 0-0/7");
    assert!(setup.message(REPO).contains("bytes instead of 7"));
    assert_eq!(setup.visible(), [""; 0]);
}

#[test]
fn a_file_that_another_process_fetches_is_not_touched() {
    let setup = Setup::new();
    setup.fetch(REPO).unwrap();
    let blobs = setup.repo_dir().join("blobs");
    fs::remove_dir_all(setup.repo_dir().join("snapshots")).unwrap();
    let locks: Vec<_> = below(&blobs)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "lock"))
        .map(|path| fs::File::open(path).unwrap())
        .collect();
    locks.iter().for_each(|lock| lock.lock().unwrap());
    let error = setup.message(REPO);
    assert!(error.contains("another process is downloading"), "{error}");
    drop(locks);
    assert_eq!(first_value(&setup.fetch(REPO).unwrap().dir), 1.5);
}
