//! Tokenizers of real GGUF files against llama.cpp: of the models that `cargo xtask models` fetches, or of the file
//! that `MOPO_GGUF` names. `MOPO_LLAMA_PYTHON` names a Python with the packages of requirements.txt, and
//! `MOPO_TEXTS` text files, separated as in `PATH`, whose lines are encoded too.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use mopo_core::Objectives;
use mopo_data::{JinjaTemplate, Message, PromptForm, ReadOptions, Tokenizer, collect, read_hh_dir};
use mopo_hub::gguf::GgufWriter;

/// Digits, white space, punctuation, scripts, and texts that look like tokens.
const ODD: [&str; 40] = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    " \n \n",
    "a  b   c    d     e",
    "\t\tx\u{a0}y\u{3000}z",
    "\r\nline\r\n\r\nline",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000",
    "½ ³ ² ¼ Ⅳ ① ٣ ४",
    "it's IT'S we'll WE'LL I'd 'tis y'all've",
    "ſ's K 'ſ",
    "Größe Straße naïve café piñata",
    "e\u{301} n\u{303} ﬁ ﬂ",
    "茶を飲みますか。はい、毎日飲みます！",
    "我喜欢喝茶,你呢?",
    "차를 마시다",
    "Добрый день, как дела?",
    "Καλημέρα κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "🫖 👩‍👩‍👧‍👦 🇩🇪 👍🏽",
    "\u{1f9ff}\u{10ffff}\u{e000}\u{fffd}",
    "\u{1}\u{7f}\u{80}\u{200b}\u{200d}\u{feff}",
    "==== ---- ____ #### ******** ........",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "hahahahahahahahahahaha lololololol",
    "fn main() {\n    println!(\"{}\", 1 + 2);\n}",
    "<html><b>bold</b><table>\n<td>1</td></table>",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<start_of_turn>user\nHi<end_of_turn>",
    "<bos><eos><unk><pad> <|endoftext|>",
    "<0x0A> <0xFF>",
    "▁▁ ▁a a▁b",
    "$100 50% #1 @home C++ C# a&b x^2 ~5 `code`",
    "http://example.com/a?b=c&d=e#f",
    "\u{202e}reversed\u{202c} zalgo\u{0336}\u{0337}\u{0338}",
];

/// Real texts, where they are beside the repository.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = ODD.map(String::from).into();
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let objectives = Objectives::new(["helpful", "harmless"]).unwrap();
    let folders = [("helpful", "helpful-base"), ("harmless", "harmless-base")];
    let options = ReadOptions::default();
    let root = shared.join("hh-rlhf");
    if root.is_dir() {
        let read = collect(|sink| read_hh_dir(&root, &objectives, &folders, &options, sink));
        let records = read.unwrap().0;
        texts.extend(records.into_iter().flat_map(|r| [r.prompt, r.first, r.second]));
    }
    let posts = std::fs::read_to_string(shared.join("tldr/preference_dataset.jsonl"));
    for line in posts.unwrap_or_default().lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let columns = ["input_text", "candidate_0", "candidate_1"];
        texts.extend(columns.iter().filter_map(|column| row[column].as_str()).map(String::from));
    }
    let more = std::env::var_os("MOPO_TEXTS").unwrap_or_default();
    // Of no value one empty path is made.
    for file in std::env::split_paths(&more).filter(|file| !file.as_os_str().is_empty()) {
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        texts.extend(text.lines().map(String::from));
        texts.push(text);
    }
    texts
}

#[test]
fn ids_are_those_of_llama_cpp() {
    let models = match std::env::var_os("MOPO_GGUF") {
        Some(model) => vec![model.into()],
        None => mopo_testkit::real_models(),
    };
    if models.is_empty() {
        mopo_testkit::skip!("fetch models with `cargo xtask models`, or name one in MOPO_GGUF");
    }
    for model in &models {
        let ids = encode(model);
        let Some(python) = std::env::var_os("MOPO_LLAMA_PYTHON") else {
            mopo_testkit::skip_rest!(
                "name a Python with tests/gguf/requirements.txt in MOPO_LLAMA_PYTHON"
            );
        };
        compare(&python, model, &ids);
    }
}

/// A text, whether names of control tokens in it are those tokens, and its ids.
type Encoded = (String, bool, Vec<u32>);

/// Encodes all texts, as they are and as prompts in the model's template, with its tokenizer and with what its
/// metadata becomes when it is written again.
fn encode(model: &Path) -> Vec<Encoded> {
    let begin = Instant::now();
    let tokenizer = Tokenizer::load(model).unwrap();
    println!(
        "{}: {} ids, loaded in {:.2?}",
        model.display(),
        tokenizer.vocab_size(),
        begin.elapsed()
    );
    let mut texts = texts();
    let begin = Instant::now();
    let mut ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let n_bytes: usize = texts.iter().map(String::len).sum();
    println!("{} texts, {n_bytes} bytes, encoded in {:.2?}", texts.len(), begin.elapsed());
    let n_texts = texts.len();
    if tokenizer.form() == PromptForm::Model {
        // Prompts of one message, whose control tokens are the template's.
        let template = JinjaTemplate::load(model, None).unwrap().unwrap();
        for i in 0..n_texts {
            let text = texts[i].clone();
            if text.trim().is_empty() || text.contains("<|") || text.contains("\n\nAssistant:") {
                continue;
            }
            ids.push(tokenizer.encode_prompt(&text, usize::MAX).unwrap().0);
            let message = Message { role: "user".into(), content: text };
            texts.push(template.render(&[message], true).unwrap());
        }
        println!("{} prompts in the model's template", texts.len() - n_texts);
    }

    let again = written(&tokenizer);
    for (text, ids) in texts.iter().zip(&ids).take(n_texts) {
        assert_eq!(again.encode(text).unwrap(), *ids, "written again: {text:?}");
    }
    let encoded = texts.into_iter().zip(ids).enumerate();
    encoded.map(|(i, (text, ids))| (text, i >= n_texts, ids)).collect()
}

/// The tokenizer from the metadata that it becomes.
fn written(tokenizer: &Tokenizer) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.gguf");
    let mut writer = GgufWriter::default();
    for (key, value) in tokenizer.gguf_metadata(tokenizer.vocab_size(), None).unwrap() {
        writer.value(&key, value);
    }
    writer.write(&path).unwrap();
    Tokenizer::load(&path).unwrap()
}

/// Compares with llama.cpp.
fn compare(python: &OsStr, model: &Path, encoded: &[Encoded]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf/reference.py");
    let mut child = Command::new(python)
        .args([script.as_os_str(), model.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program that MOPO_LLAMA_PYTHON names");
    let mut input = child.stdin.take().unwrap();
    let line = |(text, special, _): &Encoded| format!("{}\n", serde_json::json!([text, special]));
    let lines: String = encoded.iter().map(line).collect();
    // The script answers before it has read everything.
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<Vec<u32>> =
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(expected.len(), encoded.len());
    let differing = encoded.iter().zip(&expected).filter(|((.., ids), expected)| ids != *expected);
    let differing: Vec<_> = differing.collect();
    for ((text, _, ids), expected) in differing.iter().take(20) {
        println!("{text:?}: {ids:?}, not {expected:?}");
    }
    println!("{}: {} of {} differ", model.display(), differing.len(), encoded.len());
    assert!(differing.is_empty());
}
