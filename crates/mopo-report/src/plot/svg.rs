//! The SVG writer of all figures, and their common style.
//!
//! Colours are presentation attributes, so a figure is self-contained; each coloured element also
//! has a
//! class, so that a page's style sheet can recolour it for a dark background.

use std::fmt::Write;

use super::Figure;
use super::text::{self, FAMILY};
use crate::PolicyGroup;

/// Colours of text, lines and background.
pub(super) const INK: &str = "#1f2328";
pub(super) const MUTED: &str = "#59636e";
const GRID: &str = "#e4e7eb";
const FRAME: &str = "#8c959f";
const AREA: &str = "#eef3f8";

/// Okabe and Ito's palette, which is safe for colour-blind readers, without black (the SFT model's)
/// and yellow (too faint on white).
pub(super) const PALETTE: [&str; 6] =
    ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// The colour after the palette, if six colours are too few: readable on light and dark pages.
const GREY: &str = "#7d8590";

/// Number of colours: the palette and grey.
pub(super) const N_COLOURS: usize = PALETTE.len() + 1;

/// How a policy is drawn, the same in all figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Style {
    pub(super) shape: Shape,
    /// Index into [`PALETTE`], one more for grey, or `None` for ink.
    pub(super) colour: Option<usize>,
    pub(super) hollow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    Star,
    Circle,
    Square,
    Triangle,
    Diamond,
    Wedge,
    Hexagon,
    Cross,
}

pub(super) const SHAPES: [Shape; 6] =
    [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Diamond, Shape::Wedge, Shape::Hexagon];

/// One style per policy, given its run (if several are compared) and its group. SFT models are
/// stars, heads filled, mixtures hollow. Within a single run colour and shape advance together and
/// later separately, so 36 trained policies remain distinct. With several runs each has its colour.
pub(super) fn styles<'a>(
    policies: impl Iterator<Item = (Option<&'a str>, PolicyGroup)>,
) -> Vec<Style> {
    let mut runs: Vec<&str> = Vec::new();
    let mut n_trained: Vec<usize> = Vec::new();
    let mut n_alone = 0;
    policies
        .map(|(run, group)| {
            let colour = run.map(|run| {
                runs.iter().position(|r| *r == run).unwrap_or_else(|| {
                    runs.push(run);
                    n_trained.push(0);
                    runs.len() - 1
                })
            });
            if group == PolicyGroup::Sft {
                return Style { shape: Shape::Star, colour, hollow: false };
            }
            let hollow = group == PolicyGroup::Mixture;
            let counter = match colour {
                Some(run) => &mut n_trained[run],
                None => &mut n_alone,
            };
            let i = *counter;
            *counter += 1;
            match colour {
                Some(_) => Style { shape: SHAPES[i % SHAPES.len()], colour, hollow },
                None => Style {
                    shape: SHAPES[(i + i / PALETTE.len()) % SHAPES.len()],
                    colour: Some(i % PALETTE.len()),
                    hollow,
                },
            }
        })
        .collect()
}

/// The styles of a report's policies.
pub(super) fn styles_of(report: &crate::FrontReport) -> Vec<Style> {
    styles(report.points.iter().map(|p| (p.run.as_deref(), p.group)))
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The style of a text; `Default` is body text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Type {
    pub(super) size: f64,
    pub(super) bold: bool,
    pub(super) muted: bool,
    pub(super) anchor: Anchor,
    /// A background-coloured outline, for text on top of a drawing.
    pub(super) halo: bool,
}

impl Default for Type {
    fn default() -> Self {
        Self { size: 13.0, bold: false, muted: false, anchor: Anchor::Start, halo: false }
    }
}

/// The style of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stroke {
    Grid,
    Frame,
    /// Dashed, ink: what belongs to the SFT model.
    Dashed,
    /// Solid, ink.
    Ink(f64),
    /// A colour as in [`Style`].
    Series(Option<usize>, f64),
    /// The same, dashed.
    SeriesDashed(Option<usize>, f64),
    /// Dotted, ink: a reference level.
    Guide,
}

