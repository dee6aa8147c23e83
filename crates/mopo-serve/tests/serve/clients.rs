//! Other people's clients and validators, where they are installed.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::client::get;
use crate::double::Served;

/// A Python that has a module: the one that `MOPO_CLIENTS_PYTHON` names, else `python3`.
pub(crate) fn python_with(module: &str) -> Result<OsString, String> {
    let named = std::env::var_os("MOPO_CLIENTS_PYTHON");
    let python = named.unwrap_or_else(|| "python3".into());
    let found = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    match found.is_ok_and(|output| output.status.success()) {
        true => Ok(python),
        false => Err(format!(
            "name a Python with the packages in crates/mopo-serve/tests/clients/requirements.txt in \
             MOPO_CLIENTS_PYTHON: {} has no {module}",
            Path::new(&python).display()
        )),
    }
}

/// Runs a script of `tests/clients`, and returns what it printed.
pub(crate) fn script(python: &OsString, name: &str, args: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    // Proxies and other people's keys are not for this server.
    let mut command = Command::new(python);
    for name in
        ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_API_KEY", "OPENAI_BASE_URL"]
    {
        command.env_remove(name);
    }
    let output = command.arg(script).args(args).env("NO_PROXY", "*").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn the_openai_package_works() {
    let python = match python_with("openai") {
        Ok(python) => python,
        Err(why) => mopo_testkit::skip!("{why}"),
    };
    let served = Served::start(|options| options.api_key = Some("secret".into()));
    let said =
        script(&python, "openai_client.py", &[&format!("http://{}/v1", served.address), "secret"]);
    assert!(said.contains("all checks passed"), "{said}");
}

#[test]
fn litellm_works() {
    let python = match python_with("litellm") {
        Ok(python) => python,
        Err(why) => mopo_testkit::skip!("{why}"),
    };
    let served = Served::start(|options| options.api_key = Some("secret".into()));
    let said =
        script(&python, "litellm_client.py", &[&format!("http://{}/v1", served.address), "secret"]);
    assert!(said.contains("all checks passed"), "{said}");
}

#[test]
fn curl_works() {
    let curl =
        |args: &[&str]| Command::new("curl").args(["-sS", "--noproxy", "*"]).args(args).output();
    if curl(&["--version"]).is_err() {
        mopo_testkit::skip!("no program curl");
    }
    let served = Served::start(|_| {});
    let url = format!("http://{}/v1/chat/completions", served.address);
    let body = crate::client::chat("hi", r#", "stream": true"#);
    let output = curl(&["-N", "-H", "Content-Type: application/json", "-d", &body, &url]).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("data: {") && said.ends_with("data: [DONE]\n\n"), "{said}");
    // Large bodies wait for `100 Continue`.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("body.json");
    std::fs::write(&file, crate::client::chat(&"x ".repeat(2_000_000), "")).unwrap();
    let data = format!("@{}", file.display());
    let output =
        curl(&["-H", "Content-Type: application/json", "-d", &data, "-w", "\n%{http_code}", &url])
            .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("request_too_large") && said.ends_with("\n413"), "{said}");
}

#[test]
fn the_description_of_the_endpoints_is_valid() {
    let python = match python_with("openapi_spec_validator") {
        Ok(python) => python,
        Err(why) => mopo_testkit::skip!("{why}"),
    };
    let served = Served::start(|_| {});
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("openapi.json");
    std::fs::write(&file, get(served.address, "/openapi.json").body).unwrap();
    let url = format!("http://{}", served.address);
    let said = script(&python, "openapi_check.py", &[file.to_str().unwrap(), &url]);
    assert!(said.contains("valid"), "{said}");
}
