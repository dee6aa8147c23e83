//! The page in a browser, where Python with playwright and Chromium are installed.

use std::path::Path;
use std::process::Command;

use crate::clients::{python_with, script};
use crate::double::Served;

/// The browser that `MOPO_CHROMIUM` names, else the first on the path.
fn chromium() -> Option<String> {
    if let Ok(named) = std::env::var("MOPO_CHROMIUM") {
        return Some(named);
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let runs = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    names.iter().find(runs).map(|name| (*name).to_owned())
}

#[test]
fn people_can_slide_ask_compare_and_stop() {
    let python = match python_with("playwright") {
        Ok(python) => python,
        Err(why) => mopo_testkit::skip!("{why}"),
    };
    let Some(browser) = chromium() else {
        mopo_testkit::skip!("no program chromium; MOPO_CHROMIUM names one elsewhere");
    };
    let which = Command::new("which")
        .arg(&browser)
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    let found = String::from_utf8_lossy(&which).trim().to_owned();
    let browser = if Path::new(&browser).is_absolute() { browser } else { found };
    let open = Served::start(|_| {});
    let locked = Served::start(|options| options.api_key = Some("secret".into()));
    let [open, locked] = [&open, &locked].map(|served| format!("http://{}/", served.address));
    let mut args = vec![&*browser, &*open, &*locked];
    // A folder for pictures of the page.
    let pictures = std::env::var("MOPO_PICTURES").unwrap_or_default();
    if !pictures.is_empty() {
        args.push(&pictures);
    }
    let said = script(&python, "browser.py", &args);
    assert!(said.contains("all checks passed"), "{said}");
}