/// An SVG document being written.
pub(super) struct Svg {
    body: String,
    /// Prefix of every id, so that one page can have several.
    name: String,
    n_clips: usize,
}

pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Characters that XML 1.0 cannot represent.
            '\u{0}'..='\u{8}'
            | '\u{b}'
            | '\u{c}'
            | '\u{e}'..='\u{1f}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                out.push('\u{fffd}');
            }
            _ => out.push(c),
        }
    }
    out
}

fn colour_of(colour: Option<usize>) -> (&'static str, String) {
    match colour {
        Some(i) => {
            let i = i % (PALETTE.len() + 1);
            (PALETTE.get(i).copied().unwrap_or(GREY), format!("c{i}"))
        }
        None => (INK, "ink".to_owned()),
    }
}

impl Svg {
    /// `name`: prefix of ids; must differ between figures on one page.
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { body: String::new(), name: name.into(), n_clips: 0 }
    }

    /// The finished document. `description` is for screen readers.
    pub(super) fn finish(self, width: f64, height: f64, description: &str) -> Figure {
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}\" \
             font-family=\"{FAMILY}\">\n\
             <rect class=\"bg\" width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
            escape(description),
            self.body
        );
        Figure { svg, width: width.round(), height: height.round() }
    }

    pub(super) fn text(&mut self, x: f64, y: f64, content: &str, look: Type) {
        self.text_with(x, y, content, look, "");
    }

    /// Text rotated by 90 degrees, centred at (x, y).
    pub(super) fn text_upwards(&mut self, x: f64, y: f64, content: &str, look: Type) {
        let look = Type { anchor: Anchor::Middle, ..look };
        self.text_with(x, y, content, look, &format!(" transform=\"rotate(-90 {x:.1} {y:.1})\""));
    }

    fn text_with(&mut self, x: f64, y: f64, content: &str, look: Type, more: &str) {
        let (class, fill) = if look.muted { ("muted", MUTED) } else { ("ink", INK) };
        let anchor = match look.anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
        let content = escape(content);
        let place =
            format!("x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{}\"{anchor}{weight}", look.size);
        if look.halo {
            // Two texts rather than `paint-order`, which not every renderer supports.
            let _ = writeln!(
                self.body,
                "<text class=\"halo\" aria-hidden=\"true\" {place}{more} fill=\"none\" \
                 stroke=\"#ffffff\" stroke-width=\"4\" stroke-linejoin=\"round\">{content}</text>"
            );
        }
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" {place}{more} fill=\"{fill}\">{content}</text>"
        );
    }

    /// Lines of text from (x, y) down, wrapped to `width`; returns the y below them.
    pub(super) fn paragraph(
        &mut self,
        x: f64,
        y: f64,
        width: f64,
        content: &str,
        look: Type,
    ) -> f64 {
        let step = (look.size * 1.4).round();
        let lines = text::wrap(content, look.size, look.bold, width);
        for (i, line) in lines.iter().enumerate() {
            self.text(x, y + i as f64 * step, line, look);
        }
        y + lines.len() as f64 * step
    }

    pub(super) fn path(&mut self, d: &str, stroke: Stroke) {
        let (class, colour, width, more) = match stroke {
            Stroke::Grid => ("grid".to_owned(), GRID, 1.0, ""),
            Stroke::Frame => ("frame".to_owned(), FRAME, 1.0, ""),
            Stroke::Dashed => ("s-ink".to_owned(), INK, 1.2, " stroke-dasharray=\"5 4\""),
            Stroke::Ink(width) => ("s-ink".to_owned(), INK, width, ""),
            Stroke::Series(colour, width) => {
                let (hex, class) = colour_of(colour);
                (format!("s-{class}"), hex, width, "")
            }
            Stroke::SeriesDashed(colour, width) => {
                let (hex, class) = colour_of(colour);
                (format!("s-{class}"), hex, width, " stroke-dasharray=\"6 4\"")
            }
            Stroke::Guide => ("s-ink".to_owned(), INK, 1.2, " stroke-dasharray=\"1.5 3\""),
        };
        let _ = writeln!(
            self.body,
            "<path class=\"{class}\" d=\"{d}\" fill=\"none\" stroke=\"{colour}\" \
             stroke-width=\"{width}\" stroke-linejoin=\"round\"{more}/>"
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: Stroke) {
        // Renderers complain about lines of length 0, such as the bar of an error of 0.
        if (from.0 - to.0).abs() < 0.05 && (from.1 - to.1).abs() < 0.05 {
            return;
        }
        self.path(&format!("M{:.1} {:.1}L{:.1} {:.1}", from.0, from.1, to.0, to.1), stroke);
    }

    /// A faintly filled area.
    pub(super) fn area(&mut self, d: &str) {
        let _ = writeln!(self.body, "<path class=\"area\" d=\"{d}\" fill=\"{AREA}\"/>");
    }

    pub(super) fn frame(&mut self, x: f64, y: f64, width: f64, height: f64) {
        self.path(&format!("M{x:.1} {y:.1}h{width:.1}v{height:.1}h{:.1}z", -width), Stroke::Frame);
    }

    /// Everything until [`Svg::end_clip`] is clipped to the rectangle.
    pub(super) fn begin_clip(&mut self, x: f64, y: f64, width: f64, height: f64) {
        let id = format!("{}-{}", self.name, self.n_clips);
        self.n_clips += 1;
        let _ = writeln!(
            self.body,
            "<clipPath id=\"{id}\"><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"/></clipPath><g clip-path=\"url(#{id})\">"
        );
    }

    pub(super) fn end_clip(&mut self) {
        self.body.push_str("</g>\n");
    }

    /// What is drawn until [`Svg::end_mark`] belongs to the policy or line `key`. `title` is its
    /// tooltip, with or without the script.
    pub(super) fn begin_mark(&mut self, key: usize, class: &str, title: &str) {
        let title = escape(title);
        let _ =
            writeln!(self.body, "<g class=\"pt{class}\" data-key=\"{key}\"><title>{title}</title>");
    }

    pub(super) fn end_mark(&mut self) {
        self.body.push_str("</g>\n");
    }

    /// An invisible area to point at.
    pub(super) fn target(&mut self, x: f64, y: f64, r: f64) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\" fill=\"#ffffff\" fill-opacity=\"0\"/>"
        );
    }

    /// The same along a path.
    pub(super) fn target_along(&mut self, d: &str) {
        let _ = writeln!(
            self.body,
            "<path d=\"{d}\" fill=\"none\" stroke=\"#ffffff\" stroke-opacity=\"0\" \
             stroke-width=\"12\"/>"
        );
    }

    /// The drawing so far as an inline symbol for text.
    pub(super) fn glyph(self, width: f64, height: f64) -> String {
        format!(
            "<svg class=\"glyph\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" aria-hidden=\"true\">{}</svg>",
            self.body
        )
    }

    pub(super) fn ring(&mut self, x: f64, y: f64, r: f64) {
        let _ = writeln!(
            self.body,
            "<circle class=\"s-ink\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\" fill=\"none\" \
             stroke=\"{INK}\" stroke-width=\"1.2\"/>"
        );
    }

    /// A policy's marker of radius `r`; `faint` ones are translucent and have no outline.
    pub(super) fn marker(&mut self, x: f64, y: f64, r: f64, style: Style, faint: bool) {
        let (hex, class) = colour_of(style.colour);
        let d = outline(style.shape, x, y, r);
        let paint = if style.hollow {
            format!(
                "class=\"fill-bg s-{class}\" fill=\"#ffffff\" stroke=\"{hex}\" stroke-width=\"{}\"",
                // A wide outline would fill the hole of a small marker.
                match (faint, r < 6.0) {
                    (true, _) => 1.2,
                    (false, true) => 1.7,
                    (false, false) => 2.2,
                }
            )
        } else if faint {
            format!("class=\"f-{class}\" fill=\"{hex}\"")
        } else {
            format!(
                "class=\"f-{class} rim\" fill=\"{hex}\" stroke=\"#ffffff\" stroke-width=\"1.2\""
            )
        };
        let opacity = if faint { " opacity=\"0.4\"" } else { "" };
        let _ = writeln!(self.body, "<path {paint} d=\"{d}\"{opacity}/>");
    }
}

