//! The page: its structure, its content without a script, that no outside text becomes markup, and,
//! if Chromium is available, that its script runs.

use std::path::Path;
use std::process::Command;

use super::*;

/// A page whose every text tries to become markup, with metrics that are not numbers.
fn page(n_objectives: usize, dir: &Path) -> String {
    let evaluation = synthetic(n_objectives);
    let report = report_of(&evaluation);
    let row = |step: u32| {
        let loss = if step == 3 { Value::Null } else { json!(1.0 / f64::from(step + 1)) };
        json!({
            "phase": "mopo", "step": step, "helpful/loss": loss, "helpful/lambda/harmless": 0.1,
            "helpful/slack/harmless": "NaN", "kl": null,
        })
    };
    let extras = ReportExtras {
        title: "Fronts <1> & 2".into(),
        summary: Some("</p><script>alert(1)</script>".into()),
        notes: vec!["</ul><img src=x onerror=alert(1)>".into()],
        rewards: None,
        runs: vec![RunExtras {
            name: String::new(),
            metrics: (0..9).map(|s| serde_json::from_value(row(s)).unwrap()).collect(),
            record: json!({"command": "</pre></script><script>alert(2)</script>", "nan": null}),
        }],
        ..Default::default()
    };
    let files = write_report(dir, &report, &evaluation, &extras).unwrap();
    std::fs::read_to_string(files.index_html).unwrap()
}

/// HTML as XML: elements without an end tag get one.
fn as_xml(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(at) = ["<meta ", "<input "].iter().filter_map(|tag| rest.find(tag)).min() {
        let end = at + rest[at..].find('>').unwrap();
        out += &rest[..end];
        out.push('/');
        rest = &rest[end..];
    }
    out + rest
}

/// The result of [`as_xml`], parsed strictly.
fn parse(html: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    assert!(html.starts_with("<!DOCTYPE html>"));
    roxmltree::Document::parse_with_options(html, options).unwrap()
}

#[test]
fn the_page_is_well_formed_alone_and_complete_without_its_script() {
    for k in [2, 3, 4] {
        let temp = tempfile::tempdir().unwrap();
        let html = page(k, temp.path());
        let xml = as_xml(&html);
        let document = parse(&xml);
        let elements = || document.descendants().filter(roxmltree::Node::is_element);
        let named = |name| elements().filter(move |e| e.has_tag_name(name));

        // One file: no element loads anything, and every link stays on the page.
        for name in ["link", "img", "iframe", "object", "embed", "base", "source", "use", "image"] {
            assert_eq!(named(name).count(), 0, "<{name}>");
        }
        for element in elements() {
            for attribute in element.attributes() {
                let (name, value) = (attribute.name(), attribute.value());
                assert!(!["src", "srcset", "action", "data", "style"].contains(&name), "{name}");
                assert!(!name.starts_with("on"), "{name} is a script");
                if name == "href" {
                    let target = value.strip_prefix('#').expect(value);
                    assert!(elements().any(|e| e.attribute("id") == Some(target)), "{target}");
                }
            }
        }
        for place in ["http://", "https://", "//www", "@import", "url(http", "xmlns"] {
            assert!(!html.contains(place), "`{place}` names another place");
        }
        let ids: Vec<&str> = elements().filter_map(|e| e.attribute("id")).collect();
        for (i, id) in ids.iter().enumerate() {
            assert!(!ids[..i].contains(id), "two elements have the id {id}");
        }

        // No outside text became markup, and only this script may run.
        assert_eq!(named("script").count(), 1);
        let script = named("script").next().unwrap().text().unwrap();
        assert_eq!(script, include_str!("../page.js"));
        let policy =
            named("meta").find_map(|m| m.attribute("content").filter(|c| c.contains("sha")));
        let digest = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            <sha2::Sha256 as sha2::Digest>::digest(script.as_bytes()),
        );
        assert!(policy.unwrap().contains(&format!("script-src 'sha256-{digest}'")));
        assert!(html.contains("&lt;script&gt;alert(0)&lt;/script&gt;"));

        // The parts of a report, as text.
        let sections: Vec<&str> = named("section").filter_map(|s| s.attribute("id")).collect();
        let expected = ["front", "policies", "sets", "clusters", "training", "examples", "record"];
        assert_eq!(sections, expected);
        let marks = |class: &str| {
            elements()
                .filter(|e| e.attribute("class") == Some(class) && e.has_tag_name("g"))
                .count()
        };
        assert!(marks("pt main") >= k + 2);
        let titles: Vec<&str> = named("title").filter_map(|t| t.text()).collect();
        assert!(
            titles.iter().any(|t| t.contains("own hypervolume") && t.contains("helpful 0.700")),
            "what a pointer asks for is there without a script"
        );
        let captions: Vec<&str> = named("figcaption").filter_map(|c| c.text()).collect();
        assert_eq!(captions.iter().any(|c| c.starts_with("All objectives at once")), k > 2);
        assert!(captions.contains(&"Loss — mopo"), "{captions:?}");
        assert!(captions.iter().any(|c| c.contains("Multiplier λ")));
        assert!(!html.contains("NaN") && !html.contains("inf "), "not a number");
        // Filters wait for the script that they need.
        let form = named("form").next().unwrap();
        assert!(form.attribute("hidden").is_some());
    }
}

