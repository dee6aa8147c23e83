//! A study as a page and as Markdown.

use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use mopo_hub::write_atomically;
use serde_json::json;

use super::tables::{self, Section};
use super::{Study, StudyReport, figure};
use crate::plot::Figure;
use crate::report::STYLE;
use crate::{Error, Result};

/// What [`write_study`] has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyFiles {
    /// The page.
    pub index_html: PathBuf,
    /// Its tables in Markdown.
    pub markdown: PathBuf,
    /// All results.
    pub json: PathBuf,
    /// The figures, each as SVG and PNG.
    pub figures: Vec<PathBuf>,
}

/// Writes the page (`index.html`), its Markdown (`study.md`), all results (`results.json`) and figures, each as SVG
/// and PNG: `fronts`, and where the study has them `clusters` and `sensitivity`. All go to `dir`, which must exist. Each
/// file is whole or absent.
///
/// # Errors
/// A figure that cannot be drawn, a file that cannot be written.
pub fn write_study(dir: &Path, study: &Study, report: &StudyReport) -> Result<StudyFiles> {
    let sections = [
        tables::hypervolumes(study, report),
        tables::ahead(report),
        tables::scores(report),
        tables::clusters(report),
        tables::sensitivity(report),
        tables::costs(study, report),
        tables::tries(study),
    ];
    let sections: Vec<&Section> = sections.iter().filter(|part| !part.rows.is_empty()).collect();
    let path = |name: &str| dir.join(name);
    let mut files = StudyFiles {
        index_html: path("index.html"),
        markdown: path("study.md"),
        json: path("results.json"),
        figures: vec![],
    };
    let figures = [
        ("fronts", "The fronts of all methods", figure::fronts(study, report)?),
        ("clusters", "The fronts by cluster of prompts", figure::clusters(study, report)?),
        ("sensitivity", "Hypervolume by the values of parameters", figure::sensitivity(report)?),
    ];
    let figures: Vec<Drawn> = (figures.into_iter())
        .filter_map(|(name, alt, figure)| Some(Drawn { name, alt, figure: figure? }))
        .collect();
    for Drawn { name, figure, .. } in &figures {
        let [svg, png] = ["svg", "png"].map(|ending| path(&format!("{name}.{ending}")));
        write_atomically(&svg, figure.svg.as_bytes())?;
        write_atomically(&png, &figure.to_png(2.0)?)?;
        files.figures.extend([svg, png]);
    }
    let text = markdown(study, &figures, &sections);
    write_atomically(&files.markdown, text.as_bytes())?;
    let page = page(study, &figures, &sections);
    write_atomically(&files.index_html, page.into_string().as_bytes())?;
    let whole = json!({ "study": study, "report": report });
    let whole = serde_json::to_string_pretty(&whole)
        .map_err(|source| Error::Json { what: "the study".into(), source })?;
    write_atomically(&files.json, (whole + "\n").as_bytes())?;
    Ok(files)
}

/// A figure with the name of its files.
struct Drawn {
    name: &'static str,
    alt: &'static str,
    figure: Figure,
}

fn markdown(study: &Study, figures: &[Drawn], sections: &[&Section]) -> String {
    let mut text = format!("# {}\n", study.title);
    for paragraph in &study.about {
        text.push_str(&format!("\n{paragraph}\n"));
    }
    for Drawn { name, alt, .. } in figures {
        text.push_str(&format!("\n![{alt}]({name}.png)\n"));
    }
    for Section { heading, note, header, rows } in sections {
        text.push_str(&format!("\n## {heading}\n\n{note}\n\n"));
        let line = |cells: &[String]| {
            let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", escaped.join(" | "))
        };
        text.push_str(&line(header));
        text.push_str(&format!("|{}\n", "---|".repeat(header.len())));
        rows.iter().for_each(|row| text.push_str(&line(row)));
    }
    text
}

fn page(study: &Study, figures: &[Drawn], sections: &[&Section]) -> Markup {
    // Bold in Markdown.
    let plain = |cell: &str| cell.trim_matches('*').to_owned();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (study.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (study.title) }
                    @for paragraph in &study.about { p { (paragraph) } }
                    @for Drawn { figure, .. } in figures { figure { (PreEscaped(&figure.svg)) } }
                    @for Section { heading, note, header, rows } in sections {
                        section {
                            h2 { (heading) }
                            p.muted { (note) }
                            div.scroll {
                                table {
                                    thead { tr { @for cell in header { th { (cell) } } } }
                                    tbody {
                                        @for row in rows { tr { @for cell in row { td { (plain(cell)) } } } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