fn outline(shape: Shape, x: f64, y: f64, r: f64) -> String {
    let polygon = |n: usize, turn: f64, radius: &dyn Fn(usize) -> f64| {
        let mut d = String::new();
        for i in 0..n {
            let angle = (turn + 360.0 * i as f64 / n as f64).to_radians();
            let (px, py) = (x + radius(i) * angle.sin(), y - radius(i) * angle.cos());
            let _ = write!(d, "{}{px:.2} {py:.2}", if i == 0 { 'M' } else { 'L' });
        }
        d + "z"
    };
    match shape {
        Shape::Circle => {
            let r = r * 0.95;
            format!(
                "M{:.2} {y:.2}a{r:.2} {r:.2} 0 1 0 {:.2} 0a{r:.2} {r:.2} 0 1 0 {:.2} 0z",
                x - r,
                2.0 * r,
                -2.0 * r
            )
        }
        Shape::Square => polygon(4, 45.0, &|_| r * 1.2),
        Shape::Triangle => polygon(3, 0.0, &|_| r * 1.25),
        Shape::Diamond => polygon(4, 0.0, &|_| r * 1.25),
        Shape::Wedge => polygon(3, 180.0, &|_| r * 1.25),
        Shape::Hexagon => polygon(6, 0.0, &|_| r * 1.08),
        Shape::Cross => {
            let (arm, half) = (r * 1.2, r * 0.48);
            let turned = [
                (-half, -arm),
                (half, -arm),
                (half, -half),
                (arm, -half),
                (arm, half),
                (half, half),
                (half, arm),
                (-half, arm),
                (-half, half),
                (-arm, half),
                (-arm, -half),
                (-half, -half),
            ];
            let turn = std::f64::consts::FRAC_1_SQRT_2;
            let corners =
                turned.map(|(a, b)| format!("{:.2} {:.2}", x + (a - b) * turn, y + (a + b) * turn));
            format!("M{}z", corners.join("L"))
        }
        Shape::Star => polygon(10, 0.0, &|i| if i % 2 == 0 { r * 1.45 } else { r * 0.62 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_are_distinct_and_follow_the_group() {
        let groups = [PolicyGroup::Sft]
            .into_iter()
            .chain([PolicyGroup::Head; 3])
            .chain([PolicyGroup::Mixture; 33]);
        let styles = styles(groups.map(|g| (None, g)));
        for (i, style) in styles.iter().enumerate() {
            assert!(!styles[..i].contains(style), "style {i} is used twice");
        }
        assert_eq!((styles[0].shape, styles[0].colour), (Shape::Star, None));
        assert!(!styles[3].hollow && styles[4].hollow);
    }

    #[test]
    fn each_run_has_a_colour() {
        let group = |run| {
            [PolicyGroup::Sft, PolicyGroup::Head, PolicyGroup::Head, PolicyGroup::Mixture]
                .map(|g| (Some(run), g))
        };
        let styles = styles(group("a").into_iter().chain(group("b")));
        assert!(styles[..4].iter().all(|s| s.colour == Some(0)));
        assert!(styles[4..].iter().all(|s| s.colour == Some(1)));
        for (i, style) in styles.iter().enumerate() {
            assert!(!styles[..i].contains(style), "style {i} is used twice");
        }
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("<a & 'b'>\u{1}"), "&lt;a &amp; &#39;b&#39;&gt;\u{fffd}");
    }
}