#[test]
fn texts_that_would_not_open_on_a_phone_are_left_out() {
    let mut evaluation = synthetic(2);
    for policy in &mut evaluation.policies {
        policy.responses.iter_mut().for_each(|r| *r = "long ".repeat(20_000));
    }
    let section = examples::section(&evaluation, 24).into_string();
    assert!(section.len() < 1_200_000, "{}", section.len());
    assert!(section.contains("2 of 12 prompts"), "{}", &section[..200]);
}

/// Chromium on PATH, if there is one.
fn chromium() -> Option<&'static str> {
    ["chromium", "chromium-browser"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()))
}

fn browse(program: &str, profile: &Path, more: &[&str]) -> std::process::Output {
    let mut command = Command::new(program);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]);
    command.args(["--no-first-run", "--disable-background-networking"]);
    command.args(["--disable-component-update", "--disable-sync", "--hide-scrollbars"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command.args(more).output().unwrap()
}

#[test]
fn in_chromium_the_script_runs_and_the_page_is_drawn() {
    let Some(program) = chromium() else {
        mopo_testkit::skip!("no chromium on PATH (for instance: apt-get install chromium)");
    };
    let temp = tempfile::tempdir().unwrap();
    let html = page(3, &temp.path().join("report"));
    assert!(!html.contains("data-script"));
    let address = format!("file://{}", temp.path().join("report/index.html").display());
    let out = browse(program, &temp.path().join("profile"), &["--dump-dom", &address]);
    let dom = String::from_utf8_lossy(&out.stdout);
    let root = dom.split_once("<html").unwrap().1.split_once('>').unwrap().0;
    assert!(root.contains("data-script=\"ran\""), "the script did not run: {root}");
    assert!(!root.contains("data-error"), "{root}");
    // The script's work: titles became tooltips, and the filters are there.
    assert!(dom.contains("data-tip=\"helpful\nhelpful 0.700"));
    let form = dom.split_once("<form").unwrap().1.split_once('>').unwrap().0;
    assert!(!form.contains("hidden"), "{form}");
    assert!(dom.contains("6 of 12 prompts shown, 12 match"));

    // Pointing at a policy shows its numbers and highlights it everywhere; the filters filter. The
    // page's own policy would not let this test's script run.
    let probe = "<script>(() => {
        const mark = document.querySelector('svg .pt.main[data-key=\"1\"]');
        mark.dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));
        const tip = document.querySelector('.tip');
        const seen = { tip: tip.hidden ? '' : tip.textContent.split('\\n')[1],
            hot: document.querySelectorAll('#front svg .hot').length };
        document.body.dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));
        seen.gone = tip.hidden;
        const find = document.getElementById('find');
        find.value = 'What is <b>7</b>';
        find.dispatchEvent(new Event('input', { bubbles: true }));
        const shown = [...document.querySelectorAll('.example')].filter((e) => !e.hidden);
        seen.shown = shown.length;
        seen.prompt = shown[0].querySelector('.prompt').textContent;
        const box = document.querySelector('.controls input[type=checkbox]');
        const answers = () => shown[0].querySelectorAll('.answer:not([hidden])').length;
        seen.answers = answers();
        box.click();
        seen.fewer = answers();
        document.documentElement.dataset.seen = JSON.stringify(seen);
    })();</script></body>";
    let (before, rest) = html.split_once("<meta http-equiv").unwrap();
    let probed = format!("{before}{}", rest.split_once('>').unwrap().1);
    let probed = probed.replace("</body>", probe);
    let file = temp.path().join("probed.html");
    std::fs::write(&file, probed).unwrap();
    let address_probed = format!("file://{}", file.display());
    let out = browse(program, &temp.path().join("profile"), &["--dump-dom", &address_probed]);
    let dom = String::from_utf8_lossy(&out.stdout);
    let seen = dom.split_once("data-seen=\"").unwrap().1.split_once('"').unwrap().0;
    let seen: Value = serde_json::from_str(&seen.replace("&quot;", "\"")).unwrap();
    assert!(seen["tip"].as_str().unwrap().starts_with("helpful 0.700"), "{seen}");
    // In each pair of objectives one for all prompts and one per cluster, and one line over all.
    assert_eq!(seen["hot"], 3 * (1 + 2) + 1, "{seen}");
    assert_eq!((&seen["gone"], &seen["shown"]), (&json!(true), &json!(1)), "{seen}");
    let prompt = seen["prompt"].as_str().unwrap();
    assert_eq!(prompt, "Human: What is &lt;b&gt;7&lt;/b&gt;?", "the text itself, not markup");
    assert_eq!((&seen["answers"], &seen["fewer"]), (&json!(4), &json!(3)), "{seen}");

    let picture = temp.path().join("page.png");
    let wanted = format!("--screenshot={}", picture.display());
    browse(
        program,
        &temp.path().join("profile"),
        &["--window-size=1366,900", "--virtual-time-budget=2000", &wanted, &address],
    );
    let picture = Pixmap::decode_png(&std::fs::read(&picture).unwrap()).unwrap();
    assert_eq!((picture.width(), picture.height()), (1366, 900));
    let first = picture.pixels()[0];
    assert!(picture.pixels().iter().any(|p| *p != first), "an empty page");
}
